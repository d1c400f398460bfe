"""Counts in messages: a number and its noun."""


def count_text(count: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one: 1 frame, 2 frames, 1,200 frames."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
