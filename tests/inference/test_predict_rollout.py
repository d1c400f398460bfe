"""Frames that nobody shows: predicted behind those of a file, marked as such; memory that does not grow."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tiny_models import TINY
from torchslots.inference.predict import PredictOptions, predict, predict_frames
from torchslots.io import video
from torchslots.io.draw import mark_predicted
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel, rollout
from torchslots.recipes import isa, savi, statm
from torchslots.recipes.savi import CnnConfig

FREE = replace(TINY, conditioning="learned_gaussian")


def savi_of(*targets: str) -> ObjectCentricModel:
    torch.manual_seed(0)
    return savi.build(replace(FREE, targets=targets or ("flow",))).eval()


def statm_model(max_frames: int | None = None) -> ObjectCentricModel:
    torch.manual_seed(0)
    return statm.build(statm.StatmConfig(FREE, max_frames=max_frames)).eval()


def isa_model() -> ObjectCentricModel:
    config = isa.IsaConfig(
        resolution=(16, 16), encoder=CnnConfig((6,), (1,)), decoder=isa.CnnDecoderConfig((8, 8), (6,), (2,))
    )
    return isa.build(config)


def frames(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [savi_of, statm_model])
@pytest.mark.parametrize("slice_size", [1, 2, 6])
def test_predicted_frames_are_those_of_the_rollout(make, slice_size):
    model = make()
    options = PredictOptions(observe=4, rollout=3, slice_size=slice_size)
    found = predict_frames(model, frames(), options=options)
    small = torch.from_numpy(frames()).float().unflatten(1, (16, 2)).unflatten(3, (24, 2)).mean((2, 4)) / 255
    batch = {"video": small.movedim(-1, 1)[None], "generator": torch.Generator().manual_seed(0)}
    wanted = rollout(model, batch, 4, 3).masks[0]
    assert found.masks.shape == (7, 5, 16, 24) and found.segmentation.shape == (7, 32, 48)

    # The background is moved to the front; the others keep their order.
    def sort(masks: np.ndarray) -> np.ndarray:
        return np.sort(masks, axis=1)

    np.testing.assert_allclose(sort(found.masks), sort(wanted.numpy()), atol=1e-4)


def test_what_follows_the_observed_frames_is_never_looked_at():
    options, changed = PredictOptions(observe=3), frames()
    changed[3:] = 0
    first, second = (predict_frames(savi_of(), clip, options=options) for clip in (frames(), changed))
    assert len(first.masks) == 6 and np.array_equal(first.masks, second.masks)


@pytest.mark.parametrize("targets", [("flow",), ("video", "flow")])
def test_films_go_on_with_marked_frames(tmp_path, targets):
    video.write_video(tmp_path / "clip.mp4", frames().repeat(4, 1).repeat(4, 2), 10.0)
    options = PredictOptions(observe=3, rollout=5)
    (folder,) = predict(savi_of(*targets), [tmp_path / "clip.mp4"], tmp_path / "out", options)
    told = json.loads((folder / "tracks.json").read_text())
    assert [entry.get("predicted", False) for entry in told["frames"]] == [False] * 3 + [True] * 5
    shown = video.read_frames(folder / "overlay.mp4")
    assert len(shown) == 8 and video.frame_count(folder / "slots.mp4") == 8
    orange = (shown[:, 0, :, 0].mean(-1) > 200) & (shown[:, 0, :, 2].mean(-1) < 90)
    assert orange.tolist() == [False] * 3 + [True] * 5


def test_one_picture_becomes_a_film_with_a_future(tmp_path):
    video.write_png(tmp_path / "one.png", frames(1)[0])
    (folder,) = predict(savi_of("video"), [tmp_path / "one.png"], tmp_path / "out", PredictOptions(rollout=2))
    assert video.frame_count(folder / "overlay.mp4") == 3


def test_a_frame_with_the_mark_keeps_its_middle():
    picture = np.full((64, 96, 3), 7, np.uint8)
    marked = mark_predicted(picture)
    assert (marked[20:-4, 4:-4] == 7).all() and (marked[0] != 7).all()
    assert mark_predicted(picture[:4, :4]).shape == (4, 4, 3)


def test_streams_run_in_bounded_memory_and_the_model_keeps_its_own_bound():
    model, bounded = statm_model(), statm_model(max_frames=2)
    whole = predict_frames(model, frames())
    found = predict_frames(model, frames(), options=PredictOptions(max_frames=2))
    assert np.array_equal(found.slots, predict_frames(bounded, frames()).slots)
    assert not np.allclose(found.slots, whole.slots)
    assert np.array_equal(predict_frames(model, frames()).slots, whole.slots)
    with pytest.raises(UserError, match="remembers no frames"):
        predict_frames(savi_of(), frames(), options=PredictOptions(max_frames=2))


def test_models_of_single_pictures_predict_nothing():
    with pytest.raises(UserError, match="predicts no frames"):
        predict_frames(isa_model(), frames(), options=PredictOptions(rollout=2))


def test_models_that_draw_or_learn_their_slots_take_no_hints():
    for model in (savi_of(), statm_model(), isa_model()):
        with pytest.raises(UserError, match="without hints"):
            predict_frames(model, frames(), boxes=[[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"observe": 7}, "Cannot observe 7 frames of an input of 6"),
        ({"observe": 6}, "none follows"),
    ],
)
def test_plans_that_the_input_is_too_short_for_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        predict_frames(savi_of(), frames(), options=replace(PredictOptions(), **settings))


@pytest.mark.parametrize("name", ["observe", "rollout", "max_frames"])
def test_numbers_of_frames_are_positive(name):
    with pytest.raises(UserError, match=f"{name} should be more than 0"):
        replace(PredictOptions(), **{name: 0})
