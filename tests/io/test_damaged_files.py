"""Damaged and hostile files of every kind: one message, and no more memory than the file could fill."""

import gzip
import io
import json
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

import torchslots
from torchslots.convert.readers import flax
from torchslots.data.download.archives import extract
from torchslots.data.formats.compressed import PackedRecords
from torchslots.data.formats.example import MalformedExample
from torchslots.data.formats.png import decode_png
from torchslots.data.formats.tfrecord import RecordFile, masked_crc
from torchslots.data.sets.own_masks import read_masks
from torchslots.io import arrays
from torchslots.io.cache import cached
from torchslots.io.errors import UserError
from torchslots.io.files import atomic_file, atomic_files
from torchslots.io.json_files import check_seal, parse_json, read_json, read_object, sealed
from torchslots.io.torch_files import read_torch_file
from torchslots.io.video import read_frames

DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 200 + "1" + "}" * 200, "[[],[" * 200, "", "{", "\xff", "9" * 5000]
)
def test_json_of_every_kind_of_damage_is_one_message(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.json is not JSON .*Get it again\."):
        read_json(file, "Get it again.")


def test_brackets_in_text_are_not_nesting() -> None:
    assert parse_json(json.dumps({"a": "[" * 500, "b": '\\"{{' * 300})) == {
        "a": "[" * 500,
        "b": '\\"{{' * 300,
    }
    assert parse_json("[" * 99 + "]" * 99) is not None


def test_a_seal_shows_every_flipped_bit(tmp_path: Path) -> None:
    file, values = (
        tmp_path / "a.json",
        {"step": 12, "best": 0.5, "names": ["a", "b"], "done": True, "none": None},
    )
    text = json.dumps(sealed(values)).encode()
    assert check_seal(json.loads(text), file) == values == check_seal(dict(values), file)
    for place in range(0, 8 * len(text), 5):
        data = bytearray(text)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        try:
            found = check_seal(read_object(file), file)
        except UserError:
            continue
        # a flip in the name of the seal itself leaves an object without one, whose other fields are as they were
        assert {key: found.get(key) for key in values} == values, (place, data)


def npz(file: Path, **members: np.ndarray) -> bytes:
    np.savez_compressed(file, **members)
    return file.read_bytes()


def test_mutants_of_masks_are_one_message_or_the_masks(tmp_path: Path) -> None:
    file, rng = tmp_path / "m.npz", random.Random(0)
    ids = np.zeros((3, 8, 9), np.uint8)
    ids[:, 2:5, 3:7] = 1
    whole = npz(file, masks=ids)
    refused = 0
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
        try:
            assert np.array_equal(read_masks(file, 3, allow_odd=True).ids, ids)
        except UserError as error:
            refused += str(file) in str(error)
    assert refused > 60


def test_a_mask_that_unpacks_to_gigabytes_is_refused_before(tmp_path: Path) -> None:
    file = tmp_path / "m.npz"
    header = io.BytesIO()
    shape = (3, 40_000, 40_000)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    npz(file, masks=np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(UserError, match="holds masks for 3 frames, its clip has 2"):
        read_masks(file, 2)
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("masks.npy", header.getvalue() + bytes(1000))
    with pytest.raises(UserError, match="does not fit its"):
        read_masks(file, 3)
    with pytest.raises(UserError, match=r"needs 144 bytes, at most 100 are read"):
        npz(file, masks=np.zeros((3, 6, 8), np.uint8))
        arrays.read_arrays(file, "", most=100)


@pytest.mark.parametrize("place", [0, 40, 128, 150, 200, -30])
def test_a_damaged_index_is_made_again(tmp_path: Path, place: int) -> None:
    file = tmp_path / "a.tfrecord"
    file.write_bytes(b"x")
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"starts": np.arange(50)}

    cached(file, "index", make)
    stored = next((tmp_path / ".torchslots").iterdir())
    data = bytearray(stored.read_bytes())
    data[place : place + 9] = bytes(9)
    stored.write_bytes(data)
    assert np.array_equal(cached(file, "index", make)["starts"], np.arange(50)) and len(made) in (1, 2)
    assert np.array_equal(cached(file, "index", make)["starts"], np.arange(50))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_images_of_billions_of_pixels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(huge_png(60_000, 60_000))
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        read_frames(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        read_masks(tmp_path / "a.png", 1)
    with pytest.raises(MalformedExample, match="60000 x 60000"):
        decode_png(huge_png(60_000, 60_000))


def flax_file(tree: object) -> bytes:
    def pack(value: object) -> msgpack.ExtType:
        assert isinstance(value, np.ndarray)
        data = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        return msgpack.ExtType(1, data)

    return msgpack.packb(tree, default=pack)


def test_a_packed_checkpoint_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "ckpt-1.flax.gz"
    file.write_bytes(gzip.compress(flax_file({"params": {"kernel": np.zeros(100_000, np.float32)}})))
    assert flax.read(file).params["kernel"].size == 100_000
    monkeypatch.setattr(flax, "_ALWAYS", 1000)
    with pytest.raises(UserError, match="which no weights of its size do"):
        flax.read(file)


@pytest.mark.parametrize(
    "tree",
    [
        {"params": {"kernel": np.ones(2, np.float32)}, "optimizer": {"state": {"step": "soon"}}},
        {"params": {"kernel": {"__msgpack_chunked_array__": True, "shape": {"0": 2}}}},
        {"params": {"kernel": np.ones(2, np.float32)}, "opt_state": {"1": {"0": {"mu": 3}}}},
        {"params": {1: 2}},
    ],
)
def test_trees_of_another_form_are_one_message(tmp_path: Path, tree: object) -> None:
    (tmp_path / "ckpt-1.flax").write_bytes(flax_file(tree))
    with pytest.raises(UserError, match=r"ckpt-1\.flax is msgpack"):
        flax.read(tmp_path / "ckpt-1.flax")


def test_an_expanded_tensor_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"state_dict": {"a": torch.ones(1).expand(100_000, 100_000)}}, file)
    with pytest.raises(UserError, match=r"\[100000, 100000\] that is far larger than its stored values"):
        read_torch_file(file)
    torch.save({"a": torch.ones(4, 4).T, "b": torch.ones(1).expand(3)}, file)
    assert read_torch_file(file)["b"].tolist() == [1, 1, 1]


