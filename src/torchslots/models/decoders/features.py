"""Slots explain the features of their frame's patches (Seitzer et al. 2023, DINOSAUR, section 3.2)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.decoders.base import Decoder
from torchslots.models.decoders.renderers import Rendered, Renderer, Seen
from torchslots.models.types import Batch, Clip, Decoded, Features


class Explained(NamedTuple):
    """What the losses compare: the decoder's channels of each patch, the backbone's features, and the slots."""

    output: Float[Tensor, "B T N P"]
    features: Features
    slots: Float[Tensor, "B T K D"]


FeatureLoss = Callable[[Explained], Float[Tensor, ""]]


class Weighted(NamedTuple):
    """A loss and its weight in the sum."""

    loss: FeatureLoss
    weight: float = 1.0
    compares_clips: bool = False
    """Whether the loss of a batch is not the mean of its clips'."""


class FeatureDecoder(Decoder):
    """A renderer of slots, and the losses that compare its output with the features of a frozen backbone.

    Masks, and `recon["features"]`, have the rows and columns of the patches.

    Args:
        renderer: slots to masks and channels of each patch.
        losses: by name, weighted.
        feature_size: the first channels of the output that predict features; 0: none do.
        taught: the features to explain are those of a frozen `teacher`, which only the loss needs and which is saved
            with no model; otherwise those that the slots were found in.
        chunk: frames decoded at once without gradients; fewer need less memory. None: all.
    """

    method = "decodes the features of all patches at once"

    def __init__(
        self,
        renderer: Renderer,
        losses: Mapping[str, Weighted],
        *,
        feature_size: int,
        taught: bool = False,
        chunk: int | None = 2,
    ):
        super().__init__()
        self.renderer, self.losses, self.feature_size = renderer, dict(losses), feature_size
        self.taught, self.chunk = taught, chunk
        self.compares_clips = any(loss.compares_clips for loss in losses.values())
        self.teacher: nn.Module | None = None
        self.training_only = ("teacher.",) if taught else ()
        self.needs_attn = self.loss_needs_attn = renderer.needs_attn
        self.targets = ("features",) if feature_size else ()

    def render(self, clip: Clip, output: bool = True) -> Rendered:
        """Masks and output of all frames, B*T of them.

        Raises:
            UserError: the renderer needs features or attention, and the frames were not seen.
        """
        slots, seen = clip.slots.flatten(0, 1), self._seen(clip)
        if torch.is_grad_enabled() or self.chunk is None or len(slots) <= self.chunk:
            return self.renderer(slots, seen, output)
        parts = [
            self.renderer(slots[start : start + self.chunk], _part(seen, start, self.chunk), output)
            for start in range(0, len(slots), self.chunk)
        ]
        outputs = [part.output for part in parts if part.output is not None]
        return Rendered(torch.cat([part.masks for part in parts]), torch.cat(outputs) if outputs else None)

    def _seen(self, clip: Clip) -> Seen:
        features = None if clip.features is None else clip.features.tokens.flatten(0, 1)
        if self.renderer.needs_features and features is None:
            raise UserError(
                "This decoder predicts features from the features before them, and these slots come without frames "
                "(predicted or edited slots do). Decode slots of observed frames."
            )
        return Seen(clip.attn.flatten(0, 1), features, clip.grid)

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Masks on the grid of patches, and the predicted features unless `recon` is False.

        Single slots have no images.
        """
        wanted = recon and self.feature_size > 0
        rendered, grid = self.render(clip, wanted), clip.grid or self.renderer.grid

        def in_space(values: Float[Tensor, "n c N"]) -> Float[Tensor, "B T c h w"]:
            return values.unflatten(-1, grid).unflatten(0, clip.slots.shape[:2])

        masks = in_space(rendered.masks)
        if rendered.output is None:
            return Decoded({}, masks, masks)
        features = in_space(rendered.output[..., : self.feature_size].transpose(1, 2))
        return Decoded({"features": features}, masks, masks)

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Each loss times its weight."""
        explained = self.explained(clip, batch)
        return {name: term.weight * term.loss(explained) for name, term in self.losses.items()}

    def explained(self, clip: Clip, batch: Batch) -> Explained:
        """Output and targets of a clip."""
        output = self.render(clip).output
        features = self._taught(batch) if self.taught else clip.features
        assert output is not None and features is not None
        return Explained(
            output.unflatten(0, clip.slots.shape[:2]), features.map(torch.Tensor.detach), clip.slots
        )

    def learn_from(self, teacher: nn.Module) -> None:
        """Take a teacher, frames [n, 3, H, W] in [0, 1] to `Features`; it is frozen.

        Raises:
            UserError: this decoder learns from the features that the slots were found in.
        """
        if not self.taught:
            raise UserError("This decoder explains the features of its own encoder: it takes no teacher.")
        self.teacher = teacher.requires_grad_(False).eval()

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Features:
        if self.teacher is None:
            raise UserError(
                "This model learns from a frozen teacher, which saved models are without. Train with `torchslots "
                "train`, or give it one: `model.decoder.learn_from(...)`."
            )
        if "video" not in batch:
            raise UserError("This model's backbone is tuned: train it on `video`, not on stored features.")
        video = batch["video"]
        found: Features = self.teacher(video.flatten(0, 1))
        return found.map(lambda values: values.unflatten(0, video.shape[:2]))


