"""Read the folders of TensorFlow Datasets: find them, their shards, and any record by its number."""

import bisect
import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torchslots.data.find import check_split, folders, names, not_found
from torchslots.data.formats.example import MalformedExample, RawFeature, scan_example
from torchslots.data.formats.tfrecord import CorruptRecord, RecordFile
from torchslots.io.errors import UserError
from torchslots.io.json_files import read_object

_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord(-(?P<index>\d{5,})-of-(?P<count>\d{5,}))?")


_MOST_RECORDS = 1 << 40


class _Listed(NamedTuple):
    """A split in dataset_info.json: records in each file, and the template of file names."""

    lengths: list[int]
    template: str


def _listed(entry: dict[str, Any]) -> _Listed:
    template = entry.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    lengths = [int(length) for length in entry.get("shardLengths") or []]
    if any(not 0 <= length < _MOST_RECORDS for length in lengths):
        raise ValueError("a shard's length that no file has")
    return _Listed(lengths, str(template))


@dataclass(frozen=True)
class TfdsFolder:
    """One version of one configuration of a data set, such as movi_a/128x128/1.0.0."""

    path: Path
    name: str

    @cached_property
    def listed(self) -> dict[str, _Listed]:
        """The splits by dataset_info.json; empty without the file.

        Raises:
            UserError: the file cannot be read, or does not list splits as TFDS does.
        """
        file = self.path / "dataset_info.json"
        if not file.exists():
            return {}
        info = read_object(file, "Download it again.")
        try:
            return {str(entry["name"]): _listed(entry) for entry in info.get("splits") or []}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(f"{file} does not list splits as TFDS writes them. Download it again.") from error

    @property
    def resolution(self) -> int:
        """Pixels of the shorter side by the folder's name (`128x128`); 0 where the path has none."""
        sizes = re.findall(r"(\d+)x(\d+)", "/".join(self.path.parts[-3:]))
        return min(map(int, sizes[-1])) if sizes else 0

    @property
    def splits(self) -> list[str]:
        """Names of the splits, by dataset_info.json and by the files."""
        present = {match["split"] for match in map(_SHARD.fullmatch, names(self.path)) if match}
        return [*self.listed, *sorted(present - set(self.listed))]


def find_folder(root: Path, name: str, resolution: int = 0) -> TfdsFolder:
    """The folder of a data set: `root` itself, or below it.

    A `root` that holds the files of one data set is taken, whatever the name of that data set. Of several folders the
    smallest resolution of at least `resolution` is taken (the largest if there is none), in its latest version.

    Raises:
        UserError: `root` does not exist, or holds no files of this data set; the message says what it holds.
    """
    root, wanted = Path(root), f"files of {name} ({name}-<split>.tfrecord-00000-of-<n>)"
    if root.is_dir() and len(here := _held(root)) == 1:
        return TfdsFolder(root, here.pop())
    found = [TfdsFolder(folder, name) for folder in folders(root, name) if name in _held(folder)]
    if not found:
        raise not_found(
            root, wanted, f"Get it with `torchslots data download {name}`, or give another --root."
        )
    sizes = {folder.resolution for folder in found}
    enough = [size for size in sizes if size >= resolution]
    size = min(enough) if enough else max(sizes)
    return max(
        (folder for folder in found if folder.resolution == size), key=lambda folder: _version(folder.path)
    )


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def _held(folder: Path) -> set[str]:
    """Names of the data sets whose record files are in a folder."""
    return {match["name"] for match in map(_SHARD.fullmatch, names(folder)) if match}


@dataclass(frozen=True)
class _Shard:
    file: RecordFile
    listed: int | None
    """Number of records by dataset_info.json; None: not stated, the file must be scanned."""


