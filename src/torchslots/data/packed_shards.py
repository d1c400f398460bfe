"""Several compressed record files of one split, unpacked once and read as one list of rows."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from torchslots.data.compressed import decode_one_byte_strings
from torchslots.data.example import MalformedExample, RawFeature
from torchslots.data.record_arrays import RecordArrays, Rows
from torchslots.errors import UserError

_DEPTH = 3
_SHARD = re.compile(r"(?P<name>.+\.tfrecords-zlib)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")


class PackedShards:
    """Rows of shards dealt out in turn: row i is row i // n of shard i % n, as the writers' scripts deal them."""

    def __init__(self, shards: list[Path], rows: Rows, layout: str, limit: int | None = None) -> None:
        """Unpack what is not unpacked yet.

        Args:
            shards: All files of one split in order.
            layout: A word for what `rows` makes, see `RecordArrays`.
            limit: Only the first so many rows; None: all.

        Raises:
            UserError: a file is of another kind or cut off, or there is no room for the rows.
        """
        self.shards = [RecordArrays(path, rows, layout, "images") for path in shards]
        for number, shard in enumerate(self.shards):
            shard.ensure(None if limit is None else -(-max(0, limit - number) // len(shards)))
        self.limit = limit

    @cached_property
    def _places(self) -> np.ndarray:
        """(shard, row) of each row, in the order in which they were dealt."""
        turns = [np.stack([np.full(len(s), k), np.arange(len(s))], 1) for k, s in enumerate(self.shards)]
        places = np.concatenate(turns)
        return places[np.lexsort((places[:, 0], places[:, 1]))][: self.limit]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fields(self) -> list[str]:
        """What rows hold."""
        return self.shards[0].names

    def name(self, row: int) -> str:
        """File and number of the record."""
        shard, number = self._places[row]
        return f"{self.shards[shard].path.name}__{number}"

    def read(self, row: int, field: str) -> np.ndarray:
        """One field of one record.

        Raises:
            CorruptRecord: the record could not be read when it was unpacked.
        """
        shard, number = self._places[row]
        return self.shards[shard].read(int(number), field)

    def column(self, field: str) -> np.ndarray:
        """One field of all rows; of a broken record zeros."""
        columns = [shard.column(field) for shard in self.shards]
        return np.array([columns[shard][number] for shard, number in self._places])

    def intact(self) -> Bool[np.ndarray, "n"]:
        """Which rows could be read when they were unpacked."""
        return np.array(
            [self.shards[shard].damage(int(number)) is None for shard, number in self._places], bool
        )


def find_shards(root: Path, pattern: str, what: str, remedy: str) -> list[Path]:
    """The shards whose name, before their numbers, fits `pattern`, in `root` or up to three folders below.

    Raises:
        UserError: none is there, or one is missing.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder. Give the folder that holds {what} with --root.")
    for folder in _folders(root):
        found = {match["name"]: match for match in map(_SHARD.fullmatch, _names(folder)) if match}
        names = [
            name for name in sorted(found) if re.fullmatch(pattern, name.removesuffix(".tfrecords-zlib"))
        ]
        if names:
            count = int(found[names[0]]["count"])
            shards = [folder / f"{names[0]}-{index:05d}-of-{count:05d}" for index in range(count)]
            missing = [shard.name for shard in shards if not shard.exists()]
            if missing:
                raise UserError(
                    f"{folder}: {len(missing)} of {count} shards are missing: {missing[0]}. {remedy}"
                )
            return shards
    raise UserError(f"{root} holds no {what}, in it or up to {_DEPTH} folders below. {remedy}")


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}. Check its permissions.") from error


def _folders(root: Path) -> Iterator[Path]:
    """`root` and what lies below, breadth first; folders with very many entries are not entered."""
    level = [root]
    for _ in range(_DEPTH + 1):
        yield from level
        below = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
        level = [
            folder for folder in below if not folder.name.isdecimal() and not folder.name.startswith(".")
        ]


def decode_plane(
    raw: RawFeature, name: str, channels: int, resolution: tuple[int, int]
) -> UInt8[np.ndarray, "H W *C"]:
    """A picture of one-byte strings: [H, W] for one channel, else [H, W, C].

    Its size follows from its bytes and the aspect of the published `resolution` (height, width).

    Raises:
        MalformedExample: it has no such aspect.
    """
    values = decode_one_byte_strings(raw)
    scale = (values.size / channels / (resolution[0] * resolution[1])) ** 0.5
    height, width = round(resolution[0] * scale), round(resolution[1] * scale)
    if not values.size or height * width * channels != values.size:
        raise MalformedExample(
            f"has {values.size} bytes as `{name}`, no picture of the aspect {resolution[0]} to {resolution[1]}"
        )
    return values.reshape(height, width, channels) if channels > 1 else values.reshape(height, width)
