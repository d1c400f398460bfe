"""Convert Waymo Open's original frames to records of small camera images with ids of objects.

Follows Invariant Slot Attention's script: version 1.4 of the data set, one camera, images of 128 x 192 pixels, for
training all, for validation only marked ones. Ids of objects are cut to 8 bits, as there.
"""

import importlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from torchslots.data.formats.example import MalformedExample, encode_example, encode_one_byte_strings
from torchslots.data.formats.png import decode_png
from torchslots.data.formats.tfrecord import Compression, CorruptRecord, RecordFile, write_records
from torchslots.data.sets.waymo import RESOLUTION
from torchslots.data.transforms import resize
from torchslots.io.errors import UserError, first_line
from torchslots.io.progress import progress


def prepare_waymo(
    source: Path,
    out: Path,
    *,
    split: Literal["training", "validation"] = "training",
    camera: int = 1,
    shards: int = 16,
) -> Path:
    """Make small images with ids of objects from Waymo Open's original frames. Returns their folder.

    Needs the package waymo-open-dataset. The same call resumes after an interruption.

    Args:
        source: folder with the split's files, segment-*.tfrecord, version 1.4.
        out: the data folder; records are written to OUT/tfrecords/<split>/camera_<n>.
        split: training keeps every image, validation those with marked objects.
        camera: 1 front, 2 front left, 3 front right, 4 side left, 5 side right.
        shards: files to write; at most as many as there are segments.

    Raises:
        UserError: the package or the files are missing, or the folder cannot be written.
        CorruptRecord: a frame cannot be read.
    """
    if not 1 <= camera <= 5 or shards < 1:
        raise UserError(f"The camera should be 1 to 5 and shards at least 1, got {camera} and {shards}.")
    frame_type = _frame_type()
    segments = sorted(Path(source).rglob("*.tfrecord"))
    if not segments:
        raise UserError(
            f"{source} holds no segments of Waymo Open (*.tfrecord). Give the folder of `{split}`."
        )
    folder = Path(out) / "tfrecords" / split / f"camera_{camera}"
    count = min(shards, len(segments))
    with progress("Preparing Waymo Open", len(segments), "segments") as advance:
        for number in range(count):
            name = f"waymo_open_{RESOLUTION[0]}x{RESOLUTION[1]}.tfrecords-zlib-{number:05d}-of-{count:05d}"
            mine = segments[number::count]
            if not (folder / name).exists():
                records = _records(mine, frame_type, camera, split == "validation")
                write_records(folder / name, records, Compression.ZLIB)
            advance(len(mine))
    return folder


def _frame_type() -> Callable[[], Any]:
    """Waymo's message type of a frame.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return importlib.import_module("waymo_open_dataset.dataset_pb2").Frame
    except ImportError as error:
        raise UserError(
            f"Reading Waymo Open's frames needs the package waymo-open-dataset ({error}). Install it, for example with "
            "`pip install waymo-open-dataset-tf-2-12-0`, and accept the data set's licence at waymo.com/open."
        ) from error


def _records(
    segments: list[Path], frame_type: Callable[[], Any], camera: int, marked_only: bool
) -> Iterator[bytes]:
    for path in segments:
        frames = RecordFile(path)
        for number in range(len(frames)):
            try:
                yield from frame_records(frames.read(number), frame_type, camera, marked_only)
            except (MalformedExample, OSError, ValueError) as error:
                raise CorruptRecord(
                    path, number, f"is no frame of Waymo Open: {first_line(error)}"
                ) from error


def frame_records(
    payload: bytes, frame_type: Callable[[], Any], camera: int, marked_only: bool
) -> Iterator[bytes]:
    """One camera's image of a frame as a record; none if it is unmarked and `marked_only`.

    Raises:
        MalformedExample, OSError, ValueError: the frame cannot be read.
    """
    frame = frame_type()
    try:
        frame.ParseFromString(payload)
    except Exception as error:  # the type of protobuf's error depends on its version
        raise MalformedExample(f"{type(error).__name__}: {error}") from error
    for image in frame.images:
        if image.name != camera:
            continue
        ids = _ids(image.camera_segmentation_label)
        if ids is None and marked_only:
            continue
        yield _encode(_colors(image.image), ids, camera)


def _colors(jpeg: bytes) -> UInt8[np.ndarray, "H W 3"]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return _filled(np.asarray(image.convert("RGB")))


def _ids(label: Any) -> UInt8[np.ndarray, "H W"] | None:
    """Ids of objects, cut to 8 bits; None for an unmarked image."""
    if not label.panoptic_label:
        return None
    if label.panoptic_label_divisor < 1:
        raise MalformedExample("a panoptic label without its divisor")
    panoptic = decode_png(label.panoptic_label)[..., 0]
    return _filled((panoptic % label.panoptic_label_divisor).astype(np.uint8))


def _filled(image: np.ndarray) -> np.ndarray:
    """Pad an image at the top to the aspect of the front camera's."""
    height = image.shape[1] * RESOLUTION[0] // RESOLUTION[1]
    above = max(0, height - image.shape[0])
    return np.pad(image, [(above, 0), (0, 0), (0, 0)][: image.ndim])


def _encode(colors: UInt8[np.ndarray, "H W 3"], ids: UInt8[np.ndarray, "H W"] | None, camera: int) -> bytes:
    marked = ids is not None
    plane = ids if ids is not None else np.zeros(colors.shape[:2], np.uint8)
    video = torch.tensor(colors).permute(2, 0, 1)[None].float() * (1 / 255)
    small = resize({"video": video}, *RESOLUTION)["video"]
    plane = resize({"segmentations": torch.tensor(plane)[None]}, *RESOLUTION)["segmentations"][0].numpy()
    image = (small[0].permute(1, 2, 0) * 255).numpy().astype(np.uint8)
    return encode_example(
        {
            "image": encode_one_byte_strings(np.ascontiguousarray(image)),
            "segmentations": encode_one_byte_strings(plane),
            "num_objects": np.array([len(np.unique(plane))]),
            "has_mask": np.array([int(marked)]),
            "camera": np.array([camera]),
        }
    )
