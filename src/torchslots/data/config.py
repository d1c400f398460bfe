"""The data settings of a recipe. Nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Literal

from torchslots.io.ranges import COUNT, PART, Range


@dataclass(frozen=True)
class DataConfig:
    """The data settings of a recipe: what is loaded and how it is preprocessed."""

    dataset: str = "movi_a"
    """Name in `torchslots data list`."""
    keys: tuple[str, ...] = ("video", "segmentations", "boxes", "flow")
    """Batch keys to load; nothing else is decoded."""
    resolution: int = 64
    """Pixels of the shorter side after resizing."""
    num_frames: int = 6
    """Frames in a training clip."""
    max_instances: int = 23
    """Rows of `boxes`; objects beyond are dropped from boxes and masks."""
    min_object_covered: float | None = None
    """Least part of the frame that a random resized crop covers in training; None: no crop."""
    depth_transform: Literal["log_plus", "log", "invert_plus"] = "log_plus"
    """Depth target of a distance d: ln(1 + d), ln d, 1 / (1 + d)."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: all."""
    crop: tuple[int, ...] | None = None
    """Top, left, height and width, in pixels of the source, of a crop before resizing; None: no crop."""
    square: bool = False
    """Resize to `resolution` in both directions; this changes the aspect."""
    num_records: int | None = None
    """Use only the first so many records of the split, so that no more of a large file are unpacked; None: all."""
    windows: Literal["end_to_end", "anywhere"] = "end_to_end"
    """Where training clips begin: at multiples of `num_frames`, as in SAVi; or at any frame that allows a whole
    clip, as in SlotDiffusion."""
    renumber: bool = False
    """Renumber the ids of each clip 0, 1, ... in their order, as SlotDiffusion's reader does: where no background is
    visible the smallest id becomes background. The rows of `boxes` follow."""
    train_split: str = "train"
    """Split for training; `torchslots data list --long` names those of each set."""


RANGES: dict[str, Range] = {
    "max_instances": COUNT,
    "max_objects": COUNT,
    "min_object_covered": PART,
    "num_frames": COUNT,
    "num_records": COUNT,
    "resolution": COUNT,
}
"""What the numbers above may be, see `check_ranges`."""
