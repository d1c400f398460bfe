"""Metrics of plain integer maps: they say what the tables of the library say, whatever the ids are called."""

import math

import numpy as np
import pytest
import torch

from torchslots import metrics
from torchslots.io.errors import UserError
from torchslots.metrics import segmentation
from torchslots.metrics.segmentation import contingency

NAMES = [name for name in metrics.__all__ if name != "jf"]
"""Figures of the pixels of a clip, wherever they lie; boundaries are where they are."""
SHAPE = (3, 4, 9, 7)


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, SHAPE)
    predicted = np.where(rng.random(SHAPE) < 0.6, true, rng.integers(0, 6, SHAPE))
    return true, predicted


def figure(name: str, *given, **options) -> float:
    return getattr(metrics, name)(*given, **options)


@pytest.mark.parametrize("name", ["ari", "fg_ari", "miou", "fg_miou", "mbo", "corloc", "recall"])
def test_they_are_the_figures_of_whole_videos(name):
    true, predicted = maps()
    tables = contingency(torch.from_numpy(true), torch.from_numpy(predicted), 6, 5).sum(1)
    assert figure(name, true, predicted) == pytest.approx(float(getattr(segmentation, name)(tables).mean()))


@pytest.mark.parametrize("name", metrics.__all__)
@pytest.mark.parametrize("dims", [2, 3, 4])
def test_no_renumbering_changes_a_figure(name, dims):
    true, predicted = (ids[(0,) * (4 - dims)] for ids in maps())
    expected = figure(name, true, predicted)
    objects, slots = np.array([0, 900, -3, 17, 4]), np.array([70, 3, 0, -8, 2, 100_000])
    assert figure(name, objects[true], slots[predicted]) == pytest.approx(expected, abs=1e-12)
    assert isinstance(expected, float) and 0 <= expected <= 1


@pytest.mark.parametrize("name", metrics.__all__)
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


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_might_as_well_not_be_there(name):
    """By a boolean map, by ids, by both of two ids, in every clip of a batch."""
    true, predicted = maps()
    columns = np.zeros(SHAPE, bool)
    columns[..., 2:5] = True
    rest = [np.delete(ids, [2, 3, 4], -1) for ids in (true, predicted)]
    expected = figure(name, *rest)
    assert figure(name, true, predicted, columns) == pytest.approx(expected)
    assert figure(name, true, predicted, ignore=torch.from_numpy(columns)) == pytest.approx(expected)
    marked = np.where(columns, np.where(predicted < 3, 255, -7), true)
    for several in ([255, -7], (-7, 255), np.array([255, -7], np.int16), {255, -7}):
        assert figure(name, marked, predicted, ignore=several) == pytest.approx(expected)
    assert figure(name, true, predicted, ignore=()) == figure(name, true, predicted)


@pytest.mark.parametrize("name", metrics.__all__)
@pytest.mark.parametrize("ignore", ["a", 2.5, 1j, True, [1, 2.5], ["a"], [[1, 2], [3]], {"a": 1}, b"1"])
def test_an_ignore_of_another_kind_is_refused(name, ignore):
    with pytest.raises(UserError, match="`ignore`"):
        figure(name, np.zeros((2, 2), int), np.zeros((2, 2), int), ignore=ignore)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_an_ignore_map_of_another_shape_or_of_integers_is_refused(kind):
    true = np.zeros((2, 3, 4), int)
    with pytest.raises(UserError, match=r"`ignore` should be .* boolean map \[2, 3, 4\]"):
        metrics.mbo(true, true, ignore=np.zeros((3, 4) if kind is bool else true.shape, kind))


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


@pytest.mark.parametrize("name", metrics.__all__)
@pytest.mark.parametrize(
    ("true", "predicted", "says"),
    [
        ([[1, 2], [3]], [[1, 2], [3]], "`true` is no array"),
        ([[1, 2], [3, 4]], [[1, 2], [3]], "`predicted` is no array"),
        (np.zeros((2, 2), complex), np.zeros((2, 2), int), "`true` should be integers"),
        (torch.zeros(2, 2, dtype=torch.complex64), np.zeros((2, 2), int), "`true` should be integers"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), np.zeros((2, 2), int), "`true` should be integers"),
        (np.zeros((0, 3, 2, 2), int), np.zeros((0, 3, 2, 2), int), "`true` has no pixel"),
        (np.zeros((2, 0), int), np.zeros((2, 0), int), "`true` has no pixel"),
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


def test_other_boundaries_are_refused():
    with pytest.raises(UserError, match="exact or tolerant, got 'near'"):
        metrics.jf(np.zeros((2, 2), int), np.zeros((2, 2), int), boundaries="near")  # pyright: ignore[reportArgumentType]


def test_lists_will_do():
    assert metrics.mbo([[0, 8, 1, 1]], [[0, 4, 4, 4]]) == 0.5  # pyright: ignore[reportArgumentType]


def test_corloc_and_recall_by_hand():
    true = np.array([[[0, 1, 1, 2, 2, 2]], [[0, 1, 1, 2, 2, 2]], [[0, 0, 0, 0, 0, 0]]])[:, None]
    slots = np.array([[[9, 9, 3, 3, 3, 3]], [[1, 2, 2, 3, 4, 4]], [[0, 1, 2, 3, 4, 5]]])[:, None]
    # one of two objects has a slot with IoU 3/4; then 2/2 and 2/3; the third image has no object
    assert metrics.recall(true, slots) == pytest.approx((1 / 2 + 1) / 2)
    assert metrics.corloc(true, slots) == 1 and metrics.corloc(true[2], slots[2]) != 0
    halves = np.array([[1, 1, 2, 2]]), np.array([[1, 2, 2, 1]])
    assert metrics.corloc(*halves) == 0 == metrics.recall(*halves)
    exactly_half = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert metrics.recall(*exactly_half) == metrics.corloc(*exactly_half) == 0
