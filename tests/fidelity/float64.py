"""How coarse a recording is: our model once more in float64, beside the recording and beside ours in float32.

Recordings are of float32 programs. Where one is further from exact arithmetic than `verify` allows a model to be from
it, no model can be told right or wrong by it. Verdicts do not change for it; this only says where it is so.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fidelity.cases import CaseResult, Check, checks, read_case, system_name
from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError

_SYSTEMS = ("savi", "statm", "isa", "object_discovery", "set_prediction")
"""Beginnings of the names of systems whose checks compute in float64 where they are asked to."""


@dataclass(frozen=True)
class Rounding:
    """Relative distances of one recorded number, or array of numbers, from float64."""

    name: str
    allowed: float
    recording: float
    """Of the recording from ours in float64."""
    ours: float
    """Of ours in float32 from ours in float64."""
    verdict: bool
    """What `verify` says of it in float32."""

    @property
    def coarse(self) -> bool:
        """Whether the recording itself is further from float64 than a model may be from the recording."""
        return self.recording > self.allowed


def beside_float64(result: CaseResult) -> list[Rounding]:
    """Every recorded number that can be computed in float64 too; single steps only, no trajectories.

    Args:
        result: what `verify` found of the folder, in float32.

    Raises:
        UserError: a system that is compared in float32 alone.
    """
    case = read_case(Path(result.folder))
    if not system_name(case).startswith(_SYSTEMS):
        raise UserError(
            f"{result.folder}: recordings of {system_name(case)} are compared in float32 alone. Leave --float64 out; "
            "it is for SAVi, STATM, Invariant Slot Attention and Slot Attention."
        )
    exact = {check.name: check for check in checks(replace(case, inputs=_doubled(case.inputs), double=True))}
    return [
        found for check in result.checks if (found := _rounding(check, exact.get(check.name))) is not None
    ]


def _doubled(arrays: Arrays) -> Arrays:
    return {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in arrays.items()
    }


def _rounding(single: Check, exact: Check | None) -> Rounding | None:
    if exact is None or exact.ours is None or single.ours is None or exact.ours.shape != single.ours.shape:
        return None
    size = float(np.linalg.norm(np.asarray(exact.ours, np.float64)))
    apart = float(np.linalg.norm(np.asarray(single.ours, np.float64) - np.asarray(exact.ours, np.float64)))
    return Rounding(
        single.name, single.tolerance, exact.relative, apart / size if size else apart, single.passed
    )


def print_rounding(folder: str, found: list[Rounding]) -> None:
    """The numbers whose recording is coarse, and those that fail."""
    from rich.console import Console
    from rich.table import Table

    console, rows = Console(width=150), [one for one in found if one.coarse or not one.verdict]
    if rows:
        table = Table(
            "tensor",
            "allowed",
            "recording from float64",
            "ours from float64",
            "verdict",
            title=f"{folder}, beside float64",
            title_justify="left",
        )
        for one in rows:
            numbers = [f"{value:.2e}" for value in (one.allowed, one.recording, one.ours)]
            table.add_row(one.name, *numbers, "pass" if one.verdict else "FAIL")
        console.print(table)
    coarse = sum(one.coarse for one in found)
    console.print(
        f"{folder}: of {len(found)} recorded numbers and arrays {coarse} are further from float64 than a model may be "
        "from the recording."
    )
