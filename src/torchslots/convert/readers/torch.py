"""Reader of `.pth` files of SlotDiffusion's trainer (nerv), a state dict with or without the optimiser's, and of the
weights in `.pt` and `.pt.tar` files of STEVE's trainer.

Such files are pickles. They are opened as tensors and plain values alone, so nothing in them is executed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchslots.convert.layouts import Arrays
from torchslots.convert.readers.checkpoint import find_file
from torchslots.io.errors import UserError

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
    """Whether `source` is a file of torch, or a folder with a `.pth` file."""
    return source.name.endswith((".pth", ".pt", ".pt.tar")) or bool(_candidates(source))


def read(source: Path) -> TorchCheckpoint:
    """Read a file or, in a folder or its `models`, `best.pth`, else the newest `.pth` file.

    Raises:
        UserError: nothing there; not a file of torch; more than tensors and plain values in it; cut off; no state dict;
            values that are not finite.
    """
    path = find_file(source, _candidates, ".pth file", _RUN_FOLDER, "model_1000.pth")
    content = _load(path)
    state = content.get("state_dict", content.get("model", content))
    if not _is_state(state):
        keys = ", ".join(map(str, content))[:200] or "nothing"
        raise UserError(
            f"{path} holds no state dict, tensors by their names (it has: {keys}). Give a model's checkpoint."
        )
    params = {name: _array(path, name, value) for name, value in state.items()}
    groups, adam = _optimizer(path, content.get("opt_state_dict")) if state is not content else ([], {})
    steps = [int(part["step"]) for part in adam.values() if "step" in part]
    return TorchCheckpoint(path, params, groups, adam, max(steps, default=None))


def _candidates(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [*folder.glob("*.pth"), *(folder / _RUN_FOLDER).glob("*.pth")]
    return sorted(found, key=lambda path: (path.name != _BEST, -path.stat().st_mtime))


def _load(path: Path) -> Mapping[Any, Any]:
    try:
        with _numpy_scalars():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for foreign or damaged files
        raise UserError(_refusal(path, error)) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__} where a state dict should be. Give a model's checkpoint."
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    if path.stat().st_size == 0:
        return f"{path} is empty. Copy or download it again."
    if "GLOBAL" in text:
        return (
            f"{path} is a pickle of more than tensors and plain values, which could run code when it is opened, and "
            "was not opened. Save its state dict alone: torch.save(model.state_dict(), ...)."
        )
    if "TorchScript" in text or "torch.jit" in text:
        return f"{path} is a TorchScript archive, which holds a program and is not run here. Give its state dict."
    first = (text.strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
    return f"{path} is not a whole file of torch.save ({first}). Copy or download it again."


@contextmanager
def _numpy_scalars() -> Iterator[None]:
    """Accept numpy's scalars, such as a trainer's best score: values, not code."""
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    scalar: Any = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals([np.dtype, *kinds, *named]):
        yield


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
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: `{name}` has values that are not finite. Give an earlier checkpoint.")
    return value.numpy()


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its `opt_state_dict` is not that of torch's Adam ({error!r}). Save the `state_dict` alone."
        ) from error
    return groups, adam
