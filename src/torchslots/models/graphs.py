"""A model as pure functions of tensors, to be exported: its first frame, each further frame, and a whole clip.

Hints and states are flat lists of named tensors. Copies of slots are decoded as any other, so that no shape depends on
a tensor's values.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import BroadcastDecoder, segmentation_from_logits
from torchslots.models.decoders.features import FeatureDecoder
from torchslots.models.decoders.renderers import PerceptronRenderer
from torchslots.models.layers.position import resample_positions
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.initializers import FromBoxes, FromMasks, Gaussian, Learned
from torchslots.models.slots.poses import LearnedPoses, WithPoses
from torchslots.models.slots.temporal import MemoryPredictor
from torchslots.models.types import Clip, Conditioning, Grouping, Pose, State

_GROWS = (
    "This model remembers all frames, so that its state grows from frame to frame, which the graph of a clip cannot. "
    "Export its first frame and its steps: --graphs start step."
)


class Named(NamedTuple):
    """An input or output of a graph: its name, an example, and names of those axes that may have any length."""

    name: str
    example: Tensor
    free: dict[int, str]


class Graph(NamedTuple):
    """A function of tensors, with names for what goes in and comes out."""

    module: nn.Module
    inputs: list[Named]
    outputs: list[Named]


def exportable(model: ObjectCentricModel) -> ObjectCentricModel:
    """A copy that computes the same without chunks, caches or gradients.

    Raises:
        UserError: a memory that is bounded, or initial slots of a kind that is not known here.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    predictor, start = model.slot_encoder.predictor, _slots_of(model)
    if isinstance(predictor, MemoryPredictor) and predictor.max_frames is not None:
        raise UserError(
            f"This model remembers at most {predictor.max_frames} frames, and a graph remembers all it is given. "
            "Export it with max_frames None, and drop old frames from the state between steps."
        )
    if not isinstance(start, FromBoxes | FromMasks | Gaussian | Learned):
        raise UserError(f"Initial slots from {type(start).__name__} cannot be exported.")
    if isinstance(model.decoder, BroadcastDecoder | FeatureDecoder):
        model.decoder.chunk = None
    if isinstance(model.decoder, FeatureDecoder) and isinstance(model.decoder.renderer, PerceptronRenderer):
        model.decoder.renderer.cached_vectors = None
    if (encoder := model.feature_encoder) is not None:
        encoder.backbone.keys = False  # of losses alone
        _fix_positions(encoder.backbone, tuple(model.config.resolution))
    return model


def grows(model: ObjectCentricModel) -> bool:
    """Whether the state has one more frame in each step."""
    return isinstance(model.slot_encoder.predictor, MemoryPredictor)


def _fix_positions(backbone: Any, resolution: tuple[int, ...]) -> None:
    """Position embeddings of the one size that is exported, in place of those of the training's."""
    grid = resolution[0] // backbone.patch_size, resolution[1] // backbone.patch_size
    stored = (backbone.grid_size, backbone.grid_size)
    if grid == stored:
        return
    if grid[0] != grid[1]:
        raise UserError(
            f"Models on a vision transformer are exported for square frames, got {resolution[0]} x {resolution[1]}."
        )
    backbone.positions = nn.Parameter(
        resample_positions(backbone.positions, stored, grid), requires_grad=False
    )
    backbone.grid_size = grid[0]


def _slots_of(model: ObjectCentricModel) -> nn.Module:
    initializer = model.slot_encoder.initializer
    return initializer.slots if isinstance(initializer, WithPoses) else initializer


