"""VideoSAUR: slots in real videos that explain where each patch goes next (Zadaianchuk et al., NeurIPS 2023); and the
DINOSAUR for images that its authors publish with it.

Learning rates are those of the authors' configurations: a base for every 32 clips of a batch. They halve until the
schedule's end.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torchslots.recipes.backbones import DINO_B16, DINOV2_B14, TINY_VIT
from torchslots.recipes.config import DataConfig, EvalConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.feature_slots import FeatureSlotsConfig, LossConfig, MixerConfig, PerceptronConfig


@dataclass(frozen=True)
class VideosaurConfig(FeatureSlotsConfig):
    """The configuration of a VideoSAUR."""

    family: ClassVar[str] = "videosaur"


@dataclass(frozen=True)
class VideosaurImagesConfig(FeatureSlotsConfig):
    """The configuration of a DINOSAUR as VideoSAUR's code builds it."""

    family: ClassVar[str] = "videosaur_images"


MOVI = EvalConfig(protocol="videosaur")
"""Whole videos of 24 frames."""
CHUNKS = EvalConfig(num_frames=6, num_background=0, protocol="videosaur")
"""Chunks of YouTube-VIS."""


def movi(dataset: str, resolution: int) -> DataConfig:
    """Whole frames of MOVi, enlarged, and mirrored at random."""
    return DataConfig(
        dataset=dataset,
        keys=("video", "segmentations"),
        resolution=resolution,
        num_frames=4,
        square=True,
        interpolation="bicubic",
        flip=0.5,
    )


def youtube_vis(resolution: int, *, stored: int, flip: float = 0.0) -> DataConfig:
    """Chunks of YouTube-VIS 2021, random squares in training and the middle ones in evaluation.

    Args:
        stored: pixels of the shorter side in the authors' copies of the videos.
    """
    return DataConfig(
        dataset="youtube_vis_2021",
        keys=("video", "segmentations"),
        resolution=resolution,
        num_frames=4,
        windows="chunks",
        pre_resize=stored,
        train_crop="random",
        eval_crop="square",
        interpolation="bicubic",
        flip=flip,
    )


def halving(learning_rate: float, num_steps: int = 100_000) -> OptimConfig:
    """Warm-up for 2,500 steps, then a decay to half of the rate at the end."""
    return OptimConfig(
        learning_rate=learning_rate,
        num_steps=num_steps,
        schedule="exponential_after_warmup",
        decay_steps=num_steps - 2500,
    )


def training(batch_size: int) -> TrainConfig:
    """Batches of clips, evaluated every 5,000 steps."""
    return TrainConfig(batch_size=batch_size, log_every=500, eval_every=5000)


def videosaur_movi_c() -> Recipe:
    """VideoSAUR on MOVi-C at 224x224: DINO ViT-B/8, 11 slots, only the loss of similarity, batches of 128 clips of 4
    frames, 100k steps; FG-ARI 64.8, mBO 38.9 per video (92,147,984 weights, 6,341,648 of them trained)."""
    model = VideosaurConfig(losses=LossConfig(features=0.0, similarity=0.1))
    return Recipe("videosaur_movi_c", model, movi("movi_c", 224), halving(4e-4), training(128), MOVI)


def videosaur_movi_e() -> Recipe:
    """VideoSAUR on MOVi-E: as on MOVi-C, with 15 slots; FG-ARI 73.9, mBO 35.6 per video."""
    like = videosaur_movi_c()
    model = replace(like.model, num_slots=15)
    return replace(like, name="videosaur_movi_e", model=model, data=movi("movi_e", 224))


