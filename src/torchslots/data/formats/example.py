"""`tf.train.Example` on the wire, read and written without TensorFlow.

An Example is one map from names to lists of bytes, floats or integers. The parser skips features that are not
requested: optical flow is four fifths of a MOVi record, and most recipes do not need it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BLOCK = 1 << 16
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


class MalformedExample(ValueError):
    """The bytes are not as expected; callers that know the file turn this into a UserError."""


class RawFeature(NamedTuple):
    """One feature before decoding: which of the three lists it is (None: none) and the list's bytes."""

    kind: int | None
    payload: memoryview


def scan_example(record: bytes, names: Collection[str] | None = None) -> dict[str, RawFeature]:
    """Find the named features (None: all) without decoding them; takes microseconds for any size of record.

    Raises:
        MalformedExample: the bytes are not an Example.
    """
    found = {}
    for number, features in fields(memoryview(record)):
        if number != 1 or not isinstance(features, memoryview):
            continue
        for entry_number, entry in fields(features):
            if entry_number != 1 or not isinstance(entry, memoryview):
                continue
            name, value = _map_entry(entry)
            if names is None or name in names:
                found[name] = _list_of(value)
    return found


def decode_bytes(raw: RawFeature, start: int = 0, stop: int | None = None) -> list[bytes]:
    """Items `start` to `stop` of a list of bytes.

    Raises:
        MalformedExample: the feature holds numbers.
    """
    if raw.kind not in (None, _BYTES_LIST):
        raise MalformedExample("a list of numbers where a list of bytes is expected")
    items = [item for number, item in fields(raw.payload) if number == 1 and isinstance(item, memoryview)]
    return [bytes(item) for item in items[start:stop]]


def decode_floats(raw: RawFeature) -> np.ndarray:
    """Values of a float list as float32 [n].

    Raises:
        MalformedExample: the feature is no list of floats.
    """
    if raw.kind not in (None, _FLOAT_LIST):
        raise MalformedExample("not a list of floats")
    parts = [item for number, item in fields(raw.payload) if number == 1]
    if any(not isinstance(part, memoryview) or len(part) % 4 for part in parts):
        raise MalformedExample("a float list whose length is no multiple of 4 bytes")
    return np.frombuffer(b"".join(parts), "<f4").copy()  # type: ignore[arg-type]