def hints_of(model: ObjectCentricModel, batch_size: int) -> list[Named]:
    """What the first frame starts from, with examples: boxes, masks, noise, poses; nothing where slots are learned."""
    start, draw = _slots_of(model), torch.Generator().manual_seed(1)
    height, width = model.config.resolution
    found: list[Named] = []
    num_slots = start.slots.shape[0] if isinstance(start, Learned) else 0
    if isinstance(start, FromBoxes):
        corners = torch.rand(batch_size, 3, 2, 2, generator=draw).sort(-2).values
        found.append(Named("boxes", corners.flatten(2), {0: "batch", 1: "objects"}))
    elif isinstance(start, FromMasks):
        ids = torch.randint(0, start.num_slots, (batch_size, height, width), generator=draw)
        found.append(Named("segmentations", ids, {0: "batch"}))
    elif isinstance(start, Gaussian):
        num_slots = start.num_slots
        noise = torch.randn(batch_size, num_slots, start.mean.shape[0], generator=draw)
        found.append(Named("noise", noise, {0: "batch"}))
    initializer = model.slot_encoder.initializer
    if isinstance(initializer, WithPoses) and not isinstance(initializer.frames, LearnedPoses):
        hint = Conditioning(batch_size, torch.device("cpu"), generator=draw)
        pose: Pose = initializer.frames(hint, num_slots)
        found += [
            Named(name, part, {0: "batch"}) for name, part in pose._asdict().items() if part is not None
        ]
    return found


class _Frames(nn.Module):
    """What the three graphs share.

    Args:
        model: as `exportable` returns it.
        names: of the hints.
        state: a state of the model, for its structure.
    """

    def __init__(self, model: ObjectCentricModel, names: Sequence[str], state: State | None = None):
        super().__init__()
        self.model, self.names = model, tuple(names)
        self.leaves, self.tree = trees.tree_flatten(None if state is None else _kept(state))

    def start(self, frames: Tensor, hints: Sequence[Tensor]) -> State:
        """The initial state."""
        given = dict(zip(self.names, hints))
        parts = [given.pop(name, None) for name in ("position", "scale", "rotation")]
        pose = None if parts[0] is None else Pose(parts[0], parts[1], parts[2])
        segmentation = given.get("segmentations")
        hint = Conditioning(
            frames.shape[0], frames.device, given.get("boxes"), segmentation, given.get("noise"), pose=pose
        )
        return self.model.slot_encoder.initializer(hint)._replace(is_first=True, source=None)

    def state(self, tensors: Sequence[Tensor]) -> State:
        """A state from its tensors."""
        given = iter(tensors)
        whole = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        slots, pose, memory = trees.tree_unflatten(whole, self.tree)
        return State(slots, pose, memory)

    def decode(self, clip: Clip) -> list[Tensor]:
        """Slots, masks, segmentation, and properties where the model has them."""
        decoded = self.model.decoder.decode(clip, recon=False)
        found = [clip.slots, decoded.masks, segmentation_from_logits(decoded.logits)]
        return found if decoded.properties is None else [*found, decoded.properties]

    def next(self, frames: Tensor, state: State) -> list[Tensor]:
        """Outputs of one frame [B, 3, H, W], then the next state."""
        clip = self.model.slot_encoder(frames[:, None], _NO_HINT, state)
        return [*(value[:, 0] for value in self.decode(clip)), *tensors_of(clip.state)]


_NO_HINT = Conditioning(0, torch.device("cpu"))


class FirstFrame(_Frames):
    """A video's first frame [B, 3, H, W] and its hints to outputs and the next state."""

    def forward(self, frame: Tensor, *hints: Tensor) -> list[Tensor]:
        return self.next(frame, self.start(frame, hints))


class NextFrame(_Frames):
    """A frame [B, 3, H, W] and the state before it to outputs and the next state."""

    def forward(self, frame: Tensor, *state: Tensor) -> list[Tensor]:
        return self.next(frame, self.state(state))


class WholeClip(_Frames):
    """A clip [B, T, 3, H, W] of at least two frames and its hints to outputs and the last state."""

    def forward(self, video: Tensor, *hints: Tensor) -> list[Tensor]:
        from torch._higher_order_ops.scan import scan

        encoder = self.model.slot_encoder
        encoded = encoder.encode(video)
        inputs, structure = trees.tree_flatten(encoder.corrector.project(encoded.tokens))
        state = self.start(video, hints)
        group = encoder.corrector(state, trees.tree_unflatten([part[:, 0] for part in inputs], structure))
        state = encoder.predictor(group, state)
        group_tree = trees.tree_flatten(group)[1]

        def step(carry: list[Tensor], frame: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            before = self.state(carry)
            found = encoder.corrector(before, trees.tree_unflatten(frame, structure))
            after = encoder.predictor(found, before)
            return [part.clone() for part in tensors_of(after)], [*_tensors(found), after.slots.clone()]

        rest = [part[:, 1:].movedim(1, 0).contiguous() for part in inputs]
        last, others = scan(step, [part.contiguous().clone() for part in tensors_of(state)], rest)
        firsts = [*_tensors(group), state.slots]
        joined = [torch.cat([a[None], b]).movedim(0, 1) for a, b in zip(firsts, others)]
        groups = _regrouped(joined[:-1], trees.tree_flatten(group)[0], group_tree)
        end = self.state(last)
        clip = Clip(groups.slots, joined[-1], groups.attn, groups.pose, end, encoded.features, encoded.grid)
        return [*self.decode(clip), *last]


def _regrouped(tensors: Sequence[Tensor], leaves: Sequence[Any], tree: Any) -> Grouping:
    given = iter(tensors)
    return trees.tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], tree)


