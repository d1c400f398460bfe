"""Recordings of models of full size: names and shapes of their weights, and digests of their outputs.

`sd_params/params_<model>_full.json.gz` lists a state dict. `sd_full_hashinit/<model>.npz` holds norm, mean and a
strided sample of each output, for weights that follow from their names and a video that follows from the salt in
`meta.json`. Samples are cut to 256 values here.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fidelity.hash_weights import gain_of, hash_weights
from torchslots.convert.layouts import Arrays

Shapes = dict[str, tuple[int, ...]]

_VIDEOS = {"VQVAE": 0, "SAVi": 1, "STEVE": 2, "SAViDiffusion": 3}
"""Offsets of the seeds of the recorded videos from the salt."""


def read_names(golden: Path, model: str) -> dict[str, Any]:
    """The recorded list: `state_dict` {name: [shape, dtype]}, `total_params` and so on."""
    return json.loads(gzip.decompress((golden / "sd_params" / f"params_{model}_full.json.gz").read_bytes()))


def shapes(names: dict[str, Any]) -> Shapes:
    """The shape of every tensor."""
    return {name: tuple(shape) for name, (shape, _) in names["state_dict"].items()}


def salt(golden: Path) -> int:
    """Seed of the recorded weights and video."""
    return json.loads((golden / "sd_full_hashinit" / "meta.json").read_text())["salt"]


def weights(golden: Path, system: str, parameters: Shapes) -> Arrays:
    """The recorded model's parameters; buffers are not among them."""
    return hash_weights(parameters, salt(golden), gain_of(system))


def video(golden: Path, system: str, num_frames: int, size: int = 128) -> Tensor:
    """The recorded clip [1, T, 3, size, size] in [-1, 1] of a system, named as in config.json."""
    stream = np.random.RandomState(salt(golden) + _VIDEOS[system])
    coarse = torch.from_numpy(stream.uniform(-1, 1, (num_frames, 3, 16, 16)).astype(np.float32))
    fine = torch.from_numpy(stream.uniform(-1, 1, (num_frames, 3, size, size)).astype(np.float32))
    return (F.interpolate(coarse, (size, size), mode="bilinear") + 0.25 * fine).clamp(-1, 1)[None]


def read_digests(golden: Path, model: str) -> Arrays:
    """The recorded digests of a model."""
    return dict(np.load(golden / "sd_full_hashinit" / f"{model}.npz"))


def assert_equal(recorded: Arrays, name: str, ours: np.ndarray, tolerance: float = 1e-4) -> None:
    """The output has the recorded shape, norm, mean and sample."""
    flat = np.asarray(ours, np.float64).reshape(-1)
    sample = recorded[f"{name}/sample"]
    mine = flat[:: int(recorded[f"{name}/stride"])][: len(sample)]
    norm = float(recorded[f"{name}/norm"])
    assert ours.shape == tuple(recorded[f"{name}/shape"]), name
    assert abs(np.linalg.norm(flat) - norm) <= tolerance * norm, name
    assert abs(flat.mean() - recorded[f"{name}/mean"]) <= tolerance * norm / np.sqrt(flat.size), name
    assert np.linalg.norm(mine - sample) <= tolerance * np.linalg.norm(sample), name
