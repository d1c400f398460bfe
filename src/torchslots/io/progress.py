"""One progress bar for all long work: what, how much is done, speed, time left."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def progress(what: str, total: int | None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show a bar on standard error while the block runs.

    Yields:
        `advance(n=1, note="")`: n more units are done; `note` is shown behind the bar. Nothing is drawn where standard
        error is not a terminal.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total, note="", rate="")

        def advance(n: int = 1, note: str = "") -> None:
            speed = bar.tasks[task].speed
            bar.update(task, advance=n, note=note, rate=f"{speed:.2f}/s" if speed else "")

        yield advance


def counted(items: Iterable[Item], advance: Callable[..., None]) -> Iterator[Item]:
    """Hand on the items; after each, one unit more is done."""
    for item in items:
        yield item
        advance()
