import logging
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.multi_object_files import deflate, encode_image, inflate, random_images, write_images
from data.opened import prepared_clips
from recorded import GOLDEN
from torchslots.data.catalog import DATASETS, RemoteFiles, open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.formats.example import encode_example, encode_one_byte_strings, scan_example
from torchslots.data.formats.tfrecord import Compression, CorruptRecord, write_records
from torchslots.data.loader import eval_batches, train_batches
from torchslots.data.prepare import prepare
from torchslots.data.sets.multi_object import LAYOUTS, MultiObjectImages, read_row
from torchslots.evaluation.evaluate import evaluate
from torchslots.io.errors import UserError
from torchslots.recipes.catalog import build_seeded, recipe
from torchslots.recipes.isa import CnnDecoderConfig
from torchslots.recipes.savi import CnnConfig
from torchslots.recipes.slot_attention import ImageDecoderConfig, SlotAttentionConfig

CONFIG = DataConfig(keys=("video", "segmentations"), resolution=64, num_frames=1)
FEW = {name: replace(layout, resolution=(8, 8)) for name, layout in LAYOUTS.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The recorded files where arrays may be written beside them."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("tetrominoes", "objects_room", "clevr_with_masks"):
        shutil.copytree(GOLDEN / f"data_{name}", folder / f"data_{name}")
    return folder


def images(folder, name="tetrominoes", split="all", config=CONFIG, train=False) -> Clips:
    return Clips(MultiObjectImages(folder, LAYOUTS[name], split, config.num_records), split, config, train)


# As recorded


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("tetrominoes", "all", "expected_deepmind"),
        ("clevr_with_masks", "all", "expected_deepmind"),
        ("objects_room", "all", "expected_deepmind_train"),
        ("objects_room", "six_objects", "expected_deepmind_six_objects"),
    ],
)
def test_every_feature_equals_the_publishers_reader(root, name, split, expected):
    found = images(root, name, split)
    with np.load(root / f"data_{name}" / f"{expected}.npz") as table:
        recorded = {key: table[key] for key in table.files}
    assert len(found) == len(recorded["mask"])
    for i, masks in enumerate(recorded.pop("mask")):
        example = found.source.example(i)
        entities = np.arange(len(masks), dtype=np.uint8)[:, None, None]
        assert np.array_equal((example["segmentations"] == entities) * np.uint8(255), masks[..., 0])
        for key, values in recorded.items():
            if key == "image_every_second_row":
                assert np.array_equal(example["image"][::2], values[i])
            else:
                assert example[key].dtype == values.dtype and np.array_equal(example[key], values[i]), key


@pytest.mark.parametrize("name", ["tetrominoes", "objects_room"])
def test_ids_equal_isa_s_reader(root, name):
    found = images(root, name)
    with np.load(root / f"data_{name}" / "expected_isa.npz") as recorded:
        for i, ids in enumerate(recorded["segmentations"]):
            assert np.array_equal(found.source.example(i)["segmentations"], ids[..., 0])
            assert np.array_equal(found.source.example(i)["image"], recorded["image"][i])


@pytest.mark.parametrize(
    ("name", "config", "rows", "video", "step"),
    [
        ("tetrominoes", replace(CONFIG, resolution=35, max_instances=3), 2, "video_{i}", 1),
        ("objects_room", replace(CONFIG, max_instances=10), 2, "video_{i}", 1),
        (
            "clevr_with_masks",
            replace(CONFIG, resolution=128, crop=(29, 64, 192, 192)),
            1,
            "video_every_fourth_row_{i}",
            4,
        ),
    ],
)
def test_preprocessing_equals_isa_s(tmp_path, name, config, rows, video, step):
    layout = LAYOUTS[name]
    with np.load(GOLDEN / "preprocess" / f"preprocess_isa_{name}.npz") as table:
        pairs = [(table[f"image_{i}"], table[f"segmentations_in_{i}"][..., 0]) for i in range(rows)]
        entities = 1 + max(int(ids.max()) for _, ids in pairs)
        records = [encode_image(*pair, layout, entities) for pair in pairs]
        write_records(tmp_path / layout.splits["all"].file, records, Compression.GZIP)
        found = images(tmp_path, name, config=config)
        for i in range(rows):
            sample = found.sample(i, None)
            recorded = torch.from_numpy(table[video.format(i=i)]).permute(0, 3, 1, 2)
            torch.testing.assert_close(sample["video"][:, :, ::step], recorded, rtol=0, atol=1e-6)
            assert torch.equal(sample["segmentations"], torch.from_numpy(table[f"segmentations_{i}"]))
            assert torch.equal(sample["padding_mask"], torch.from_numpy(table[f"padding_mask_{i}"]).bool())


