"""The object-centric model: a slot encoder that finds objects, and a decoder that reconstructs frames from slots."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.models.backbones.vit import ViT
from torchslots.models.decoders.base import Decoder
from torchslots.models.decoders.broadcast import padded_size, segmentation_from_logits
from torchslots.models.slots.encoder import SlotEncoder, merge_poses
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.slots.initializers import FromBoxes, FromMasks
from torchslots.models.types import Batch, Clip, Conditioning, Features, Prediction, State
from torchslots.models.weights import digest, push_to_hub, save_pretrained

_CHECKED = ("video", "features", "boxes", "segmentations")
_SLACK = (-0.5, 1.5)
"""Range of frames that may be meant as [0, 1]: bicubic resizing passes it by less."""
START_KEYS = ("noise", "pose", "num_slots", "generator")
"""Keys of a batch, besides data, that `types.Conditioning` takes."""


class ObjectCentricModel(nn.Module):
    """A slot encoder and a decoder.

    Args:
        slot_encoder: frames to slots.
        decoder: slots to the loss, and to images and masks.
        config: the configuration it was built from, for saving.
    """

    load_function: ClassVar[str] = "load_model"

    def __init__(self, slot_encoder: SlotEncoder, decoder: Decoder, config: Any = None):
        super().__init__()
        self.slot_encoder, self.decoder, self.config = slot_encoder, decoder, config

    @property
    def monitor(self) -> str:
        """The figure whose highest value marks the best model of a run: the decoder's."""
        return self.decoder.monitor

    @property
    def hints(self) -> tuple[str, ...]:
        """Keys of a batch from whose first frame slots start."""
        initializer = self.slot_encoder.initializer
        if isinstance(initializer, FromMasks):
            return ("segmentations",)
        return ("boxes",) if isinstance(initializer, FromBoxes) else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of a training batch besides frames: the hints, and what the decoder is trained on."""
        targets = (key for key in self.decoder.targets if key not in ("video", "features"))
        return (*self.hints, *targets, *self.decoder.labels)

    @property
    def takes_hints(self) -> bool:
        """Whether slots start from boxes or masks of the first frame."""
        return bool(self.hints)

    @property
    def feature_encoder(self) -> FeatureEncoder | None:
        """The encoder of a model on the patches of a vision transformer, which takes frames of any size that divides
        into patches; None: the model is built for one size."""
        return next((part for part in self.slot_encoder.modules() if isinstance(part, FeatureEncoder)), None)

    def encode(self, batch: Batch, state: State | None = None, attn: bool = True, keys: bool = True) -> Clip:
        """Slots of every frame of `batch["video"]`, from its first-frame hints or from `state`.

        Where the batch has stored `features` of a frozen backbone, they take the place of the frames.

        Without `attn` the clip's attention is [B, T, K, 0], to save memory. Without `keys` the clip's features come
        without them, which only a loss compares.

        Raises:
            UserError: `video` is not [B, T, 3, H, W], or the initializer's hint is missing.
        """
        if "features" in batch:
            stored = Features(batch["features"], batch.get("feature_keys"))
            return self.slot_encoder(stored, conditioning(batch), state, attn)
        video = batch["video"]
        if video.ndim != 5 or video.shape[2] != 3:
            raise UserError(f"`video` should be [B, T, 3, H, W], got {list(video.shape)}.")
        return self.slot_encoder(video, conditioning(batch), state, attn, keys)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars: means over the clips of the batch."""
        return self.decoder.loss(self.encode(batch, attn=self.decoder.loss_needs_attn), batch)

    def fixed_shapes(self, batch: Batch) -> Batch:
        """The batch with the number of slots to decode (`num_decoded`), computed while the batch is on the CPU.

        Without it, training decodes exactly the distinct slots of a batch: on a GPU the CPU waits for their number, and
        compiled code gets another shape in every step. With it there are few shapes and no wait.
        """
        initializer, hint = self.slot_encoder.initializer, conditioning(batch)
        if not isinstance(initializer, FromBoxes | FromMasks) or (
            hint.boxes is None and hint.segmentation is None
        ):
            return batch
        slots = initializer.num_slots if isinstance(initializer, FromMasks) else batch["boxes"].shape[2] + 1
        pairs = hint.batch_size * slots
        return {**batch, "num_decoded": padded_size(min(initializer.most_distinct(hint), pairs), pairs)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, for wrappers such as DistributedDataParallel."""
        return self.loss(batch)

    @torch.no_grad()
    def predict(
        self,
        batch: Batch,
        state: State | None = None,
        slot_recon: bool = False,
        recon: bool = True,
        attn: bool = True,
    ) -> Prediction:
        """Segment a clip, or the next slice of one.

        Args:
            batch: `video` [B, T, 3, H, W] in [0, 1]; for the first slice of a conditional model also its hint, `boxes`
                or `segmentations`, of which frame 0 is used.
            state: of the slice before; None at the start.
            slot_recon: also return each slot's own images.
            recon: also return the images; masks alone are cheaper.
            attn: also return the attention; otherwise it may be [B, T, K, 0].

        Raises:
            UserError: `video` has another shape, the model's hint is missing, or as `check_batch`.
        """
        weight = next(self.parameters())
        check_batch(batch, weight.device, weight.dtype)
        clip = self.encode(batch, state, attn or self.decoder.needs_attn, keys=False)
        return self.decode(clip, slot_recon, recon)

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Prediction:
        """Decode a clip's slots, and assign each pixel to the slot of the highest score."""
        decoded = self.decoder.decode(clip, slot_recon, recon)
        return Prediction(
            segmentation=segmentation_from_logits(decoded.logits),
            masks=decoded.masks,
            slots=clip.slots,
            attn=clip.attn,
            recon=decoded.recon,
            slot_recon=decoded.slot_recon,
            state=clip.state,
            properties=decoded.properties,
        )

    def save_pretrained(self, folder: Any, *, backbone: bool = True) -> None:
        """Write config.json and model.safetensors into a folder that `torchslots.load_model` reads.

        Args:
            backbone: write the weights of a frozen pretrained backbone, too; without them the file is small, and
                loading fetches them from where the configuration says.

        Raises:
            UserError: the folder cannot be written; a backbone is to be left out, and there is none that is frozen and
                published.
        """
        elsewhere = {} if backbone else self._published_backbones()
        save_pretrained(self, self.config, folder, leave_out=self.training_only, elsewhere=elsewhere)

    def _published_backbones(self) -> dict[str, str]:
        """Names of frozen backbones' tensors, how they begin, and the tensors' digests."""
        found = {
            f"{name}.": digest(part.state_dict())
            for name, part in self.slot_encoder.named_modules(prefix="slot_encoder")
            if isinstance(part, ViT) and part.trainable_from is None
        }
        if not found or not self.config.backbone.pretrained:
            raise UserError(
                "This model has no frozen backbone whose weights are published elsewhere. Save it with all of its "
                "weights: leave out backbone=False."
            )
        return found

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Publish the model on the Hugging Face hub as `owner/name`; returns its address.

        Raises:
            UserError: not logged in, no such owner, no network.
        """
        return push_to_hub(self, self.config, repo_id, private=private, leave_out=self.training_only)

    @property
    def training_only(self) -> tuple[str, ...]:
        """Beginnings of the names of tensors that only `loss` needs: saved models are without."""
        return tuple(f"decoder.{name}" for name in self.decoder.training_only)


def check_batch(batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Check what `predict` is given: keys, types, shapes, ranges, and that it is on the model's device.

    Frames may pass [0, 1] as far as bicubic resizing does.

    Args:
        dtype: of the model's weights, which frames and boxes have, unless autocast converts them.

    Raises:
        UserError: something is wrong; all of it is said, with what to do.
    """
    if not isinstance(batch, Mapping) or not {"video", "features"} & batch.keys():
        what = f"keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise UserError(
            f"`predict` takes a batch, a dictionary with `video` [B, T, 3, H, W] in [0, 1], got {what}. "
            "`torchslots.predict_frames` takes uint8 images [T, H, W, 3] of any size."
        )
    given = [key for key in _CHECKED if key in batch]
    wrong = [said for key in given for said in _wrong(key, batch[key], device, dtype)]
    sizes = {key: len(batch[key]) for key in given if not wrong}
    if len({*sizes.values()}) > 1:
        counted = " and ".join(f"{size} of `{key}`" for key, size in sizes.items())
        wrong = [f"They are of other numbers of clips, {counted}: give a hint for each clip."]
    if wrong:
        raise UserError("The batch is not what `predict` takes: " + " ".join(wrong))