def _kept(state: State) -> tuple[Tensor, Pose | None, Any]:
    return state.slots, state.pose, state.memory


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in trees.tree_leaves(tree) if isinstance(leaf, Tensor)]


def tensors_of(state: State) -> list[Tensor]:
    """The tensors of a state."""
    return _tensors(_kept(state))


def _state_names(state: State) -> list[str]:
    pose = [] if state.pose is None else [n for n, part in state.pose._asdict().items() if part is not None]
    kept = state.memory
    memory = (
        [] if kept is None else [name for name, part in kept._asdict().items() if isinstance(part, Tensor)]
    )
    return ["state_slots", *(f"state_{name}" for name in [*pose, *memory])]


@torch.no_grad()
def graphs_of(
    model: ObjectCentricModel, names: Sequence[str], batch_size: int = 2, num_frames: int = 3
) -> list[Graph]:
    """The graphs of these names: `start`, `step`, `clip`.

    Args:
        model: as `exportable` returns it.
        batch_size, num_frames: of the examples.

    Raises:
        UserError: the graph of a clip of a model whose state grows.
    """
    height, width = model.config.resolution
    draw = torch.Generator().manual_seed(0)
    video = torch.rand(batch_size, num_frames, 3, height, width, generator=draw)
    hints = hints_of(model, batch_size)
    tensors = [hint.example for hint in hints]
    first = FirstFrame(model, [hint.name for hint in hints])
    state = model.slot_encoder(video[:, :1], _NO_HINT, first.start(video[:, 0], tensors)).state
    state = state._replace(source=None, is_first=False)
    many = {1: "slots"} if isinstance(_slots_of(model), FromBoxes) else {}
    held = []
    for name, part in zip(_state_names(state), tensors_of(state)):
        grown = grows(model) and name in ("state_keys", "state_values")
        example = torch.cat([part, part], -2) if grown else part
        held.append(Named(name, example, {0: "batch", **many, **({3: "remembered"} if grown else {})}))
    built: dict[str, Callable[[], tuple[nn.Module, list[Named]]]] = {
        "start": lambda: (first, [Named("frame", video[:, 0], {0: "batch"}), *hints]),
        "step": lambda: (
            NextFrame(model, (), state),
            [Named("frame", video[:, 1], {0: "batch"}), *held],
        ),
        "clip": lambda: (
            WholeClip(model, first.names, state),
            [Named("video", video, {0: "batch", 1: "frames"}), *hints],
        ),
    }
    if grows(model) and "clip" in names:
        raise UserError(_GROWS)
    return [_graph(*built[name](), held, many, {1: "frames"} if name == "clip" else {}) for name in names]


def _graph(
    module: nn.Module, inputs: list[Named], held: list[Named], many: dict[int, str], frames: dict[int, str]
) -> Graph:
    found: list[Tensor] = module(*(each.example for each in inputs))
    shift, slots = len(frames), many.get(1)
    at_slots = {1 + shift: slots} if slots else {}
    named = []
    for name, value in zip(("slots", "masks", "segmentation", "properties"), found[: len(found) - len(held)]):
        own = {} if name == "segmentation" else at_slots
        named.append(Named(name, value, {0: "batch", **frames, **own}))
    ends = [Named(f"next_{was.name}", value, was.free) for was, value in zip(held, found[len(named) :])]
    return Graph(module, inputs, [*named, *ends])
