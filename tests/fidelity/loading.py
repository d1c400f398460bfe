"""A recorded case's model with the recorded weights, read as `torchslots convert` reads them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fidelity.cases import Case
from torchslots.convert import layouts, systems
from torchslots.convert.convert import adam_state
from torchslots.convert.layouts import Arrays, Shapes, WeightMap
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.convert.readers.torch import TorchCheckpoint
from torchslots.convert.systems import Program
from torchslots.io.errors import UserError
from torchslots.models.weights import shapes
from torchslots.recipes import catalog


class Loaded(NamedTuple):
    """An original's checkpoint and our model with its weights."""

    program: Program
    read: Checkpoint | TorchCheckpoint
    config: Any
    model: Any

    @property
    def leaves(self) -> list[WeightMap]:
        """Which of its arrays goes where."""
        return self.program.leaves(self.config)

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> Arrays:
        """Our weights or gradients by the original's names."""
        return layouts.to_theirs(self.leaves, tensors)

    def adam(self) -> dict[str, Tensor]:
        """The original's moments and steps of Adam, for ours."""
        return adam_state(self.model, *systems.moments(self.program, self.read, self.config), self.read.step)


def load(case: Case, place: str = "model.pth") -> Loaded:
    """The case's model with the weights of its checkpoint.

    Args:
        place: path of the checkpoint in the folder.
    """
    return filled(case, *systems.open_original(case.folder / place))


def load_made(case: Case, weights: Arrays) -> Loaded:
    """The case's model with weights that are computed by a rule, of a program in flax."""
    read = Checkpoint(case.folder, weights)
    return filled(case, systems.program_of(read, systems.FLAX), read)


def filled(case: Case, program: Program, read: Checkpoint | TorchCheckpoint) -> Loaded:
    """The model that the case's own configuration describes, with the checkpoint's weights."""
    config = program.from_reference(case.reference, shapes(read.params))
    model = catalog.build(config)
    layouts.fill(model, systems.weights(program, read, config), str(read.path))
    return Loaded(program, read, config, case.prepared(model))


# ------------------------------------------------------------------------------- weights too large to ship

_GAINS = {
    "SpatialBroadcastDecoder_0/CNN_0": 2.5,
    "SpatialBroadcastDecoder_0/alpha_logits": 4.0,
    "FrameEncoder_0/CNN_0": 1.4,
}


def named_weights(wanted: Shapes, seed: int) -> Arrays:
    """Normal samples of generators seeded by the arrays' names, scaled by their kinds."""
    return {path: named_leaf(path, tuple(shape), seed) for path, shape in wanted.items()}


def named_leaf(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One array of `named_weights`."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    normal = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little"))).standard_normal(shape)
    kind = path.rsplit("/", 1)[-1]
    if kind in ("scale", "bias"):
        values = 0.1 * normal + (kind == "scale")
    elif kind == "pos_embedding":
        axes = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
        values = np.stack(axes, -1)[None] + 0.02 * normal
    else:
        gain = next((gain for start, gain in _GAINS.items() if path.startswith(start)), 1.0)
        values = (gain if kind == "kernel" else 1.0) * normal / np.sqrt(np.prod(shape[:-1]))
    return values.astype(np.float32)


def streamed_weights(wanted: Shapes, seed: int) -> Arrays:
    """Normal samples of one generator, over the arrays in the order of their names."""
    stream = np.random.default_rng(seed)
    return {path: _streamed_leaf(path, tuple(wanted[path]), stream) for path in sorted(wanted)}


def _streamed_leaf(path: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
    kind = path.rsplit("/", 1)[-1]
    if kind == "pos_embedding":
        axes = (np.linspace(-1, 1, length) for length in shape[1:3])
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)[None].astype(np.float32)
    normal = stream.standard_normal(shape)
    if kind in ("scale", "bias"):
        values = 0.1 * normal + (kind == "scale")
    elif kind.startswith("state_init"):
        values = normal
    else:
        values = normal / np.sqrt(np.prod(shape[:-1])) * (3 if "general_dense_q_0" in path else 1)
    return values.astype(np.float32)


def check_digests(weights: Arrays, digests: Mapping[str, str], folder: Path) -> None:
    """Compare the digests of weights that are computed by a rule; grids may differ in the last bit.

    Raises:
        UserError: the rule gives other weights than were recorded.
    """
    for path, digest in digests.items():
        found = hashlib.sha256(weights[path].tobytes()).hexdigest()
        if not path.endswith("pos_embedding") and found != digest:
            raise UserError(
                f"{folder}: {path} as the rule makes it is not what was recorded. Copy the folder again."
            )
