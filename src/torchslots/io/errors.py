"""The exception whose message is for the user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, a full disk.

    The message is one sentence or two: what was found, what was expected, what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def nearest(name: str, names: Iterable[str], otherwise: str | None = None) -> str:
    """A sentence with the names most like `name`.

    Args:
        otherwise: the sentence where no name is like it; None: one with all names.
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There are: {', '.join(names)}." if otherwise is None else otherwise


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
