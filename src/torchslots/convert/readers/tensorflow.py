"""Reader of `tf.train.Checkpoint` files (an index and shards) without TensorFlow; nothing in them is executed."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchslots.convert.readers.sstable import read_table
from torchslots.data.formats.example import MalformedExample, fields, varint
from torchslots.data.formats.tfrecord import masked_crc
from torchslots.io.errors import UserError, first_line

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""End of the key of every variable."""
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_STRING, _BFLOAT16 = 7, 14
_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


class Entry(NamedTuple):
    """Place of a tensor, and the checksum of its bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class Node(NamedTuple):
    """One object that the original tracked: its children by name, and the keys of its values."""

    children: dict[str, int]
    keys: dict[str, str]


@dataclass(frozen=True)
class TensorflowCheckpoint:
    """A checkpoint's index; `array` reads the tensors. `path` is the prefix of its files."""

    path: Path
    entries: dict[str, Entry]
    num_shards: int
    _nodes: list[Node] = field(default_factory=list, repr=False)

    def array(self, key: str) -> np.ndarray:
        """Read a tensor and compare its checksum.

        Raises:
            UserError: its shard is missing, cut off or damaged, or its type is not numeric.
        """
        entry = self.entries[key]
        raw = self._bytes(key, entry)
        if masked_crc(raw) != entry.crc:
            raise self._damaged(key, "its checksum is wrong")
        if entry.dtype == _BFLOAT16:
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif entry.dtype in _DTYPES:
            values = np.frombuffer(raw, _DTYPES[entry.dtype])
        else:
            raise UserError(f"{self.path}: `{key}` has values of type {entry.dtype}, which is not numeric.")
        if values.size != int(np.prod(entry.shape, dtype=np.int64)):
            raise self._damaged(key, f"{values.size} values do not make {list(entry.shape)}")
        return values.reshape(entry.shape).copy()

    def find(self, path: str) -> str | None:
        """Key of the variable at `path` from the root: by name, or by the graph of objects, where the file names it by
        a shorter path. None: the file has no such variable."""
        if path + VALUE in self.entries:
            return path + VALUE
        nodes = self._graph()
        place = 0
        for name in path.split("/"):
            if place >= len(nodes) or name not in nodes[place].children:
                return None
            place = nodes[place].children[name]
        key = nodes[place].keys.get("VARIABLE_VALUE") if place < len(nodes) else None
        return key if key in self.entries else None

    def _graph(self) -> list[Node]:
        if not self._nodes and _GRAPH in self.entries:
            try:
                self._nodes.extend(_nodes(memoryview(self._string(_GRAPH))))
            except (MalformedExample, TypeError, ValueError) as error:
                raise self._damaged(_GRAPH, str(error)) from error
        return self._nodes

    def _string(self, key: str) -> bytes:
        """Read a scalar string: its length, the checksum of that, its bytes."""
        entry = self.entries[key]
        raw = self._bytes(key, entry)
        try:
            length, start = varint(memoryview(raw), 0)
        except MalformedExample as error:
            raise self._damaged(key, str(error)) from error
        checked = struct.pack("<I", length & 0xFFFFFFFF) + raw[start:]
        if length != len(raw) - start - 4 or masked_crc(checked) != entry.crc:
            raise self._damaged(key, "its checksum is wrong")
        return raw[start + 4 :]

    def _bytes(self, key: str, entry: Entry) -> bytes:
        shard = Path(f"{self.path}.data-{entry.shard:05d}-of-{self.num_shards:05d}")
        try:
            if entry.offset + entry.size > shard.stat().st_size:
                raise self._damaged(key, f"{shard.name} ends before byte {entry.offset + entry.size}")
            with shard.open("rb") as file:
                file.seek(entry.offset)
                raw = file.read(entry.size)
        except FileNotFoundError as error:
            raise UserError(
                f"{shard} is missing: the checkpoint has {self.num_shards} data file(s). Put it beside the index."
            ) from error
        except OSError as error:
            raise UserError(
                f"{shard} cannot be read: {first_line(error)}. Copy or download it again."
            ) from error
        if len(raw) != entry.size:
            raise self._damaged(key, f"{shard.name} ends before byte {entry.offset + entry.size}")
        return raw

    def _damaged(self, key: str, reason: str) -> UserError:
        return UserError(f"{self.path}: `{key}` is damaged: {reason}. Copy or download the checkpoint again.")


