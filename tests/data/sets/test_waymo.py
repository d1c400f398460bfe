import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.data.formats.compressed import CutOff, PackedRecords
from torchslots.data.formats.example import encode_example, encode_one_byte_strings
from torchslots.data.formats.png import encode_png
from torchslots.data.formats.tfrecord import Compression, CorruptRecord, write_records
from torchslots.data.sets.waymo import WaymoImages, decode_record, number_by_size
from torchslots.data.sets.waymo_prepare import prepare_waymo
from torchslots.io.errors import UserError
from torchslots.recipes import catalog

CONFIG = catalog.recipe("isa_waymo_open_transl_scale").data
IDS = np.repeat(np.arange(4, dtype=np.uint8), 6).reshape(4, 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "data_waymo_isa", tmp_path / "data"))


def _record(ids: np.ndarray, image: np.ndarray | None = None, **more: np.ndarray | None) -> bytes:
    features = {
        "image": encode_one_byte_strings(np.zeros((*ids.shape, 3), np.uint8) if image is None else image),
        "segmentations": encode_one_byte_strings(ids),
        "num_objects": np.array([len(np.unique(ids))]),
        "has_mask": np.array([1]),
        "camera": np.array([1]),
        **more,
    }
    return encode_example({name: value for name, value in features.items() if value is not None})


def _write(root: Path, records: list[bytes], split: str = "training") -> Path:
    name = "waymo_open_128x192.tfrecords-zlib-00000-of-00001"
    file = root / "tfrecords" / split / "camera_1" / name
    write_records(file, records, Compression.ZLIB)
    return file


@pytest.mark.parametrize("split", ["training", "validation"])
def test_records_are_what_the_reference_reads(root: Path, split: str):
    expected = np.load(root / f"expected_{split}.npz")
    files = sorted((root / "tfrecords" / split).rglob("*zlib*"))
    payloads = [payload for file in files for payload in PackedRecords(file)]
    assert len(payloads) == len(expected["image"])
    for index, payload in enumerate(payloads):
        assert isinstance(payload, bytes)
        found = decode_record(payload)
        assert set(found) == set(expected.files)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name][index])


def test_samples_of_all_splits(root: Path):
    expected = np.load(root / "expected_validation.npz")
    for split in ("train", "validation", "validation_full"):
        clips = open_dataset("waymo_open", root, split, CONFIG, split == "train")
        assert len(clips) == 2
        sample = clips.sample(1, None)
        assert sample["video"].shape == (1, 3, 128, 192) and sample["padding_mask"].all()
    np.testing.assert_allclose(
        sample["video"][0].permute(1, 2, 0).numpy() * 255, expected["image"][1], rtol=0, atol=1e-4
    )
    ids = number_by_size(expected["segmentations"][1, ..., 0])
    assert torch.equal(sample["segmentations"][0], torch.from_numpy(ids))


def test_pictures_as_the_published_pipeline_prepares_them(tmp_path: Path):
    recorded = np.load(GOLDEN / "preprocess" / "preprocess_isa_waymo_open.npz")
    ids = [recorded[f"segmentations_in_{index}"][..., 0] for index in range(2)]
    _write(tmp_path, [_record(ids[0], recorded["image_0"]), _record(ids[1])], "validation")
    clips = open_dataset("waymo_open", tmp_path, "validation", CONFIG, False)
    for index in range(2):
        expected = torch.from_numpy(recorded[f"segmentations_{index}"])
        assert torch.equal(clips.sample(index, None)["segmentations"], expected)
    rows = clips.sample(0, None)["video"].permute(0, 2, 3, 1)[:, ::8].numpy()
    np.testing.assert_allclose(rows, recorded["video_0_every_8th_row"], rtol=0, atol=1e-6)


def _numbered_one_by_one(ids: np.ndarray, smallest: float, most: int) -> np.ndarray:
    """As the definition reads: rank ids by size, the background first, and go through the ranks."""
    counts = [(-1 if k == 0 else 0, -int((ids == k).sum()), k) for k in range(50)]
    found = np.zeros_like(ids, np.int32)
    for rank, (_, count, k) in enumerate(sorted(counts)):
        if k and rank < most and -count >= int(smallest * ids.size):
            found[ids == k] = rank
    return found


@pytest.mark.parametrize("seed", range(6))
def test_ids_go_by_size(seed: int):
    rng = np.random.default_rng(seed)
    sizes = rng.dirichlet(np.full(60, 0.2))
    ids = rng.choice(60, size=(40, 60), p=sizes).astype(np.uint8)
    for smallest, most in ((0.01, 11), (0.002, 5), (0.0, 50)):
        np.testing.assert_array_equal(
            number_by_size(ids, smallest, most), _numbered_one_by_one(ids, smallest, most)
        )


