"""A progress bar: what is done, how much of it, speed, time left."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torchslots.io.errors import speaks

Item = TypeVar("Item")


@contextmanager
def progress(what: str, total: int | None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show a bar on standard error while the block runs.

    Yields:
        `advance(n=1, note="")`: count n more units and show `note` after the bar. Without a terminal there is no bar;
        of several processes one on each machine shows it.
    """
    from rich import progress as rich
    from rich.console import Console

    columns = (
        "{task.description}",
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        unit + " {task.fields[rate]}",
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        "{task.fields[note]}",
    )
    with rich.Progress(
        *columns, console=Console(stderr=True), disable=not (sys.stderr.isatty() and speaks())
    ) as bar:
        task = bar.add_task(what, total=total, note="", rate="")

        def advance(n: int = 1, note: str = "") -> None:
            speed = bar.tasks[task].speed
            bar.update(task, advance=n, note=note, rate=f"{speed:.2f}/s" if speed else "")

        yield advance


def counted(items: Iterable[Item], advance: Callable[..., None]) -> Iterator[Item]:
    """Yield the items and advance the bar by one after each."""
    for item in items:
        yield item
        advance()
