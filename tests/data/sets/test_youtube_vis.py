from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.published import YTVIS_FILE, change_json, extract_published, normalized
from recorded import GOLDEN
from torchslots import open_dataset as open_public
from torchslots.data.catalog import open_dataset
from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.fitting import pre_resize
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import inspect_dataset
from torchslots.data.loader import train_batches
from torchslots.data.sets import youtube_vis
from torchslots.io.errors import UserError

RECORDED = np.load(GOLDEN / "data_ytvis" / "expected_train.npz")
NUMBERS = RECORDED["video_ids_in_file_order"].tolist()
NAMES = ["c0ae3a03a3", "81b27ba02b", "f8bcb2e3fa"]
CONFIG = DataConfig(
    dataset="youtube_vis_2021",
    keys=("video", "segmentations", "classes"),
    resolution=int(RECORDED["input_size"]),
    interpolation="bicubic",
    eval_crop="square",
    pre_resize=int(RECORDED["resize_size"]),
    overlaps="ignore",
    crowds="uncovered",
    num_frames=36,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return extract_published("ytvis", tmp_path / "below")


def _clips(root: Path, split: str = "all", train: bool = False, **changes) -> Clips:
    return open_dataset("youtube_vis_2021", root, split, replace(CONFIG, **changes), train)


def _ids(instances: np.ndarray) -> np.ndarray:
    """Ids where exactly one of the last axis' channels is set."""
    return np.where((instances > 0).sum(-1) == 1, (instances > 0).argmax(-1) + 1, 0)


@pytest.mark.parametrize("index", range(3))
def test_stored_arrays_are_those_of_the_original_converter(root: Path, index: int):
    clips, number = _clips(root), NUMBERS[index]
    stored, instances = clips.stored(index), RECORDED[f"segmentations_{number}"]
    assert clips.name(index) == NAMES[index] and len(clips) == 3
    assert np.array_equal(stored["video"].permute(0, 2, 3, 1), RECORDED[f"video_{number}"])
    assert np.array_equal(stored["segmentations"], _ids(instances))
    assert np.array_equal(stored["classes"], instances.max(-1))
    assert np.array_equal(stored["ignore"], (instances > 0).sum(-1) > 1)
    short, expected = pre_resize(stored, CONFIG.pre_resize), RECORDED[f"short_segmentations_{number}"]
    assert np.array_equal(short["video"].permute(0, 2, 3, 1), RECORDED[f"short_video_{number}"])
    assert np.array_equal(short["segmentations"], _ids(expected))
    assert np.array_equal(short["classes"], expected.max(-1))


@pytest.mark.parametrize("index", range(3))
def test_ids_stay_those_of_the_annotations_whoever_is_seen(root: Path, index: int):
    source, number = _clips(root).source, NUMBERS[index]
    assert isinstance(source, youtube_vis.YouTubeVis)
    objects = source.objects(index)
    assert [found.number for found in objects] == RECORDED[f"ann_ids_{number}"].tolist()
    instances = RECORDED[f"segmentations_{number}"]
    for frame in range(len(instances)):
        masks = source.labels._masks(objects, frame, instances.shape[1:3], index)
        assert np.array_equal(masks, np.moveaxis(instances[frame, ..., : len(objects)], -1, 0) > 0)
        alone = _clips(root, windows="anywhere").source.open(index, ("segmentations",)).read(frame, frame + 1)
        assert np.array_equal(alone["segmentations"][0], _ids(instances)[frame])


@pytest.mark.parametrize("index", range(3))
def test_whole_videos_as_they_are_evaluated(root: Path, index: int):
    sample, number = _clips(root).sample(index, None), NUMBERS[index]
    expected = np.moveaxis(RECORDED[f"vs_segmentations_{number}"], 1, -1)
    length = len(expected)
    torch.testing.assert_close(
        normalized(sample["video"][:length]),
        torch.from_numpy(RECORDED[f"vs_video_{number}"]),
        atol=2e-6,
        rtol=0,
    )
    assert np.array_equal(sample["segmentations"][:length], _ids(expected))
    assert np.array_equal(sample["ignore"][:length], expected.sum(-1) > 1)
    assert len(sample["video"]) == 36 and not sample["segmentations"][length:].any()
    assert sample["padding_mask"][:length].all() and not sample["padding_mask"][length:].any()


def test_overlaps_are_an_error_unless_said_otherwise(root: Path):
    with pytest.raises(
        CorruptRecord, match=r"c0ae3a03a3: annotations 1 and 2 overlap in frame 1 of this clip.*ignore"
    ):
        _clips(root, overlaps=None).sample(0, None)
    sample = _clips(root, overlaps=None).sample(2, None)
    assert "overlaps" not in sample and not sample["ignore"].any()


def test_overlaps_that_are_gone_at_the_size_asked_for_are_none(root: Path):
    number = NUMBERS[0]
    overlap = (RECORDED[f"segmentations_{number}"] > 0).sum(-1) > 1
    changes = {"overlaps": None, "pre_resize": None, "eval_crop": "none", "square": True, "resolution": 1}
    assert overlap[1].any() and not overlap[:, 18, 32].any()
    assert _clips(root, **changes).sample(0, None)["segmentations"].shape == (36, 1, 1)


def test_crowds(root: Path):
    stored = _clips(root, crowds="ignore").stored(0)
    covering = (RECORDED[f"segmentations_{NUMBERS[0]}"] > 0).sum(-1)
    crowd = stored["ignore"].numpy() & (covering == 0)
    assert crowd.any() and not stored["segmentations"].numpy()[crowd].any()
    many = _clips(root, crowds="objects").stored(0)
    assert many["segmentations"].max() == 3 and _clips(root, crowds="objects").source.num_objects(0) == 3


# Splits, chunks


def test_the_last_videos_of_the_file_are_for_validation(root: Path, monkeypatch):
    assert [len(_clips(root, split)) for split in ("train", "validation", "all")] == [0, 3, 3]
    monkeypatch.setattr(youtube_vis, "_NUM_VALIDATION", 2)
    assert [_clips(root, "train").name(0)] == NAMES[:1]
    validation = _clips(root, "validation")
    assert [validation.name(i) for i in range(len(validation))] == NAMES[1:]
    assert [_clips(root, "validation", num_records=1).name(0)] == NAMES[1:2]
    assert youtube_vis.YouTubeVis(root, "train", CONFIG).num_objects(0) == 2


def test_each_whole_chunk_is_an_example_in_evaluation(root: Path):
    clips, whole = _clips(root, eval_chunks=2), _clips(root)
    assert [clips.name(i) for i in range(len(clips))] == [
        *("c0ae3a03a3:0-1", "c0ae3a03a3:2-3", "81b27ba02b:0-1", "f8bcb2e3fa:0-1", "f8bcb2e3fa:2-3")
    ]
    assert torch.equal(clips.sample(4, None)["video"], whole.sample(2, None)["video"][2:4])
    assert clips.sample(4, None)["name"] == "f8bcb2e3fa:2-3"
    with pytest.raises(
        UserError, match=r"No example of YouTube-VIS 2021 has 6 frames.*Lower `data.eval_chunks`"
    ):
        _clips(root, eval_chunks=6)
    with pytest.raises(
        UserError, match=r"No example of YouTube-VIS 2021 has 6 frames.*Lower `data.num_frames`"
    ):
        _clips(root, train=True, windows="chunks", num_frames=6)


def test_training_takes_whole_chunks_and_leaves_out_short_videos(root: Path):
    clips = _clips(root, train=True, windows="chunks", num_frames=2, keys=("video",), train_crop="square")
    whole = _clips(root, keys=("video",)).sample(2, None)["video"]
    seen = {clips.sample(2, np.random.default_rng(seed))["video"].numpy().tobytes() for seed in range(20)}
    assert "annotations" not in vars(clips.source)
    assert seen == {whole[:2].numpy().tobytes(), whole[2:4].numpy().tobytes()}
    longer = _clips(root, train=True, windows="chunks", num_frames=4, keys=("video",))
    assert [longer.name(i) for i in range(len(longer))] == [NAMES[0], NAMES[2]]
    batch = next(train_batches(_published(root), batch_size=2, seed=0))
    assert batch["video"].shape == (2, 4, 3, 14, 14) and batch["padding_mask"].all()


def _published(root: Path) -> Clips:
    """Clips of published trainings."""
    return _clips(
        root, train=True, windows="chunks", num_frames=4, keys=("video",), train_crop="random", flip=0.5
    )


def test_the_edition_of_2019_and_the_public_door(root: Path):
    (root / YTVIS_FILE).rename(root / "train.json")
    dataset = open_public(
        "youtube_vis_2019", root, split="validation", frames=3, resolution=16, overlaps="ignore"
    )
    assert len(dataset) == 3 and dataset[0]["video"].shape == (3, 3, 16, 28)
    assert inspect_dataset(str(root)).dataset == "youtube_vis_2019"
    with pytest.raises(
        UserError, match=r"no YouTube-VIS 2021 \(train/instances.json, and train/JPEGImages\)"
    ):
        _clips(root)


def test_inspection_finds_it_from_a_parent(root: Path):
    survey = inspect_dataset(str(root.parent), split="validation", out=root / "sheet.png", check=True)
    assert survey.dataset == "youtube_vis_2021" and survey.num_checked == 3 and not survey.corrupt
    assert sorted(survey.features) == ["boxes", "classes", "ignore", "segmentations", "video"]
    assert survey.objects == {0: 1, 2: 2} and (root / "sheet.png").exists()


# Faults


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda row: row.pop("category_id"), "lacks `category_id` of id 5 in `annotations`"),
        (lambda row: row.update(category_id=41), "has annotation 5 of category 41, which `categories` lacks"),
        (lambda row: row.update(video_id=9), "has annotation 5 of video 9, which `videos` lacks"),
        (lambda row: row["segmentations"].pop(), "has 4 masks in annotation 5, of 5 frames"),
        (lambda row: row.update(iscrowd="no"), "has 'no' as `iscrowd` of annotation 5, neither 0 nor 1"),
        (lambda row: row.update(id=1), "has id 1 twice in `annotations`"),
    ],
)
def test_annotations_that_do_not_fit(root: Path, change, reason: str):
    change_json(root / YTVIS_FILE, lambda tables: change(tables["annotations"][0]))
    with pytest.raises(
        UserError, match=rf"instances.json {reason}. Extract the archive with the annotations"
    ):
        _clips(root)


