import pytest
import torch

from torchslots.metrics.scores import DEFINITIONS, LABELS, SegmentationScores

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
