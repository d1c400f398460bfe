"""Weights computed from their names alone, so that a recording of a large model needs no file of weights.

The recordings of SlotDiffusion, STEVE and their PyTorch SAVi were made with these: each parameter is sampled with the
checksum of its name as seed, and scaled so that activations have about the same size in every layer.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from torchslots.convert.layouts import Arrays

SAVI_GAIN = 1.6
"""Factor of the matrices in the recordings of `SAVi`; 1 in all others."""

_UNSCALED = ("init_latents", "quantize.embedding.weight")
_HALVED = ("tok_emb.weight", "pos_emb.pe")
_TRANSPOSED = re.compile(r"(^|\.)decoder\.\d+\.0\.weight$")
"""Transposed convolutions of SAVi's decoder, the only ones: their fan-in is in the first axis."""


def gain_of(system: str) -> float:
    """The gain with which the cases of `model` in config.json were recorded."""
    return SAVI_GAIN if system == "SAVi" else 1.0


def hash_weights(shapes: Mapping[str, Sequence[int]], salt: int, gain: float = 1.0) -> Arrays:
    """float32 values of parameters, in the order of `shapes`.

    Args:
        shapes: the original's parameter names and their shapes; no buffers and no boolean masks.
        salt: changes the seeds of all parameters.
        gain: factor of matrices and kernels.
    """
    return {name: _parameter(name, tuple(shape), salt, gain) for name, shape in shapes.items()}


def _parameter(name: str, shape: tuple[int, ...], salt: int, gain: float) -> np.ndarray:
    values = normal(zlib.crc32(name.encode()) ^ salt, shape)
    if name.endswith(_UNSCALED):
        return values
    if name.endswith(_HALVED):
        return values * np.float32(0.5)
    if len(shape) >= 2:
        return values * np.float32(gain) / np.float32(math.sqrt(_fan_in(name, shape)))
    shift = 1.0 if name.endswith("weight") else 0.0
    return np.float32(shift) + np.float32(0.1) * values


def normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal samples of numpy's legacy generator."""
    return np.asarray(np.random.RandomState(seed & 0x7FFFFFFF).standard_normal(shape), np.float32)


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    inputs = shape[0] if len(shape) == 4 and _TRANSPOSED.search(name) else shape[1]
    return inputs * math.prod(shape[2:])
