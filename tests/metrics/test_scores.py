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
