"""STATM-SAVi and STATM-SAVi++: SAVi with a predictor that remembers.

Li, Ren, Liu, Sun, Reasoning-Enhanced Object-Centric Learning for Videos (KDD 2025). Numbers are those of the authors'
configurations; everything but the predictor is SAVi's or SAVi++'s. Their evaluation sends a video through in one slice
of 24 frames, since it forgets between slices; here slices hand the memory on, which gives the same for any length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.temporal import (
    Fusion,
    MemoryPredictor,
    ParallelFusion,
    SharedResidual,
    SpaceThenTime,
    TimeThenSpace,
    all_slots,
)
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.savi import SaviConfig, build_with, savi_demo, savi_plus_plus, savi_small

FusionName = Literal[
    "space_then_time", "sum", "time_then_space", "shared_residual", "all_slots", "all_slots_as_released"
]


@dataclass(frozen=True)
class StatmConfig(ModelConfig):
    """The numbers of a STATM model."""

    family: ClassVar[str] = "statm"
    savi: SaviConfig = field(default_factory=SaviConfig)
    """Everything but memory, widths of the predictor among it."""
    fusion: FusionName = "sum"
    """How attention over slots and over time meet (`models/slots/temporal.py`). The original's all_slots, by a slip,
    looks at each slot's own past only when it is normalised in front: all_slots_as_released."""
    pre_norm: bool = False
    """Normalise in front of the predictor's layers, not behind their residual sums."""
    max_frames: int | None = None
    """Frames that are remembered, the current one included; None: all."""

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(
                f"max_frames should be at least 1, got {self.max_frames}: the current frame is remembered, too."
            )

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.savi.resolution

    @property
    def conditioning(self) -> str:
        """What slots start from."""
        return self.savi.conditioning


_FUSIONS: dict[FusionName, Callable[..., Fusion]] = {
    "space_then_time": SpaceThenTime,
    "sum": ParallelFusion,
    "time_then_space": TimeThenSpace,
    "shared_residual": SharedResidual,
    "all_slots": all_slots,
}


def fusion_class(config: StatmConfig) -> Callable[..., Fusion]:
    """What builds the fusion that `config` names."""
    if config.fusion == "all_slots_as_released":
        return ParallelFusion if config.pre_norm else all_slots
    return _FUSIONS[config.fusion]


def build(config: StatmConfig) -> ObjectCentricModel:
    """SAVi's parts around a predictor that remembers."""
    return build_with(partial(_remember, statm=config), config.savi, config)


def _remember(savi: SaviConfig, statm: StatmConfig) -> MemoryPredictor:
    fusion = fusion_class(statm)(
        savi.slot_size,
        num_heads=savi.predictor_heads,
        qkv_size=savi.predictor_qkv,
        mlp_size=savi.predictor_mlp,
        pre_norm=statm.pre_norm,
    )
    return MemoryPredictor(fusion, max_frames=statm.max_frames)


def statm_savi_small() -> Recipe:
    """STATM-SAVi (S) on MOVi-A at 64x64: SAVi-S that remembers, 100k steps, batch 64 (961,572 weights; the authors'
    statm_savi_conditional_small)."""
    small = savi_small()
    return Recipe(
        "statm_savi_small",
        StatmConfig(_numbers(small, num_slots=11)),
        replace(small.data, max_instances=10),
        OptimConfig(),
        TrainConfig(batch_size=64),
        EvalConfig(slice_size=6),
    )


def statm_savi() -> Recipe:
    """STATM-SAVi on MOVi-E at 128x128: SAVi++ that remembers, one round of slot attention, 100k steps, batch 64
    (23,264,389 weights; the authors' statm_savi_conditional)."""
    large = savi_plus_plus()
    return Recipe(
        "statm_savi",
        StatmConfig(_numbers(large, num_slots=24)),
        replace(large.data, max_instances=23),
        OptimConfig(),
        TrainConfig(batch_size=64),
        EvalConfig(slice_size=24),
    )


def statm_savi_plus_plus() -> Recipe:
    """STATM-SAVi++ on MOVi-A at 128x128: as STATM-SAVi with two rounds of slot attention, 100k steps, batch 32
    (23,264,389 weights; the authors' statm_savi++_conditional)."""
    large = savi_plus_plus()
    data: DataConfig = replace(large.data, dataset="movi_a", max_instances=10)
    return Recipe(
        "statm_savi_plus_plus",
        StatmConfig(_numbers(large, num_slots=11, num_iterations=2)),
        data,
        OptimConfig(),
        TrainConfig(batch_size=32),
        EvalConfig(slice_size=6),
    )


def statm_demo() -> Recipe:
    """STATM cut down to minutes on two cores, for `torchslots demo`: SAVi's demonstration that remembers."""
    small = savi_demo()
    return replace(small, name="statm_demo", model=StatmConfig(_numbers(small)))


def _numbers(recipe: Recipe, **changes: Any) -> SaviConfig:
    if not isinstance(recipe.model, SaviConfig):
        raise TypeError(f"{recipe.name} is not a recipe of SAVi")
    return replace(recipe.model, **changes)
