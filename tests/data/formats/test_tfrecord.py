import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from data.movi_files import copy_movi, flip_byte, parse_example, shard
from torchslots.data.formats import example as example_module
from torchslots.data.formats import tfrecord
from torchslots.data.formats.example import (
    MalformedExample,
    decode_ints,
    decode_varints,
    encode_example,
    encode_varints,
    scan_example,
)
from torchslots.data.formats.tfrecord import (
    CorruptRecord,
    RecordFile,
    masked_crc,
    write_records,
)
from torchslots.io.cache import cache_places
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file

EDGES = [0, 1, 127, 128, 16383, 16384, 2**21, 2**28 - 1, 2**28, 2**35, 2**56, 2**63 - 1, -1, -(2**63)]


def test_what_is_written_is_read_back(tmp_path: Path):
    records = [b"", b"one", os.urandom(5000)]
    assert write_records(tmp_path / "a.tfrecord", records) == 3
    file = RecordFile(tmp_path / "a.tfrecord")
    assert [file.read(i) for i in (2, 0, 1)] == [records[2], records[0], records[1]]
    assert len(file) == 3


def test_known_checksum():
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_recorded_shard_survives_parsing_and_writing(tmp_path: Path):
    record = RecordFile(shard(copy_movi("a", tmp_path))).read(1)
    example = parse_example(record)
    again = parse_example(encode_example(example))
    assert again.keys() == example.keys() and len(example) > 40
    for name, value in example.items():
        np.testing.assert_array_equal(again[name], value, strict=isinstance(value, np.ndarray))


def test_index_is_stored_beside_the_data_and_made_anew_when_the_file_changes(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"x" * 10] * 3)
    assert len(RecordFile(path)) == 3
    assert cache_places(path, ".index.npz")[0].exists()
    monkeypatch.setattr(tfrecord, "_scan", lambda *_: pytest.fail("the index should have been used"))
    assert RecordFile(path).read(2) == b"x" * 10
    monkeypatch.undo()
    write_records(path, [b"y" * 7] * 4)
    assert [RecordFile(path).read(i) for i in range(4)] == [b"y" * 7] * 4


def test_broken_index_is_ignored(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"x"] * 3)
    assert len(RecordFile(path)) == 3
    cache_places(path, ".index.npz")[0].write_bytes(b"\x93NUMPY nonsense")
    assert len(RecordFile(path)) == 3


def test_index_goes_to_the_cache_when_the_folder_cannot_be_written(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    write_records(data / "a.tfrecord", [b"x"] * 3)
    (data / ".torchslots").write_text(
        "a file where the folder should be: writing fails, as on read-only disks"
    )
    assert len(RecordFile(data / "a.tfrecord")) == 3
    beside, cached = cache_places(data / "a.tfrecord", ".index.npz")
    assert (
        cached.is_relative_to(tmp_path / "cache" / "torchslots") and cached.exists() and not beside.exists()
    )


def test_damaged_payload_names_file_and_record(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"x" * 50] * 3)
    flip_byte(path, 66 + 12 + 5)
    file = RecordFile(path)
    assert file.read(0) == file.read(2) == b"x" * 50
    with pytest.raises(CorruptRecord, match=r"a\.tfrecord: record 1 .*checksum.*--skip-corrupt") as caught:
        file.read(1)
    assert (caught.value.file, caught.value.record) == (path, 1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("keep", [66 + 5, 66 + 12 + 20, 2 * 66 - 1])
def test_truncated_file_keeps_its_whole_records(tmp_path: Path, keep: int):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"x" * 50] * 3)
    path.write_bytes(path.read_bytes()[:keep])
    file = RecordFile(path)
    assert file.read(0) == b"x" * 50 and len(file) == 2
    with pytest.raises(CorruptRecord, match="record 1 is cut off"):
        file.read(1)


def test_damaged_length_is_found(tmp_path: Path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"x" * 50] * 3)
    flip_byte(path, 66)
    with pytest.raises(CorruptRecord, match="record 1 has a length that does not match"):
        RecordFile(path).read(1)