def _wrong(key: str, value: Any, device: torch.device, dtype: torch.dtype) -> list[str]:
    """What is wrong with an entry of a batch, and what to do; empty: nothing."""
    if not isinstance(value, Tensor):
        return [f"`{key}` should be a tensor, got {type(value).__name__}: use torch.as_tensor(...)."]
    if value.device.type != device.type:
        return [f"`{key}` is on {value.device}, the model on {device}: use {key}.to({str(device)!r})."]
    if key == "segmentations" and value.is_floating_point():
        return [f"`{key}` should be integer ids, got {value.dtype}: use {key}.int()."]
    shape = list(value.shape)
    if key == "segmentations":
        what = f"`{key}` should be [B, T, H, W], got {shape}: add dimensions for B clips and T = 1 frame."
        return [what] * (value.ndim != 4)
    if key == "video" and (value.ndim != 5 or value.shape[2] != 3):
        return [
            f"`video` should be [B, T, 3, H, W], got {shape}: move channels before height, and add dimensions for B "
            "clips of T frames."
        ]
    if key == "video" and not value.numel():
        return [f"`video` is empty, {shape}: give at least one clip of one frame."]
    if key == "boxes" and (value.ndim != 4 or value.shape[3] != 4):
        return [
            f"`boxes` should be [B, T, n, 4] of (ymin, xmin, ymax, xmax), got {shape}: add dimensions for B clips and "
            "T = 1 frame."
        ]
    if not value.is_floating_point() or value.dtype == torch.float64 != dtype:
        scaled = f"{key}.float() / 255" if value.dtype == torch.uint8 else f"{key}.float()"
        return [f"`{key}` should be float32, got {value.dtype}: use {scaled}."]
    if key == "features":
        return []
    if value.dtype != dtype and not torch.is_autocast_enabled(device.type):
        return [
            f"`{key}` should be {dtype} as the model's weights, got {value.dtype}: use {key}.to({dtype})."
        ]
    if not value.numel():
        return []
    low, high = (float(edge) for edge in value.aminmax())
    if low != low:
        return [f"`{key}` has values that are not a number (NaN): look for them where it is made."]
    if low < _SLACK[0] or high > _SLACK[1]:
        how = "divide by 255" if high > 2 and low >= 0 else "undo its normalization"
        how = how if key == "video" else "divide by the height and width of the frame"
        return [f"`{key}` should be in [0, 1], got {low:.4g} to {high:.4g}: {how}."]
    return []


