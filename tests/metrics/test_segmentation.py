"""Segmentation metrics: recorded values, cases worked out by hand, and what must not change them."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from recorded import GOLDEN
from torchslots.metrics.segmentation import (
    FrameMean,
    Numbering,
    VideoMean,
    adjusted_rand_index,
    ari,
    contingency,
    fg_ari,
    fg_miou,
    intersection_over_union,
    mbo,
    miou,
    num_foreground,
)

_SAVI = np.load(GOLDEN / "savi_metrics/metrics.npz")
_IMAGES = np.load(GOLDEN / "metrics_ari_sa_isa.npz")
_SEG_IN = np.load(GOLDEN / "sd_metrics/seg_inputs.npz")
_SEG_OUT = np.load(GOLDEN / "sd_metrics/seg_outputs.npz")


def _random_ids(seed: int, num_ids: int, shape=(4, 3, 9, 7)) -> torch.Tensor:
    return torch.randint(num_ids, shape, generator=torch.Generator().manual_seed(seed))


def _savi_tables(case: int) -> torch.Tensor:
    get = lambda key: _SAVI.get(f"case{case:02d}/{key}")  # noqa: E731
    padding = get("padding_mask")
    mask = None if padding is None else torch.from_numpy(padding.astype(bool))
    ids = (torch.from_numpy(get("true")), torch.from_numpy(get("pred")))
    return contingency(*ids, int(get("num_pred")), int(get("num_true")), mask).sum(1)


@pytest.mark.parametrize("case", range(int(_SAVI["num_cases"])))
def test_video_level_ari_equals_recorded(case: int):
    tables = _savi_tables(case)
    np.testing.assert_allclose(ari(tables), _SAVI[f"case{case:02d}/ari"], atol=1e-5)
    np.testing.assert_allclose(fg_ari(tables), _SAVI[f"case{case:02d}/ari_nobg"], atol=1e-5)


def test_mean_over_real_videos_equals_recorded():
    cases = [i for i in range(int(_SAVI["num_cases"])) if f"case{i:02d}/Ari_value" in _SAVI]
    assert len(cases) > 5
    for case in cases:
        real = torch.from_numpy(_SAVI[f"case{case:02d}/mask"].astype(bool))
        for score, name in ((ari, "Ari"), (fg_ari, "AriNoBg")):
            mean = VideoMean(score)
            mean.update(_savi_tables(case)[real])
            np.testing.assert_allclose(mean.compute(), _SAVI[f"case{case:02d}/{name}_value"], atol=1e-5)


@pytest.mark.parametrize("case", range(int(_IMAGES["num_cases"])))
def test_image_ari_equals_both_recorded_conventions(case: int):
    arrays = {name: torch.from_numpy(_IMAGES[f"{name}_{case}"]) for name in ("true", "pred", "padmask")}
    num_slots, num_objects = int(_IMAGES[f"num_pred_{case}"]), int(_IMAGES[f"num_true_{case}"])
    plain = contingency(arrays["true"], arrays["pred"], num_slots, num_objects)
    padded = contingency(arrays["true"], arrays["pred"], num_slots, num_objects, arrays["padmask"].bool())
    for foreground, name in ((False, "ari"), (True, "fg_ari")):
        isa = adjusted_rand_index(padded, foreground=foreground)
        mod = adjusted_rand_index(plain, foreground=foreground, undefined="nan")
        np.testing.assert_allclose(isa, _IMAGES[f"isa_{name}_{case}"], atol=1e-5)
        np.testing.assert_allclose(mod, _IMAGES[f"mod_{name}_{case}"], atol=1e-5)


def test_nan_convention_treats_background_as_object_one():
    """One object, one slot everywhere: 1; the other videos with a denominator of 0 are NaN."""
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 2, 2]], [[0, 0, 0, 0]]])
    tables = contingency(truth, torch.zeros_like(truth), 2)
    values = adjusted_rand_index(tables, foreground=True, undefined="nan")
    assert values[0] == 1 and values[1].isnan() and values[2] == 1


@pytest.mark.parametrize(
    ("name", "score"), [("ari", ari), ("fari", fg_ari), ("miou", miou), ("fmiou", fg_miou), ("mbo", mbo)]
)
def test_video_level_scores_equal_recorded(name: str, score):
    """40 cases of 2 videos of 3 frames; a batch's value skips its undefined videos."""
    truth, prediction = torch.from_numpy(_SEG_IN["gt"]), torch.from_numpy(_SEG_IN["pred"])
    tables = contingency(truth, prediction, int(prediction.max()) + 1).sum(2)
    values = score(tables)
    np.testing.assert_allclose(values, _SEG_OUT[f"{name}_per_sample"], atol=1e-5)
    means = []
    for table in tables:
        mean = VideoMean(score)
        mean.update(table)
        means.append(mean.compute())
    np.testing.assert_allclose(means, _SEG_OUT[name], atol=1e-5)


