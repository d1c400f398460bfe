"""Files of torch.save, which are pickles: opened as tensors and plain values alone, so that nothing in them is run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchslots.io.errors import UserError

_SMALL = 1 << 20
"""Bytes that a tensor of one value, expanded, may have."""


def read_torch_file(path: Path) -> Mapping[Any, Any]:
    """The dictionary that a file holds.

    Raises:
        UserError: not a whole file of torch.save; one with more than tensors and plain values in it; no dictionary.
    """
    try:
        with _numpy_scalars():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a foreign or damaged file makes it meet
        raise UserError(_refusal(path, error)) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__} where a state dict should be. Give a model's checkpoint."
        )
    if (large := _expanded(content)) is not None:
        raise UserError(
            f"{path} holds a tensor {list(large.shape)} that is far larger than its stored values. Copy or download it "
            "again."
        )
    return content


def _expanded(content: Any, depth: int = 8) -> Tensor | None:
    """The first tensor that would need far more memory than the file holds for it; None: there is none."""
    if isinstance(content, Tensor):
        needed = content.numel() * content.element_size()
        stored = content.untyped_storage().nbytes() if content.layout == torch.strided else 0
        return content if needed > max(stored, _SMALL) else None
    parts = content.values() if isinstance(content, Mapping) else content
    nested = depth and isinstance(content, Mapping | list | tuple)
    found = (_expanded(part, depth - 1) for part in parts) if nested else ()
    return next((tensor for tensor in found if tensor is not None), None)


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
    """Accept numpy's numbers, as a trainer's best score is one: values, not code."""
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    scalar: Any = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals([np.dtype, *kinds, *named]):
        yield
