"""Generate MOVi data sets: `<out>/sim_a/64x64/1.0.0/` with shards and the files of TFDS.

Video i of a split depends only on the settings and i, so any number of workers, and any division among machines of one
kind with the same NumPy and MuJoCo, writes the same bytes. Shards are written atomically; the same call resumes.
"""

import json
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.data.formats.tfrecord import write_records
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.files import remove_partial, write_file
from torchslots.io.json_files import read_object
from torchslots.io.progress import counted, progress
from torchslots.io.threads import count_cores
from torchslots.io.workers import in_order
from torchslots.sim import tfds_info
from torchslots.sim.record import make_record
from torchslots.sim.scene import KINDS, Variant

_SHARD_LENGTH, _FEWEST_SHARDS = 16, 8
_RECORD_OVERHEAD = 16
_SPLITS = ("train", "validation", "test")
_SETTINGS = "generated.json"


@dataclass(frozen=True)
class Settings:
    """All settings that the bytes of a data set depend on."""

    variant: Variant
    videos: dict[str, int]
    resolution: int
    num_frames: int
    seed: int
    samples: int
    objects: tuple[int, int]
    version: str = tfds_info.VERSION


@dataclass(frozen=True)
class Shard:
    """One file and its videos."""

    path: Path
    split: str
    first: int
    count: int


def generate(
    out: Path,
    *,
    variant: Variant = "a",
    train: int = 200,
    validation: int = 20,
    test: int = 0,
    resolution: int = 64,
    num_frames: int = 24,
    seed: int = 0,
    samples: int = 2,
    min_objects: int | None = None,
    max_objects: int | None = None,
    workers: int | None = None,
    shard: str | None = None,
) -> Path:
    """Generate a MOVi-like data set with simulated physics and exact ground truth. Returns its folder.

    Args:
        out: the data folder; the set is written to OUT/sim_a/64x64/1.0.0.
        variant: a = plain objects, fixed camera (MOVi-A); c = textured (MOVi-C); e = textured, moving camera,
            standing and thrown objects (MOVi-E).
        train: number of training videos.
        validation: number of validation videos.
        test: number of test videos.
        resolution: height and width in pixels.
        num_frames: frames of a video, at 12 per second.
        seed: another seed, other videos.
        samples: rays per pixel along each axis (2: four rays for each pixel).
        min_objects: fewest objects of a video (None: 3; variant e 11).
        max_objects: most objects of a video (None: 10; variant e 23).
        workers: processes (None: one for each core).
        shard: "i/n" generates only part i (from 0) of n, for clusters; the last to finish writes the JSON files.

    Raises:
        UserError: settings out of range, objects that do not fit, a folder with other settings or that cannot be
            written, a full disk.
    """
    objects = object_counts(variant, min_objects, max_objects)
    videos = {split: count for split, count in zip(_SPLITS, (train, validation, test)) if count}
    settings = Settings(variant, videos, resolution, num_frames, seed, samples, objects)
    _check(settings)
    folder = Path(out) / f"sim_{variant}" / f"{resolution}x{resolution}" / tfds_info.VERSION
    claim(folder, settings)
    shards = plan(folder, settings)
    mine = _part(shards, shard)
    _write_missing([entry for entry in mine if not entry.path.exists()], settings, workers or count_cores())
    missing = sum(not entry.path.exists() for entry in shards)
    if missing:
        left = f"{missing} of {len(shards)} shards are left to the other parts."
        print(f"{folder}: part {shard} is done, {left}")
        return folder
    describe(folder, settings, shards)
    print(f"{folder}: " + ", ".join(count_text(count, f"{split} video") for split, count in videos.items()))
    return folder


def object_counts(variant: str, fewest: int | None, most: int | None) -> tuple[int, int]:
    """Fewest and most objects of a video; None: as the published set, bounded by the other one.

    Raises:
        UserError: there is no such variant.
    """
    if variant not in KINDS:
        raise UserError(f'There is no variant "{variant}": choose one of {", ".join(KINDS)}.')
    low, high = KINDS[variant].objects
    low = min(low, low if most is None else most) if fewest is None else fewest
    return low, max(high, low) if most is None else most


