"""TensorFlow checkpoints without TensorFlow: values, layouts, and every way a file can be wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from convert.bundle_writer import graph_of, snappy, write_bundle, write_table
from torchslots.convert.readers import tensorflow as tensorflow_checkpoint
from torchslots.convert.readers.sstable import read_table, unpack_snappy
from torchslots.convert.readers.tensorflow import VALUE
from torchslots.io.errors import UserError

RECORDED = "slot_attention_set_prediction_mini/checkpoint"


@pytest.fixture
def copied(golden: Path, tmp_path: Path) -> Path:
    """A recorded checkpoint to damage."""
    return Path(shutil.copytree(golden / RECORDED, tmp_path / "ckpt"))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["", "ckpt-1", "ckpt-1.index", "ckpt-1.data-00000-of-00001"])
def test_folder_prefix_and_files_open_the_same(golden, name):
    found = tensorflow_checkpoint.read(golden / RECORDED / name)
    assert found.path.name == "ckpt-1"
    assert found.array("global_step" + VALUE) == 2
    assert tensorflow_checkpoint.is_checkpoint(golden / RECORDED / name)


def test_every_tensor_passes_its_checksum(golden):
    found = tensorflow_checkpoint.read(golden / RECORDED)
    numbers = [found.array(key) for key in found.entries if key.endswith(VALUE)]
    assert len(numbers) == 121
    assert all(np.isfinite(array).all() for array in numbers)


def test_the_graph_leads_by_longer_paths(golden):
    found = tensorflow_checkpoint.read(golden / RECORDED)
    assert (
        found.find("network/layer-1/layer_norm/gamma")
        == f"network/layer_with_weights-0/layer_norm/gamma{VALUE}"
    )
    assert found.find("network/layer-1/nothing") is None


@pytest.mark.parametrize("packed", [False, True])
def test_written_and_read_again(tmp_path, packed):
    arrays = {f"list/{i}{VALUE}": np.arange(i, dtype=np.float32).reshape(1, i) for i in range(50)}
    write_bundle(tmp_path / "a", arrays | {"n": np.array(7)}, graph_of({"x/y": f"list/3{VALUE}"}), packed)
    found = tensorflow_checkpoint.read(tmp_path / "a")
    for key, array in arrays.items():
        np.testing.assert_array_equal(found.array(key), array)
    assert found.array("n").shape == ()
    assert found.find("x/y") == f"list/3{VALUE}"


def test_snappy_long_runs_and_overlapping_copies():
    long_run = bytes(range(256)) * 2
    packed = b"\x80\x04" + bytes([61 << 2, 0xFF, 0x01]) + long_run
    assert unpack_snappy(memoryview(packed)) == long_run
    assert unpack_snappy(memoryview(b"\x0a\x00a" + bytes([8 << 2 | 2, 1, 0]))) == b"a" * 10
    assert unpack_snappy(memoryview(b"\x09\x00a" + bytes([7 << 2 | 3, 1, 0, 0, 0]))) == b"a" * 9
    assert unpack_snappy(memoryview(snappy(b"abcdefgh" * 5))) == b"abcdefgh" * 5
    with pytest.raises(ValueError, match="back after"):
        unpack_snappy(memoryview(b"\x08\x00a" + bytes([4 << 2 | 1, 9])))


@pytest.mark.parametrize("keep", [0, 20, 4000])
def test_a_cut_index_is_refused(copied, keep):
    file = copied / "ckpt-1.index"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="cut off"):
        tensorflow_checkpoint.read(copied)


@pytest.mark.parametrize("place", [5, 100, 3000, -60])
def test_a_flipped_bit_in_the_index_is_noticed(copied, place):
    flip(copied / "ckpt-1.index", place)
    with pytest.raises(UserError, match="damaged"):
        tensorflow_checkpoint.read(copied)


def test_a_flipped_bit_in_the_data_is_noticed(copied):
    found = tensorflow_checkpoint.read(copied)
    key = f"network/layer_with_weights-0/layer_norm/gamma{VALUE}"
    flip(copied / "ckpt-1.data-00000-of-00001", found.entries[key].offset)
    with pytest.raises(UserError, match=r"layer_norm/gamma.*checksum"):
        found.array(key)


def test_a_missing_or_cut_data_file_is_named(copied):
    found, shard = tensorflow_checkpoint.read(copied), copied / "ckpt-1.data-00000-of-00001"
    last = max(found.entries, key=lambda key: found.entries[key].offset)
    data = shard.read_bytes()
    shard.write_bytes(data[:-4])
    with pytest.raises(UserError, match="ends before byte"):
        found.find("x")
    shard.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 is missing"):
        found.array(last)


def test_the_newest_must_be_there(copied):
    (copied / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/ckpt-9"\n')
    with pytest.raises(UserError, match=r"names ckpt-9.*ckpt-1"):
        tensorflow_checkpoint.read(copied)
    (copied / "checkpoint").unlink()
    assert tensorflow_checkpoint.read(copied).path.name == "ckpt-1"


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no NAME\.index"):
        tensorflow_checkpoint.read(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        tensorflow_checkpoint.read(tmp_path / "ckpt-1")
    (tmp_path / "a.index").write_bytes(b"PK" + bytes(500))
    with pytest.raises(UserError, match="not the index of a TensorFlow checkpoint"):
        tensorflow_checkpoint.read(tmp_path / "a")
    write_table(tmp_path / "b.index", {b"key": b"value"})
    assert read_table(tmp_path / "b.index") == {b"key": b"value"}
    with pytest.raises(UserError, match="not a checkpoint's"):
        tensorflow_checkpoint.read(tmp_path / "b")


def test_values_that_are_no_numbers_are_refused(golden):
    found = tensorflow_checkpoint.read(golden / RECORDED)
    with pytest.raises(UserError, match="_CHECKPOINTABLE_OBJECT_GRAPH"):
        found.array("_CHECKPOINTABLE_OBJECT_GRAPH")