# Layouts


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_back_what_was_written(tmp_path, name):
    layout = FEW[name]
    if name == "clevr_with_masks":
        layout = replace(layout, resolution=(6, 8))
    written = write_images(tmp_path / layout.splits["all"].file, layout, 3, entities=5)
    found = images(tmp_path, name)
    for i, (image, ids) in enumerate(written):
        example = found.source.example(i)
        assert np.array_equal(example["image"], np.broadcast_to(image, example["image"].shape))
        assert np.array_equal(example["segmentations"], ids)
        assert example["num_objects"] == (np.unique(ids) >= layout.num_background).sum()


def test_the_largest_mask_wins_and_the_first_of_equals():
    layout = FEW["objects_room"]
    image, ids = random_images(layout, 1, 3)[0]
    masks = np.random.default_rng(0).integers(0, 3, (3, 8, 8), dtype=np.uint8)
    record = encode_image(image, ids, layout, 3, leave_out=["mask"])
    record = encode_example({**scan_example(record), "mask": encode_one_byte_strings(masks)})
    assert np.array_equal(read_row(layout, record)["segmentations"], masks.argmax(0))


def test_samples_follow_the_contract(root):
    config = replace(CONFIG, keys=("video", "segmentations", "boxes"), resolution=32, max_instances=2)
    batch = next(train_batches(images(root, config=config, train=True), batch_size=3, seed=0))
    assert batch["video"].shape == (3, 1, 3, 32, 32) and batch["video"].dtype == torch.float32
    assert batch["video"].min() >= 0 and 0.5 < batch["video"].max() <= 1
    assert batch["segmentations"].max() == 3 and batch["boxes"].shape == (3, 1, 2, 4)
    assert batch["name"][0].startswith("tetrominoes_train.tfrecords__")
    ids = images(root).source.example(4)["segmentations"]
    rows, columns = np.nonzero(ids == 1)
    box = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / 35
    boxes = images(root, config=replace(CONFIG, keys=("boxes",))).sample(4, None)["boxes"]
    assert np.allclose(boxes[0, 0], box) and not boxes[0, 3:].any()


def test_prepared_images_equal_the_originals(root, tmp_path):
    found = images(root, "objects_room", config=replace(CONFIG, resolution=32), train=True)
    prepare(found, tmp_path)
    again = prepared_clips(tmp_path, "all", found.config, True)
    for i in range(len(found)):
        sample, copy = found.sample(i, None), again.sample(i, None)
        assert all(torch.equal(sample[key], copy[key]) for key in ("video", "segmentations"))


# Splits