def _part(seen: Seen, start: int, size: int) -> Seen:
    attn, features = (
        None if values is None else values[start : start + size] for values in (seen.attn, seen.features)
    )
    return Seen(attn, features, seen.grid)


def feature_error(
    explained: Explained, target: Callable[[Tensor], Tensor] | None = None
) -> Float[Tensor, ""]:
    """Squared error of the features, averaged over everything (DINOSAUR, equation 1).

    Args:
        target: changes the features before they are compared, such as `standardized`.

    Raises:
        UserError: features of another number of patches.
    """
    features = explained.features.tokens
    if features.shape[-2] != explained.output.shape[-2]:
        raise UserError(
            f"This decoder predicts the features of {explained.output.shape[-2]} patches, got those of "
            f"{features.shape[-2]}. Give features of frames of the model's resolution."
        )
    wanted = features if target is None else target(features)
    return F.mse_loss(explained.output[..., : features.shape[-1]], wanted)


def standardized(features: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """Each patch's features with mean 0 and deviation 1 over its channels (FT-DINOSAUR)."""
    return F.layer_norm(features, features.shape[-1:])


def similarity_error(
    explained: Explained, *, temperature: float, first_channel: int, threshold: float = 0.0
) -> Float[Tensor, ""]:
    """Cross entropy of where each patch goes in the next frame (VideoSAUR, section 3.1).

    Args:
        temperature: of the target's softmax.
        first_channel: of the N channels that hold the prediction.
        threshold: as of `next_frame_similarity`.

    Raises:
        UserError: clips of one frame, or of frames with another number of patches; features without keys.
    """
    keys = _several_frames(explained).features.keys
    if keys is None:
        raise UserError(
            "This loss compares the keys of patches, and the features come without. Store them with their keys "
            "(`feature_keys`), or train on frames."
        )
    patches, channels = keys.shape[2], explained.output.shape[-1] - first_channel
    if patches != channels:
        raise UserError(
            f"This decoder predicts where each of {channels} patches goes, and the frames have {patches}. Train on "
            "frames of the model's resolution: data.resolution and model.resolution should be the same."
        )
    target = next_frame_similarity(keys, temperature, threshold)
    logits = explained.output[:, :-1, :, first_channel:]
    return F.cross_entropy(logits.flatten(0, 2), target.flatten(0, 2))


def _several_frames(explained: Explained) -> Explained:
    if explained.slots.shape[1] < 2:
        raise UserError(
            "This loss compares each frame with the next, and the clips have 1 frame. Train on clips of at least 2: "
            "--data.num-frames 4 is the usual number."
        )
    return explained


def next_frame_similarity(
    keys: Float[Tensor, "B T N C"], temperature: float, threshold: float = 0.0
) -> Float[Tensor, "B S N N"]:
    """For each patch of frames 0 to T - 2 a distribution over the next frame's patches, by cosine similarity.

    Opposed patches get nothing; a patch opposed to all others goes to all alike.

    Args:
        threshold: of the cosine, below which patches count as opposed.
    """
    unit = F.normalize(keys, dim=-1)
    similarity = unit[:, :-1] @ unit[:, 1:].transpose(-1, -2)
    opposed = similarity < threshold
    logits = (similarity / temperature).masked_fill(opposed, -torch.inf)
    return logits.masked_fill(opposed.all(-1, keepdim=True), 0.0).softmax(-1)


def temporal_contrast(
    explained: Explained, *, temperature: float = 0.1, whole_batch: bool = True
) -> Float[Tensor, ""]:
    """Each slot should resemble its own successor more than other slots do (SlotContrast, section 3).

    As in the authors' code the softmax runs over the earlier frame's slots, for each slot of the later frame.

    Args:
        whole_batch: slots of all clips of the batch are compared, not of one clip alone.

    Raises:
        UserError: clips of one frame.
    """
    unit = F.normalize(_several_frames(explained).slots, dim=-1).transpose(0, 1)
    if whole_batch:
        unit = unit.flatten(1, 2)[:, None]
    logits = unit[:-1] @ unit[1:].transpose(-1, -2) / temperature
    return -logits.log_softmax(-2).diagonal(dim1=-2, dim2=-1).mean()


feature_error_standardized = partial(feature_error, target=standardized)
"""`feature_error` to `standardized` features."""