def is_checkpoint(source: Path) -> bool:
    """Whether a path looks like a TensorFlow checkpoint: a prefix, one of its files, or a folder that holds one."""
    if source.is_dir():
        return any(source.glob("*.index"))
    return Path(f"{source}.index").is_file() or bool(re.search(r"\.(index|data-\d+-of-\d+)$", source.name))


def read(source: Path) -> TensorflowCheckpoint:
    """Open a checkpoint.

    Args:
        source: its prefix (`ckpt-1`), one of its files, or the folder, of which the newest is taken.

    Raises:
        UserError: nothing there, not a checkpoint, cut off or damaged.
    """
    path = _prefix(source)
    table = read_table(Path(f"{path}.index"))
    try:
        num_shards = _header(table.pop(b"", b""))
        entries = {key.decode(): _entry(memoryview(value)) for key, value in table.items()}
    except Exception as error:  # entries of another form may hold anything
        raise UserError(
            f"{path}.index is a table but not a checkpoint's: {first_line(error)}. Give a TensorFlow 2 checkpoint."
        ) from error
    return TensorflowCheckpoint(path, entries, num_shards)


def _prefix(source: Path) -> Path:
    if source.is_dir():
        return _newest(source)
    stem = re.sub(r"\.(index|data-\d+-of-\d+)$", "", source.name)
    path = source.with_name(stem)
    if not Path(f"{path}.index").is_file():
        raise UserError(
            f"{path}.index does not exist. A TensorFlow checkpoint is NAME.index and NAME.data-00000-of-00001: give "
            "NAME, or the folder."
        )
    return path


def _newest(folder: Path) -> Path:
    """The checkpoint that the file `checkpoint` names, else the one with the highest number."""
    found = {path.name.removesuffix(".index"): path for path in folder.glob("*.index")}
    if not found:
        raise UserError(f"{folder} holds no TensorFlow checkpoint: no NAME.index. Give its folder or prefix.")
    note = folder / "checkpoint"
    text = note.read_text(errors="replace") if note.is_file() else ""
    named = re.search(r'^model_checkpoint_path:\s*"(?:.*[/\\])?([^"/\\]+)"', text, re.MULTILINE)
    if named and named[1] in found:
        return folder / named[1]
    if named:
        raise UserError(
            f"{note} names {named[1]}, whose index is missing. Put it there, or give one of: "
            f"{', '.join(str(folder / name) for name in sorted(found)[:5])}."
        )
    return folder / max(found, key=lambda name: int((re.findall(r"-(\d+)$", name) or ["0"])[0]))


def _header(message: bytes) -> int:
    """Number of data files."""
    values = dict(fields(memoryview(message)))
    if 1 not in values:
        raise ValueError("it has no header")
    if values.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian")
    return _integer(values[1])


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise TypeError("bytes where a number should be")
    return value


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where bytes should be")
    return value


def _entry(message: memoryview) -> Entry:
    values = dict(fields(message))
    if 7 in values:
        raise ValueError("it holds variables that are cut into slices")
    dtype, shard, offset, size = (_integer(values.get(number, 0)) for number in (1, 3, 4, 5))
    shape = tuple(_dimensions(_view(values[2]))) if 2 in values else ()
    (crc,) = struct.unpack("<I", _view(values.get(6, memoryview(bytes(4)))))
    return Entry(dtype, shape, shard, offset, size, crc)


def _dimensions(shape: memoryview) -> Iterator[int]:
    for number, dimension in fields(shape):
        if number == 2:
            yield _integer(dict(fields(_view(dimension))).get(1, 0))


def _nodes(graph: memoryview) -> Iterator[Node]:
    """TrackableObjectGraph: nodes with children (number, name) and attributes (name, full name, key)."""
    for number, node in fields(graph):
        if number != 1:
            continue
        children: dict[str, int] = {}
        keys: dict[str, str] = {}
        for part, message in fields(_view(node)):
            values = dict(fields(_view(message)))
            if part == 1:
                children[_text(values.get(2))] = _integer(values.get(1, 0))
            elif part == 2:
                keys[_text(values.get(1))] = _text(values.get(3))
        yield Node(children, keys)


def _text(value: int | memoryview | None) -> str:
    return "" if value is None else bytes(_view(value)).decode()