@pytest.fixture
def many(tmp_path):
    """A file of 700 Tetrominoes-like records whose first pixel is their number."""
    layout = LAYOUTS["tetrominoes"]
    image, ids = random_images(layout, 1, 4)[0]

    def numbered(i: int) -> bytes:
        own = image.copy()
        own[0, 0] = (i // 256, i % 256, 0)
        return encode_image(own, ids, layout, 4)

    write_records(tmp_path / "tetrominoes_train.tfrecords", map(numbered, range(700)), Compression.GZIP)
    return tmp_path


def number(dataset: Clips, index: int) -> int:
    high, low, _ = dataset.source.example(index)["image"][0, 0].tolist()
    return high * 256 + low


def test_splits_are_those_of_the_papers(many):
    for split, first, last in (
        ("validation", 0, 99),
        ("train", 100, 611),
        ("all", 0, 699),
        ("test_full", 0, 699),
    ):
        found = images(many, split=split)
        assert (number(found, 0), number(found, len(found) - 1)) == (first, last), split
        assert found.name(0) == f"tetrominoes_train.tfrecords__{first}"


def test_only_the_records_that_a_split_needs_are_unpacked(many):
    assert len(images(many, split="validation").source.records) == 100
    assert len(images(many, split="train", config=replace(CONFIG, num_records=30)).source.records) == 130
    assert len(images(many, split="train").source.records) == 612
    few = images(many, split="train", config=replace(CONFIG, num_records=30))
    assert len(few) == 30 and number(few, 29) == 129
    assert len(images(many, split="all", config=replace(CONFIG, num_records=5))) == 5


def test_a_file_that_ends_before_a_split_is_all_of_it_with_a_warning(root, caplog):
    with caplog.at_level(logging.WARNING, "torchslots.data"):
        assert len(images(root, split="train")) == 12
    assert "only 12 records" in caplog.text and "first 100" in caplog.text
    caplog.clear()
    assert len(images(root, split="validation")) == 12 and not caplog.text


def test_a_split_and_a_file_that_are_not_there(root, tmp_path):
    with pytest.raises(UserError, match=r"tetrominoes has no split `test`. It has: train, validation"):
        images(root, split="test")
    with pytest.raises(
        UserError, match=r"holds no objects_room_test_empty_room.tfrecords.*It holds .*six_obj"
    ):
        images(root, "objects_room", "empty_room")
    with pytest.raises(UserError, match=r"It holds nothing. Get it with .*download multi_dsprites"):
        images(tmp_path, "multi_dsprites_binarized")
    file = root / "data_tetrominoes" / "tetrominoes_train.tfrecords"
    assert len(images(file)) == 12
    with pytest.raises(UserError, match=r"is not objects_room_train.tfrecords"):
        images(file, "objects_room")


def test_images_of_many_objects_are_left_out_by_counts_that_are_kept(root, monkeypatch):
    config = replace(CONFIG, max_objects=5)
    found = images(root, "clevr_with_masks", config=config)
    assert [found.name(i)[-1] for i in range(len(found))] == ["0", "1"]
    assert [found.source.num_objects(i) for i in range(3)] == [3, 5, 7]
    monkeypatch.setattr("torchslots.data.array_cache.PackedRecords", None)
    assert len(images(root, "clevr_with_masks", config=replace(CONFIG, max_objects=4))) == 1
    with pytest.raises(UserError, match="No example of objects_room has at most 2 objects"):
        images(root, "objects_room", config=replace(CONFIG, max_objects=2))


# Faults


def test_keys_that_are_not_there(root):
    with pytest.raises(
        UserError, match=r"asks for `flow`, which tetrominoes lacks. It has: video, segmentations"
    ):
        images(root, config=replace(CONFIG, keys=("video", "flow")))


def test_keys_are_looked_at_before_anything_is_unpacked(tmp_path):
    layout = LAYOUTS["tetrominoes"]
    write_images(tmp_path / layout.splits["all"].file, layout, 3)
    with pytest.raises(UserError, match="asks for `flow`"):
        open_dataset("tetrominoes", tmp_path, "train", replace(CONFIG, keys=("flow",)), True)
    assert not (tmp_path / ".torchslots").exists()


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"mask": None}, "has no `mask`, only: color, image"),
        ({"visibility": None}, "has no `visibility`"),
        ({"image": b"abcd"}, "has 4 bytes as `image`, no image of the aspect 35 to 35"),
        ({"image": b"abc"}, "has 4900 bytes of masks"),
        ({"mask": b"abc"}, "has 3 bytes of masks"),
        ({"x": np.zeros(3, np.float32)}, "has 3 numbers as `x` for 4 entities"),
        ({"x": np.zeros(4, np.int64)}, "not a list of floats"),
        ({"image": np.zeros(4, np.float32)}, "a list of numbers where"),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path, features, reason):
    layout = LAYOUTS["tetrominoes"]
    whole = scan_example(encode_image(*random_images(layout, 1, 4)[0], layout, 4))
    changed = {name: value for name, value in {**whole, **features}.items() if value is not None}
    path = tmp_path / "tetrominoes_train.tfrecords"
    write_records(path, [encode_example(changed)], Compression.GZIP)
    with pytest.raises(UserError, match=rf"tetrominoes_train.tfrecords: record 0 {reason}"):
        images(tmp_path)


