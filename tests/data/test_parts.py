"""Parts of splits: which records they hold, and what is no part."""

import logging
from dataclasses import replace

import pytest

from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.parts import parse_split
from torchslots.io.errors import UserError


@pytest.mark.parametrize(
    ("split", "count", "expected"),
    [
        ("train[:70%]", 20, range(14)),
        ("train[70%:85%]", 20, range(14, 17)),
        ("train[85%:]", 20, range(17, 20)),
        ("all[512:70000]", 100_000, range(512, 70_000)),
        ("all[512:70000]", 600, range(512, 600)),
        ("train[:]", 5, range(5)),
        ("train[:70%]", 9749, range(6824)),
    ],
)
def test_bounds_in_records_and_per_cent(split: str, count: int, expected: range) -> None:
    base, part = parse_split(split)
    assert base == split.partition("[")[0] and part is not None
    assert part.of(count, split) == expected


def test_parts_share_no_record_and_leave_none_out() -> None:
    for count in (7, 33, 100, 9749):
        parts = [parse_split(f"train[{bounds}]")[1] for bounds in (":70%", "70%:85%", "85%:")]
        found = [part.of(count, "train") for part in parts if part is not None]
        assert [record for each in found for record in each] == list(range(count))


@pytest.mark.parametrize(
    "split",
    ["train[", "train[]", "train[5]", "train[9:3]", "train[:120%]", "[1:2]", "train[a:b]", "train[-3:]"],
)
def test_what_is_no_part_is_refused(split: str) -> None:
    with pytest.raises(UserError, match="is written as"):
        parse_split(split)


def test_names_without_brackets_are_whole_splits() -> None:
    assert parse_split("validation_full") == ("validation_full", None)


class Numbers:
    """Examples that are their own numbers of objects."""

    title, files, keys = "Numbers", "none", ("video",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return str(index)

    def open(self, index, keys):
        raise NotImplementedError

    def num_objects(self, index: int) -> int:
        return index % 3


def names(count: int, split: str, **settings: int) -> list[int]:
    config = replace(DataConfig(keys=("video",)), **settings)
    clips = Clips(Numbers(count), split, config, part=parse_split(split)[1])
    return [int(clips.name(index)) for index in range(len(clips))]


def test_clips_are_of_the_part_alone() -> None:
    assert names(10, "all[2:5]") == [2, 3, 4]
    assert names(10, "all[2:8]", max_objects=1) == [3, 4, 6, 7]
    assert names(10, "all[50%:]", num_records=8) == [4, 5, 6, 7]


def test_a_part_behind_the_end_is_the_whole_split_with_a_warning(caplog) -> None:
    with caplog.at_level(logging.WARNING, "torchslots.data"):
        assert names(3, "all[512:70000]") == [0, 1, 2]
    assert "holds only 3 records" in caplog.text