def decode_ints(raw: RawFeature, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Values `start` to `stop` of an integer list as int64 [n]; of a packed list only these are decoded.

    Raises:
        MalformedExample: the feature is no list of integers, or ends within a number.
    """
    if raw.kind not in (None, _INT64_LIST):
        raise MalformedExample("not a list of integers")
    parts = [item for number, item in fields(raw.payload) if number == 1]
    if len(parts) == 1 and isinstance(parts[0], memoryview):
        return decode_varints(parts[0], start, stop)
    values = [decode_varints(p) if isinstance(p, memoryview) else np.array([p], np.uint64) for p in parts]
    whole = np.concatenate(values) if values else np.zeros(0)
    return (whole.view(np.int64) if whole.dtype == np.uint64 else whole.astype(np.int64))[start:stop]


def decode_varints(packed: memoryview | bytes, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Numbers `start` to `stop` of packed base-128 varints, as int64 [n].

    Raises:
        MalformedExample: the bytes end within a number, or a number is longer than ten bytes.
    """
    data = np.frombuffer(packed, np.uint8)
    if data.size and data[-1] >= 0x80:
        raise MalformedExample("a list of integers that ends within a number")
    last_bytes = data < 0x80
    begin = _offset(last_bytes, start)
    end = len(data) if stop is None else _offset(last_bytes, stop)
    ends = np.flatnonzero(last_bytes[begin:end]) + 1
    return _join_groups(data[begin:end], ends) if len(ends) else np.zeros(0, np.int64)


def _offset(last_bytes: np.ndarray, number: int) -> int:
    """Where a number begins, given which bytes end one: blocks are counted, only the last one is looked into."""
    before = 0
    for block in range(0, len(last_bytes) if number > 0 else 0, _BLOCK):
        inside = np.count_nonzero(last_bytes[block : block + _BLOCK])
        if before + inside >= number:
            return block + int(np.flatnonzero(last_bytes[block : block + _BLOCK])[number - before - 1]) + 1
        before += inside
    return len(last_bytes) if number > 0 else 0


def _join_groups(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Put the 7-bit groups of each number together, lowest first."""
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    longest = int(lengths.max())
    if longest > 10:
        raise MalformedExample("an integer of more than ten bytes")
    if int(lengths.min()) == longest:
        groups = data.reshape(-1, longest) & 0x7F
        return _shifted_sum([groups[:, i] for i in range(longest)])
    padded = np.concatenate([data & 0x7F, np.zeros(longest, np.uint8)])
    return _shifted_sum([padded[starts + i] * (lengths > i) for i in range(longest)])


def _shifted_sum(groups: list[np.ndarray]) -> np.ndarray:
    narrow = np.uint32 if len(groups) <= 4 else np.uint64
    total = groups[0].astype(narrow)
    for i, group in enumerate(groups[1:], 1):
        total |= group.astype(narrow) << narrow(7 * i)
    return total.astype(np.int64)


Value = bytes | Sequence[bytes] | np.ndarray | RawFeature
"""Types that a feature is written from; a RawFeature is copied."""


def encode_example(features: Mapping[str, Value], one_byte: Collection[str] = ()) -> bytes:
    """Serialize an Example: bytes as bytes lists, float arrays as float lists, integers as int64 lists.

    Bool arrays count as integers; arrays are flattened in C order. Names are written in sorted order, so
    equal features give equal bytes.

    Args:
        one_byte: names of uint8 arrays that are written as lists of strings of one byte each.

    Raises:
        TypeError: a value of another kind.
    """
    packed = {name: encode_one_byte_strings(np.asarray(features[name])) for name in one_byte}
    whole = {**features, **packed}
    entries = (_encode_entry(name, whole[name]) for name in sorted(whole))
    return _delimited(1, b"".join(_delimited(1, entry) for entry in entries))


def encode_one_byte_strings(values: UInt8[np.ndarray, "*any"]) -> RawFeature:
    """An array as a list of one-byte strings, as some published sets store images."""
    strings = np.empty((values.size, 3), np.uint8)
    strings[:, 0], strings[:, 1] = 1 << 3 | _BYTES, 1
    strings[:, 2] = values.reshape(-1)
    return RawFeature(_BYTES_LIST, memoryview(strings.tobytes()))


def _encode_entry(name: str, value: Value) -> bytes:
    return _delimited(1, name.encode()) + _delimited(2, _encode_feature(name, value))


def _encode_feature(name: str, value: Value) -> bytes:
    if isinstance(value, RawFeature):
        return b"" if value.kind is None else _delimited(value.kind, bytes(value.payload))
    if isinstance(value, bytes):
        value = [value]
    if not isinstance(value, np.ndarray):
        if not all(isinstance(item, bytes) for item in value):
            raise TypeError(f"feature {name}: a sequence must hold bytes; give numbers as a numpy array")
        return _delimited(_BYTES_LIST, b"".join(_delimited(1, item) for item in value))
    if value.dtype.kind == "f":
        kind, packed = _FLOAT_LIST, np.ascontiguousarray(value, "<f4").tobytes()
    elif value.dtype.kind in "iub":
        kind, packed = _INT64_LIST, encode_varints(value)
    else:
        raise TypeError(f"feature {name}: an array of {value.dtype} is neither float nor integer")
    return _delimited(kind, _delimited(1, packed) if packed else b"")


def encode_varints(values: np.ndarray) -> bytes:
    """Integers, flattened, as packed varints; negative ones take ten bytes as protocol buffers demand."""
    numbers = np.ascontiguousarray(values).reshape(-1).astype(np.int64).view(np.uint64)
    if not numbers.size:
        return b""
    longest = max(1, -(-int(numbers.max()).bit_length() // 7))
    rest = numbers.astype(np.uint32) if longest <= 4 else numbers
    groups, used = np.empty((len(rest), longest), np.uint8), np.empty((len(rest), longest), bool)
    for i in range(longest):
        used[:, i] = rest > 0 if i else True
        groups[:, i] = rest & rest.dtype.type(0x7F)
        rest = rest >> rest.dtype.type(7)
        groups[:, i] |= (rest > 0).view(np.uint8) << 7
    return groups[used].tobytes()


def _delimited(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _encode_varint(len(payload)) + payload


def _encode_varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _map_entry(entry: memoryview) -> tuple[str, memoryview]:
    name, value = b"", memoryview(b"")
    for number, item in fields(entry):
        if number == 1 and isinstance(item, memoryview):
            name = bytes(item)
        elif number == 2 and isinstance(item, memoryview):
            value = item
    return name.decode(errors="replace"), value


def _list_of(feature: memoryview) -> RawFeature:
    raw = RawFeature(None, memoryview(b""))
    for number, item in fields(feature):
        if number in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST) and isinstance(item, memoryview):
            raw = RawFeature(number, item)
    return raw


def fields(message: memoryview) -> list[tuple[int, int | memoryview]]:
    """Number and value of every field: an int for varints, else a view of the bytes.

    Raises:
        MalformedExample: no protocol buffer message.
    """
    found: list[tuple[int, int | memoryview]] = []
    position, size = 0, len(message)
    while position < size:
        tag, position = varint(message, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = varint(message, position)
            found.append((tag >> 3, value))
            continue
        if wire == _BYTES:
            length, position = varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise MalformedExample(f"wire type {wire} at byte {position}")
        if position + length > size:
            raise MalformedExample(f"a field of {length} bytes at byte {position} of {size}")
        found.append((tag >> 3, message[position : position + length]))
        position += length
    return found


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """The base-128 number at `position`, and the position after it.

    Raises:
        MalformedExample: the number does not end.
    """
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise MalformedExample(f"a number that does not end at byte {position}")
