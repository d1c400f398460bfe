"""`torchslots demo`."""

from torchslots.cli.options import Words, parse


def demo(words: Words) -> int:
    """`torchslots demo`."""
    from torchslots.cli.demo import demo

    print(f"Open {parse(demo, words, 'demo')} in a browser.")
    return 0
