"""Weights of the networks whose public files are not here: they follow from the public names, as in the recordings."""

import zlib

import numpy as np
import torch
from torch import Tensor

_GAIN = 2**0.5


def public_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors by name: spread as for a rectified network; statistics of batch norms away from 0 and 1."""
    return {name: torch.from_numpy(_weight(name, shape)) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)
    drawn = drawn.astype(np.float32)
    if len(shape) >= 2:
        drawn = (_GAIN * drawn / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return np.abs(drawn) if name.startswith("lin") else drawn
    if name.endswith("running_var"):
        return 1 + np.abs(np.float32(0.1) * drawn)
    return 1 + np.float32(0.1) * drawn if name.endswith("weight") else np.float32(0.1) * drawn
