"""Files of torch.save, which are pickles: opened as tensors and plain values alone, so that nothing in them is run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchslots.io.errors import UserError


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
    """Accept numpy's numbers, as a trainer's best score is one: values, not code."""
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    scalar: Any = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals([np.dtype, *kinds, *named]):
        yield