def _by_definition(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """The figures of one set of pixels, from pairs of pixels and pairs of masks."""
    ids = np.unique(truth)
    overlap = np.array(
        [[_iou(truth == g, prediction == k) for k in range(prediction.max() + 1)] for g in ids]
    )
    matched = lambda rows: (  # noqa: E731
        overlap[rows][linear_sum_assignment(overlap[rows], maximize=True)].sum() / len(overlap[rows])
        if len(overlap[rows])
        else np.nan
    )
    objects = slice(int(ids[0] == 0), None)
    return {
        "ari": _pair_ari(truth, prediction),
        "fari": _pair_ari(truth[truth > 0], prediction[truth > 0]),
        "miou": matched(slice(0, None)),
        "fmiou": matched(objects),
        "mbo": overlap[objects].max(1).mean() if len(overlap[objects]) else np.nan,
    }


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


def _pair_ari(truth: np.ndarray, prediction: np.ndarray) -> float:
    pairs = np.triu(np.ones((len(truth), len(truth)), bool), 1)
    same_object = (truth[:, None] == truth) & pairs
    same_slot = (prediction[:, None] == prediction) & pairs
    both, objects, slots, every = (
        float(a.sum()) for a in (same_object & same_slot, same_object, same_slot, pairs)
    )
    chance = objects * slots / max(every, 1)
    greatest = (objects + slots) / 2
    return 1.0 if greatest == chance else (both - chance) / (greatest - chance)


@pytest.mark.parametrize("per_frame", [False, True])
def test_figures_of_videos_and_of_frames_by_their_definitions(per_frame: bool):
    """On the recorded cases; frames are judged each by itself, so that a slot may change its object."""
    truth, prediction = (_SEG_IN[name].astype(int) for name in ("gt", "pred"))
    if per_frame:
        truth, prediction = truth.reshape(-1, 1, 12, 16), prediction.reshape(-1, 1, 12, 16)
    truth, prediction = (ids.reshape(-1, *ids.shape[-3:]) for ids in (truth, prediction))
    expected = [_by_definition(t.ravel(), p.ravel()) for t, p in zip(truth, prediction)]
    num_slots = int(prediction.max()) + 1
    tables = contingency(torch.from_numpy(truth), torch.from_numpy(prediction), num_slots).sum(1)
    scores = {"ari": ari, "fari": fg_ari, "miou": miou, "fmiou": fg_miou, "mbo": mbo}
    for name, score in scores.items():
        np.testing.assert_allclose(score(tables), [row[name] for row in expected], atol=1e-12)
        if not per_frame:
            recorded = _SEG_OUT[f"{name}_per_sample"].ravel()
            np.testing.assert_allclose([row[name] for row in expected], recorded, atol=1e-5)


def test_hand_made_case():
    """Object 1 has 3 of its 4 pixels in slot 1; object 2 is in slot 0, with 4 of 5 background pixels."""
    truth = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]]).reshape(1, 1, 11)
    prediction = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]]).reshape(1, 1, 11)
    table = contingency(truth, prediction, 2)
    assert table.tolist() == [[[4, 1], [1, 3], [2, 0]]]
    assert intersection_over_union(table)[0].tolist() == [[4 / 8, 1 / 8], [1 / 10, 3 / 5], [2 / 7, 0]]
    assert miou(table).item() == pytest.approx((4 / 8 + 3 / 5) / 3)
    assert fg_miou(table).item() == pytest.approx((3 / 5 + 2 / 7) / 2)
    assert mbo(table).item() == pytest.approx((3 / 5 + 2 / 7) / 2)
    pairs, objects, slots, every = 6 + 2, 12 + 2, 6 + 6, 30
    chance = objects * slots / every
    assert fg_ari(table).item() == pytest.approx((pairs - chance) / ((objects + slots) / 2 - chance))