def test_missing_file_and_missing_record(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.tfrecord cannot be opened"):
        RecordFile(tmp_path / "gone.tfrecord").read(0)
    write_records(tmp_path / "a.tfrecord", [b"x"])
    with pytest.raises(CorruptRecord, match="record 1 does not exist"):
        RecordFile(tmp_path / "a.tfrecord").read(1)


def test_failed_writing_leaves_nothing(tmp_path: Path):
    def records():
        yield b"one"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_records(tmp_path / "a.tfrecord", records())
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_user_error(tmp_path: Path):
    with pytest.raises(UserError, match="a cannot be written: No space left"), atomic_file(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_integers_at_the_edges_of_their_encoding():
    assert decode_varints(encode_varints(np.array(EDGES))).tolist() == EDGES
    assert (
        encode_varints(np.array([300])) == b"\xac\x02"
        and encode_varints(np.array([-1])) == b"\xff" * 9 + b"\x01"
    )


@pytest.mark.parametrize("high", [2, 128, 16384, 70000, 2**40])
@pytest.mark.parametrize("block", [1 << 16, 64, 1])
def test_part_of_a_list_of_integers(high: int, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(example_module, "_BLOCK", block)
    values = np.random.default_rng(0).integers(0, high, 1000)
    packed = encode_varints(values)
    for start, stop in ((0, None), (0, 10), (3, 700), (999, None), (1000, None), (5, 5), (9, 2000)):
        np.testing.assert_array_equal(decode_varints(packed, start, stop), values[start:stop])


def test_unpacked_lists_and_a_feature_without_kind():
    ints = b"".join(b"\x08" + encode_varints(np.array([value])) for value in (1, 300, -1))
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, 2.0))
    features = {b"i": b"\x1a" + _sized(ints), b"f": b"\x12" + _sized(floats), b"n": b"", b"e": b"\x1a\x00"}
    entries = b"".join(
        b"\x0a" + _sized(b"\x0a" + _sized(n) + b"\x12" + _sized(v)) for n, v in features.items()
    )
    example = parse_example(b"\x0a" + _sized(entries))
    assert example["i"].tolist() == [1, 300, -1] and example["f"].tolist() == [0.5, 2.0]
    assert example["n"] == [] and example["e"].shape == (0,) and example["e"].dtype == np.int64


def _sized(data: bytes) -> bytes:
    return encode_varints(np.array([len(data)])) + data


def test_only_what_is_asked_for_is_returned_and_kinds_are_checked():
    record = encode_example({"a": np.array([1]), "b": [b"x", b"y"], "c": np.array([0.5], np.float32)})
    assert parse_example(record, {"b", "z"}) == {"b": [b"x", b"y"]}
    with pytest.raises(MalformedExample, match="not a list of integers"):
        decode_ints(scan_example(record)["c"])


def test_nonsense_is_malformed_and_never_crashes():
    rng = np.random.default_rng(0)
    record = bytearray(encode_example({"a": np.arange(50), "b": [b"x" * 20], "c": np.ones(9, np.float32)}))
    refused = 0
    for _ in range(300):
        broken = bytes(record[: rng.integers(1, len(record))]) if rng.random() < 0.5 else bytearray(record)
        if isinstance(broken, bytearray):
            broken[rng.integers(len(record))] = rng.integers(256)
        try:
            parse_example(bytes(broken))
        except MalformedExample:
            refused += 1
    assert refused > 100


def test_empty_and_wrong_values_when_writing():
    assert parse_example(encode_example({"a": np.zeros(0, np.int64)}))["a"].dtype == np.int64
    assert parse_example(encode_example({"a": np.array([True, False])}))["a"].tolist() == [1, 0]
    with pytest.raises(TypeError, match="feature a"):
        encode_example({"a": np.array(["text"])})
    with pytest.raises(TypeError):
        encode_example({"a": ["text"]})  # type: ignore[list-item]
