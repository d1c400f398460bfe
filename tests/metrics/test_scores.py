import itertools
import math

import pytest
import torch

from torchslots.metrics.protocol import Protocol
from torchslots.metrics.scores import DEFINITIONS, EXTRA, EXTRA_LABELS, LABELS, SegmentationScores

TRUTH = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]).view(1, 1, 2, 6)
"""Four masks of background and two objects."""


def figures(prediction: torch.Tensor, num_background: int) -> dict[str, float]:
    found = SegmentationScores(1, num_background=num_background)
    for row in range(len(prediction)):
        found.add(TRUTH, prediction[row : row + 1], num_slots=6, num_objects=6)
        found.finish()
    return found.compute()[0]


def test_objects_alone_are_scored_where_there_are_several_masks_of_background():
    merged = torch.where(TRUTH < 4, 0, TRUTH)
    assert figures(merged, 4)["fg_ari_objects_only"] == pytest.approx(1)
    assert 0 < figures(merged, 4)["fg_ari"] < 0.9
    swapped = torch.where(TRUTH >= 4, 4, TRUTH)
    assert figures(swapped, 4)["fg_ari_objects_only"] == pytest.approx(0)
    assert figures(swapped, 4)["fg_ari"] == figures(swapped, 1)["fg_ari"] > 0.5


def test_it_is_fg_ari_with_the_masks_of_background_made_one():
    prediction = torch.randint(0, 6, (5, 1, 2, 6), generator=torch.Generator().manual_seed(0))
    merged = SegmentationScores(1)
    for row in range(5):
        merged.add((TRUTH - 3).clamp(min=0), prediction[row : row + 1], num_slots=6, num_objects=3)
        merged.finish()
    assert figures(prediction, 4)["fg_ari_objects_only"] == pytest.approx(merged.compute()[0]["fg_ari"])


def test_with_one_mask_of_background_there_is_no_second_figure():
    assert "fg_ari_objects_only" not in figures(TRUTH, 1)
    assert (
        set(DEFINITIONS)
        == set(LABELS)
        == set(figures(TRUTH, 4)) | {name for name in DEFINITIONS if "no_first" in name}
    )


def test_images_without_objects_count_as_one_as_fg_ari_does():
    found = SegmentationScores(1, num_background=4)
    found.add(TRUTH.clamp(max=1), TRUTH, num_slots=6, num_objects=2)
    found.finish()
    assert found.compute()[0]["fg_ari_objects_only"] == 1


def test_single_frames_are_judged_by_what_is_seen_in_them() -> None:
    """Object 1 is gone from the second frame, object 2 keeps its slot; background is cut in two."""
    truth = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    truth[0, 0, 0, :2], truth[0, :, 3, 2:] = 1, 2
    slots = truth.clone()
    slots[0, :, 1] = 3
    scores = SegmentationScores(2)
    scores.add(truth, slots, 4, 3)
    scores.finish()
    figures, _, _ = scores.compute()
    background = [8 / 12, 10 / 14]
    assert figures["fg_miou_frame"] == figures["mbo_frame"] == 1
    expected = ((background[0] + 2) / 3 + (background[1] + 1) / 2) / 2
    assert figures["miou_frame"] == pytest.approx(expected)
    assert figures["miou"] == pytest.approx((18 / 26 + 2) / 3)


def test_frames_without_objects_have_no_figure_of_objects() -> None:
    truth = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    truth[0, 0, :2] = 1
    scores = SegmentationScores(2)
    scores.add(truth, torch.zeros_like(truth), 2, 2)
    scores.finish()
    figures, _, _ = scores.compute()
    assert figures["mbo_frame"] == figures["fg_miou_frame"] == 0.5
    assert figures["miou_frame"] == pytest.approx((0.25 + 1) / 2)  # one slot for two, then one for one


# ------------------------------------------------------------------------------ ids mean nothing but "the same segment"

KINDS = (torch.uint8, torch.int16, torch.int32, torch.int64)
EVERY_FIGURE = Protocol(
    figures=("fg_ari_several", "fg_ari_several_frame", "corloc", "corloc_frame", "recall", "recall_frame"),
    boundaries="exact",
)