@pytest.mark.parametrize("size", [(10**30, 64), (-4, 64), (1 << 40, 64), (10**6, 10**6)])
def test_a_size_of_no_image_takes_no_memory(root: Path, size: tuple[int, int]):
    change_json(root / YTVIS_FILE, lambda tables: tables["videos"][0].update(height=size[0], width=size[1]))
    with pytest.raises(UserError, match=rf"instances.json has '{size[0]}' as `height` of id 3 in `videos`"):
        _clips(root)


def test_two_videos_of_one_id(root: Path):
    change_json(root / YTVIS_FILE, lambda tables: tables["videos"][0].update(id=tables["videos"][1]["id"]))
    with pytest.raises(UserError, match=r"instances.json has id \d+ twice in `videos`. Extract"):
        _clips(root)


def test_a_video_that_is_not_in_the_annotations(root: Path):
    (root / "train" / "JPEGImages" / "another").mkdir()
    with pytest.raises(
        UserError, match=r"JPEGImages holds 1 video that instances.json does not list, such as another. Move"
    ):
        _clips(root)


@pytest.mark.parametrize(
    "mask, reason",
    [
        ({"size": [10, 10], "counts": [100]}, r"a mask of size \[10, 10\]"),
        ({"counts": "o"}, "a mask of size None"),
        ("text", "a mask that is 'text', neither polygons nor run lengths"),
        ([[1, 2, 3, 4]], "not pairs x, y of three points"),
    ],
)
def test_masks_of_another_kind(root: Path, mask, reason: str):
    change_json(
        root / YTVIS_FILE, lambda tables: tables["annotations"][0]["segmentations"].__setitem__(1, mask)
    )
    with pytest.raises(
        CorruptRecord, match=rf"instances.json: record 2 has, in annotation 5, frame 1, .*{reason}"
    ):
        _clips(root).sample(2, None)


