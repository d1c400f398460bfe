"""Writes small files of Multi-Object Datasets, as published or with faults."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchslots.data.formats.example import encode_example, encode_one_byte_strings
from torchslots.data.formats.tfrecord import Compression, write_records
from torchslots.data.sets.multi_object import Layout


def encode_image(
    image: np.ndarray, ids: np.ndarray, layout: Layout, entities: int, leave_out: Sequence[str] = ()
) -> bytes:
    """One record; what describes entities counts up from zero, and as many entities are visible as have pixels."""
    masks = (ids.reshape(1, *ids.shape[-2:]) == np.arange(entities)[:, None, None]).astype(np.uint8) * 255
    if layout.entities_last:
        masks = masks.transpose(1, 2, 0)
    numbers = {name: np.arange(entities, dtype=np.float32) for name in layout.numbers}
    if "visibility" in numbers:
        numbers["visibility"] = np.isin(np.arange(entities), ids).astype(np.float32)
    codes = {name: encode_one_byte_strings(np.arange(entities, dtype=np.uint8)) for name in layout.codes}
    features = {
        "image": encode_one_byte_strings(image),
        "mask": encode_one_byte_strings(masks),
        **numbers,
        **codes,
    }
    return encode_example({name: value for name, value in features.items() if name not in leave_out})


def random_images(
    layout: Layout, count: int, entities: int, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noise and blocks of ids."""
    rng = np.random.default_rng(seed)
    height, width = layout.resolution
    return [
        (
            rng.integers(0, 256, (height, width, layout.channels), dtype=np.uint8),
            np.sort(rng.integers(0, entities, (height, width)), 0),
        )
        for _ in range(count)
    ]


def write_images(
    path: Path, layout: Layout, count: int, entities: int = 4
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A GZIP file of random images, which are returned."""
    images = random_images(layout, count, entities)
    write_records(path, (encode_image(*image, layout, entities) for image in images), Compression.GZIP)
    return images


def inflate(path: Path) -> bytes:
    return zlib.decompress(path.read_bytes(), 31)


def deflate(path: Path, content: bytes) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    path.write_bytes(packer.compress(content) + packer.flush())
