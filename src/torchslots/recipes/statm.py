"""STATM-SAVi and STATM-SAVi++: SAVi with a predictor that has a memory of earlier frames.

Li, Ren, Liu, Sun, Reasoning-Enhanced Object-Centric Learning for Videos (KDD 2025). Sizes are those of the authors'
configurations; all but the predictor is as in SAVi or SAVi++. Their evaluation drops the memory between slices, and so
takes a video as one slice of 24 frames; here the memory passes from slice to slice, which gives the same for any
length.
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
from torchslots.recipes.config import EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.savi import SaviConfig, build_with, savi_demo, savi_plus_plus, savi_small

FusionName = Literal[
    "space_then_time", "sum", "time_then_space", "shared_residual", "all_slots", "all_slots_as_released"
]


@dataclass(frozen=True)
class StatmConfig(ModelConfig):
    """Configuration of STATM-SAVi and STATM-SAVi++."""

    family: ClassVar[str] = "statm"
    savi: SaviConfig = field(default_factory=SaviConfig)
    """All but the memory, the predictor's widths included."""
    fusion: FusionName = "sum"
    """How attention over slots and over time are combined (`models/slots/temporal.py`). By a slip, the original's
    all_slots attends to each slot's own past alone where `pre_norm` is set: all_slots_as_released."""
    pre_norm: bool = False
    """Put norms in front of the predictor's layers, not behind their residual sums."""
    max_frames: int | None = None
    """Frames in the memory, the current one included; None: all."""

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(
                f"max_frames should be at least 1, got {self.max_frames}: the memory holds the current frame, too."
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
    """SAVi's parts with a predictor that has a memory; fresh weights."""
    return build_with(partial(_predictor, statm=config), config.savi, config)


def _predictor(savi: SaviConfig, statm: StatmConfig) -> MemoryPredictor:
    fusion = fusion_class(statm)(
        savi.slot_size,
        num_heads=savi.predictor_heads,
        qkv_size=savi.predictor_qkv,
        mlp_size=savi.predictor_mlp,
        pre_norm=statm.pre_norm,
    )
    return MemoryPredictor(fusion, max_frames=statm.max_frames)


def statm_savi_small() -> Recipe:
    """STATM-SAVi (S) on MOVi-A at 64x64: SAVi-S with a memory, 100k steps, batch 64 (961,572 weights; the authors'
    statm_savi_conditional_small)."""
    return _recipe("statm_savi_small", savi_small(), max_instances=10)


def statm_savi() -> Recipe:
    """STATM-SAVi on MOVi-E at 128x128: SAVi++ with a memory, one round of slot attention, 100k steps, batch 64
    (23,264,389 weights; the authors' statm_savi_conditional)."""
    return _recipe("statm_savi", savi_plus_plus(), max_instances=23, slice_size=24)


def statm_savi_plus_plus() -> Recipe:
    """STATM-SAVi++ on MOVi-A at 128x128: as STATM-SAVi with two rounds of slot attention, 100k steps, batch 32
    (23,264,389 weights; the authors' statm_savi++_conditional)."""
    large = savi_plus_plus()
    on_movi_a = replace(large, data=replace(large.data, dataset="movi_a"))
    return _recipe("statm_savi_plus_plus", on_movi_a, max_instances=10, num_iterations=2, batch_size=32)


def _recipe(
    name: str,
    savi: Recipe,
    *,
    max_instances: int,
    num_iterations: int = 1,
    batch_size: int = 64,
    slice_size: int = 6,
) -> Recipe:
    """SAVi's model with a memory, a slot for each object and one more; 100k steps."""
    return Recipe(
        name,
        StatmConfig(_savi(savi, num_slots=max_instances + 1, num_iterations=num_iterations)),
        replace(savi.data, max_instances=max_instances),
        OptimConfig(clip_epsilon=0.0),
        TrainConfig(batch_size=batch_size),
        EvalConfig(slice_size=slice_size),
    )


def statm_demo() -> Recipe:
    """SAVi's demonstration with a memory, for `torchslots demo`: minutes on two cores."""
    small = savi_demo()
    return replace(small, name="statm_demo", model=StatmConfig(_savi(small)))


def _savi(recipe: Recipe, **changes: Any) -> SaviConfig:
    if not isinstance(recipe.model, SaviConfig):
        raise TypeError(f"{recipe.name} is not a recipe of SAVi")
    return replace(recipe.model, **changes)
