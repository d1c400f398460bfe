"""Files of torch.save, which are pickles: opened as tensors and plain values alone, so that nothing in them is run."""

import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchslots.io.errors import UserError

_SMALL = 1 << 20
"""Bytes that a tensor of one value, expanded, may have."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the pickles, `_PARTS` in all, that torch.save wrote before it wrote archives."""
_PARTS = 5
_CALLS = ("REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX")


def read_torch_file(path: Path) -> Mapping[Any, Any]:
    """The dictionary that a file holds.

    Raises:
        UserError: not a whole file of torch.save; one with more than tensors and plain values in it; no dictionary.
    """
    try:
        with _numpy_scalars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols and archives that are refused here
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


def _is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, be it damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    if path.stat().st_size == 0:
        return f"{path} is empty. Copy or download it again."
    found = _Pickles() if _is_archive(path) else _scanned(path)
    asked = re.search(r"GLOBAL (\S+)", text)
    if found.whole and (asked or (found.calls and not found.of_torch)):
        what = f", which calls {asked[1]}" if asked else ""
        return (
            f"{path} is a pickle of more than tensors and plain values{what}: it holds code, which would run when it "
            "is opened. It was not opened, and nothing in it was executed. Where you trust it, open it in the program "
            "that wrote it and save the tensors alone: torch.save(model.state_dict(), FILE)."
        )
    if found.whole and not found.of_torch:
        return (
            f"{path} is a pickle, but not of torch.save. Save the tensors alone: "
            "torch.save(model.state_dict(), FILE)."
        )
    if "TorchScript" in text or "torch.jit" in text:
        return f"{path} is a TorchScript archive, which holds a program and is not run here. Give its state dict."
    if asked:
        return f"{path} ends too early. Copy or download it again."
    lines = [line for line in text.splitlines() if "Weights only" not in line and "weights_only" not in line]
    first = (
        next((line.strip() for line in lines if line.strip()), type(error).__name__)
        .partition(". ")[0][:120]
        .rstrip(".")
    )
    why = "" if isinstance(error, KeyError) else f" ({first})"  # a byte that is no instruction
    return f"{path} is not a whole file of torch.save{why}. Copy or download it again."


class _Pickles(NamedTuple):
    """What is in a file of pickles: whether all of it is there, whether it calls something, and is torch's."""

    whole: bool = True
    calls: bool = False
    of_torch: bool = True


def _scanned(path: Path) -> _Pickles:
    """Read the instructions of the pickles that a file begins with; they are not followed."""
    calls = of_torch = False
    with path.open("rb") as file:
        try:
            for number in range(_PARTS):
                steps = [(step.name, value) for step, value, _ in pickletools.genops(file)]
                of_torch = of_torch or (number == 0 and (_MAGIC in (value for _, value in steps)))
                calls = calls or any(name in _CALLS for name, _ in steps)
                if not of_torch:
                    break
        except (ValueError, EOFError, IndexError, struct.error, UnicodeDecodeError):
            return _Pickles(False, calls, of_torch)
    return _Pickles(True, calls, of_torch)


@contextmanager
def _numpy_scalars() -> Iterator[None]:
    """Accept numpy's numbers, as a trainer's best score is one: values, not code."""
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    scalar: Any = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals([np.dtype, *kinds, *named]):
        yield