def _clips(seed: int, batch: int = 3, frames: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids 0 to 5 of objects that come and go, and of slots that find them more or less."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 6, (batch, frames, 3, 4), generator=generator)
    true = blocks.repeat_interleave(3, -2).repeat_interleave(2, -1)
    noise = torch.randint(0, 7, true.shape, generator=generator)
    return true, torch.where(torch.rand(true.shape, generator=generator) < 0.7, true, noise)


def _all_figures(
    true: torch.Tensor,
    slots: torch.Tensor,
    num_slots: int = 7,
    sizes: tuple[int, ...] = (4,),
    **pixels: torch.Tensor,
) -> dict[str, float]:
    found, start = SegmentationScores(4, protocol=EVERY_FIGURE), 0
    for size in sizes:
        frames = slice(start, start + size)
        part = {name: values[:, frames] for name, values in pixels.items()}
        found.add(true[:, frames], slots[:, frames], num_slots, start=start, **part)
        start += size
    found.finish()
    figures, curves, _ = found.compute()
    return figures | {f"{name}_{t}": value for name, curve in curves.items() for t, value in enumerate(curve)}


@pytest.mark.parametrize("seed", range(6))
def test_no_renumbering_of_objects_or_slots_changes_a_figure(seed: int) -> None:
    """Any gaps, any type, ids beyond the number of slots, negative and huge ids, in one slice or several."""
    true, slots = _clips(seed)
    expected = _all_figures(true, slots)
    assert len(expected) > 20 and not any(math.isnan(value) for value in expected.values())
    generator = torch.Generator().manual_seed(seed)
    for kind in KINDS:
        limits = torch.iinfo(kind)
        span = min(limits.max, 2**40)
        objects = torch.randperm(min(span, 10**6), generator=generator)[:5] + 1
        names = torch.cat([torch.zeros(1, dtype=torch.int64), objects]).to(kind)
        slot_names = torch.randperm(min(span, 10**6), generator=generator)[:7].to(kind)
        if kind.is_signed:
            names[1], names[2] = limits.min, limits.max
            slot_names[0] = limits.min
        for sizes in ((4,), (1, 3), (2, 1, 1)):
            renamed = names[true], slot_names[slots]
            assert _all_figures(*renamed, sizes=sizes) == pytest.approx(expected, abs=1e-12), (kind, sizes)


def test_each_video_may_have_ids_of_its_own() -> None:
    true, slots = _clips(0)
    own = torch.arange(3)[:, None, None, None] * 50
    assert _all_figures(torch.where(true > 0, true + own, 0), slots) == pytest.approx(
        _all_figures(true, slots)
    )


@pytest.mark.parametrize(("first", "second"), [(1, 2), (5, 9), (2**31 - 1, -4)])
def test_a_perfect_prediction_is_perfect_whatever_the_ids(first: int, second: int) -> None:
    slots = torch.zeros(1, 4, 64, 64, dtype=torch.int32)
    slots[..., 8:24, 8:24], slots[..., 40:56, 40:56] = 1, 2
    true = torch.where(slots == 1, first, torch.where(slots == 2, second, 0)).int()
    found = SegmentationScores(4)
    found.add(true, slots, 3, int(true.max()) + 1)
    found.finish()
    assert set(found.compute()[0].values()) == {1.0}


def test_ignored_pixels_are_left_out_of_labels_and_predictions() -> None:
    """As if their columns were not there; where a whole frame is ignored, as if it was not filmed."""
    true, slots = _clips(1)
    ignore = torch.zeros_like(true, dtype=torch.bool)
    ignore[..., 2:5] = True
    rest = [torch.cat([ids[..., :2], ids[..., 5:]], -1) for ids in (true, slots)]
    found, expected = _all_figures(true, slots, ignore=ignore), _all_figures(*rest)
    boundaries = {"j_and_f", "j", "f"}
    assert all(found[name] == pytest.approx(expected[name]) for name in found if name not in boundaries)
    void = torch.where(ignore, 255, true)
    assert _all_figures(void, slots, ignore=ignore) == found != _all_figures(void, slots)
    padded = torch.ones_like(ignore)
    padded[..., 2:5] = False
    assert _all_figures(true, slots, padding_mask=padded) == found
    ignore[:], ignore[:, 0] = False, True
    cut = _all_figures(true[:, 1:], slots[:, 1:], sizes=(3,))
    found = _all_figures(true, slots, ignore=ignore)
    assert all(
        found[name] == pytest.approx(cut[name]) for name in ("fg_ari", "ari", "miou", "mbo", "mbo_frame")
    )


def test_objects_beyond_the_number_of_slots_are_judged() -> None:
    """20 objects, 11 slots; the last eleven share one."""
    true = torch.arange(21).repeat_interleave(20).view(1, 1, 20, 21)
    lumped = true.clamp(max=10)
    scores = SegmentationScores(1)
    scores.add(true, lumped, 11)
    scores.finish()
    figures, _, census = scores.compute()
    objects, slots = true[true > 0], lumped[true > 0]
    pairs = torch.ones(len(objects), len(objects)).triu(1).bool()
    same = [(ids[:, None] == ids)[pairs].double() for ids in (objects, slots)]
    both, one, other = (same[0] * same[1]).sum(), same[0].sum(), same[1].sum()
    chance = one * other / pairs.sum()
    expected = float((both - chance) / ((one + other) / 2 - chance))
    assert figures["fg_ari"] == pytest.approx(expected) and figures["fg_ari"] < 0.5
    assert census["crowded"] == 1 and census["most_objects"] == 20


def test_videos_without_labels_count_one_or_not_at_all() -> None:
    true = torch.zeros(2, 1, 2, 4, dtype=torch.int64)
    true[1, ..., :2], true[1, ..., 2] = 1, 2
    slots = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]).expand(2, 1, 2, 4)
    figures = {}
    for name, background in itertools.product(("one", "left_out"), (0, 1)):
        scores = SegmentationScores(1, num_background=background, protocol=Protocol(name))
        scores.add(true, slots, 2)
        scores.finish()
        figures[name, background] = scores.compute()[0]
        assert (
            ("ari" in figures[name, background]) == ("miou" in figures[name, background]) == bool(background)
        )
        assert ("without labels are left out" in scores.definition("fg_ari")) == (
            (name, background) == ("left_out", 0)
        )
    value = figures["left_out", 0]["fg_ari"]
    assert value < 1
    for key in (("one", 0), ("one", 1), ("left_out", 1)):
        assert figures[key]["fg_ari"] == figures[key]["fg_ari_frame"] == pytest.approx((1 + value) / 2)
        assert figures[key]["mbo"] == figures["left_out", 0]["mbo"]


def test_every_figure_has_a_definition_and_a_label() -> None:
    assert set(EXTRA) | {"j_and_f", "j", "f"} == set(EXTRA_LABELS)
    true, slots = _clips(0)
    scores = SegmentationScores(4, protocol=EVERY_FIGURE)
    scores.add(true, slots, 7)
    scores.finish()
    names = set(scores.compute()[0])
    assert names == set(DEFINITIONS) - {"fg_ari_objects_only"} | set(EXTRA_LABELS)
    assert all(scores.definition(name) for name in names)
