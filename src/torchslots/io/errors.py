"""The exception for the user, and checks of arguments."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, a full disk.

    The message says in one or two sentences what was found, what was expected, and what to do. The command line prints
    it without a traceback and exits with code 2.
    """


def check_text(name: str, value: str) -> str:
    """The value of the argument `name`.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(value, str):
        raise UserError(f"`{name}` should be a text in quotes, got {value!r} of type {type(value).__name__}.")
    return value


def check_path(name: str, value: str | Path) -> Path:
    """The value of the argument `name` as a path.

    Raises:
        UserError: it is no path.
    """
    if not isinstance(value, str | Path):
        raise UserError(f"`{name}` should be a path, got {value!r} of type {type(value).__name__}.")
    return Path(value)


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence with the names most like `name`, or with all where none is."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
