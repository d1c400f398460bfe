"""Average precision of sets: the recorded values, a plain loop over pairs, and speed."""

import time

import numpy as np
import pytest
import torch

from torchslots.data.objects import ATTRIBUTES, NUM_PROPERTIES, decode_object, encode_objects
from torchslots.metrics.set_prediction import (
    DEFINITIONS,
    LABELS,
    AveragePrecision,
    average_precision,
    nearest_objects,
    ranking,
)

DISTANCES = (float("inf"), 1.0, 0.5, 0.25, 0.125)


@pytest.fixture(scope="module")
def recorded(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "metrics_ap.npz"))


def random_sets(seed: int, images: int, predictions: int, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """True sets, and predictions that are often close to one of their objects."""
    rng = np.random.default_rng(seed)
    labels = {
        name: rng.integers(0, place.stop - place.start, (images, objects))
        for name, place in ATTRIBUTES.items()
    }
    counts = rng.integers(0, objects + 1, images)
    true = np.stack(
        [
            encode_objects(
                rng.uniform(-3, 3, (count, 3)), {k: v[i][:count] for k, v in labels.items()}, objects
            )
            for i, count in enumerate(counts)
        ]
    )
    which = rng.integers(0, objects, (images, predictions))
    predicted = np.take_along_axis(true, which[..., None], 1)
    predicted = predicted + rng.normal(0, 0.03, predicted.shape).astype(np.float32)
    predicted[..., -1] = rng.random((images, predictions))
    return predicted.astype(np.float32), true


def by_loops(predicted: np.ndarray, true: np.ndarray, limit: float) -> float:
    """The definition, one pair at a time."""
    order = np.argsort(predicted[..., -1].reshape(-1))[::-1]
    used, right = set(), []
    for flat in order:
        image, k = divmod(int(flat), predicted.shape[1])
        mine, best, nearest = predicted[image, k], 10_000.0, None
        for j, one in enumerate(true[image]):
            alike = all(mine[place].argmax() == one[place].argmax() for place in ATTRIBUTES.values())
            distance = np.linalg.norm((one[:3] - mine[:3]) * np.float32(6))
            if one[-1] and alike and distance < best:
                best, nearest = distance, j
        hit = best < limit and nearest is not None and (image, nearest) not in used
        used |= {(image, nearest)} if hit else set()
        right.append(hit)
    hits, total = np.cumsum(right), true[..., -1].sum()
    recall = [0.0, *(hits / total).astype(np.float32).tolist(), 1.0]
    precision = [0.0, *(hits / np.arange(1, len(right) + 1)).astype(np.float32).tolist(), 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((b - a) * p for a, b, p in zip(recall, recall[1:], precision[1:]))


def test_recorded_values(recorded):
    for i in range(int(recorded["num_cases"])):
        found = average_precision(recorded[f"pred_{i}"], recorded[f"target_{i}"])
        np.testing.assert_allclose(found, recorded[f"ap_{i}"], rtol=0, atol=1e-9)


def test_ties_in_the_recorded_order(recorded):
    for i in range(int(recorded["num_ties"])):
        predicted, true = recorded[f"ties_pred_{i}"], recorded[f"ties_target_{i}"]
        assert len(np.unique(predicted[..., -1])) < predicted[..., -1].size
        found = average_precision(predicted, true, order=recorded[f"ties_order_{i}"])
        np.testing.assert_allclose(found, recorded[f"ties_ap_{i}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("seed", "images", "predictions", "objects"), [(0, 6, 5, 4), (1, 3, 12, 10), (2, 8, 3, 7)]
)
def test_equal_to_plain_loops(seed, images, predictions, objects):
    predicted, true = random_sets(seed, images, predictions, objects)
    expected = [by_loops(predicted, true, limit) for limit in DISTANCES]
    np.testing.assert_allclose(average_precision(predicted, true), expected, rtol=0, atol=1e-9)
    assert expected[0] > 0.1


def test_a_nearest_object_that_is_taken_makes_it_wrong():
    labels = {name: np.zeros(2, int) for name in ATTRIBUTES}
    true = encode_objects(np.array([[0.0, 0, 0], [1.0, 0, 0]]), labels, 2)[None]
    predicted = true[:, [0, 0]].copy()
    predicted[0, :, 0] += np.float32([0.0, 0.01])
    predicted[0, :, -1] = [0.9, 0.8]
    nearest, distance = nearest_objects(predicted, true)
    assert nearest.tolist() == [[0, 0]]
    np.testing.assert_allclose(distance, [[0, 0.06]], atol=1e-5)
    np.testing.assert_allclose(average_precision(predicted, true), [0.5] * 5)


def test_without_objects_there_is_no_score():
    predicted, _ = random_sets(0, 2, 3, 3)
    assert np.isnan(average_precision(predicted, np.zeros((2, 4, NUM_PROPERTIES), np.float32))).all()
    with pytest.warns(UserWarning, match="before the"):
        assert all(np.isnan(value) for value in AveragePrecision().compute().values())


def test_batches_are_ranked_together():
    predicted, true = random_sets(5, 12, 6, 5)
    metric = AveragePrecision()
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        metric.update(torch.from_numpy(predicted[part])[:, None], torch.from_numpy(true[part])[:, None])
    expected = average_precision(predicted, true)
    found = metric.compute()
    assert (
        list(found)
        == ["ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"]
        == list(DEFINITIONS)
        == list(LABELS)
    )
    np.testing.assert_array_equal(list(found.values()), expected)
    alone = average_precision(predicted[:5], true[:5])
    assert not np.array_equal(alone, expected)


def test_sets_of_other_sizes_join_without_a_trace():
    small, large = random_sets(6, 4, 3, 2), random_sets(7, 4, 7, 6)
    metric = AveragePrecision()
    for predicted, true in (small, large):
        metric.update(torch.from_numpy(predicted), torch.from_numpy(true))
    away = np.array([[1.0, 2.0, 3.0]])
    labels = {name: np.zeros(1, int) for name in ATTRIBUTES}
    filler = np.repeat(encode_objects(away, labels, 1), 4, 0)[None].repeat(4, 0)
    filler[..., 3:] = 0
    filler[..., -1] = -1e9
    padded = np.concatenate([np.concatenate([small[0], filler], 1), large[0]])
    objects = np.concatenate([np.pad(small[1], ((0, 0), (0, 4), (0, 0))), large[1]])
    far = average_precision(padded, objects, (1.0, 0.5, 0.25, 0.125))
    np.testing.assert_allclose(list(metric.compute().values())[1:], far)


def test_the_reference_reverses_an_ascending_sort():
    assert ranking(np.float32([0.1, 0.9, 0.5])).tolist() == [1, 2, 0]


def test_words_and_numbers_go_both_ways():
    labels = {
        "size": np.array([1]),
        "material": np.array([0]),
        "shape": np.array([2]),
        "color": np.array([7]),
    }
    row = encode_objects(np.array([[-3.0, 0.0, 1.5]]), labels, 2)
    one = decode_object(row[0])
    assert one.words() == "large cyan rubber cylinder"
    assert one.position == (-3.0, 0.0, 1.5)
    assert one.confidence == 1
    assert not row[1].any()


def test_fifteen_thousand_images_take_seconds():
    predicted, true = random_sets(8, 500, 10, 10)
    predicted, true = np.tile(predicted, (30, 1, 1)), np.tile(true, (30, 1, 1))
    start = time.process_time()
    average_precision(predicted, true)
    assert time.process_time() - start < 5


def test_processes_join_their_images():
    predicted, true = random_sets(9, 8, 5, 4)
    whole, parts = AveragePrecision(), [AveragePrecision() for _ in range(3)]
    whole.update(torch.from_numpy(predicted), torch.from_numpy(true))
    for part, rows in zip(parts, (slice(0, 3), slice(3, 8))):
        part.update(torch.from_numpy(predicted[rows]), torch.from_numpy(true[rows]))
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == whole.compute()
