"""A library of concepts: clusters of the slots of many frames, from which new sets of slots are sampled.

SlotDiffusion (Wu et al., NeurIPS 2023, section 3.3): the slots of a data set are clustered by k-means; one slot of each
cluster makes a new image.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_files, write_tensors
from torchslots.io.json_files import read_object
from torchslots.models.clips import plain_clip
from torchslots.models.types import Clip, Pose

_ROUNDS, _STARTS = 50, 4
_NAMES = ("slots", "labels", "distances", "centers", "origin")
_TENSORS, _ABOUT = "library.safetensors", "library.json"


class Clusters(NamedTuple):
    """Centres, the centre of each point, and the distance to it."""

    centers: Float[ndarray, "C D"]
    labels: Int[ndarray, "M"]
    distances: Float[ndarray, "M"]


def cluster(points: Float[ndarray, "M D"], num_clusters: int, seed: int) -> Clusters:
    """k-means, the best of a few k-means++ starts; no cluster is empty.

    Raises:
        UserError: fewer different points than clusters.
    """
    different = len(np.unique(points, axis=0)) if len(points) <= 100_000 else len(points)
    if not 1 <= num_clusters <= different:
        raise UserError(
            f"{different} different slots cannot make {num_clusters} concepts. Choose fewer concepts, or more frames."
        )
    rng = np.random.default_rng(seed)
    found = [_settled(points, _spread(points, num_clusters, rng)) for _ in range(_STARTS)]
    return min(found, key=lambda clusters: float(np.square(clusters.distances).sum()))


def _spread(points: Float[ndarray, "M D"], count: int, rng: np.random.Generator) -> Float[ndarray, "C D"]:
    """Initial centres, each sampled with probability proportional to its squared distance from those before."""
    chosen = [points[rng.integers(len(points))]]
    squared = np.square(points - chosen[0]).sum(1, dtype=np.float64)
    for _ in range(count - 1):
        chosen.append(points[rng.choice(len(points), p=squared / squared.sum())])
        squared = np.minimum(squared, np.square(points - chosen[-1]).sum(1, dtype=np.float64))
    return np.stack(chosen)


def _settled(points: Float[ndarray, "M D"], start: Float[ndarray, "C D"]) -> Clusters:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty cluster, which is removed below
        centers, _ = kmeans2(points, start, iter=_ROUNDS, minit="matrix")
    labels, _ = vq(points, centers)
    centers = centers[np.unique(labels)]
    labels, distances = vq(points, centers)
    return Clusters(centers, labels.astype(np.int64), distances)


@dataclass(frozen=True)
class Library:
    """Slots in clusters, the concepts."""

    slots: Float[Tensor, "M D"]
    labels: Int[Tensor, "M"]
    distances: Float[Tensor, "M"]
    """Distance of each slot to the centre of its concept."""
    centers: Float[Tensor, "C D"]
    origin: Int[Tensor, "M 3"]
    """Video, frame and slot number of each slot."""
    names: tuple[str, ...]
    """Names of the videos."""
    about: dict[str, Any]
    """Settings by which the library was made."""
    pose: Pose | None = None
    """Poses of the slots; None: the model has none."""

    @property
    def num_concepts(self) -> int:
        """Number of concepts."""
        return len(self.centers)

    def nearest(self, concept: int, count: int) -> list[int]:
        """The members nearest to a concept's centre, from different frames as far as there are enough."""
        members = torch.nonzero(self.labels == concept)[:, 0]
        members = members[self.distances[members].argsort(stable=True)].tolist()
        frames: dict[tuple[int, int], int] = {}
        for member in members:
            frames.setdefault((int(self.origin[member, 0]), int(self.origin[member, 1])), member)
        first = list(frames.values())[:count]
        return first + [member for member in members if member not in first][: count - len(first)]

    def sample(self, count: int, seed: int) -> Int[Tensor, "S C"]:
        """Sample one member of each concept, uniformly, `count` times."""
        rng = np.random.default_rng(seed)
        members = (np.flatnonzero(self.labels.numpy() == concept) for concept in range(self.num_concepts))
        return torch.from_numpy(np.stack([rng.choice(one, count) for one in members], 1))

    def clip(self, members: Int[Tensor, "S C"]) -> Clip:
        """Clips of one frame from members."""
        pose = None if self.pose is None else self.pose.map(lambda values: values[members][:, None])
        return plain_clip(self.slots[members][:, None], pose)

    def save(self, folder: Path) -> list[Path]:
        """Write library.safetensors and library.json.

        Raises:
            UserError: the folder cannot be written.
        """
        tensors = {name: getattr(self, name) for name in _NAMES}
        parts = {} if self.pose is None else self.pose._asdict()
        tensors |= {f"pose.{name}": part for name, part in parts.items() if part is not None}
        sizes = torch.bincount(self.labels, minlength=self.num_concepts).tolist()
        about = {"num_concepts": self.num_concepts, "sizes": sizes, "names": self.names, "about": self.about}
        files = [folder / _TENSORS, folder / _ABOUT]
        with atomic_files(*files) as (stored, described):
            write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, stored)
            described.write_text(json.dumps(about, indent=2) + "\n")
        return files


def load_library(folder: Path) -> Library:
    """Read a library that `Library.save` wrote.

    Raises:
        UserError: no library, or a damaged one.
    """
    try:
        tensors, about = load_file(folder / _TENSORS), read_object(folder / _ABOUT)
        parts = {name: tensors[f"pose.{name}"] for name in Pose._fields if f"pose.{name}" in tensors}
        return Library(
            **{name: tensors[name] for name in _NAMES},
            names=tuple(about["names"]),
            about=dict(about["about"]),
            pose=Pose(**parts) if parts else None,
        )
    except (UserError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no library of concepts: {first_line(error)}. Give a folder that "
            "`torchslots concepts` wrote."
        ) from error
