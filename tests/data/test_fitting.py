"""Against the recorded transforms of the original programs, with their recorded draws."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.published import normalized
from recorded import GOLDEN
from torchslots.data import fitting, transforms
from torchslots.data.clips import finish_clip
from torchslots.data.config import DataConfig
from torchslots.data.transforms import Crop, Sample
from torchslots.io.errors import UserError
from torchslots.recipes.config import from_dict

RECORDED = np.load(GOLDEN / "features_preprocess.npz")
SIZE = int(RECORDED["input_size"])
CONFIG = DataConfig(
    keys=("video",),
    resolution=SIZE,
    interpolation="bicubic",
    train_crop="random",
    eval_crop="square",
    flip=0.5,
)
VIDEOS = ("v0", "v1")


def _video(name: str) -> Sample:
    video = torch.from_numpy(RECORDED[f"{name}/video"]).permute(0, 3, 1, 2)
    return {"video": video, "padding_mask": torch.ones(video[:, 0].shape, dtype=torch.bool)}


def _close(video: Tensor, recorded: str) -> None:
    expected = torch.from_numpy(RECORDED[recorded])
    torch.testing.assert_close(normalized(video).reshape(expected.shape), expected, atol=2e-6, rtol=0)


class Draws(np.random.Generator):
    """Recorded draws in place of sampled ones: top and left of the crop, then whether to mirror."""

    def __init__(self, draws: list[int]) -> None:
        super().__init__(np.random.PCG64(0))
        self.draws = draws

    def integers(self, high: int) -> int:  # type: ignore[override]
        found = self.draws.pop(0)
        assert 0 <= found < high
        return found

    def random(self) -> float:  # type: ignore[override]
        return 0.0 if self.draws.pop(0) else 0.9


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("draw", ["train0", "train1", "train2", "image_train0", "image_train1"])
def test_training_clips_of_recorded_draws(name: str, draw: str):
    top, left, flip = RECORDED[f"{name}/{draw}_top_left_flip"].tolist()
    clip = _video(name)
    if draw.startswith("image"):
        clip = {key: value[:1] for key, value in clip.items()}
    shape = fitting.short_side_size(*transforms.frame_size(clip), SIZE)
    resized = transforms.resize(clip, *shape, fitting.RESIZERS["bicubic"])
    cut = transforms.crop(resized, Crop(top, left, SIZE, SIZE))
    _close((fitting.mirror(cut) if flip else cut)["video"], f"{name}/{draw}")
    sampled = finish_clip(clip, CONFIG, len(clip["video"]), Draws([top, left, flip]))
    _close(sampled["video"], f"{name}/{draw}")


@pytest.mark.parametrize("name", VIDEOS)
def test_evaluation_and_squeezing(name: str):
    clip = _video(name)
    _close(finish_clip(clip, CONFIG, 2, None)["video"], f"{name}/central")
    squeezed = replace(CONFIG, square=True, eval_crop="none", train_crop="none", flip=0)
    for rng in (None, np.random.default_rng(0)):
        _close(finish_clip(clip, squeezed, 2, rng)["video"], f"{name}/movi")
    shape = fitting.short_side_size(*transforms.frame_size(clip), SIZE)
    assert list(shape) == RECORDED[f"{name}/short_size"].tolist()


def test_the_range_is_kept_where_bicubic_would_leave_it():
    edges = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    edges[..., 4:] = 255
    free = F.interpolate(edges.float() / 255, (13, 13), mode="bicubic")
    clip = {"video": edges, "padding_mask": torch.ones(1, 8, 8, dtype=torch.bool)}
    video = finish_clip(clip, replace(CONFIG, resolution=13), 1, None)["video"]
    assert free.min() < -0.01 and free.max() > 1.01 and torch.equal(video, free.clamp(0, 1))


@pytest.mark.parametrize("recorded", [name for name in RECORDED.files if name.startswith("chunks/")])
def test_whole_chunks(recorded: str):
    length, size = map(int, recorded.removeprefix("chunks/").split("_"))
    expected, starts = RECORDED[recorded], transforms.chunk_starts(length, size)
    assert [list(range(start, start + size)) for start in starts] == expected.tolist()
    if len(expected):
        sampled = {transforms.chunk_start(length, size, np.random.default_rng(seed)) for seed in range(200)}
        assert sampled == set(expected[:, 0].tolist())


def test_a_photo_squeezed_with_antialiasing_is_the_recorded_one():
    recorded = np.load(GOLDEN / "ftdinosaur_photo.npz")
    video = torch.from_numpy(recorded["photo"]).permute(2, 0, 1)[None]
    clip = {"video": video, "padding_mask": torch.ones(video[:, 0].shape, dtype=torch.bool)}
    size = recorded["photo_preprocessed"].shape[-1]
    squeezed = replace(
        CONFIG, interpolation="bicubic_antialias", resolution=size, square=True, eval_crop="none"
    )
    expected = torch.from_numpy(recorded["photo_preprocessed"])
    found = normalized(finish_clip(clip, squeezed, 1, None)["video"][0])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_eight_bit_antialiasing_is_that_of_torch_and_not_of_floats():
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 50, 40), np.uint8))
    clip = {"video": video, "padding_mask": torch.ones(2, 50, 40, dtype=torch.bool)}
    sharp = replace(CONFIG, interpolation="bicubic_antialias", eval_crop="center", resolution=14)
    found = finish_clip(clip, sharp, 2, None)["video"]
    levels = F.interpolate(video, (17, 14), mode="bicubic", antialias=True)[:, :, 2:16]
    assert levels.dtype == torch.uint8 and torch.equal(found, levels.float() * (1 / 255))
    floats = F.interpolate(video.float() / 255, (17, 14), mode="bicubic", antialias=True)[:, :, 2:16].clamp(
        0, 1
    )
    assert 0 < (found - floats).abs().max() <= 2 / 255


@pytest.mark.parametrize(
    "height, width, top, left", [(4, 7, 0, 2), (4, 9, 0, 2), (9, 4, 2, 0), (4, 11, 0, 4), (5, 5, 0, 0)]
)
def test_the_middle_is_rounded_to_even(height: int, width: int, top: int, left: int):
    side = min(height, width)
    assert fitting.central_square(height, width) == Crop(top, left, side, side)


def test_random_squares_reach_both_ends():
    rng = np.random.default_rng(0)
    areas = {fitting.sample_square(3, 6, rng) for _ in range(100)}
    assert areas == {Crop(0, left, 3, 3) for left in range(4)}


def _labelled() -> Sample:
    ids = torch.zeros(2, 6, 8, dtype=torch.int32)
    ids[:, 1:3, 5:] = 1
    boxes = transforms.mask_boxes(ids, 2)
    motion = torch.stack([torch.full((6, 8), 1.0), torch.full((6, 8), 2.0)]).expand(2, 2, 6, 8)
    sample = {"segmentations": ids, "ignore": ids > 0, "classes": ids * 7, "boxes": boxes, "flow": motion}
    sample["video"] = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 6, 8), np.uint8))
    return sample | {"padding_mask": torch.ones(2, 6, 8, dtype=torch.bool)}


def test_labels_boxes_and_motion_are_mirrored_too():
    sample = _labelled()
    mirrored = fitting.mirror(sample)
    for key in ("video", "segmentations", "ignore", "classes"):
        assert torch.equal(mirrored[key], sample[key].flip(-1))
    assert torch.equal(mirrored["boxes"], transforms.mask_boxes(mirrored["segmentations"], 2))
    assert torch.equal(mirrored["flow"][:, 0], sample["flow"][:, 0])
    assert torch.equal(mirrored["flow"][:, 1], -sample["flow"][:, 1])
    again = fitting.mirror(mirrored)
    assert all(torch.equal(again[key], sample[key]) for key in sample)
    with pytest.raises(UserError, match=r"`properties` cannot be mirrored: set `data.flip` to 0"):
        fitting.mirror({**sample, "properties": torch.zeros(2, 2, 19)})


def test_a_part_of_the_clips_is_mirrored_and_none_in_evaluation():
    clip, config = _video("v0"), replace(CONFIG, train_crop="square", flip=0.25)
    plain = finish_clip(clip, config, 2, None)["video"]
    flipped = [
        torch.equal(finish_clip(clip, config, 2, np.random.default_rng(seed))["video"], plain.flip(-1))
        for seed in range(200)
    ]
    assert 30 < sum(flipped) < 70


def test_labels_have_a_size_of_their_own_in_evaluation_alone():
    sample = {key: value for key, value in _labelled().items() if key != "flow"}
    config = replace(CONFIG, eval_crop="center", train_crop="center", label_size=12, resolution=3, flip=0)
    evaluated = finish_clip(sample, config, 2, None)
    trained = finish_clip(sample, config, 2, np.random.default_rng(0))
    assert evaluated["video"].shape == trained["video"].shape == (2, 3, 3, 3)
    assert trained["segmentations"].shape == (2, 3, 3) and evaluated["padding_mask"].shape == (2, 3, 3)
    expected = sample["segmentations"].repeat_interleave(2, 1).repeat_interleave(2, 2)[..., 2:14]
    assert torch.equal(evaluated["segmentations"], expected)
    assert torch.equal(evaluated["classes"], expected * 7) and torch.equal(evaluated["ignore"], expected > 0)


def test_frames_are_made_smaller_before_all_else():
    sample = {key: value for key, value in _labelled().items() if key != "flow"}
    small = fitting.pre_resize(sample, 3)
    assert (
        torch.equal(small["video"], sample["video"][:, :, 1::2, 1::2]) and small["video"].dtype == torch.uint8
    )
    assert torch.equal(small["classes"], sample["classes"][:, 1::2, 1::2])
    finished = finish_clip(sample, replace(CONFIG, pre_resize=3, resolution=3), 2, None)
    assert torch.equal(finished["video"], small["video"][..., :3].float() * (1 / 255))
    with pytest.raises(UserError, match=r"`data.pre_resize` is for frames and masks, not for flow"):
        fitting.pre_resize(_labelled(), 3)


def test_recipes_saved_before_load_and_new_ones_return():
    old = {"dataset": "movi_a", "keys": ["video"], "resolution": 64, "square": True, "windows": "anywhere"}
    assert from_dict(DataConfig, old, "old") == DataConfig(
        "movi_a", ("video",), square=True, windows="anywhere"
    )
    new = replace(
        CONFIG, windows="chunks", overlaps="ignore", crowds="uncovered", label_size=320, pre_resize=320
    )
    assert from_dict(DataConfig, json.loads(json.dumps(asdict(new))), "new") == new