def plan(folder: Path, settings: Settings) -> list[Shard]:
    """All shards of a data set: at most 16 videos each, of equal length within one video."""
    shards = []
    for split, count in settings.videos.items():
        number = max(-(-count // _SHARD_LENGTH), min(count, _FEWEST_SHARDS))
        edges = [count * i // number for i in range(number + 1)]
        for i, (first, end) in enumerate(pairwise(edges)):
            name = f"sim_{settings.variant}-{split}.tfrecord-{i:05d}-of-{number:05d}"
            shards.append(Shard(folder / name, split, first, end - first))
    return shards


def video_record(settings: Settings, split: str, index: int) -> bytes:
    """The record of one video; it depends on the arguments alone."""
    s = settings
    rng = np.random.default_rng([s.seed, _SPLITS.index(split), index, *s.variant.encode()])
    name = f"{split}_{index}"
    return make_record(s.variant, rng, name, s.objects, s.resolution, s.num_frames, s.samples)


def _check(settings: Settings) -> None:
    low, high = settings.objects
    if not 1 <= low <= high <= 255:
        raise UserError(f"A video needs 1 to 255 objects, fewest before most; got {low} to {high}.")
    if settings.resolution < 8 or settings.num_frames < 1 or settings.samples < 1:
        raise UserError(
            f"Cannot render {settings.num_frames} frames of {settings.resolution} pixels with {settings.samples} "
            "rays along each axis: at least 1 frame, 8 pixels and 1 ray are needed."
        )
    if not settings.videos or min(settings.videos.values()) < 0 or settings.seed < 0:
        raise UserError("Ask for at least one video, with counts and a seed that are not negative.")


def claim(folder: Path, settings: Any) -> None:
    """Write the settings, a dataclass, into the folder, or compare them with those that are there.

    Raises:
        UserError: the folder was made with other settings, or cannot be written.
    """
    wanted = json.loads(json.dumps(asdict(settings)))
    path = folder / _SETTINGS
    if not path.exists():
        write_file(path, json.dumps(wanted, indent=1))
        return
    found = read_object(path, f"Delete {folder} and generate again.")
    different = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if different:
        was, now = ({key: side.get(key) for key in different} for side in (found, wanted))
        raise UserError(
            f"{folder} was generated with {was}, now asked for {now}. Choose another folder or delete it."
        )


def _part(shards: list[Shard], part: str | None) -> list[Shard]:
    if part is None:
        return shards
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(
            f'The part should be "i/n" with i from 0 to n - 1 (0/8 is the first of eight), got "{part}".'
        )
    return shards[int(index) :: int(count)]


def _write_missing(shards: list[Shard], settings: Settings, workers: int) -> None:
    tasks = [(settings, entry.split, entry.first + i) for entry in shards for i in range(entry.count)]
    if not tasks:
        return
    what = f"Generating sim_{settings.variant}"
    with (
        in_order(video_record, tasks, min(workers, len(tasks))) as records,
        progress(what, len(tasks), "videos") as advance,
    ):
        for entry in shards:
            remove_partial(entry.path.parent, entry.path.name)
            write_records(entry.path, counted(islice(records, entry.count), advance))


def describe(folder: Path, settings: Settings, shards: list[Shard]) -> None:
    splits = {}
    for split in settings.videos:
        own = [entry for entry in shards if entry.split == split]
        lengths = [entry.count for entry in own]
        splits[split] = (lengths, sum(e.path.stat().st_size - _RECORD_OVERHEAD * e.count for e in own))
    size = settings.resolution
    texts = dict(tfds_info.label_files(settings.variant))
    texts["features.json"] = json.dumps(
        tfds_info.features(settings.variant, size, settings.num_frames), indent=1
    )
    texts["dataset_info.json"] = json.dumps(tfds_info.dataset_info(settings.variant, size, splits), indent=2)
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            write_file(path, text)