def videosaur_ytvis() -> Recipe:
    """VideoSAUR on YouTube-VIS 2021 at 224x224: DINO ViT-B/16, 7 slots, losses of features and similarity, batches of
    128 clips of 4 frames, 100k steps; FG-ARI 39.5, mBO 29.1 per video (4,693,636 weights are trained). Published
    figures are of the first 224 chunks of 6 frames: --evaluation.num-videos 224."""
    model = VideosaurConfig(
        backbone=DINO_B16,
        num_slots=7,
        slot_size=64,
        predictor_mlp=256,
        decoder=MixerConfig(hidden=(1024, 1024, 1024), num_blocks=3),
        losses=LossConfig(similarity=0.1, similarity_temperature=0.25),
    )
    data = replace(youtube_vis(224, stored=320, flip=0.5), eval_chunks=6)
    return Recipe("videosaur_ytvis", model, data, halving(4e-4), training(128), CHUNKS)


def videosaur_ytvis_dinov2() -> Recipe:
    """VideoSAUR on YouTube-VIS 2021 at 518x518: DINOv2 ViT-B/14, otherwise as `videosaur_ytvis` in batches of 64 with
    half the rate; FG-ARI 39.7, mBO 35.6 per video, on masks of 224x224 (5,971,033 weights are trained)."""
    like = videosaur_ytvis()
    model = replace(
        like.model,
        resolution=(518, 518),
        backbone=DINOV2_B14,
        losses=LossConfig(similarity=0.1, similarity_temperature=0.15),
    )
    data = replace(youtube_vis(518, stored=518, flip=0.5), eval_chunks=6, label_size=224)
    return replace(
        like,
        name="videosaur_ytvis_dinov2",
        model=model,
        data=data,
        optim=halving(2e-4),
        train=training(64),
        evaluation=replace(CHUNKS, batch_size=1),
    )


def dinosaur_coco_dinov2() -> Recipe:
    """DINOSAUR of VideoSAUR's code on COCO at 224x224: DINOv2 ViT-B/14, 7 slots of 256, a perceptron of 3 x 2048,
    batches of 64 images, 500k steps; FG-ARI 45.6, mBO 29.6 per image on masks of 224x224 without crowds (13,255,425
    weights are trained)."""
    model = VideosaurImagesConfig(
        backbone=DINOV2_B14,
        num_slots=7,
        slot_size=256,
        num_iterations=3,
        corrector_mlp=1024,
        predictor_heads=None,
        predictor_mlp=1024,
        decoder=PerceptronConfig(hidden=(2048, 2048, 2048)),
    )
    data = DataConfig(
        dataset="coco",
        keys=("video", "segmentations"),
        resolution=224,
        num_frames=1,
        train_crop="random",
        eval_crop="square",
        interpolation="bicubic",
        flip=0.5,
        crowds="uncovered",
    )
    optim = OptimConfig(
        learning_rate=4e-4,
        warmup_steps=10_000,
        num_steps=500_000,
        max_grad_norm=1.0,
        schedule="exponential_after_warmup",
        decay_steps=90_000,
    )
    evaluation = EvalConfig(
        num_frames=1, slice_size=1, batch_size=32, num_background=0, protocol="vs_dinosaur"
    )
    return Recipe("dinosaur_coco_dinov2", model, data, optim, training(64), evaluation)


def videosaur_demo() -> Recipe:
    """VideoSAUR at toy size on generated videos of 32x32, with a small random transformer: it shows the machinery,
    not objects, since random features hold none; all sizes are ours."""
    model = VideosaurConfig(
        resolution=(32, 32),
        backbone=TINY_VIT,
        token_hidden=48,
        num_slots=6,
        slot_size=32,
        predictor_mlp=64,
        decoder=MixerConfig(hidden=(64, 64)),
        losses=LossConfig(similarity=0.1, similarity_temperature=0.15),
    )
    data = replace(movi("sim_a", 32), max_instances=10)
    optim = replace(halving(4e-4, 5000), warmup_steps=250, decay_steps=4750)
    train = TrainConfig(batch_size=4, num_workers=0, compile=False, eval_every=2500, checkpoint_every=2500)
    return Recipe("videosaur_demo", model, data, optim, train, MOVI)
