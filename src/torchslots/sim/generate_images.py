"""Generates sets of single pictures with masks and properties, in the files of the published sets.

Whatever opens a published set opens these unchanged: Tetrominoes, Objects Room, Multi-dSprites and CLEVR with masks as
one GZIP TFRecord file each, CLEVR and CLEVRTex as their folders of PNG files and descriptions. A block of pictures
depends on nothing but the settings and its number, so any number of workers writes the same bytes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from torchslots.data.formats.tfrecord import Compression, write_records
from torchslots.io.errors import UserError, nearest
from torchslots.io.files import write_file
from torchslots.io.progress import progress
from torchslots.io.workers import count_cores, in_order
from torchslots.sim import rooms, sprites, tetrominoes
from torchslots.sim.clevr import (
    OBJECTS,
    ClevrPicture,
    encode_ids,
    encode_picture,
    masked_record,
    sample_clevr,
    scene_entry,
)
from torchslots.sim.generate_videos import claim

ImageKind = Literal["tetrominoes", "objects_room", "clevr_with_masks", "clevr", "clevrtex", "multi_dsprites"]
_SMALLEST = 32
_HELD_OUT = 10
"""Of CLEVR's folder: pictures for training to one for validation."""


@dataclass(frozen=True)
class ImageSettings:
    """All that the bytes of a set of pictures depend on."""

    kind: ImageKind
    count: int
    resolution: tuple[int, int]
    """Height and width in pixels."""
    seed: int
    max_objects: int | None = None
    """Most objects of a picture; None: the kind's own."""
    version: int = 1

    @property
    def most(self) -> int:
        """Most objects of a picture of CLEVR's kinds."""
        return self.max_objects or OBJECTS[1]


@dataclass(frozen=True)
class _Published:
    """How a published set is laid out, and what makes our pictures."""

    folder: str
    """Below the data folder."""
    last: Callable[[int], str]
    """The file that is written last, in the folder, by the number of pictures."""
    resolution: tuple[int, int]
    any_size: bool
    block: int
    """Pictures that one worker makes at a time."""
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
    """Generate pictures with exact masks and properties in a published set's format. Returns the set's folder.

    Args:
        out: the data folder; the set is written to OUT/tetrominoes, OUT/objects_room, OUT/clevr_with_masks,
            OUT/multi_dsprites, OUT/CLEVR_v1.0 or OUT/clevrtex_full.
        kind: what to draw. clevr has no masks; clevr and clevrtex are folders of PNG files and descriptions.
        count: number of pictures; of clevr those for training, with a tenth as many for validation. Of
            clevrtex the second tenth is for validation, in the other sets the first 100.
        resolution: height and width in pixels (None: the published ones); only those of CLEVR's kinds can be changed.
        seed: another seed, other pictures.
        max_objects: most objects of a picture, of CLEVR's kinds (None: 10); the fewest are 3.
        workers: processes (None: one for each core).

    Raises:
        UserError: settings that cannot be met, files that are already there, a folder that cannot be written.
    """
    if kind not in _KINDS:
        raise UserError(f"There are no pictures of the kind `{kind}`. {nearest(kind, get_args(ImageKind))}")
    published = _KINDS[kind]
    settings = ImageSettings(kind, count, resolution or published.resolution, seed, max_objects)
    _check(settings, published)
    folder = Path(out) / published.folder
    _refuse_foreign(folder / published.last(count))
    claim(folder, settings)
    if not (folder / published.last(count)).exists():
        _write(folder, settings, published, workers or count_cores())
    print(f"{folder}: {count} pictures of {settings.resolution[0]} x {settings.resolution[1]} pixels")
    return folder


def make_block(settings: ImageSettings, block: int) -> list[Any]:
    """The pictures of one block, serialized: a function of its arguments alone."""
    published = _KINDS[settings.kind]
    count = min(published.block, _total(settings) - block * published.block)
    rng = np.random.default_rng([settings.seed, block, *settings.kind.encode()])
    return published.make(settings, count, rng)


def _total(settings: ImageSettings) -> int:
    return settings.count + (_held_out(settings) if settings.kind == "clevr" else 0)