def few(folder, name: str):
    """A set's file of four small pictures."""
    layout = FEW[name] if name != "clevr_with_masks" else replace(FEW[name], resolution=(6, 8))
    path = folder / layout.splits["all"].file
    write_images(path, layout, 4, entities=5)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_set_that_broke_off_is_told(tmp_path, name):
    path = few(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{path.name}: record \d+ is cut off"):
        images(tmp_path, name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_record_of_every_set_is_told(tmp_path, name):
    path = few(tmp_path, name)
    content = bytearray(inflate(path))
    content[2 * len(content) // 4 + len(content) // 8] ^= 1
    deflate(path, bytes(content))
    with pytest.raises(CorruptRecord, match=rf"{path.name}: record 2 does not match its checksum"):
        list(eval_batches(images(tmp_path, name), batch_size=2))


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_of_something_else_are_told(tmp_path, name):
    path = few(tmp_path, name)
    path.write_bytes(b"<html>moved permanently</html>" * 40)
    with pytest.raises(UserError, match=path.name):
        images(tmp_path, name)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=path.name):
        images(tmp_path, name)


def test_one_corrupt_record_is_told_or_left_out(tmp_path):
    path = tmp_path / "tetrominoes_train.tfrecords"
    write_images(path, LAYOUTS["tetrominoes"], 5)
    content = bytearray(inflate(path))
    content[2 * len(content) // 5 + 500] ^= 1
    deflate(path, bytes(content))
    found = images(tmp_path)
    with pytest.raises(CorruptRecord, match=r"tfrecords: record 2 does not match its checksum"):
        list(eval_batches(found, batch_size=2))
    skipped = []
    batches = list(eval_batches(found, batch_size=5, skip_corrupt=True, on_skip=skipped.append))
    assert len(batches[0]["video"]) == 4 and skipped[0].record == 2


def test_a_download_that_broke_off_is_told_when_the_data_are_opened(many):
    path = many / "tetrominoes_train.tfrecords"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"tetrominoes_train.tfrecords: record \d+ is cut off.*num_records"):
        images(many)
    assert len(images(many, split="validation")) == 100


# The door


RECIPES = [
    "slot_attention_tetrominoes",
    "slot_attention_clevr6",
    "slot_attention_multi_dsprites",
    "isa_tetrominoes_transl",
    "isa_objects_room_transl_scale",
    "isa_clevr_with_masks_transl_scale",
]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_open_their_data(root, tmp_path, name):
    config = recipe(name).data
    if config.dataset == "multi_dsprites":
        root = tmp_path
        layout = LAYOUTS["multi_dsprites_colored_on_grayscale"]
        write_images(root / layout.splits["all"].file, layout, 3, 6)
    for split, train in (("train", True), ("validation", False)):
        found = open_dataset(config.dataset, root, split, config, train)
        assert found.sample(0, np.random.default_rng(0))["video"].shape[-2:] == recipe(name).model.resolution


def tiny(model):
    """The same kind of model for images of 16 x 16 pixels."""
    size = (16, 16)
    if isinstance(model, SlotAttentionConfig):
        decoder = ImageDecoderConfig(grid=size, channels=(8,), strides=(1,))
        widths = {"token_hidden": 8, "token_size": 8, "slot_size": 8, "mlp_size": 8}
        return replace(model, resolution=size, channels=(8,), strides=(2,), decoder=decoder, **widths)
    decoder = CnnDecoderConfig(grid=size, channels=(8,), strides=(1,))
    widths = {"slot_size": 8, "qkv_size": 8, "slot_hidden": 8, "grid_hidden": 8}
    return replace(model, resolution=size, encoder=CnnConfig((8,), (2,)), decoder=decoder, **widths)


@pytest.mark.parametrize("name", [name for name in RECIPES if "sprites" not in name])
def test_a_batch_goes_through_each_recipe_s_kind_of_model(root, name):
    chosen = recipe(name)
    found = open_dataset(chosen.data.dataset, root, "train", replace(chosen.data, resolution=16), True)
    batch = next(train_batches(found, batch_size=2, seed=0))
    model = build_seeded(tiny(chosen.model), 0)
    loss = sum(model.loss(batch).values())
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    report = evaluate(
        model, eval_batches(found, batch_size=2), replace(chosen.evaluation, num_videos=None), num_plots=0
    )
    assert ("fg_ari_objects_only" in report.metrics) == ("objects_room" in name)


def test_every_layout_is_in_the_catalogue_with_its_files():
    for name, layout in LAYOUTS.items():
        found = DATASETS["multi_dsprites" if name.endswith("grayscale") else name]
        assert set(found.splits) == set(layout.splits)
        assert isinstance(found.remote, RemoteFiles)
        assert {part.file for part in layout.splits.values()} == set(found.remote.files)
        assert found.remote.address == f"https://storage.googleapis.com/multi-object-datasets/{_folder(name)}"


def _folder(name: str) -> str:
    return "multi_dsprites" if "dsprites" in name else name


def test_an_opened_set_can_be_handed_to_other_processes(root):
    for found in (images(root), images(root, "clevr_with_masks", config=replace(CONFIG, max_objects=5))):
        again = pickle.loads(pickle.dumps(found))
        assert len(again) == len(found) and again.name(1) == found.name(1)
        assert torch.equal(again.sample(1, None)["video"], found.sample(1, None)["video"])