def test_a_video_without_frames_in_the_file(root: Path):
    change_json(root / YTVIS_FILE, lambda tables: tables["videos"][0].update(file_names=["00000.jpg"] * 4))
    with pytest.raises(UserError, match=r"lists no frames of video 3 as FOLDER/FRAME.jpg"):
        _clips(root)


def test_a_broken_mask_names_annotation_and_frame(root: Path):
    def cut(tables):
        tables["annotations"][0]["segmentations"][2]["counts"] = [1, 2]

    change_json(root / YTVIS_FILE, cut)
    with pytest.raises(CorruptRecord, match=r"instances.json: record 2 has, in annotation 5, frame 2, run"):
        _clips(root).sample(2, None)


def test_half_a_download(root: Path):
    folder = root / "train" / "JPEGImages" / NAMES[1]
    (folder / "00004.jpg").unlink()
    with pytest.raises(CorruptRecord, match=r"81b27ba02b/00004.jpg: record 1 cannot be read.*No such file"):
        _clips(root).sample(1, None)
    folder.rename(root / "elsewhere")
    with pytest.raises(
        UserError, match=r"lacks 1 of 3 videos that instances.json lists, such as 81b27ba02b. Extract"
    ):
        _clips(root)
    assert len(_clips(root, num_records=1)) == 1


def test_frames_of_another_size_than_told(root: Path):
    Image.new("RGB", (40, 20)).save(root / "train" / "JPEGImages" / NAMES[1] / "00004.jpg")
    with pytest.raises(
        CorruptRecord, match=r"00004.jpg: record 1 is 20 x 40, but instances.json says 40 x 40"
    ):
        _clips(root).sample(1, None)


def test_nothing_there_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no YouTube-VIS 2021.*torchslots data list"):
        _clips(tmp_path)
