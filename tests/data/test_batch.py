"""The contract of batches."""

import pytest
import torch

from torchslots.data.batch import check_sample, collate, cut_clips
from torchslots.io.errors import UserError


def sample(name: str, side: int = 4) -> dict:
    return {
        "video": torch.zeros(6, 3, side, side),
        "padding_mask": torch.ones(6, side, side).bool(),
        "name": name,
    }


def test_samples_are_stacked_and_names_listed() -> None:
    batch = collate([sample("a"), sample("b")])
    assert batch["video"].shape == (2, 6, 3, 4, 4) and batch["name"] == ["a", "b"]


def test_samples_of_two_sizes_are_named() -> None:
    with pytest.raises(UserError, match=r"in a but .* in b"):
        collate([sample("a"), sample("b", side=5)])


def test_wrong_types_are_named() -> None:
    with pytest.raises(UserError, match=r"here: `video` should be torch.float32"):
        check_sample({"video": torch.zeros(6, 3, 4, 4, dtype=torch.uint8)}, "here")


def test_clips_are_cut_into_pieces_with_their_own_first_frames() -> None:
    video, boxes = torch.arange(12.0).view(2, 6, 1, 1, 1), torch.arange(12.0).view(2, 6, 1, 1)
    pieces = cut_clips({"video": video, "boxes": boxes, "name": ["a", "b"]}, 2)
    assert pieces["video"].flatten(1).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert pieces["boxes"][:, 0].flatten().tolist() == [0, 2, 4, 6, 8, 10]
    assert pieces["name"] == ["a"] * 3 + ["b"] * 3
    with pytest.raises(UserError, match="cannot be cut"):
        cut_clips({"video": video}, 4)
