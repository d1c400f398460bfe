"""Decode frames from slots, with sampling options chosen after training."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.adjust import sharing_weights
from torchslots.models.clips import frames_of, moved_to
from torchslots.models.decoders.sampling import SamplingOptions
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import demand_finite
from torchslots.models.types import Clip


def with_sampling(model: ObjectCentricModel, options: SamplingOptions) -> ObjectCentricModel:
    """A model with the same weights and other sampling options; the given model does not change.

    Raises:
        UserError: an option that this model does not have.
    """
    if not options.given():
        return model
    model = sharing_weights(model)
    model.decoder.set_sampling(options)
    return model


def require_frames(model: ObjectCentricModel) -> None:
    """Check that a model decodes frames.

    Raises:
        UserError: it decodes something else.
    """
    targets = model.decoder.targets
    if "video" not in targets:
        raise UserError(
            f"This model decodes {' and '.join(targets) + ', not' if targets else 'no'} frames. Give one that was "
            "trained to reconstruct `video`."
        )


@torch.no_grad()
def decode_frames(
    model: ObjectCentricModel, clip: Clip, chunk: int = 24, names: Sequence[str] = ()
) -> UInt8[Tensor, "B T 3 H W"]:
    """Decode slots to frames, on the CPU.

    Args:
        chunk: frames decoded at once; fewer need less memory.
        names: of the B clips, for errors.

    Raises:
        UserError: frames are not finite.
    """
    place = next(model.parameters()).device
    count, length = clip.slots.shape[:2]
    step = max(chunk // count, 1)
    parts = []
    for start in range(0, length, step):
        found = model.decoder.decode(moved_to(frames_of(clip, slice(start, start + step)), place))
        demand_finite(found, names)
        parts.append(found.recon["video"])
    return to_bytes(torch.cat(parts, 1)).cpu()
