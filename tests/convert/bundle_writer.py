"""Writes TensorFlow checkpoints for tests: the index as a sorted table, packed on demand, and one data file."""

import struct
from pathlib import Path

import numpy as np

from torchslots.data.formats.tfrecord import masked_crc

_CODES = {"float32": 1, "int32": 3, "int64": 9}


def number(value: int) -> bytes:
    """A base-128 varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def part(field: int, payload: bytes) -> bytes:
    return number(field << 3 | 2) + number(len(payload)) + payload


def snappy(data: bytes) -> bytes:
    """Plain runs, and a copy where 8 bytes repeat what came 8 bytes before."""
    out, position = bytearray(number(len(data))), 0
    while position < len(data):
        repeats = position >= 8 and data[position : position + 8] == data[position - 8 : position]
        if repeats:
            out += bytes([(8 - 4) << 2 | 1, 8])
            position += 8
        else:
            run = data[position : position + 8]
            out += bytes([(len(run) - 1) << 2]) + run
            position += len(run)
    return bytes(out)


def block(items: list[tuple[bytes, bytes]], packed: bool) -> bytes:
    """Entries with shared beginnings of keys, one restart, then kind and checksum."""
    body, before = b"", b""
    for key, value in items:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        own = key[shared:]
        body += number(shared) + number(len(own)) + number(len(value)) + own + value
        before = key
    body += struct.pack("<II", 0, 1)
    body = snappy(body) + b"\x01" if packed else body + b"\x00"
    return body + struct.pack("<I", masked_crc(body))


def write_table(path: Path, items: dict[bytes, bytes], packed: bool = False, per_block: int = 20) -> None:
    """A sorted table with several blocks."""
    ordered, data, index = sorted(items.items()), b"", []
    for start in range(0, len(ordered), per_block):
        group = ordered[start : start + per_block]
        whole = block(group, packed)
        index.append((group[-1][0], number(len(data)) + number(len(whole) - 5)))
        data += whole
    handles = b""
    for entries in ([], index):
        whole = block(entries, False)
        handles += number(len(data)) + number(len(whole) - 5)
        data += whole
    footer = handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    path.write_bytes(data + footer)


def write_bundle(
    prefix: Path, arrays: dict[str, np.ndarray], graph: bytes | None = None, packed: bool = False
) -> None:
    """Variables under their keys, in one data file."""
    data, items = b"", {b"": number(1 << 3) + number(1)}
    for key, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        shape = b"".join(part(2, number(1 << 3) + number(size)) for size in array.shape)
        items[key.encode()] = _entry(_CODES[array.dtype.name], shape, len(data), raw, masked_crc(raw))
        data += raw
    if graph is not None:
        lengths = struct.pack("<I", masked_crc(struct.pack("<I", len(graph))))
        raw = number(len(graph)) + lengths + graph
        crc = masked_crc(struct.pack("<I", len(graph)) + lengths + graph)
        items[b"_CHECKPOINTABLE_OBJECT_GRAPH"] = _entry(7, b"", len(data), raw, crc)
        data += raw
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    write_table(Path(f"{prefix}.index"), items, packed)


def _entry(code: int, shape: bytes, offset: int, raw: bytes, crc: int) -> bytes:
    return b"".join(
        [
            number(1 << 3) + number(code),
            part(2, shape),
            number(4 << 3) + number(offset),
            number(5 << 3) + number(len(raw)),
            number(6 << 3 | 5) + struct.pack("<I", crc),
        ]
    )


def graph_of(paths: dict[str, str]) -> bytes:
    """An object graph in which each path leads to the variable of the given key."""
    nodes: list[tuple[dict[str, int], str]] = [({}, "")]
    for path, key in paths.items():
        place = 0
        for name in path.split("/"):
            children = nodes[place][0]
            if name not in children:
                nodes.append(({}, ""))
                children[name] = len(nodes) - 1
            place = children[name]
        nodes[place] = (nodes[place][0], key)
    return b"".join(part(1, _node(children, key)) for children, key in nodes)


def _node(children: dict[str, int], key: str) -> bytes:
    out = b"".join(
        part(1, number(1 << 3) + number(index) + part(2, name.encode())) for name, index in children.items()
    )
    return out + (part(2, part(1, b"VARIABLE_VALUE") + part(3, key.encode())) if key else b"")