def test_a_checkpoint_that_claims_to_span_disks_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    locator = b"PK\x06\x07" + struct.pack("<LQL", 1, 0, 2)
    file.write_bytes(b"PK\x03\x04" + bytes(60) + locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(UserError, match=r"model\.pth"):
        read_torch_file(file)


def test_names_in_an_archive_that_no_disk_takes_are_one_message(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("n" * 300, "x")
    with pytest.raises(UserError, match=r"a\.zip cannot be extracted|cannot be written"):
        extract(tmp_path / "a.zip")


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom torchslots.io.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as part:\n    part.write_text('half')\n    os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.safetensors")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_file(tmp_path / "other.json") as mine:
        mine.write_text("{}")
        assert list(tmp_path.iterdir()) == [mine]
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_long_names_are_written(tmp_path: Path) -> None:
    name = "n" * 250
    with atomic_file(tmp_path / name) as part:
        part.write_text("x")
    assert (tmp_path / name).read_text() == "x"


CLAIMS = (
    {"encoder.channels": [10**6, 10**6]},
    {"num_slots": 10**9},
    {"num_slots": -1},
    {"decoder.grid": [10**5, 10**5]},
    {"decoder": 5},
    {"resolution": [16]},
)


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with other values, by dotted names, and without its checksum."""
    values = {key: value for key, value in values.items() if key != "crc32c"}
    for path, value in changes.items():
        *parents, name = path.split(".")
        inner = values["model"]
        for parent in parents:
            inner = inner[parent]
        assert name in inner, inner
        inner[name] = value
    return values


def claims(folder: Path) -> Iterator[str]:
    """What is said of a record of 3 GB, and of models of any size with the weights of a small one."""
    length = struct.pack("<Q", 3 << 30)
    with (folder / "a.tfrecord").open("wb") as file:
        file.write(length + struct.pack("<I", masked_crc(length)))
        file.truncate(12 + (3 << 30) + 4)
    plain, packed = RecordFile(folder / "a.tfrecord"), PackedRecords(folder / "a.tfrecord")
    for read in (lambda: plain.read(0), lambda: next(iter(packed))):
        with pytest.raises(UserError) as error:
            read()
        yield str(error.value)
    torchslots.create_model("savi_demo").save_pretrained(folder / "model")
    config = folder / "model" / "config.json"
    text = config.read_text()
    for changes in CLAIMS:
        config.write_text(json.dumps(changed(json.loads(text), changes)))
        with pytest.raises(UserError) as error:
            torchslots.load_model(folder / "model")
        yield str(error.value)


def test_records_and_models_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    record, packed, *models = claims(tmp_path)
    assert "claims to have 3,221,225,472 bytes" in record and "claims to have 3221225472" in packed
    assert len(models) == len(CLAIMS) and all("config.json" in said for said in models)


@pytest.mark.slow
def test_refusing_them_takes_no_memory(tmp_path: Path) -> None:
    """A process that may take 2 GB beyond what it has after its imports."""
    program = (
        "import resource, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
        "import torchslots, test_damaged_files as tests\n"
        "torchslots.create_model('savi_demo')\n"
        "most = int(Path('/proc/self/statm').read_text().split()[0]) * 4096 + (2 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\nprint(len(list(tests.claims(Path(sys.argv[1])))))\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(2 + len(CLAIMS)), done.stdout + done.stderr[-2000:]


def test_folders_made_for_files_that_were_never_written_go_with_them(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    kept = [tmp_path / "own" / "kept.txt"]
    for files in ([tmp_path / "a" / "b" / "one.txt"], [tmp_path / "own" / "one.txt"]):
        with pytest.raises(UserError, match="wrong input"), atomic_files(*files) as parts:
            parts[0].write_text("half")
            raise UserError("wrong input")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    with atomic_files(*kept) as parts:
        parts[0].write_text("whole")
    assert kept[0].read_text() == "whole"