def test_a_slot_may_be_best_for_two_objects_but_matched_to_one():
    truth = torch.tensor([[[1, 1, 2, 2]]])
    table = contingency(truth, torch.zeros_like(truth), 1)
    assert mbo(table).item() == 0.5
    assert fg_miou(table).item() == 0.25


@pytest.mark.parametrize("score", [ari, fg_ari, miou, fg_miou, mbo])
def test_order_of_slots_and_of_frames_does_not_matter(score):
    truth, prediction = _random_ids(0, 5), _random_ids(1, 4)
    expected = score(contingency(truth, prediction, 4).sum(1))
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(score(contingency(truth, order[prediction], 4).sum(1)), expected)
    assert torch.equal(score(contingency(truth.flip(1), prediction.flip(1), 4).sum(1)), expected)
    more_slots = score(contingency(truth, prediction, 9, 12).sum(1))
    assert torch.allclose(more_slots, expected)


@pytest.mark.parametrize("score", [ari, fg_ari, miou, mbo])
def test_perfect_prediction_is_one_under_any_relabelling(score):
    truth = _random_ids(0, 5)
    prediction = torch.tensor([3, 4, 0, 1, 2])[truth]
    assert torch.allclose(score(contingency(truth, prediction, 5).sum(1)), torch.ones(4, dtype=torch.float64))


def test_identity_switch_costs_video_level_only():
    truth = torch.tensor([[[[1, 1, 2, 2]], [[1, 1, 2, 2]]]])
    switched = torch.tensor([[[[0, 0, 1, 1]], [[1, 1, 0, 0]]]])
    tables = contingency(truth, switched, 2)
    assert (fg_ari(tables) == 1).all()
    assert fg_ari(tables.sum(1)).item() < 0


def test_padding_equals_cropping():
    truth, prediction = _random_ids(0, 5), _random_ids(1, 4)
    mask = torch.ones_like(truth, dtype=torch.bool)
    mask[..., -2:], mask[:, 2] = False, False
    padded = contingency(truth, prediction, 4, 5, mask)
    cropped = contingency(truth[:, :2, :, :-2], prediction[:, :2, :, :-2], 4, 5)
    assert torch.equal(padded.sum(1), cropped.sum(1))
    assert (padded[:, 2] == 0).all()


def test_ids_outside_the_table_vanish():
    truth = torch.tensor([[[0, 1, 2, 300, -1, 1]]])
    prediction = torch.tensor([[[0, 1, 1, 1, 1, 5]]])
    assert contingency(truth, prediction, 2, 2).tolist() == [[[1, 0], [0, 1]]]
    assert contingency(truth.clamp(min=0), prediction, 2).shape == (1, 301, 2)


def test_trivial_videos_are_exactly_one_at_any_size():
    for pixels in (1, 2, 3, 1000, 77_777, 24 * 128 * 128, 10**8):
        assert fg_ari(torch.tensor([[0, 0], [0, pixels]])) == 1
    assert fg_ari(torch.tensor([[5, 4], [0, 0]])) == 1


