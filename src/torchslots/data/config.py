"""The data settings of a recipe. Nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Literal

from torchslots.io.errors import UserError
from torchslots.io.ranges import COUNT, PART, Range, check_ranges


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
    """Rows of `boxes`; objects beyond have none. Masks have all objects, and metrics evaluate them all."""
    min_object_covered: float | None = None
    """Least part of the frame that a random resized crop covers in training; None: no crop."""
    depth_transform: Literal["log_plus", "log", "invert_plus"] = "log_plus"
    """Depth target of a distance d: ln(1 + d), ln d, 1 / (1 + d)."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: all."""
    crop: tuple[int, ...] | None = None
    """Top, left, height and width, in pixels of the source, of a crop before resizing; None: no crop, and of your own
    files the central square."""
    square: bool = False
    """Resize to `resolution` in both directions; this changes the aspect."""
    num_records: int | None = None
    """Only the first so many records of the split, where a large file would be unpacked whole; None: all."""
    windows: Literal["end_to_end", "anywhere", "chunks", "back_and_forth"] = "end_to_end"
    """Where training clips begin: at multiples of `num_frames`, as in SAVi, the last one padded; at any frame that
    leaves a whole clip, as in SlotDiffusion; at multiples that leave a whole clip, as in VideoSAUR: shorter videos
    are left out; or at any frame, and shorter videos are played forward and backward until the clip is full."""
    renumber: bool = False
    """Renumber the ids of each clip 0, 1, ... in their order, as SlotDiffusion's reader does: where no background is
    visible the smallest id becomes background. The rows of `boxes` follow."""
    train_split: str = "train"
    """Split that is trained on; `torchslots data list` names those of each set."""
    pre_resize: int | None = None
    """Pixels of the shorter side of frames and masks before anything else, without interpolation: what published
    readers of YouTube-VIS store, 320 or 518; None: as they are."""
    interpolation: Literal["bilinear", "bicubic", "bicubic_antialias"] = "bilinear"
    """How frames are resized: `bicubic` without antialiasing, as in DINOSAUR and VideoSAUR; `bicubic_antialias` as in
    FT-DINOSAUR, on 8-bit values. Masks take the nearest pixel."""
    train_crop: Literal["none", "random", "center", "square"] = "none"
    """In training. `none`: the whole frame; `random` and `center`: a square at a random place, or in the middle, once
    the shorter side has `resolution` pixels; `square`: the middle square of the stored frame, resized."""
    eval_crop: Literal["none", "center", "square"] = "none"
    """The same in evaluation."""
    flip: float = 0.0
    """Probability that a training clip is mirrored."""
    label_size: int | None = None
    """Pixels of masks where frames have `resolution`, in evaluation; None: those of the frames."""
    eval_chunks: int | None = None
    """In evaluation each whole chunk of so many frames is an example of its own, and what is left is dropped; None: a
    video is one example."""
    overlaps: Literal["ignore", "error"] | None = None
    """Pixels of several instances: counted by no metric, or an error; None: ignored in COCO, else an error."""
    crowds: Literal["ignore", "uncovered", "objects"] = "ignore"
    """Regions of crowds in COCO and YouTube-VIS: counted by no metric; background, as in published figures; or
    objects."""
    void: Literal["ignore", "uncovered"] = "ignore"
    """Pixels marked as void in VOC, DAVIS and your own masks: counted by no metric, or background, as in DINOSAUR's
    figures on VOC."""
    void_id: int | None = 255
    """Value of void pixels in palette masks of your own files; None: no value is void."""
    allow_odd_masks: bool = False
    """Take masks of your own files that cannot be label maps: stored with loss, smoothed, or of hundreds of ids."""

    def __post_init__(self) -> None:
        """Check choices and ranges.

        Raises:
            UserError: a field has a value that it cannot have.
        """
        check_ranges(self, RANGES)
        if self.crop is not None and len(self.crop) != 4:
            raise UserError(f"`crop` should be four numbers, top, left, height and width, got {self.crop}.")


RANGES: dict[str, Range] = {
    "eval_chunks": COUNT,
    "flip": PART,
    "label_size": COUNT,
    "max_instances": COUNT,
    "max_objects": COUNT,
    "min_object_covered": PART,
    "num_frames": COUNT,
    "num_records": COUNT,
    "pre_resize": COUNT,
    "resolution": COUNT,
}
"""What the numbers above may be, see `check_ranges`."""
