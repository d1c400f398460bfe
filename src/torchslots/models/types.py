"""Named tuples shared by all parts of a model, and the letters used for shapes.

Letters: B clips, T frames, K slots, N tokens of one frame, D slot size, C channels, H height, W width, n boxes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from torchslots.io import notebook
from torchslots.io.counts import count_text


class Pose(NamedTuple):
    """Position, scale and rotation of a slot in the image (Biza et al. 2023, section 3); None: the model has none."""

    position: Float[Tensor, "B K 2"]
    scale: Float[Tensor, "B K 2"] | None = None
    rotation: Float[Tensor, "B K 2 2"] | None = None

    def only_moves(self) -> bool:
        """Whether poses have no scale and no rotation."""
        return self.scale is None and self.rotation is None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pose":
        """`change` applied to every part."""
        return Pose(
            change(self.position),
            None if self.scale is None else change(self.scale),
            None if self.rotation is None else change(self.rotation),
        )


class Source(ABC):
    """A source of random numbers for the clips of a batch."""

    @abstractmethod
    def rows(self, sample: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        """Random numbers of `shape`, the clips (or their frames) first."""


Generators = torch.Generator | Source | Sequence[torch.Generator]
"""Where random numbers of a batch come from: one generator for all clips, a source, or a generator for each clip."""


class Conditioning(NamedTuple):
    """Input of an initializer: the first frame's hint, and what is needed to sample slots.

    `boxes` are (ymin, xmin, ymax, xmax) in [0, 1], all zeros where there is no object; `segmentation` holds integer
    ids, 0 for background. `noise` replaces the standard normal noise of a random initializer, `pose` the sampled poses;
    `generator` is the source of randomness, one for all clips or one for each; `num_slots` overrides the model's number
    of slots, where the model allows it.
    """

    batch_size: int
    device: torch.device
    boxes: Float[Tensor, "B n 4"] | None = None
    segmentation: Int[Tensor, "B H W"] | None = None
    noise: Float[Tensor, "B K D"] | None = None
    num_slots: int | None = None
    generator: Generators | None = None
    pose: Pose | None = None


class Grouping(NamedTuple):
    """One frame's slots, the attention they come from, and their poses (Invariant Slot Attention).

    `attn` is the softmax over slots, averaged over heads, before it is renormalized over tokens.
    """

    slots: Float[Tensor, "B K D"]
    attn: Float[Tensor, "B K N"]
    pose: Pose | None = None


class Features(NamedTuple):
    """Raw features of a backbone, before they are transformed to tokens: what feature decoders reconstruct.

    `keys` are those of the backbone's last attention, all heads side by side; None: not asked for.
    """

    tokens: Float[Tensor, "*b N C"]
    keys: Float[Tensor, "*b N C"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """`change` applied to both."""
        return Features(change(self.tokens), None if self.keys is None else change(self.keys))


class Encoded(NamedTuple):
    """Encoded frames: tokens for slot attention, the backbone's raw features where a decoder may need them, and the
    rows and columns of the N tokens where they can differ from frame size to frame size."""

    tokens: Float[Tensor, "*b N C"]
    features: Features | None = None
    grid: tuple[int, int] | None = None


class State(NamedTuple):
    """What passes from one frame, or one slice of frames, to the next.

    `memory` is the predictor's own. `source` marks copies: slots that start equal stay equal, so slot k of clip b
    equals slot `source[b, k]`, the lowest of its equals. None: all are distinct. `is_first`: no frame has been seen.
    """

    slots: Float[Tensor, "B K D"]
    pose: Pose | None = None
    memory: Any = None
    source: Int[Tensor, "B K"] | None = None
    is_first: bool = False


class Clip(NamedTuple):
    """Slots of a whole clip. `slots` are corrected, `predicted` are one frame ahead.

    `features` are the backbone's, where the encoder hands them on; `grid` the rows and columns of the N tokens, None:
    as the model was built.
    """

    slots: Float[Tensor, "B T K D"]
    predicted: Float[Tensor, "B T K D"]
    attn: Float[Tensor, "B T K N"]
    pose: Pose | None
    state: State
    features: Features | None = None
    grid: tuple[int, int] | None = None


class Decoded(NamedTuple):
    """Decoded slots. `masks` sum to one over K; `logits` are their scores before the softmax.

    H, W are the frame's size or, where features are decoded, the rows and columns of their grid. `recon` maps a
    target's name (`video`, `flow`, `depth`, `features`) to its image; `slot_recon` holds each slot's own image
    and is filled only on request. `properties` are a set predictor's, of each slot's object.
    """

    recon: dict[str, Float[Tensor, "B T C H W"]]
    masks: Float[Tensor, "B T K H W"]
    logits: Float[Tensor, "B T K H W"]
    slot_recon: dict[str, Float[Tensor, "B T K C H W"]] | None = None
    properties: Float[Tensor, "B T K P"] | None = None


class Prediction(NamedTuple):
    """Output of a model for a clip or a slice of one; pass `state` to the next slice."""

    segmentation: Int[Tensor, "B T H W"]
    masks: Float[Tensor, "B T K H W"]
    slots: Float[Tensor, "B T K D"]
    attn: Float[Tensor, "B T K N"]
    recon: dict[str, Float[Tensor, "B T C H W"]]
    slot_recon: dict[str, Float[Tensor, "B T K C H W"]] | None
    state: State
    properties: Float[Tensor, "B T K P"] | None = None

    def show(self, clip: int = 0, num_frames: int = 6) -> Image.Image | None:
        """Show the segments of some frames of a clip: in a notebook at once, elsewhere as a returned image."""
        return notebook.shown(self._strip(clip, num_frames))

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the first clip."""
        return notebook.png(self._strip())

    def _repr_html_(self) -> str:
        """What a notebook shows: the first clip."""
        num_clips, length, num_slots = self.slots.shape[:3]
        return notebook.html(
            self._strip(),
            f"the first of {count_text(num_clips, 'clip')} of {count_text(length, 'frame')}, "
            f"{count_text(num_slots, 'slot')}",
        )

    def _strip(self, clip: int = 0, num_frames: int = 6) -> Image.Image:
        """Segments, below the reconstruction where there is one; ids from 1: no slot is known as background."""
        frames, ids = self.recon.get("video"), self.segmentation[clip].cpu().numpy() + 1
        if frames is None or frames.shape[-2:] != self.segmentation.shape[-2:]:
            return notebook.strip(ids, None, num_frames)
        pixels = (frames[clip].detach().float().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
        return notebook.strip(ids, pixels, num_frames)


Batch = dict[str, Any]
"""Keys, dtypes and ranges: `torchslots.data.batch`."""
