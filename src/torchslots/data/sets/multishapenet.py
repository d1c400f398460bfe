"""MultiShapeNet-Easy (Stelzer et al., 2021; Sajjadi et al., 2022) from its TFDS folder `msn_easy_frames`.

A record is a frame seen by several cameras, and each camera is one image. Instance ids are stored from 1, the
background's, so 1 is subtracted here. Depth is stored as an RGBA image whose four bytes are one 32-bit float.

Splits: `train`, and the published `val`, also called `validation`.
"""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Integer, UInt8

from torchslots.data.clips import Example, image_example
from torchslots.data.formats.example import MalformedExample, RawFeature, decode_bytes
from torchslots.data.formats.png import decode_png
from torchslots.data.formats.tfds import TfdsSplit, find_folder
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.io.errors import UserError

FRAMES = "msn_easy_frames"
"""Name of the TFDS data set."""
_CAMERA = re.compile(r"cameras/(?P<camera>[^/]+)/color_image")
_OTHER_NAMES = {"validation": "val", "val": "validation"}


class MultiShapeNetImages:
    """Every camera of every frame of a split: record by record, cameras in the order of their names."""

    title, files = "MultiShapeNet-Easy", "single images"
    keys = ("video", "segmentations", "depth")

    def __init__(self, root: Path, split: str) -> None:
        """Find the files; all records have the cameras of the first.

        Raises:
            UserError: no such data set or split, missing shards, or records without cameras.
        """
        folder = find_folder(root, FRAMES)
        other = _OTHER_NAMES.get(split, split)
        self.records = TfdsSplit(
            folder, other if other in folder.splits and split not in folder.splits else split
        )
        self.cameras = _cameras(self.records) if len(self.records) else ()

    def __len__(self) -> int:
        return len(self.records) * len(self.cameras)

    def name(self, index: int) -> str:
        """File, record and camera."""
        number, camera = divmod(index, len(self.cameras))
        return f"{self.records.name(number)}/{self.cameras[camera]}"

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """One camera's image; ids 0 for the background, depth in the scene's unit.

        Raises:
            CorruptRecord: the record cannot be read.
        """
        wanted = self.keys if keys is None else keys
        names = {"video": "color_image", "segmentations": "instance_image", "depth": "depth_image"}
        arrays = self.example(index, tuple(name for key, name in names.items() if key in wanted))
        return image_example(
            video=arrays.get("color_image"),
            segmentations=_from_zero(arrays["instance_image"]) if "instance_image" in arrays else None,
            depth=arrays.get("depth_image"),
        )

    def num_objects(self, index: int) -> int:
        """Objects visible to the camera."""
        ids = _from_zero(self.example(index, ("instance_image",))["instance_image"])
        return len(np.setdiff1d(ids, [0]))

    def example(
        self, index: int, names: tuple[str, ...] = ("color_image", "instance_image", "depth_image")
    ) -> dict[str, np.ndarray]:
        """Images as TFDS gives them: uint8 [H, W, 3] colours, uint8 [H, W, 1] ids from 1, float32 [H, W, 1] depth.

        Raises:
            CorruptRecord: the record cannot be read, or lacks an image.
        """
        number, position = divmod(index, len(self.cameras))
        prefix = f"cameras/{self.cameras[position]}"
        raw = self.records.scan(number, {f"{prefix}/{name}" for name in names})
        try:
            return {name: _decode(raw, f"{prefix}/{name}") for name in names}
        except MalformedExample as error:
            raise CorruptRecord(*self.records.place(number), f"cannot be read: {error}") from error


def _from_zero(stored: UInt8[np.ndarray, "H W 1"]) -> Int32[np.ndarray, "H W"]:
    return np.maximum(stored[..., 0].astype(np.int32) - 1, 0)


def _cameras(records: TfdsSplit) -> tuple[str, ...]:
    matches = [_CAMERA.fullmatch(name) for name in records.scan(0)]
    cameras = tuple(sorted((match["camera"] for match in matches if match), key=_by_number))
    if not cameras:
        file, number = records.place(0)
        raise UserError(
            f"{file}: record {number} has no `cameras/<name>/color_image`, so it is no frame of MultiShapeNet. Give "
            f"the folder of {FRAMES}."
        )
    return cameras


def _by_number(camera: str) -> tuple[int, str]:
    """camera_10 comes after camera_9."""
    digits = re.findall(r"\d+", camera)
    return int(digits[-1]) if digits else -1, camera


def _decode(raw: dict[str, RawFeature], name: str) -> np.ndarray:
    if name not in raw:
        raise MalformedExample(f"it has no `{name}`")
    items = decode_bytes(raw[name])
    if len(items) != 1:
        raise MalformedExample(f"`{name}` is {len(items)} images, not one")
    image = decode_png(items[0])
    if name.endswith("depth_image"):
        return _depth(image)
    channels = 3 if name.endswith("color_image") else 1
    if image.shape[2] != channels or image.dtype != np.uint8:
        raise MalformedExample(f"`{name}` is {image.dtype} {list(image.shape)}")
    return image


def _depth(image: Integer[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W 1"]:
    """Four bytes of a pixel are one little-endian float."""
    if image.shape[2] != 4 or image.dtype != np.uint8:
        raise MalformedExample(f"a depth image of {image.shape[2]} channels, where four bytes make a float")
    pixels: UInt8[np.ndarray, "H W 4"] = np.ascontiguousarray(image)
    return pixels.view("<f4").astype(np.float32)
