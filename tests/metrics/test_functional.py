"""Metrics of plain integer maps: they say what the tables of the library say, whatever the ids are called."""

import math

import numpy as np
import pytest
import torch

from torchslots import metrics
from torchslots.io.errors import UserError
from torchslots.metrics import segmentation
from torchslots.metrics.segmentation import contingency

NAMES = metrics.__all__
SHAPE = (3, 4, 9, 7)


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, SHAPE)
    predicted = np.where(rng.random(SHAPE) < 0.6, true, rng.integers(0, 6, SHAPE))
    return true, predicted


def figure(name: str, *given, **options) -> float:
    return getattr(metrics, name)(*given, **options)


@pytest.mark.parametrize("name", ["ari", "fg_ari", "miou", "fg_miou", "mbo"])
def test_they_are_the_figures_of_whole_videos(name):
    true, predicted = maps()
    tables = contingency(torch.from_numpy(true), torch.from_numpy(predicted), 6, 5).sum(1)
    assert figure(name, true, predicted) == pytest.approx(float(getattr(segmentation, name)(tables).mean()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [2, 3, 4])
def test_no_renumbering_changes_a_figure(name, dims):
    true, predicted = (ids[(0,) * (4 - dims)] for ids in maps())
    expected = figure(name, true, predicted)
    objects, slots = np.array([0, 900, -3, 17, 4]), np.array([70, 3, 0, -8, 2, 100_000])
    assert figure(name, objects[true], slots[predicted]) == pytest.approx(expected, abs=1e-12)
    assert isinstance(expected, float) and 0 <= expected <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint64, torch.uint8, torch.int32]
)
def test_any_integers_will_do(name, kind):
    true, predicted = maps()
    expected = figure(name, true, predicted)
    if isinstance(kind, torch.dtype):
        given = (torch.from_numpy(true).to(kind), predicted.astype(np.int16))
    else:
        given = (true.astype(kind), torch.from_numpy(predicted))
    assert figure(name, *given) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_judged_over_all_its_frames_and_a_batch_is_the_mean(name):
    true, predicted = maps()
    flat = figure(name, true[0].reshape(-1, 7), predicted[0].reshape(-1, 7))
    assert figure(name, true[0], predicted[0]) == pytest.approx(flat)
    alone = [figure(name, *clip) for clip in zip(true, predicted)]
    assert figure(name, true, predicted) == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_of_an_id_are_left_out(name):
    true, predicted = maps()
    true, predicted = true[0], predicted[0]
    marked = np.where(np.arange(7) < 2, 255, true)
    assert figure(name, marked, predicted, ignore=255) == pytest.approx(
        figure(name, true[..., 2:], predicted[..., 2:])
    )


def test_figures_by_hand():
    true, slots = np.array([[0, 0, 1, 1, 2, 2]]), np.array([[0, 1, 1, 1, 1, 1]])
    assert metrics.miou(true, slots) == pytest.approx((1 / 2 + 2 / 5) / 3)
    assert metrics.fg_miou(true, slots) == pytest.approx(2 / 5 / 2)
    assert metrics.mbo(true, slots) == pytest.approx(2 / 5)
    assert metrics.average_precision(true, slots) == 0
    assert metrics.average_precision(true, true + 7, threshold=0.9) == 1
    assert metrics.average_precision(np.array([[1, 1, 1, 2]]), np.array([[4, 4, 4, 4]])) == 1 / 2


def test_clips_without_objects():
    nothing, slots = np.zeros((2, 2), int), np.arange(4).reshape(2, 2)
    assert metrics.fg_ari(nothing, slots) == 1
    assert math.isnan(metrics.mbo(nothing, slots)) and math.isnan(metrics.fg_miou(nothing, slots))
    both = np.stack([nothing, np.ones((2, 2), int)])[:, None]
    assert metrics.mbo(both, np.ones_like(both)) == 1
    assert math.isnan(metrics.miou(nothing, slots, ignore=0)) and metrics.ari(nothing, slots, ignore=0) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("true", "predicted", "says"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "should have one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "`true` should be integers"),
        (np.zeros(4, int), np.zeros(4, int), "`true` should be integers"),
        (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2), "`predicted` should be integers"),
    ],
)
def test_other_maps_are_refused(name, true, predicted, says):
    with pytest.raises(UserError, match=says):
        figure(name, true, predicted)


def test_thresholds_that_would_match_twice_are_refused():
    with pytest.raises(UserError, match=r"\[0.5, 1\)"):
        metrics.average_precision(np.zeros((2, 2), int), np.zeros((2, 2), int), threshold=0.3)
