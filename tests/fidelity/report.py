"""Results of comparisons as tables and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from fidelity.cases import CaseResult, Check, Verdict

_COLOURS = {Verdict.PASS: "green", Verdict.OPEN: "yellow", Verdict.FAIL: "bold red"}


def print_results(results: list[CaseResult], *, float64: bool = False) -> None:
    """A table for each folder, and a line for each verdict.

    Args:
        float64: add a table of what is far from float64.
    """
    console = Console(width=150)
    for result in results:
        console.print(_table(result.folder, result.checks))
        if float64:
            _print_float64(console, result)
    for result in results:
        passed, left_open, failed = (result.count(verdict) for verdict in Verdict)
        verdict = "passed" if result.passed else "FAILED"
        console.print(f"{verdict}  {result.folder}: {passed} passed, {left_open} open, {failed} failed")


def _table(title: str, checks: tuple[Check, ...]) -> Table:
    columns = ("tensor", "shape", "max abs", "relative", "allowed", "", "")
    table = Table(*columns, title=title, title_justify="left")
    for check in checks:
        shape = "x".join(map(str, check.shape)) or "-"
        numbers = [f"{value:.2e}" for value in (check.max_abs, check.relative, check.tolerance)]
        verdict = f"[{_COLOURS[check.verdict]}]{check.verdict.value}[/]"
        table.add_row(check.name, shape, *numbers, verdict, check.note)
    return table


def _print_float64(console: Console, result: CaseResult) -> None:
    """The numbers whose recording is coarse, and those that do not pass."""
    found = [(check, check.beside) for check in result.checks if check.beside is not None]
    columns = ("tensor", "allowed", "recording from float64", "ours from float64", "")
    table = Table(*columns, title=f"{result.folder}, beside float64", title_justify="left")
    for check, beside in found:
        if check.coarse or not check.passed:
            numbers = [f"{value:.2e}" for value in (check.tolerance, beside.recording, beside.ours)]
            table.add_row(check.name, *numbers, check.verdict.value)
    if table.row_count:
        console.print(table)
    coarse = sum(check.coarse for check, _ in found)
    console.print(
        f"{result.folder}: of {len(found)} recorded numbers and arrays {coarse} are further from float64 than a model "
        "may be from the recording."
    )


def as_json(results: list[CaseResult]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "folder": result.folder,
            "passed": result.passed,
            **{verdict.value.lower(): result.count(verdict) for verdict in Verdict},
            "checks": [_fields(check) for check in result.checks],
        }
        for result in results
    ]


def _fields(check: Check) -> dict[str, Any]:
    beside = None if check.beside is None else check.beside._asdict()
    return {
        **asdict(check),
        "verdict": check.verdict.value.lower(),
        "passed": check.passed,
        "beside": beside,
    }
