"""Generate image data sets with masks and properties, in the format of the published sets.

Tetrominoes, Objects Room, Multi-dSprites and CLEVR with masks are one GZIP TFRecord file each, CLEVR and CLEVRTex
folders of PNG files and JSON. A block of images depends only on the settings and its number, so any number of workers
writes the same bytes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from torchslots.data.formats.example import encode_example
from torchslots.data.formats.tfrecord import Compression, write_records
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError, nearest
from torchslots.io.files import write_file
from torchslots.io.progress import counted, progress
from torchslots.io.threads import count_cores
from torchslots.io.workers import in_order
from torchslots.sim import rooms, sprites, tetrominoes
from torchslots.sim.clevr import (
    OBJECTS,
    ClevrExample,
    encode_ids,
    encode_image,
    masked_record,
    sample_clevr,
    scene_entry,
)
from torchslots.sim.generate_videos import claim

ImageKind = Literal["tetrominoes", "objects_room", "clevr_with_masks", "clevr", "clevrtex", "multi_dsprites"]
_SMALLEST = 32
_HELD_OUT = 10
"""CLEVR: training images for each validation image."""


@dataclass(frozen=True)
class ImageSettings:
    """All settings that the bytes of a set of images depend on."""

    kind: ImageKind
    count: int
    resolution: tuple[int, int]
    """Height and width in pixels."""
    seed: int
    max_objects: int | None = None
    """Most objects of an image; None: the kind's own."""
    version: int = 1

    @property
    def held_out(self) -> int:
        """CLEVR's images for validation."""
        return max(1, self.count // _HELD_OUT) if self.kind == "clevr" else 0

    @property
    def total(self) -> int:
        return self.count + self.held_out


@dataclass(frozen=True)
class _Published:
    """Layout of a published set, and the functions that make and write its images."""

    folder: str
    """Below the data folder."""
    last: Callable[[int], str]
    """File that is written last, relative to the folder, by the number of images."""
    resolution: tuple[int, int]
    any_size: bool
    block: int
    """Images per task."""
    make: Callable[[ImageSettings, int, np.random.Generator], list[Any]]
    write: Callable[[Path, ImageSettings, Iterator[Any]], None]


def generate_images(
    out: Path,
    *,
    kind: ImageKind = "tetrominoes",
    count: int = 10_000,
    resolution: tuple[int, int] | None = None,
    seed: int = 0,
    max_objects: int | None = None,
    workers: int | None = None,
) -> Path:
    """Generate images with exact masks and properties in a published set's format. Returns the set's folder.

    Args:
        out: the data folder; the set is written to OUT/tetrominoes, OUT/objects_room, OUT/clevr_with_masks,
            OUT/multi_dsprites, OUT/CLEVR_v1.0 or OUT/clevrtex_full.
        kind: the published set to imitate. clevr has no masks; clevr and clevrtex are folders of PNG files.
        count: number of images; of clevr those for training, with a tenth as many for validation. Of
            clevrtex the second tenth is for validation, in the other sets the first 100.
        resolution: height and width in pixels (None: the published ones); only those of CLEVR's kinds can be changed.
        seed: another seed, other images.
        max_objects: most objects of an image, of CLEVR's kinds (None: 10); the fewest are 3.
        workers: processes (None: one for each core).

    Raises:
        UserError: settings out of range, files that were not generated, a folder that cannot be written.
    """
    if kind not in _KINDS:
        raise UserError(f"There are no images of the kind `{kind}`. {nearest(kind, get_args(ImageKind))}")
    published = _KINDS[kind]
    settings = ImageSettings(kind, count, resolution or published.resolution, seed, max_objects)
    _check(settings, published)
    folder = Path(out) / published.folder
    _refuse_foreign(folder / published.last(count))
    claim(folder, settings)
    if not (folder / published.last(count)).exists():
        _write(folder, settings, published, workers or count_cores())
    print(
        f"{folder}: {count_text(count, 'image')} of {settings.resolution[0]} x {settings.resolution[1]} pixels"
    )
    return folder


def make_block(settings: ImageSettings, block: int) -> list[Any]:
    """The serialized images of one block; they depend on the arguments alone."""
    published = _KINDS[settings.kind]
    count = min(published.block, settings.total - block * published.block)
    rng = np.random.default_rng([settings.seed, block, *settings.kind.encode()])
    return published.make(settings, count, rng)


def _check(settings: ImageSettings, published: _Published) -> None:
    if settings.count < 1 or settings.seed < 0:
        raise UserError(
            f"Ask for at least one image, with a seed that is not negative; got {settings.count} images and seed "
            f"{settings.seed}."
        )
    most = settings.max_objects
    if most is not None and not (published.any_size and OBJECTS[0] <= most <= OBJECTS[1]):
        raise UserError(
            f"Images of CLEVR's kinds have at most {OBJECTS[0]} to {OBJECTS[1]} objects, other kinds as many as were "
            f"published; got max_objects {most} for {settings.kind}."
        )
    height, width = settings.resolution
    if not published.any_size and settings.resolution != published.resolution:
        raise UserError(
            f"Images of the kind {settings.kind} have {' x '.join(map(str, published.resolution))} pixels, not "
            f"{height} x {width}. Leave the resolution out."
        )
    if not _SMALLEST <= height <= width and published.any_size:
        raise UserError(
            f"CLEVR's images are no higher than wide, and at least {_SMALLEST} pixels high; got {height} x {width}."
        )


def _refuse_foreign(file: Path) -> None:
    """Refuse to overwrite a downloaded set."""
    if file.exists() and not any((parent / "generated.json").exists() for parent in file.parents[:2]):
        raise UserError(f"{file} is there and was not generated. Choose another folder.")


def _write(folder: Path, settings: ImageSettings, published: _Published, workers: int) -> None:
    blocks = -(-settings.total // published.block)
    tasks = [(settings, block) for block in range(blocks)]
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    with (
        in_order(make_block, tasks, min(workers, blocks)) as made,
        progress(f"Generating {settings.kind}", settings.total, "images") as advance,
    ):
        published.write(folder, settings, counted(chain.from_iterable(made), advance))


def _write_gzip(folder: Path, settings: ImageSettings, records: Iterator[bytes]) -> None:
    write_records(folder / _KINDS[settings.kind].last(settings.count), records, Compression.GZIP)


def _write_clevr(folder: Path, settings: ImageSettings, images: Iterator[tuple[bytes, list[Any]]]) -> None:
    """Write images/train/CLEVR_train_000000.png and so on, and each split's scene list after its images."""
    for split, count in (("train", settings.count), ("val", settings.held_out)):
        scenes = []
        for index in range(count):
            name = f"CLEVR_{split}_{index:06d}.png"
            data, objects = next(images)
            write_file(folder / "images" / split / name, data)
            scenes.append({"image_index": index, "image_filename": name, "split": split, "objects": objects})
        listed = {"info": {"split": split, "version": "generated"}, "scenes": scenes}
        write_file(folder / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps(listed))


def _write_clevrtex(
    folder: Path, settings: ImageSettings, images: Iterator[tuple[bytes, bytes, dict[str, Any]]]
) -> None:
    """Write 0/CLEVRTEX_full_000000.png, _flat.png and .json, and so on."""
    for index, (image, ids, description) in enumerate(images):
        stem = folder / str(index // 1000) / f"CLEVRTEX_full_{index:06d}"
        description = {"image_index": index, "image_filename": f"{stem.name}.png", **description}
        text = json.dumps(description).encode()
        for ending, data in ((".png", image), ("_flat.png", ids), (".json", text)):
            write_file(stem.with_name(stem.name + ending), data)


def _records(batch: tetrominoes.Tetrominoes | sprites.Sprites) -> list[bytes]:
    """One record of the published schema for each image."""
    return [
        encode_example(dict(zip(batch._fields, parts)), one_byte=("image", "mask")) for parts in zip(*batch)
    ]


def _make_clevr(
    settings: ImageSettings, count: int, rng: np.random.Generator
) -> list[tuple[bytes, list[Any]]]:
    return [(encode_image(example), scene_entry(example)) for example in _sample(settings, count, rng)]


def _make_clevrtex(
    settings: ImageSettings, count: int, rng: np.random.Generator
) -> list[tuple[bytes, bytes, dict[str, Any]]]:
    examples = _sample(settings, count, rng, textured=True)
    return [(encode_image(example), encode_ids(example), _description(example)) for example in examples]


def _sample(
    settings: ImageSettings, count: int, rng: np.random.Generator, textured: bool = False
) -> list[ClevrExample]:
    most = settings.max_objects or OBJECTS[1]
    return [sample_clevr(rng, settings.resolution, textured, most) for _ in range(count)]


def _description(example: ClevrExample) -> dict[str, Any]:
    objects = [{"index": number, **entry} for number, entry in enumerate(scene_entry(example), 1)]
    return {"num_objects": len(objects), "ground_material": example.ground, "objects": objects}


def _gzip(
    name: str,
    resolution: tuple[int, int],
    block: int,
    make: Callable[..., list[bytes]],
    any_size: bool = False,
    variant: str = "train",
) -> _Published:
    file = f"{name}_{variant}.tfrecords"
    return _Published(name, lambda _: file, resolution, any_size, block, make, _write_gzip)


_KINDS: dict[str, _Published] = {
    "tetrominoes": _gzip(
        "tetrominoes",
        (tetrominoes.SIZE, tetrominoes.SIZE),
        500,
        lambda _, n, rng: _records(tetrominoes.sample_tetrominoes(n, rng)),
    ),
    "objects_room": _gzip(
        "objects_room",
        (rooms.SIZE, rooms.SIZE),
        50,
        lambda _, n, rng: [rooms.room_record(rng) for _ in range(n)],
    ),
    "clevr_with_masks": _gzip(
        "clevr_with_masks",
        (240, 320),
        4,
        lambda *of: [masked_record(example) for example in _sample(*of)],
        any_size=True,
    ),
    "multi_dsprites": _gzip(
        "multi_dsprites",
        (sprites.SIZE, sprites.SIZE),
        100,
        lambda _, n, rng: _records(sprites.sample_sprites(n, rng)),
        variant="colored_on_grayscale",
    ),
    "clevr": _Published(
        "CLEVR_v1.0", lambda _: "scenes/CLEVR_val_scenes.json", (320, 480), True, 4, _make_clevr, _write_clevr
    ),
    "clevrtex": _Published(
        "clevrtex_full",
        lambda count: f"{(count - 1) // 1000}/CLEVRTEX_full_{count - 1:06d}.json",
        (240, 320),
        True,
        4,
        _make_clevrtex,
        _write_clevrtex,
    ),
}
