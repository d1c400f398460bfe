import pickle
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from data.multi_object_files import deflate, inflate
from torchslots.data.array_cache import RecordArrays
from torchslots.data.formats.compressed import (
    CutOff,
    PackedRecords,
    decode_one_byte_strings,
    find_compression,
)
from torchslots.data.formats.example import MalformedExample, RawFeature, encode_one_byte_strings
from torchslots.data.formats.tfrecord import Compression, CorruptRecord, write_records
from torchslots.io.errors import UserError

KINDS = [None, Compression.GZIP, Compression.ZLIB]


def payloads(count: int, size: int = 50) -> list[bytes]:
    return [np.random.default_rng(i).bytes(size + i) for i in range(count)]


def rows(record: bytes) -> dict[str, np.ndarray]:
    if record.startswith(b"bad"):
        raise MalformedExample("has no numbers")
    data = np.frombuffer(record, np.uint8)
    return {"first": data[:6].reshape(-1, 3), "size": np.array(len(data), np.int32)}


def arrays(path) -> RecordArrays:
    return RecordArrays(path, rows, "numbers")


@pytest.fixture
def packed(tmp_path):
    """A GZIP file of 200 records."""
    path = tmp_path / "some.tfrecords"
    write_records(path, payloads(200), Compression.GZIP)
    return path


# Streams


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_back_whatever_the_file_is_packed_with(tmp_path, kind):
    path = tmp_path / "a"
    write_records(path, payloads(20, 3000), kind)
    assert find_compression(path) == kind
    records = PackedRecords(path)
    assert list(records) == payloads(20, 3000)
    assert records.position == 20 and records.consumed == records.size == path.stat().st_size


def test_a_gzip_file_in_several_parts_and_with_zeros_behind(tmp_path):
    path = tmp_path / "a"
    write_records(path, payloads(6), None)
    content = path.read_bytes()
    parts = []
    for piece in (content[:100], content[100:]):
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        parts.append(packer.compress(piece) + packer.flush())
    path.write_bytes(b"".join(parts) + bytes(512))
    assert list(PackedRecords(path)) == payloads(6)


def test_a_damaged_payload_is_one_corrupt_record_and_the_rest_goes_on(packed):
    content = bytearray(inflate(packed))
    content[content.index(payloads(200)[2]) + 5] ^= 1
    deflate(packed, bytes(content))
    found = list(PackedRecords(packed))
    assert isinstance(found[2], CorruptRecord) and found[2].record == 2 and found[2].file == packed
    assert "record 2 does not match its checksum" in str(found[2])
    assert found[:2] + found[3:] == payloads(200)[:2] + payloads(200)[3:]


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_a_truncated_file_tells_what_is_whole(packed, part):
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * part)])
    found = []
    with pytest.raises(CutOff, match=r"some.tfrecords: record \d+ is cut off.*num_records") as caught:
        found.extend(PackedRecords(packed))
    assert len(found) == 0 or found == payloads(200)[: len(found)]
    assert 0 < caught.value.records < 200
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.records == caught.value.records


def test_a_damaged_stream_and_a_damaged_length(packed):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 255
    with_fault = packed.with_name("stream")
    with_fault.write_bytes(bytes(data))
    with pytest.raises(CutOff, match=r"stream: record \d+ (cannot be decompressed|has a length|is cut off)"):
        for record in PackedRecords(with_fault):
            assert isinstance(record, bytes | CorruptRecord)
    content = bytearray(inflate(packed))
    content[66 + 1] ^= 1
    deflate(packed, bytes(content))
    with pytest.raises(CutOff, match="record 1 has a length that does not match its checksum; 1 before it"):
        list(PackedRecords(packed))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "begins with the bytes 89 50"),
        (b"<html>" * 9, "begins"),
    ],
)
def test_what_is_no_record_file(tmp_path, content, reason):
    path = tmp_path / "page"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"page {reason}.*no TFRecord file"):
        PackedRecords(path)
    with pytest.raises(UserError, match=r"nowhere cannot be opened: No such file"):
        PackedRecords(tmp_path / "nowhere")


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "large"
    write_records(path, (bytes(1 << 20) for _ in range(64)), Compression.GZIP)
    tracemalloc.start()
    try:
        assert sum(len(record) for record in PackedRecords(path) if isinstance(record, bytes)) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


# Strings of one byte


def test_one_byte_strings_are_a_view_and_other_forms_are_read_too():
    values = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    raw = encode_one_byte_strings(values)
    found = decode_one_byte_strings(raw)
    assert np.array_equal(found, values) and found.base is not None and found.strides == (3,)
    blob = RawFeature(1, memoryview(b"\x0a\xe8\x07" + values.tobytes()))
    assert np.array_equal(decode_one_byte_strings(blob), values)
    assert decode_one_byte_strings(RawFeature(None, memoryview(b""))).size == 0


def test_strings_of_several_bytes_and_numbers_are_no_picture():
    with pytest.raises(MalformedExample, match="several bytes"):
        decode_one_byte_strings(RawFeature(1, memoryview(b"\x0a\x02ab\x0a\x01c\x0a\x01d")))
    with pytest.raises(MalformedExample, match="numbers"):
        decode_one_byte_strings(RawFeature(2, memoryview(b"\x0a\x04abcd")))


# Arrays


