"""Standard streams of a command: a terminal or a log that is gone ends no work, and a lost result is told."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase, TextIOWrapper
from typing import TextIO, cast


class Forgiving(TextIOBase):
    """A stream that drops what cannot be written: to a terminal that was closed, or a log on a full disk.

    Args:
        stream: None: it is closed, and everything is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8" if self._stream is None else self._stream.encoding

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


@contextmanager
def standard_streams() -> Iterator[None]:
    """Streams for a command while the block runs.

    A closed one of the first three descriptors is opened to nothing: else the next file would get its number, and what
    libraries print would be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this one
    if isinstance(sys.stdout, TextIOWrapper):  # names of files may be no text, or none of the terminal's
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stderr(cast(TextIO, Forgiving(sys.stderr))):
        if sys.stdout is not None:
            yield
            return
        with contextlib.redirect_stdout(cast(TextIO, Forgiving(None))):
            yield


def flush_output() -> None:
    """Write what standard output still holds.

    Raises:
        OSError: it cannot be written.
    """
    sys.stdout.flush()


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except OSError:  # it has no descriptor
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def drop_output() -> None:
    """Drop what standard output still holds if it cannot be written, so that it does not fail again at the exit."""
    try:
        flush_output()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
