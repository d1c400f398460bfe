"""`torchslots convert`."""

from torchslots.cli.options import Words, parse


def convert(words: Words) -> int:
    """`torchslots convert CHECKPOINT --out DIR`."""
    from torchslots.convert.convert import convert

    print(parse(convert, words, "convert"))
    return 0
