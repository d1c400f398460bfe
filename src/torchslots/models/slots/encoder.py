"""Encode frames to slots: the loop over time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchslots.io.errors import UserError
from torchslots.models.slots.attention import Corrector
from torchslots.models.types import Clip, Conditioning, Encoded, Features, Grouping, Pose, State


class Encoder(nn.Module, ABC):
    """Encode frames to tokens."""

    @abstractmethod
    def encode(self, frames: Float[Tensor, "B C H W"], keys: bool = True) -> Encoded:
        """Tokens, and what else the frames gave.

        Args:
            keys: compute what only a loss compares, too: the keys of a backbone's features.
        """

    def encode_features(self, features: Features) -> Encoded:
        """Tokens of stored backbone features.

        Raises:
            UserError: this encoder has no frozen backbone whose features could be stored.
        """
        raise UserError("This model is trained on frames: take `features` out of the batch, give `video`.")


class FrameEncoder(Encoder):
    """Encode an image to tokens: backbone, position embedding, transform of the flattened map."""

    def __init__(self, backbone: nn.Module, position: nn.Module, transform: nn.Module):
        super().__init__()
        self.backbone, self.position, self.transform = backbone, position, transform

    def forward(self, frames: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        features = self.position(self.backbone(frames.contiguous(memory_format=torch.channels_last)))
        return self.transform(features.flatten(2).transpose(1, 2))

    def encode(self, frames: Float[Tensor, "B C H W"], keys: bool = True) -> Encoded:
        """Tokens alone."""
        return Encoded(self(frames))


class SlotEncoder(nn.Module):
    """Encoder, initializer, corrector and predictor in SAVi's order (Kipf et al. 2022, figure 2).

    Args:
        encoder: frames [B*T, 3, H, W] to tokens [B*T, N, C], and raw features where it has a backbone of its own.
        initializer: a `Conditioning` to the first `State`.
        corrector: `project(tokens)` for all frames at once, then (state, projected frame) to a `Grouping`.
        predictor: (grouping, state) to the next `State`.
        recompute: compute the encoder's activations again in the backward pass, to save memory.
    """

    def __init__(
        self,
        encoder: Encoder,
        initializer: nn.Module,
        corrector: Corrector,
        predictor: nn.Module,
        *,
        recompute: bool = False,
    ):
        super().__init__()
        self.encoder, self.initializer = encoder, initializer
        self.corrector, self.predictor = corrector, predictor
        self.recompute = recompute

    def encode(self, video: Float[Tensor, "B T 3 H W"], keys: bool = True) -> Encoded:
        """All frames at once; `keys` as of `Encoder.encode`."""
        frames = video.flatten(0, 1)
        if self.recompute and torch.is_grad_enabled():
            found = checkpoint(self.encoder.encode, frames, keys, use_reentrant=False)
        else:
            found = self.encoder.encode(frames, keys)
        return _in_time(found, video.shape[:2])

    def encode_features(self, features: Features) -> Encoded:
        """Tokens of stored features [B, T, N, C]."""
        found = self.encoder.encode_features(features.map(lambda values: values.flatten(0, 1)))
        return _in_time(found, features.tokens.shape[:2])

    def tokens(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T N C"]:
        """Tokens of all frames."""
        return self.encode(video, keys=False).tokens

    def forward(
        self,
        video: Float[Tensor, "B T 3 H W"] | Features,
        conditioning: Conditioning,
        state: State | None = None,
        attn: bool = True,
        keys: bool = True,
    ) -> Clip:
        """Slots of every frame; a given `state` replaces the conditioning.

        Without `attn` the clip's attention is [B, T, K, 0].

        Args:
            video: frames, or the features [B, T, N, C] that a frozen backbone made of them.
            keys: as of `Encoder.encode`.
        """
        encoded = self.encode_features(video) if isinstance(video, Features) else self.encode(video, keys)
        inputs = self.corrector.project(encoded.tokens)
        current: State = self.initializer(conditioning)._replace(is_first=True) if state is None else state
        groups: list[Grouping] = []
        predicted: list[Tensor] = []
        for frame in inputs.frames():
            group: Grouping = self.corrector(current, frame)
            current = self.predictor(group, current)
            groups.append(group if attn else _without_attn(group))
            predicted.append(current.slots)
        return _clip(groups, predicted, current)._replace(features=encoded.features, grid=encoded.grid)

    def roll_on(self, state: State, num_frames: int) -> Clip:
        """Predict `num_frames` slots [B, T, K, D] without observations; `attn` is [B, T, K, 0]."""
        groups: list[Grouping] = []
        predicted: list[Tensor] = []
        for _ in range(num_frames):
            group = _without_attn(Grouping(state.slots, state.slots, state.pose))
            state = self.predictor(group, state)
            groups.append(group)
            predicted.append(state.slots)
        return _clip(groups, predicted, state)


def _in_time(encoded: Encoded, shape: Sequence[int]) -> Encoded:
    """Frames [B*T, ...] as clips [B, T, ...]."""

    def unflatten(values: Tensor) -> Tensor:
        return values.unflatten(0, shape)

    features = None if encoded.features is None else encoded.features.map(unflatten)
    return Encoded(unflatten(encoded.tokens), features, encoded.grid)


def _without_attn(group: Grouping) -> Grouping:
    return group._replace(attn=group.slots.new_zeros(*group.slots.shape[:2], 0))


def _clip(groups: list[Grouping], predicted: list[Tensor], state: State) -> Clip:
    slots = torch.stack([group.slots for group in groups], 1)
    attn = torch.stack([group.attn for group in groups], 1)
    poses = merge_poses([group.pose for group in groups], partial(torch.stack, dim=1))
    return Clip(slots, torch.stack(predicted, 1), attn, poses, state)


def merge_poses(poses: Sequence[Pose | None], merge: Callable[[list[Tensor]], Tensor]) -> Pose | None:
    """Poses merged part by part; None where there are none."""
    found = [pose for pose in poses if pose is not None]
    if not found:
        return None
    position, scale, rotation = (None if parts[0] is None else merge(list(parts)) for parts in zip(*found))
    assert position is not None
    return Pose(position, scale, rotation)
