"""Counts in messages."""

from torchslots.io.counts import count_text


def test_a_noun_is_plural_unless_there_is_one():
    assert [count_text(number, "frame") for number in (0, 1, 2, 1200)] == [
        "0 frames",
        "1 frame",
        "2 frames",
        "1,200 frames",
    ]
