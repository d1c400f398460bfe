"""Parse the arguments of a command."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import tyro

from torchslots.cli.examples import examples
from torchslots.io.errors import UserError, nearest, speaks

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
    try:
        return tyro.cli(
            what,
            args=[_renamed(word) for word in words],
            prog=f"torchslots {command}",
            config=(tyro.conf.AvoidSubcommands,),
            console_outputs=speaks(),
            **options,
        )
    except SystemExit as end:
        if not end.code and is_asked(words) and speaks():
            print(examples(command))
        raise


def is_asked(words: Words) -> bool:
    """Whether the words ask for help."""
    return not {"-h", "--help"}.isdisjoint(words)


def chosen(words: Words, group: str, purposes: Mapping[str, str]) -> str | None:
    """The command of a group that the words begin with; None: the commands are listed, as asked for or for want of one.

    Args:
        purposes: What each command does, by its name.

    Raises:
        UserError: no such command.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"Usage: torchslots {group} COMMAND [arguments]\n")
        width = max(map(len, purposes))
        print("\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in purposes.items()))
        print(examples(group))
        return None
    if words[0] not in purposes:
        raise UserError(f"there is no {group} command `{words[0]}`. {nearest(words[0], purposes)}")
    return words[0]


def _renamed(word: str) -> str:
    for old, new in _OLD_FLAGS.items():
        whole = word.partition("=")[0] == old
        if whole or (old.endswith(".") and word.startswith(old)):
            return new + word[len(old) :]
    return word
