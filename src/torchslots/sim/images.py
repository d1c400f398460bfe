"""Generates sets of single pictures with masks and properties, in the files of the published sets.

Whatever opens a published set opens these unchanged: Tetrominoes, Objects Room and CLEVR with masks as one GZIP
TFRecord file each, CLEVR as its folder of PNG files and scene lists. A block of pictures depends on nothing but the
settings and its number, so any number of workers writes the same bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from torchslots.data.tfrecord import Compression, write_records
from torchslots.errors import UserError, nearest
from torchslots.progress import progress
from torchslots.sim.pool import count_cores, in_order
from torchslots.sim.tetrominoes import SIZE, encode_tetrominoes, sample_tetrominoes
from torchslots.sim.write import claim

ImageKind = Literal["tetrominoes", "objects_room", "clevr_with_masks", "clevr"]


@dataclass(frozen=True)
class ImageSettings:
    """All that the bytes of a set of pictures depend on."""

    kind: ImageKind
    count: int
    resolution: tuple[int, int]
    """Height and width in pixels."""
    seed: int
    version: int = 1


@dataclass(frozen=True)
class _Published:
    """How a published set is laid out, and what makes our pictures."""

    file: str
    """Its training file, below the data folder."""
    resolution: tuple[int, int]
    block: int
    """Pictures that one worker makes at a time."""
    records: Callable[[ImageSettings, int, np.random.Generator], list[bytes]]


def _tetrominoes(settings: ImageSettings, count: int, rng: np.random.Generator) -> list[bytes]:
    return encode_tetrominoes(sample_tetrominoes(count, rng))


_KINDS: dict[str, _Published] = {
    "tetrominoes": _Published("tetrominoes/tetrominoes_train.tfrecords", (SIZE, SIZE), 500, _tetrominoes),
}


def generate_images(
    out: Path,
    *,
    kind: ImageKind = "tetrominoes",
    count: int = 10_000,
    resolution: tuple[int, int] | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Generate pictures with exact masks and properties in a published set's format. Returns its folder.

    Args:
        out: the data folder; the set is written to OUT/tetrominoes and so on.
        kind: tetrominoes, objects_room, clevr_with_masks, or clevr (no masks; the original folder).
        count: number of pictures. The papers keep the first 100 of a file for validation.
        resolution: height and width in pixels (None: the published ones). Tetrominoes and Objects Room have one size.
        seed: another seed, other pictures.
        workers: processes (None: one for each core).

    Raises:
        UserError: settings that cannot be met, files that are already there, a folder that cannot be written.
    """
    if kind not in _KINDS:
        raise UserError(f"There are no pictures of the kind `{kind}`. {nearest(kind, get_args(ImageKind))}")
    published = _KINDS[kind]
    settings = ImageSettings(kind, count, resolution or published.resolution, seed)
    _check(settings, published)
    target = Path(out) / published.file
    _refuse_foreign(target)
    claim(target.parent, settings)
    if not target.exists():
        _write(target, settings, published, workers or count_cores())
    print(f"{target}: {count} pictures")
    return target.parent


def block_records(settings: ImageSettings, block: int) -> list[bytes]:
    """The records of one block: a function of its arguments alone."""
    published = _KINDS[settings.kind]
    count = min(published.block, settings.count - block * published.block)
    rng = np.random.default_rng([settings.seed, block, *settings.kind.encode()])
    return published.records(settings, count, rng)


def _check(settings: ImageSettings, published: _Published) -> None:
    if settings.count < 1 or settings.seed < 0:
        raise UserError("Ask for at least one picture, with a seed that is not negative.")
    if settings.resolution != published.resolution:
        height, width = published.resolution
        raise UserError(
            f"Pictures of the kind {settings.kind} have {height} x {width} pixels: leave resolution out."
        )


def _refuse_foreign(target: Path) -> None:
    """Never write over a set that was downloaded."""
    if target.exists() and not (target.parent / "generated.json").exists():
        raise UserError(f"{target} is already there and was not generated. Choose another folder.")


def _write(target: Path, settings: ImageSettings, published: _Published, workers: int) -> None:
    blocks = -(-settings.count // published.block)
    tasks = [(settings, block) for block in range(blocks)]
    with (
        in_order(block_records, tasks, min(workers, blocks)) as made,
        progress(f"Generating {settings.kind}", settings.count, "pictures") as advance,
    ):
        write_records(target, _counted(made, advance), Compression.GZIP)


def _counted(blocks: Iterator[list[bytes]], advance: Callable[..., None]) -> Iterator[bytes]:
    for records in blocks:
        for record in records:
            yield record
            advance()
