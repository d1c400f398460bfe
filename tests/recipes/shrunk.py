"""Every recipe's model at tiny size: the same parts and options, few channels, small frames."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torchslots.recipes.config import ModelConfig

_SIDE = 32
"""Of the frames, where the recipe's frames are a multiple of it."""
_SIZES: dict[str, Any] = {
    "size": 24, "depth": 2, "patch_size": 4, "grid_size": 4, "width": 32, "token_size": 24, "token_hidden": 24,
    "slot_size": 24, "slot_hidden": 24, "grid_hidden": 24, "qkv_size": 24, "position_hidden": 24, "mlp_size": 24,
    "initializer_hidden": 24, "corrector_mlp": 24, "predictor_qkv": 24, "predictor_mlp": 24, "num_slots": 5,
    "vocabulary": 16, "num_codes": 16, "num_groups": 4, "norm_groups": 8, "head_size": 8, "patch_channels": 8,
    "num_layers": 2, "perceptual": False,
}  # fmt: skip
"""By the names of fields; None stays None. LPIPS needs weights that are not here."""
_WIDTHS: dict[str, Callable[[int], int]] = {
    "hidden": lambda _: 24,
    "channels": lambda _: 16,
    "stage_sizes": lambda _: 1,
}
"""Of fields with one number for each layer."""


def shrunk(config: ModelConfig) -> Any:
    """The configuration at tiny size."""
    sides = _find(config, "resolution")
    patches = _find(config, "patch_size") is not None
    share = 16 / min(sides) if patches else _SIDE / min(sides) if min(sides) % _SIDE == 0 else 1.0
    return _shrink(config, share)


def _shrink(config: Any, share: float) -> Any:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[name] = _shrink(value, share)
        elif name in ("resolution", "grid") and isinstance(value, tuple):
            found[name] = tuple(max(1, round(side * share)) for side in value)
        elif name in _WIDTHS:
            change = _WIDTHS[name]
            found[name] = tuple(map(change, value)) if isinstance(value, tuple) else value and change(value)
        elif name in _SIZES and value not in (None, False):
            found[name] = _SIZES[name]
    return dataclasses.replace(config, **found)


def _find(config: Any, name: str) -> Any:
    """The first field of that name in a dataclass or in those inside it."""
    if not dataclasses.is_dataclass(config):
        return None
    values = vars(config)
    return values.get(name) or next(
        (found for inner in values.values() if (found := _find(inner, name))), None
    )
