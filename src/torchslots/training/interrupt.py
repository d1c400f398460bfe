"""Ctrl-C and SIGTERM as a request that training answers between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torchslots.errors import UserError


class Interrupted(UserError):
    """A run stopped on request, saved. The command line exits with `exit_code`: 130, Ctrl-C; 143, SIGTERM."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """Set by the first signal; a second one acts at once, as it would without us."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the signal that came; 0: none has."""

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Watch for SIGINT and SIGTERM while the block runs. Outside the main thread nothing is watched."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = number
        restore()

    for number in earlier:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
