"""SlotContrast: slots that keep their object over time by a contrast between frames (Manasyan et al., CVPR 2025)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torchslots.recipes.backbones import DINOV2_B14, DINOV2_S14, TINY_VIT
from torchslots.recipes.config import EvalConfig, Recipe
from torchslots.recipes.feature_slots import FeatureSlotsConfig, LossConfig, PerceptronConfig
from torchslots.recipes.videosaur import halving, movi, training, videosaur_demo, youtube_vis


@dataclass(frozen=True)
class SlotContrastConfig(FeatureSlotsConfig):
    """The configuration of a SlotContrast."""

    family: ClassVar[str] = "slotcontrast"


_MOVI = EvalConfig(protocol="slotcontrast")


def slotcontrast_movi_c() -> Recipe:
    """SlotContrast on MOVi-C at 336x336: DINOv2 ViT-S/14, 11 learned slots of 64, a perceptron of 3 x 1024 decodes,
    losses of features and contrast, batches of 64 clips of 4 frames, 100k steps; FG-ARI 69.3, mBO 32.7 per video
    (3,064,321 weights are trained)."""
    model = SlotContrastConfig(
        resolution=(336, 336),
        backbone=DINOV2_S14,
        token_hidden=768,
        slot_size=64,
        initializer="learned",
        corrector_mlp=256,
        predictor_mlp=256,
        decoder=PerceptronConfig(),
        losses=LossConfig(contrast=0.5),
    )
    return Recipe("slotcontrast_movi_c", model, movi("movi_c", 336), halving(4e-4), training(64), _MOVI)


def slotcontrast_movi_e() -> Recipe:
    """SlotContrast on MOVi-E at 336x336: DINOv2 ViT-B/14, 15 learned slots of 128, 300k steps, otherwise as on MOVi-C;
    FG-ARI 82.9, mBO 29.2 per video (4,953,601 weights are trained)."""
    like = slotcontrast_movi_c()
    model = replace(
        like.model,
        backbone=DINOV2_B14,
        token_hidden=1536,
        num_slots=15,
        slot_size=128,
        corrector_mlp=512,
        predictor_mlp=512,
    )
    return replace(
        like,
        name="slotcontrast_movi_e",
        model=model,
        data=movi("movi_e", 336),
        optim=halving(4e-4, 300_000),
    )


def slotcontrast_ytvis() -> Recipe:
    """SlotContrast on YouTube-VIS 2021 at 518x518: DINOv2 ViT-B/14, 7 learned slots of 64, twice the rate, no flips;
    FG-ARI 38.0, mBO 33.7 on whole videos (4,443,841 weights are trained). Published figures are of the first 210 of the
    300 videos: --evaluation.num-videos 210."""
    like = slotcontrast_movi_c()
    model = replace(like.model, resolution=(518, 518), backbone=DINOV2_B14, token_hidden=1536, num_slots=7)
    return replace(
        like,
        name="slotcontrast_ytvis",
        model=model,
        data=youtube_vis(518, stored=518),
        optim=halving(8e-4),
        evaluation=EvalConfig(num_frames=36, batch_size=1, num_background=0, protocol="slotcontrast"),
    )


def slotcontrast_demo() -> Recipe:
    """SlotContrast at toy size on generated videos of 32x32, with a small random transformer: it shows the machinery,
    not objects, since random features hold none; all sizes are ours."""
    like = videosaur_demo()
    model = SlotContrastConfig(
        resolution=(32, 32),
        backbone=TINY_VIT,
        token_hidden=48,
        num_slots=6,
        slot_size=32,
        initializer="learned",
        corrector_mlp=64,
        predictor_mlp=64,
        decoder=PerceptronConfig(hidden=(64, 64)),
        losses=LossConfig(contrast=0.5),
    )
    return replace(like, name="slotcontrast_demo", model=model, evaluation=_MOVI)