def test_validation_leaves_out_what_nothing_is_marked_in(tmp_path: Path):
    empty = np.zeros((4, 6), np.uint8)
    _write(tmp_path, [_record(empty), _record(IDS), _record(empty)], "validation")
    config = replace(CONFIG, resolution=4)
    assert len(open_dataset("waymo_open", tmp_path, "validation", config, False)) == 1
    everything = open_dataset("waymo_open", tmp_path, "validation_full", config, False)
    assert len(everything) == 3
    kept = open_dataset("waymo_open", tmp_path, "validation", config, False).sample(0, None)
    assert torch.equal(kept["segmentations"], everything.sample(1, None)["segmentations"])


def test_depth_where_it_is_there(tmp_path: Path):
    depth = np.random.default_rng(0).uniform(1, 80, (4, 6)).astype(np.float32)
    _write(tmp_path, [_record(IDS, depth=depth)])
    config = replace(CONFIG, resolution=4, keys=("video", "segmentations", "depth"))
    sample = open_dataset("waymo_open", tmp_path, "train", config, True).sample(0, None)
    np.testing.assert_allclose(sample["depth"][0, 0].numpy(), np.log1p(depth), rtol=1e-6)
    _write(tmp_path / "other", [_record(IDS)])
    with pytest.raises(UserError, match="asks for `depth`, which Waymo Open lacks"):
        open_dataset("waymo_open", tmp_path / "other", "train", config, True)


def test_few_objects_and_few_records(tmp_path: Path):
    one = np.where(IDS > 2, 1, 0).astype(np.uint8)
    _write(tmp_path, [_record(IDS), _record(one), _record(one)])
    config = replace(CONFIG, resolution=4)
    assert len(open_dataset("waymo_open", tmp_path, "train", replace(config, max_objects=1), True)) == 2
    assert len(open_dataset("waymo_open", tmp_path, "train", replace(config, num_records=2), True)) == 2


# Faults


def test_files_that_are_cut_off_missing_or_something_else(root: Path, tmp_path: Path):
    file = sorted(root.rglob("*zlib*"))[1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CutOff, match=r"zlib-00001-of-00002: record 0"):
        WaymoImages(root, "train")
    file.write_bytes(b"something else altogether")
    with pytest.raises(UserError, match="no TFRecord file"):
        WaymoImages(root, "train")
    file.unlink()
    with pytest.raises(
        UserError, match=r"1 of 2 shards are missing: waymo_open_128x192.tfrecords-zlib-00001"
    ):
        WaymoImages(root, "train")
    shutil.rmtree(root / "tfrecords" / "training")
    with pytest.raises(UserError, match="holds no training/camera_1 of Waymo Open"):
        WaymoImages(root, "train")
    with pytest.raises(UserError, match="no split `test`"):
        WaymoImages(root, "test")
    with pytest.raises(UserError, match=r"Sign up at waymo\.com/open"):
        open_dataset("waymo_open", tmp_path / "nowhere", "train", CONFIG, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentations": None}, "has no `segmentations`, so it is no record of Waymo Open"),
        ({"camera": None}, "has no `camera`"),
        ({"image": np.zeros(100, np.uint8)}, "100 bytes as `image`"),
        ({"depth": np.zeros(5, np.float32)}, "5 numbers as `depth`"),
    ],
)
def test_records_of_something_else(tmp_path: Path, change: dict, message: str):
    _write(tmp_path, [_record(IDS, **change)])
    with pytest.raises(UserError, match=message):
        WaymoImages(tmp_path, "train")


# Original frames


class _Frame:
    """Stands for Waymo's type: a frame is JSON with pictures in hexadecimal digits."""

    def ParseFromString(self, payload: bytes) -> None:
        values = json.loads(payload)
        label = lambda v: SimpleNamespace(  # noqa: E731
            panoptic_label=bytes.fromhex(v["label"]), panoptic_label_divisor=v["divisor"]
        )
        self.images = [
            SimpleNamespace(
                name=v["name"], image=bytes.fromhex(v["image"]), camera_segmentation_label=label(v)
            )
            for v in values
        ]


@pytest.fixture
def waymo_package(monkeypatch) -> None:
    package, module = ModuleType("waymo_open_dataset"), ModuleType("waymo_open_dataset.dataset_pb2")
    module.Frame = _Frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "waymo_open_dataset", package)
    monkeypatch.setitem(sys.modules, "waymo_open_dataset.dataset_pb2", module)