def conditioning(batch: Batch) -> Conditioning:
    """The first frame's hints of a batch, and its `START_KEYS`."""
    boxes, masks = batch.get("boxes"), batch.get("segmentations")
    frames = batch["features"] if "features" in batch else batch["video"]
    return Conditioning(
        batch_size=len(frames),
        device=frames.device,
        boxes=None if boxes is None else boxes[:, 0],
        segmentation=None if masks is None else masks[:, 0],
        noise=batch.get("noise"),
        num_slots=batch.get("num_slots"),
        generator=batch.get("generator"),
        pose=batch.get("pose"),
    )


@torch.no_grad()
def rollout(
    model: ObjectCentricModel,
    batch: Batch,
    observe: int,
    horizon: int,
    state: State | None = None,
    slot_recon: bool = False,
    recon: bool = True,
    grid: tuple[int, int] | None = None,
) -> Prediction:
    """Segment `observe` frames, then predict and decode `horizon` more without observations.

    Predicted slots take the place of corrected ones, in a predictor's memory too. The attention of predicted frames is
    zero.

    Args:
        batch: as for `model.predict`; may be empty where `observe` is 0.
        observe: frames of `video` to observe; 0: go on from `state`.
        horizon: frames to predict.
        state: of the slice before, from `predict` or `rollout`.
        slot_recon: also return each slot's own images.
        recon: also return the images; masks alone are cheaper.
        grid: rows and columns of the patches to decode features at, where no frame is observed; None: as the model
            was built.

    Returns:
        All frames, the observed ones first.

    Raises:
        UserError: more frames to observe than the clip has, no frames and no state, or nothing to predict.
    """
    _check(batch, observe, horizon, state)
    parts: list[Clip] = []
    if observe:
        seen = {**batch, "video": batch["video"][:, :observe]}
        parts.append(model.encode(seen, state, keys=False))
        state = parts[0].state
    assert state is not None
    parts.append(model.slot_encoder.roll_on(state, horizon)._replace(grid=grid))
    return model.decode(_joined(parts), slot_recon, recon)


def _check(batch: Batch, observe: int, horizon: int, state: State | None) -> None:
    if horizon < 1 or observe < 0:
        raise UserError(
            f"Cannot observe {observe} frames and predict {horizon}: observe 0 or more, predict 1 or more."
        )
    if observe == 0 and state is None:
        raise UserError(
            "There is nothing to predict from: observe at least 1 frame, or give the state of another slice."
        )
    if observe and batch["video"].shape[1] < observe:
        raise UserError(
            f"Cannot observe {count_text(observe, 'frame')} of a clip of {batch['video'].shape[1]}: observe fewer."
        )


def _joined(parts: list[Clip]) -> Clip:
    """Clips concatenated in time; frames without attention get zeros."""
    num_tokens = max(part.attn.shape[-1] for part in parts)
    attn = [
        part.attn
        if part.attn.shape[-1] == num_tokens
        else part.attn.new_zeros(*part.attn.shape[:-1], num_tokens)
        for part in parts
    ]
    return Clip(
        torch.cat([part.slots for part in parts], 1),
        torch.cat([part.predicted for part in parts], 1),
        torch.cat(attn, 1),
        merge_poses([part.pose for part in parts], partial(torch.cat, dim=1)),
        parts[-1].state,
        grid=parts[0].grid,
    )
