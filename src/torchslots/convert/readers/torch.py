"""Reading `.pth` files of SlotDiffusion's trainer (nerv) and `.ckpt` files of Lightning: a state dict, bare or with the
optimiser's; and the `.pt` and `.pt.tar` files of STEVE's, of which the weights alone are read.

Such files are pickles. They are opened as tensors and plain values alone, so nothing in them is executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchslots.convert.layouts import Arrays
from torchslots.convert.readers.checkpoint import find_file
from torchslots.io.errors import UserError
from torchslots.io.torch_files import read_torch_file

_BEST, _RUN_FOLDER = "best.pth", "models"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TorchCheckpoint:
    """Content of a file.

    Args:
        params: every tensor of the state dict, buffers included, in its order.
        groups: indices of the optimiser's parameters by group; empty where the file holds weights alone.
        adam: `step`, `exp_avg` and `exp_avg_sq` of each index that was updated.
    """

    path: Path
    params: Arrays
    groups: list[list[int]] = field(default_factory=list)
    adam: dict[int, Arrays] = field(default_factory=dict)
    step: int | None = None
    """Updates done, by Adam's own count."""

    def moments(self, names: list[list[str]]) -> tuple[Arrays, Arrays]:
        """Adam's first and second moments by the original's names; empty where there are none.

        Args:
            names: of the optimiser's parameters, in its groups and their order.

        Raises:
            UserError: groups of other lengths, or a moment of another shape than its parameter.
        """
        if not self.adam:
            return {}, {}
        if [len(group) for group in names] != [len(group) for group in self.groups]:
            raise UserError(
                f"{self.path}: the optimiser has {[len(g) for g in self.groups]} parameters in its groups, the model "
                f"has {[len(g) for g in names]}. Convert the weights alone, without --run."
            )
        flat = [(i, name) for group, own in zip(self.groups, names) for i, name in zip(group, own)]
        found = {name: self.adam[index] for index, name in flat if index in self.adam}
        for name, state in found.items():
            self._check_moments(name, state)
        first, second = ({name: state[what] for name, state in found.items()} for what in _MOMENTS)
        return first, second

    def _check_moments(self, name: str, state: Arrays) -> None:
        for what in _MOMENTS:
            if what not in state or state[what].shape != self.params[name].shape:
                got = list(state[what].shape) if what in state else "nothing"
                raise UserError(
                    f"{self.path}: the optimiser's `{what}` of {name} should be {list(self.params[name].shape)}, got "
                    f"{got}. Convert the weights alone, without --run."
                )


def holds(source: Path) -> bool:
    """Whether `source` is, or as a folder has, a file of torch."""
    return source.name.endswith((".pth", ".pt", ".pt.tar", ".ckpt")) or bool(_candidates(source))


def read(source: Path) -> TorchCheckpoint:
    """Read a file or, in a folder or its `models`, `best.pth`, else the newest `.pth` file.

    Raises:
        UserError: nothing there; not a file of torch; more than tensors and plain values in it; cut off; no state dict;
            values that are not finite.
    """
    path = find_file(source, _candidates, ".pth file", _RUN_FOLDER, "model_1000.pth")
    content = read_torch_file(path)
    state = content.get("state_dict", content.get("model", content))
    if not _is_state(state):
        keys = ", ".join(map(str, content))[:200] or "nothing"
        raise UserError(
            f"{path} holds no state dict, tensors by their names (it has: {keys}). Give a model's checkpoint."
        )
    params = {name: _array(path, name, value) for name, value in state.items()}
    groups, adam = _optimizer(path, _adam(content)) if state is not content else ([], {})
    steps = [int(part["step"]) for part in adam.values() if "step" in part]
    return TorchCheckpoint(path, params, groups, adam, max(steps, default=None))


def _adam(content: Mapping[Any, Any]) -> Any:
    """The optimiser's state dict; Lightning has one for each of several optimisers."""
    several = content.get("optimizer_states")
    return several[0] if isinstance(several, list) and len(several) == 1 else content.get("opt_state_dict")


def _candidates(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [*folder.glob("*.pth"), *(folder / _RUN_FOLDER).glob("*.pth"), *folder.glob("*.ckpt")]
    return sorted(found, key=lambda path: (path.name != _BEST, -path.stat().st_mtime))


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and bool(state)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    )


def _array(path: Path, name: str, value: Tensor) -> np.ndarray:
    if value.is_sparse or value.is_quantized or value.is_complex():
        raise UserError(f"{path}: `{name}` is not a plain tensor of numbers ({value.dtype}, {value.layout}).")
    if value.is_floating_point():
        value = value.float()
        if not bool((value.isfinite() | _hides(value)).all()):
            raise UserError(f"{path}: `{name}` has values that are not finite. Give an earlier checkpoint.")
    return value.numpy()


def _hides(value: Tensor) -> Tensor:
    """Where a tensor of nothing but 0 and minus infinity, the mask of an attention, is infinite."""
    hidden = value == -torch.inf
    return hidden & (hidden | (value == 0)).all()


def _optimizer(path: Path, state: Any) -> tuple[list[list[int]], dict[int, Arrays]]:
    """Groups and moments of Adam's state dict."""
    if state is None:
        return [], {}
    try:
        groups = [[int(index) for index in group["params"]] for group in state["param_groups"]]
        adam = {
            int(index): {what: torch.as_tensor(value).float().numpy() for what, value in own.items()}
            for index, own in state["state"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: its `opt_state_dict` or `optimizer_states` is not that of torch's Adam ({error!r}). Save the "
            "`state_dict` alone."
        ) from error
    return groups, adam
