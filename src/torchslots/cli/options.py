"""Parse the arguments of a command."""

from typing import Annotated, Any, TypeVar

import tyro

from torchslots.io.errors import speaks

Words = list[str]
"""The words after the command's name."""

_Options = TypeVar("_Options")
Flat = Annotated[_Options, tyro.conf.arg(name="")]
"""Options whose flags have no prefix."""
Json = Annotated[bool, tyro.conf.arg(name="json")]
"""The flag --json."""

_OLD_FLAGS = {"--draw": "--num-plots", "--paint.": "--sampling."}
"""Flags, or their prefixes, of earlier versions, and their names now."""


def parse(what: Any, words: Words, command: str, **options: Any) -> Any:
    """Fill a dataclass, or call a function, from the words; wrong words are explained, exit status 2."""
    return tyro.cli(
        what,
        args=[_renamed(word) for word in words],
        prog=f"torchslots {command}",
        config=(tyro.conf.AvoidSubcommands,),
        console_outputs=speaks(),
        **options,
    )


def _renamed(word: str) -> str:
    for old, new in _OLD_FLAGS.items():
        whole = word.partition("=")[0] == old
        if whole or (old.endswith(".") and word.startswith(old)):
            return new + word[len(old) :]
    return word