def test_undefined_scores_are_nan_and_left_out_of_the_mean():
    tables = torch.tensor([[[9, 3], [0, 0]], [[4, 0], [0, 4]]])
    for score in (fg_miou, mbo):
        assert score(tables)[0].isnan()
        mean = VideoMean(score)
        mean.update(tables)
        assert mean.compute() == 1 and mean.count == 1


def test_counts_of_large_videos_do_not_round():
    """float32 cannot tell these counts apart; here one pixel of 4e8 still matters."""
    one_wrong = torch.tensor([[0, 0], [2 * 10**8, 1], [0, 2 * 10**8]])
    all_right = torch.tensor([[0, 0], [2 * 10**8, 0], [0, 2 * 10**8]])
    assert 1e-9 < 1 - fg_ari(one_wrong).item() < 1e-7
    assert abs(1 - fg_ari(all_right).item()) < 1e-15


def test_num_foreground_counts_visible_objects():
    assert num_foreground(torch.tensor([[3, 0], [0, 0], [0, 2], [1, 0]])) == 2


@pytest.mark.parametrize("score", [fg_ari, miou, mbo])
def test_mean_over_parts_equals_whole(score):
    """Updates in any partition, and the sum over processes, give what one update gives."""
    tables = contingency(_random_ids(0, 5), _random_ids(1, 4), 4).sum(1)
    whole = VideoMean(score)
    whole.update(tables)
    parts = [VideoMean(score), VideoMean(score)]
    parts[0].update(tables[:1])
    parts[1].update(tables[1:3])
    parts[1].update(tables[3:])
    assert torch.allclose(_reduced(parts), whole.compute())


def test_frame_mean_over_slices_and_processes_equals_whole():
    tables = contingency(_random_ids(0, 5), _random_ids(1, 4), 4)
    whole = FrameMean(fg_ari, 3)
    whole.update(tables)
    assert torch.allclose(whole.compute(), fg_ari(tables).mean(0))
    parts = [FrameMean(fg_ari, 3), FrameMean(fg_ari, 3)]
    for part, rows in zip(parts, (slice(0, 1), slice(1, 4))):
        part.update(tables[rows, :2])
        part.update(tables[rows, 2:], start=2)
    assert torch.allclose(_reduced(parts), whole.compute())


def test_frame_mean_leaves_out_padded_frames():
    tables = contingency(_random_ids(0, 5), _random_ids(1, 4), 4)
    tables[0, 2] = 0
    mean = FrameMean(fg_ari, 4)
    mean.update(tables)
    assert torch.allclose(mean.compute()[2], fg_ari(tables[1:, 2]).mean())
    assert mean.compute()[3].isnan()


def _reduced(parts):
    """Reduce the states of all parts as torchmetrics does over processes, by each state's own reduction."""
    first = parts[0]
    for name, reduction in first._reductions.items():
        setattr(first, name, reduction(torch.stack([getattr(part, name) for part in parts])))
    return first.compute()


def test_contingency_of_one_image_equals_that_of_a_batch_of_it():
    truth, prediction = _random_ids(0, 5)[0, 0], _random_ids(1, 4)[0, 0]
    assert torch.equal(contingency(truth, prediction, 4), contingency(truth[None], prediction[None], 4)[0])
    assert contingency(truth, prediction, 4).sum() == truth.numel()


def test_numbering_keeps_numbers_from_call_to_call():
    number = Numbering((0, 1))
    assert number(torch.tensor([[7, 0], [3, 7]])).tolist() == [[3, 0], [2, 3]]
    assert number(torch.tensor([5, -(2**62), 3, 2**62, 1], dtype=torch.int64)).tolist() == [5, 4, 2, 6, 1]
    assert number(torch.tensor([255, 7], dtype=torch.uint8)).tolist() == [7, 3] and len(number) == 8
    assert Numbering((1, 0))(torch.tensor([0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.int64]
)
def test_contingency_takes_integers_of_any_type_and_one_image_alone(dtype):
    objects, slots = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0, 0], [1, 1]])
    assert contingency(objects.to(dtype), slots.to(dtype), 2).tolist() == [[1, 0], [1, 0], [0, 2]]
