"""FT-DINOSAUR: DINOSAUR whose backbone is tuned along (Didolkar et al., ICLR 2025, "On the Transfer of Object-Centric
Representation Learning").

Slots are found in the features of a DINOv2 that is tuned; they explain those of the original, each patch's with mean 0
and deviation 1, and at each patch only the three slots that look at it most are decoded. The training is that of the
authors' configurations; horizontal flips are commented out there.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torchslots.io.errors import UserError
from torchslots.models.decoders.features import FeatureDecoder, Weighted, feature_error_standardized
from torchslots.models.decoders.renderers import PerceptronRenderer
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import eps_on_sum
from torchslots.recipes.backbones import DINOV2_B14, DINOV2_S14, BackboneConfig
from torchslots.recipes.config import DataConfig, EvalConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.dinosaur import ImageSlotsConfig, build_slot_encoder, started

_SMALL, _BASE = replace(DINOV2_S14, trainable_from=0), replace(DINOV2_B14, trainable_from=0)


@dataclass(frozen=True)
class TopKConfig:
    """A perceptron on the slots that look most at each patch."""

    hidden: tuple[int, ...] = (2048, 2048, 2048)
    """Widths of its hidden layers."""
    top_k: int | None = 3
    """Slots decoded at each patch; 0 or None: all."""


@dataclass(frozen=True)
class FtDinosaurConfig(ImageSlotsConfig):
    """The configuration of an FT-DINOSAUR."""

    family: ClassVar[str] = "ftdinosaur"
    backbone: BackboneConfig = _SMALL
    decoder: TopKConfig = TopKConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= (self.decoder.top_k or 0) <= self.num_slots:
            raise UserError(
                f"decoder.top_k should lie between 0 and num_slots, got {self.decoder.top_k} and {self.num_slots}. "
                "Choose fewer, or 0 to decode all slots."
            )


def build(config: FtDinosaurConfig) -> ObjectCentricModel:
    """Five parts, put together; the backbone's weights are random, and the teacher is given for training alone."""
    numbers, size = config.decoder, config.backbone.size
    renderer = PerceptronRenderer(config.grid, config.slot_size, numbers.hidden, size, top_k=numbers.top_k)
    decoder = FeatureDecoder(
        started(renderer),
        {"features": Weighted(feature_error_standardized)},
        feature_size=size,
        taught=True,
        chunk=config.chunk,
    )
    return ObjectCentricModel(build_slot_encoder(config, eps_on_sum(1e-8), antialias=True), decoder, config)


def _recipe(name: str, model: FtDinosaurConfig) -> Recipe:
    """Photos of COCO, whose rates grow with the root of the batch."""
    data = DataConfig(
        dataset="coco",
        keys=("video", "segmentations"),
        resolution=model.resolution[0],
        num_frames=1,
        interpolation="bicubic_antialias",
        train_crop="random",
        eval_crop="center",
        label_size=320,
    )
    rate = 1e-4 * 2**0.5
    optim = OptimConfig(
        learning_rate=rate,
        warmup_steps=10_000,
        num_steps=300_000,
        max_grad_norm=0.1,
        schedule="cosine_from_half",
        min_learning_rate=1e-6,
        backbone_learning_rate=rate / 8,
        backbone_layer_decay=0.85,
        backbone_weight_decay=0.01,
    )
    train = TrainConfig(batch_size=128, log_every=100, eval_every=10_000, checkpoint_every=10_000)
    evaluation = EvalConfig(
        num_frames=1, slice_size=1, batch_size=32, num_background=0, protocol="ftdinosaur"
    )
    return Recipe(name, model, data, optim, train, evaluation)


def _second_stage(name: str, like: Recipe, model: FtDinosaurConfig) -> Recipe:
    """The second stage: half the batch, and 10k steps, 333 of them warm-up."""
    optim = replace(
        like.optim,
        learning_rate=1e-4,
        warmup_steps=333,
        num_steps=10_000,
        backbone_learning_rate=1e-4 / 8,
    )
    return replace(
        like,
        name=name,
        model=replace(model, resolution=(518, 518)),
        data=replace(like.data, resolution=518),
        optim=optim,
        train=replace(like.train, batch_size=64, eval_every=1000, checkpoint_every=1000),
        evaluation=replace(like.evaluation, batch_size=8),
    )


def ftdinosaur_small_224() -> Recipe:
    """FT-DINOSAUR on COCO at 224x224: DINOv2 ViT-S/14, tuned, 7 slots of 256, of which 3 are decoded at each patch,
    batches of 128 images, 300k steps (33,441,153 weights). No figure of this size is known to us."""
    return _recipe("ftdinosaur_small_224", FtDinosaurConfig())


def ftdinosaur_base_224() -> Recipe:
    """FT-DINOSAUR on COCO at 224x224 with DINOv2 ViT-B/14, otherwise as `ftdinosaur_small_224` (99,833,601 weights). No
    figure of this size is known to us."""
    return _recipe("ftdinosaur_base_224", FtDinosaurConfig(backbone=_BASE, token_hidden=1536))


def ftdinosaur_small_518() -> Recipe:
    """FT-DINOSAUR's second stage, 10k steps at 518x518 in batches of 64: start it from `ftdinosaur_small_224` with
    --init RUN (33,726,081 weights). Its warm-up is not published; 333 steps are as large a part as in the first."""
    like = ftdinosaur_small_224()
    return _second_stage("ftdinosaur_small_518", like, FtDinosaurConfig())


def ftdinosaur_base_518() -> Recipe:
    """FT-DINOSAUR's second stage with DINOv2 ViT-B/14: start it from `ftdinosaur_base_224` with --init RUN (100,118,529
    weights). A user of the authors' weights measured FG-ARI 49.1, mBO 36.4 on COCO, the mean of 5 runs; zero-shot the
    paper is quoted with 71.1, 29.9 on MOVi-E and 24.0, 37.6 on VOC."""
    like = ftdinosaur_base_224()
    return _second_stage("ftdinosaur_base_518", like, FtDinosaurConfig(backbone=_BASE, token_hidden=1536))