def _held_out(settings: ImageSettings) -> int:
    return max(1, settings.count // _HELD_OUT)


def _check(settings: ImageSettings, published: _Published) -> None:
    if settings.count < 1 or settings.seed < 0:
        raise UserError(
            f"Ask for at least one picture, with a seed that is not negative; got {settings.count} pictures and seed "
            f"{settings.seed}."
        )
    most = settings.max_objects
    if most is not None and not (published.any_size and OBJECTS[0] <= most <= OBJECTS[1]):
        raise UserError(
            f"Pictures of CLEVR's kinds have at most {OBJECTS[0]} to {OBJECTS[1]} objects, other kinds as many as were "
            f"published; got max_objects {most} for {settings.kind}."
        )
    height, width = settings.resolution
    if not published.any_size and settings.resolution != published.resolution:
        raise UserError(
            f"Pictures of the kind {settings.kind} have {' x '.join(map(str, published.resolution))} pixels, not "
            f"{height} x {width}. Leave the resolution out."
        )
    if not _SMALLEST <= height <= width and published.any_size:
        raise UserError(
            f"CLEVR's pictures are no higher than wide, and at least {_SMALLEST} pixels high; got {height} x {width}."
        )


def _refuse_foreign(file: Path) -> None:
    """Never write over a set that was downloaded."""
    if file.exists() and not any((parent / "generated.json").exists() for parent in file.parents[:2]):
        raise UserError(f"{file} is there and was not generated. Choose another folder.")


def _write(folder: Path, settings: ImageSettings, published: _Published, workers: int) -> None:
    blocks = -(-_total(settings) // published.block)
    tasks = [(settings, block) for block in range(blocks)]
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    with (
        in_order(make_block, tasks, min(workers, blocks)) as made,
        progress(f"Generating {settings.kind}", _total(settings), "pictures") as advance,
    ):
        published.write(folder, settings, _counted(made, advance))


def _counted(blocks: Iterator[list[Any]], advance: Callable[..., None]) -> Iterator[Any]:
    for pictures in blocks:
        for picture in pictures:
            yield picture
            advance()


def _write_gzip(folder: Path, settings: ImageSettings, records: Iterator[bytes]) -> None:
    write_records(folder / _KINDS[settings.kind].last(settings.count), records, Compression.GZIP)


def _write_clevr(folder: Path, settings: ImageSettings, pictures: Iterator[tuple[bytes, list[Any]]]) -> None:
    """images/train/CLEVR_train_000000.png and so on, each split's scene list when its pictures are there."""
    for split, count in (("train", settings.count), ("val", _held_out(settings))):
        scenes = []
        for index in range(count):
            name = f"CLEVR_{split}_{index:06d}.png"
            data, objects = next(pictures)
            write_file(folder / "images" / split / name, data)
            scenes.append({"image_index": index, "image_filename": name, "split": split, "objects": objects})
        listed = {"info": {"split": split, "version": "generated"}, "scenes": scenes}
        write_file(folder / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps(listed))


def _write_clevrtex(
    folder: Path, settings: ImageSettings, pictures: Iterator[tuple[bytes, bytes, dict[str, Any]]]
) -> None:
    """0/CLEVRTEX_full_000000.png, _flat.png and .json, and so on."""
    for index, (image, ids, description) in enumerate(pictures):
        stem = folder / str(index // 1000) / f"CLEVRTEX_full_{index:06d}"
        description = {"image_index": index, "image_filename": f"{stem.name}.png", **description}
        for ending, data in (
            (".png", image),
            ("_flat.png", ids),
            (".json", json.dumps(description).encode()),
        ):
            write_file(stem.with_name(stem.name + ending), data)


def _make_tetrominoes(settings: ImageSettings, count: int, rng: np.random.Generator) -> list[bytes]:
    return tetrominoes.encode_tetrominoes(tetrominoes.sample_tetrominoes(count, rng))


def _make_sprites(settings: ImageSettings, count: int, rng: np.random.Generator) -> list[bytes]:
    return sprites.encode_sprites(sprites.sample_sprites(count, rng))


def _make_rooms(settings: ImageSettings, count: int, rng: np.random.Generator) -> list[bytes]:
    return [rooms.room_record(rng) for _ in range(count)]


def _make_masked(settings: ImageSettings, count: int, rng: np.random.Generator) -> list[bytes]:
    return [masked_record(sample_clevr(rng, settings.resolution, most=settings.most)) for _ in range(count)]


def _make_clevr(
    settings: ImageSettings, count: int, rng: np.random.Generator
) -> list[tuple[bytes, list[Any]]]:
    pictures = [sample_clevr(rng, settings.resolution, most=settings.most) for _ in range(count)]
    return [(encode_picture(picture), scene_entry(picture)) for picture in pictures]


def _make_clevrtex(
    settings: ImageSettings, count: int, rng: np.random.Generator
) -> list[tuple[bytes, bytes, dict[str, Any]]]:
    pictures = [
        sample_clevr(rng, settings.resolution, textured=True, most=settings.most) for _ in range(count)
    ]
    return [(encode_picture(picture), encode_ids(picture), _description(picture)) for picture in pictures]


def _description(picture: ClevrPicture) -> dict[str, Any]:
    objects = [{"index": number, **entry} for number, entry in enumerate(scene_entry(picture), 1)]
    return {"num_objects": len(objects), "ground_material": picture.ground, "objects": objects}


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
    "tetrominoes": _gzip("tetrominoes", (tetrominoes.SIZE, tetrominoes.SIZE), 500, _make_tetrominoes),
    "objects_room": _gzip("objects_room", (rooms.SIZE, rooms.SIZE), 50, _make_rooms),
    "clevr_with_masks": _gzip("clevr_with_masks", (240, 320), 4, _make_masked, any_size=True),
    "multi_dsprites": _gzip(
        "multi_dsprites",
        (sprites.SIZE, sprites.SIZE),
        100,
        _make_sprites,
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