def _frame(number: int, marked: bool, height: int = 256) -> bytes:
    """Left half of one colour, right half of another; objects 300 and 7 of 1000 in a class, where marked."""
    image = np.zeros((height, 384, 3), np.uint8)
    image[:, :192], image[:, 192:] = 40 + number, 200
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=100)
    panoptic = np.zeros((height, 384), np.uint16)
    panoptic[:, 192:], panoptic[: height // 4] = 2 * 1000 + 7, 3 * 1000 + 300
    label = {"label": encode_png(panoptic).hex() if marked else "", "divisor": 1000 if marked else 0}
    front = {"name": 1, "image": stream.getvalue().hex(), **label}
    side = {"name": 4, "image": stream.getvalue().hex(), **label}
    return json.dumps([side, front]).encode()


def test_pictures_from_original_frames(tmp_path: Path, waymo_package):
    for segment in range(3):
        frames = [_frame(10 * segment + number, marked=number == 1) for number in range(2)]
        write_records(tmp_path / "raw" / f"segment-{segment}.tfrecord", frames)
    for split, count in (("training", 6), ("validation", 3)):
        folder = prepare_waymo(tmp_path / "raw", tmp_path / "data", split=split, shards=2)  # type: ignore[arg-type]
        assert folder == tmp_path / "data" / "tfrecords" / split / "camera_1"
        assert sorted(f.name[-14:] for f in folder.iterdir()) == ["00000-of-00002", "00001-of-00002"]
        clips = open_dataset("waymo_open", tmp_path / "data", split.removesuffix("ing"), CONFIG, False)
        assert len(clips) == count
        levels = [float(clips.sample(i, None)["video"][0, 0, 64, 20] * 255) for i in range(count)]
        assert {round(level / 10) for level in levels} == {4, 5, 6}
    ids = clips.sample(0, None)["segmentations"][0]
    assert ids[100, 20] == 0 and ids[100, 180] == 1 and ids[10, 20] == ids[10, 180] == 2
    raw = next(iter(PackedRecords(sorted(folder.glob("*zlib*"))[0])))
    assert isinstance(raw, bytes)
    example = decode_record(raw)
    assert set(np.unique(example["segmentations"])) == {0, 7, 300 % 256} and example["num_objects"] == [3]
    assert example["has_mask"] == [1] and example["image"].shape == (128, 192, 3)


def test_side_cameras_are_filled_up_above(tmp_path: Path, waymo_package):
    write_records(tmp_path / "raw" / "segment-0.tfrecord", [_frame(0, True, height=178)])
    folder = prepare_waymo(tmp_path / "raw", tmp_path / "data", split="validation", camera=4)
    raw = next(iter(PackedRecords(next(folder.iterdir()))))
    assert isinstance(raw, bytes)
    example = decode_record(raw)
    assert example["camera"] == [4] and not example["image"][:38].any() and example["image"][45:].all()


def test_the_same_call_again_makes_only_what_is_missing(tmp_path: Path, waymo_package):
    for segment in range(2):
        write_records(tmp_path / "raw" / f"segment-{segment}.tfrecord", [_frame(segment, False)])
    folder = prepare_waymo(tmp_path / "raw", tmp_path / "data")
    first, second = sorted(folder.iterdir())
    before, contents = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    prepare_waymo(tmp_path / "raw", tmp_path / "data")
    assert first.stat().st_mtime_ns == before and second.read_bytes() == contents


def test_what_cannot_be_prepared(tmp_path: Path, monkeypatch, waymo_package):
    with pytest.raises(UserError, match="holds no segments of Waymo Open"):
        prepare_waymo(tmp_path, tmp_path / "data")
    write_records(tmp_path / "raw" / "segment-0.tfrecord", [_frame(0, False), b"no frame"])
    with pytest.raises(CorruptRecord, match=r"segment-0.tfrecord: record 1 is no frame"):
        prepare_waymo(tmp_path / "raw", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*zlib*"))
    with pytest.raises(UserError, match="camera should be 1 to 5"):
        prepare_waymo(tmp_path / "raw", tmp_path / "data", camera=6)
    monkeypatch.setitem(sys.modules, "waymo_open_dataset", None)
    monkeypatch.delitem(sys.modules, "waymo_open_dataset.dataset_pb2")
    with pytest.raises(UserError, match="needs the package waymo-open-dataset"):
        prepare_waymo(tmp_path / "raw", tmp_path / "data")
