"""The exception for the user, and checks of arguments."""

import difflib
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

Value = TypeVar("Value")


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, a full disk.

    The message says in one or two sentences what was found, what was expected, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """

    process: int | None = None
    """Rank of the only process that knows of it; None: every process of the job would say the same."""
    path: tuple[str, ...] = ()
    """Keys that lead to a wrong setting in a file; (): it is about no setting."""


def speaks() -> bool:
    """Whether this process prints what all would: of those that `torchrun` started, the first on each machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def check_type(name: str, value: Value, *types: type) -> Value:
    """The value of the argument `name`.

    Raises:
        UserError: it is of none of the types.
    """
    if not isinstance(value, types):
        expected = " or ".join(kind.__name__ for kind in types)
        raise UserError(f"`{name}` should be {expected}, got {value!r} of type {type(value).__name__}.")
    return value


def nearest(name: str, names: Iterable[str], otherwise: str | None = None) -> str:
    """A sentence with the names most like `name`.

    Args:
        otherwise: the sentence if no name is like it; None: one with all names.
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There are: {', '.join(names)}." if otherwise is None else otherwise


@lru_cache(maxsize=4096)
def note(message: str, everywhere: bool = False) -> None:
    """Print what the user should know, though it stops nothing, to standard error; each message once.

    Args:
        everywhere: print it by any process, since only this one may know; otherwise as `speaks` says.
    """
    if everywhere or speaks():
        print(f"Note: {message}", file=sys.stderr, flush=True)


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the machine's, is full."""
    full = (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    )  # torch's; it may not be loaded
    return full or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; of one that says nothing, its kind.

    Of the system's errors it is the reason alone, without number and file; of a lacking key that it is missing.
    """
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = str(error.strerror).strip()
    elif isinstance(error, KeyError) and len(error.args) == 1 and " " not in str(error.args[0]):
        text = f"{text} is missing"
    return (text or type(error).__name__).splitlines()[0].rstrip(".")
