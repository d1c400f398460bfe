"""Lines of words into dataclasses and arguments of functions."""

from typing import Any

import tyro

Words = list[str]


def parse(what: Any, words: Words, prog: str, **options: Any) -> Any:
    """Fill a dataclass, or call a function, from the line; a wrong line is explained and exits with 2."""
    return tyro.cli(
        what, args=words, prog=f"torchslots {prog}", config=(tyro.conf.AvoidSubcommands,), **options
    )