class TfdsSplit:
    """The records of one split in TFDS order: shard by shard."""

    def __init__(self, folder: TfdsFolder, split: str) -> None:
        """Find the split's files; none is opened where dataset_info.json states their lengths.

        Raises:
            UserError: there is no such split, or some of its files are missing.
        """
        self.folder, self.split = folder, split
        self._shards = _find_shards(folder, split)

    @cached_property
    def _ends(self) -> list[int]:
        counts = (len(shard.file) if shard.listed is None else shard.listed for shard in self._shards)
        return list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def files(self) -> list[RecordFile]:
        """The split's files in order."""
        return [shard.file for shard in self._shards]

    def place(self, index: int) -> tuple[Path, int]:
        """File of a record, and its number in the file; opens files only where their lengths are not stated.

        Raises:
            IndexError: `index` is out of range.
        """
        shard, record = self._locate(index)
        return shard.file.path, record

    def name(self, index: int) -> str:
        """File and number of a record, as in TFDS' example ids."""
        file, record = self.place(index)
        return f"{file.name}__{record}"

    def scan(self, index: int, names: Collection[str] | None = None) -> dict[str, RawFeature]:
        """Features of a record (None: all), not decoded.

        Raises:
            CorruptRecord: the record is damaged, or no tf.train.Example.
        """
        payload = self.read(index)
        try:
            return scan_example(payload, names)
        except MalformedExample as error:
            raise CorruptRecord(*self.place(index), f"is no tf.train.Example: {error}") from error

    def read(self, index: int) -> bytes:
        """The payload of a record, counted over all shards.

        Raises:
            CorruptRecord: the record is damaged, or its file holds fewer records than dataset_info.json states.
            UserError: the file holds more.
        """
        shard, record = self._locate(index)
        if shard.listed is None or shard.file.damage is not None:
            return shard.file.read(record)
        if record >= len(shard.file):
            reason = (
                f"is missing: dataset_info.json lists {shard.listed} records, the file has {len(shard.file)}"
            )
            raise CorruptRecord(shard.file.path, record, reason)
        if shard.listed < len(shard.file):
            raise UserError(
                f"{shard.file.path} holds {len(shard.file)} records, but dataset_info.json beside it lists "
                f"{shard.listed}. The two belong to different versions: download both again."
            )
        return shard.file.read(record)

    def _locate(self, index: int) -> tuple[_Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        before = self._ends[number - 1] if number else 0
        return self._shards[number], index - before


def _find_shards(folder: TfdsFolder, split: str) -> list[_Shard]:
    check_split(folder.path, split, folder.splits)
    listed = _listed_shards(folder, split)
    if listed is None:
        return [_Shard(RecordFile(path), None) for path in _present_shards(folder, split)]
    _demand(folder, split, [path.name for path, _ in listed])
    return [_Shard(RecordFile(path), count) for path, count in listed]


def _listed_shards(folder: TfdsFolder, split: str) -> list[tuple[Path, int]] | None:
    """Files and their record counts by dataset_info.json; None where it does not list this split's shards."""
    if split not in folder.listed or not folder.listed[split].lengths:
        return None
    lengths, template = folder.listed[split]
    files = [_shard_name(template, folder.name, split, i, len(lengths)) for i in range(len(lengths))]
    return [(folder.path / file, length) for file, length in zip(files, lengths)]


def _shard_name(template: str, name: str, split: str, index: int, count: int) -> str:
    """A file's name by TFDS' template, without folders."""
    words = {"DATASET": name, "SPLIT": split, "FILEFORMAT": "tfrecord"}
    words |= {
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
    }
    return Path(re.sub(r"\{(\w+)\}", lambda field: words.get(field[1], field[0]), template)).name


def _present_shards(folder: TfdsFolder, split: str) -> list[Path]:
    """Files by their names, without dataset_info.json; all `n` of `-of-n` must be there."""
    matches = [match for match in map(_SHARD.fullmatch, sorted(names(folder.path))) if match]
    mine = [match for match in matches if match["name"] == folder.name and match["split"] == split]
    counts = sorted({int(match["count"]) for match in mine if match["count"]})
    if len(counts) > 1:
        raise UserError(
            f"{folder.path}: `{split}` has shards of {counts[0]} and of {counts[-1]}. Keep one set."
        )
    if counts:
        prefix = f"{folder.name}-{split}.tfrecord"
        _demand(folder, split, [f"{prefix}-{i:05d}-of-{counts[0]:05d}" for i in range(counts[0])])
    return [folder.path / match[0] for match in mine]


def _demand(folder: TfdsFolder, split: str, files: list[str]) -> None:
    present = set(names(folder.path))
    missing = [file for file in files if file not in present]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise UserError(
            f"{folder.path}: {len(missing)} of {len(files)} shards of `{split}` are missing: "
            f"{', '.join(missing[:4])}{more}. Download them with `torchslots data download {folder.name}`."
        )