def check(table: RecordArrays, count: int) -> None:
    assert len(table) >= count
    for i in (0, count // 2, count - 1):
        expected = rows(payloads(200)[i])
        assert np.array_equal(table.read(i, "first"), expected["first"])
        assert table.read(i, "size") == expected["size"]
    assert table.column("size")[:count].tolist() == [50 + i for i in range(count)]


def test_rows_equal_the_records_and_are_made_once(packed, monkeypatch):
    table = arrays(packed)
    table.ensure()
    check(table, 200)
    assert table.complete and table.names == ["first", "size"]
    check(pickle.loads(pickle.dumps(table)), 200)
    monkeypatch.setattr("torchslots.data.array_cache.PackedRecords", None)
    again = arrays(packed)
    again.ensure()
    check(again, 200)


def test_the_first_records_alone_then_more(packed):
    table = arrays(packed)
    table.ensure(70)
    assert len(table) == 70 and not table.complete
    seen = []
    more = RecordArrays(packed, lambda record: seen.append(1) or rows(record), "numbers")
    more.ensure(90)
    assert len(more) == 90 and len(seen) == 20
    more.ensure(1000)
    assert len(more) == 200 and more.complete and len(seen) == 130
    check(more, 200)


def test_an_interrupted_conversion_goes_on(packed):
    def break_off(record: bytes) -> dict[str, np.ndarray]:
        if record == payloads(200)[150]:
            raise KeyboardInterrupt
        return rows(record)

    with pytest.raises(KeyboardInterrupt):
        RecordArrays(packed, break_off, "numbers").ensure()
    folder = packed.parent / ".torchslots" / "some.tfrecords.arrays"
    with (folder / "first.bin").open("ab") as file:
        file.write(b"half a row")
    seen = []
    table = RecordArrays(packed, lambda record: seen.append(1) or rows(record), "numbers")
    table.ensure()
    assert len(seen) == 50
    check(table, 200)


def test_another_file_or_another_layout_makes_all_anew(packed):
    arrays(packed).ensure()
    other = RecordArrays(packed, lambda record: {"half": np.float16([len(record)])}, "lengths")
    other.ensure()
    assert other.read(3, "half").tolist() == [53.0]
    write_records(packed, payloads(200)[:7], Compression.GZIP)
    table = arrays(packed)
    table.ensure()
    assert len(table) == 7
    check(table, 7)


def test_rows_that_are_cut_off_are_made_anew_or_told(packed):
    table = arrays(packed)
    table.ensure()
    file = packed.parent / ".torchslots" / "some.tfrecords.arrays" / "first.bin"
    with file.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(UserError, match=r"first.bin cannot be read.*Remove .*arrays; it is unpacked again"):
        table.read(199, "first")
    again = arrays(packed)
    again.ensure()
    check(again, 200)


def test_broken_records_are_told_one_by_one(tmp_path):
    path = tmp_path / "some.tfrecords"
    write_records(path, [*payloads(3), b"bad", b"abc", *payloads(5)[3:]], Compression.GZIP)
    content = bytearray(inflate(path))
    content[content.index(payloads(1)[0])] ^= 1
    deflate(path, bytes(content))
    table = arrays(path)
    table.ensure()
    assert len(table) == 7
    reasons = {0: "does not match its checksum", 3: "has no numbers", 4: "has uint8 .1, 3. as `first`"}
    for row, reason in reasons.items():
        assert table.damage(row) is not None
        with pytest.raises(CorruptRecord, match=rf"some.tfrecords: record {row}.*({reason})"):
            table.read(row, "first")
    assert table.damage(1) is None
    assert np.array_equal(table.read(5, "first"), rows(payloads(5)[3])["first"])


def test_a_truncated_file_gives_what_is_whole_when_asked_for_no_more(packed):
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    table = arrays(packed)
    with pytest.raises(CutOff, match=r"cut off.*num_records") as caught:
        table.ensure()
    whole = caught.value.records
    table = arrays(packed)
    table.ensure(whole)
    assert len(table) == whole
    check(table, whole)


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "other.tfrecords"
    write_records(path, [b"bad"] * 3, Compression.GZIP)
    with pytest.raises(
        UserError, match=r"other.tfrecords: record 0 has no numbers. Is this a file of numbers"
    ):
        arrays(path).ensure()
    with pytest.raises(UserError, match="nowhere cannot be opened"):
        arrays(tmp_path / "nowhere").ensure()


def test_without_a_place_beside_the_data_the_cache_is_used(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (packed.parent / ".torchslots").write_text("in the way")
    table = arrays(packed)
    table.ensure()
    check(table, 200)
    assert list((tmp_path / "cache" / "torchslots").rglob("first.bin"))
    (tmp_path / "cache" / "torchslots").rename(tmp_path / "gone")
    (tmp_path / "cache" / "torchslots").write_text("in the way")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        arrays(packed).ensure()


def test_too_little_disk_is_told_early_and_what_is_done_is_kept(packed, monkeypatch):
    usage = type("Usage", (), {"free": 65 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("torchslots.data.formats.compressed._READ", 64)

    def large(record: bytes) -> dict[str, np.ndarray]:
        return {"large": np.zeros(1 << 14, np.uint8)}

    with pytest.raises(UserError, match=r"needs [0-9]+ MB more in .* 68 MB are free.*num_records"):
        RecordArrays(packed, large, "large").ensure()
    table = RecordArrays(packed, large, "large")
    table.ensure(64)
    assert len(table) == 64


def test_a_full_disk_is_a_sentence(packed, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"arrays cannot be written: No space left on device"):
        arrays(packed).ensure()


def test_several_processes_make_the_rows_once(packed):
    code = """if True:
        import sys
        from pathlib import Path
        import numpy as np
        from torchslots.data.array_cache import RecordArrays
        made = []
        def rows(record):
            made.append(record)
            return {"size": np.array(len(record), np.int32)}
        table = RecordArrays(Path(sys.argv[1]), rows, "numbers")
        table.ensure()
        assert table.column("size").tolist() == [50 + i for i in range(200)]
        print(len(made))
    """
    command = [sys.executable, "-c", code, str(packed)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert sorted(int(process.communicate()[0]) for process in running) == [0, 200]
