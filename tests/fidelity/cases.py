"""Recorded cases of the original programs, and the loop that compares our models with them.

A case is a folder with `config.json`, `inputs.npz`, `outputs.npz` and a checkpoint in the original's own format. A
system gives what was recorded with its tolerance (`rows`), and our results (`ours`), both by the same names.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError

OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
DEEP_GRADIENT_TOLERANCE = 2.5e-3
"""Gradient norms behind a full ResNet, where float32 rounding of the original itself is larger."""
MARGIN = 1e-4
"""Integer maps must agree where the original's highest score leads by more than this."""

_ULP = float(np.finfo(np.float32).eps)
Model = TypeVar("Model", bound=nn.Module)


# ------------------------------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class Case:
    """A recorded case.

    Args:
        double: whether our model computes in float64.
        moved: seed with which weights and inputs are each changed by up to a unit in the last place of float32; None:
            they are as recorded.
    """

    folder: Path
    config: dict[str, Any]
    inputs: Arrays
    outputs: Arrays
    double: bool = False
    moved: int | None = None

    @property
    def reference(self) -> dict[str, Any]:
        """The original's own configuration."""
        nested = self.config.get("config")
        return nested if isinstance(nested, dict) else self.config

    def arrays(self, arrays: Arrays) -> Arrays:
        """Recorded inputs in this case's precision, or changed by rounding."""
        if self.double:
            return {
                name: array.astype(np.float64) if array.dtype.kind == "f" else array
                for name, array in arrays.items()
            }
        if self.moved is None:
            return arrays
        stream = np.random.default_rng(self.moved)
        return {
            name: (array * (1 + _ULP * stream.uniform(-1, 1, array.shape))).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in arrays.items()
        }

    def prepared(self, model: Model) -> Model:
        """A model with recorded weights, in this case's precision or changed by rounding, in evaluation mode."""
        if self.moved is not None:
            generator = torch.Generator().manual_seed(self.moved)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1 + _ULP * (2 * torch.rand(weight.shape, generator=generator) - 1))
        return (model.double() if self.double else model).eval()


def variant(case: Case, *, double: bool = False, moved: int | None = None) -> Case:
    """The case in float64, or with inputs and weights that are rounded otherwise."""
    other = replace(case, double=double, moved=moved)
    return replace(other, inputs=other.arrays(case.inputs))


def read_case(folder: Path) -> Case:
    """Read a recorded case.

    Raises:
        UserError: a file of the case is missing or damaged.
    """
    for name in ("config.json", "inputs.npz", "outputs.npz"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a recorded case: {name} is missing. It needs config.json, inputs.npz, outputs.npz."
            )
    try:
        config = json.loads((folder / "config.json").read_text())
        inputs, outputs = (read_arrays(folder / name) for name in ("inputs.npz", "outputs.npz"))
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise UserError(f"{folder} cannot be read: {error}. Copy the folder again.") from error
    except Exception as error:  # zipfile.BadZipFile and zlib.error of a damaged npz
        raise UserError(f"{folder} holds a damaged npz file: {error}. Copy the folder again.") from error
    return Case(folder, config, inputs, outputs)


def read_arrays(file: Path) -> Arrays:
    """All arrays of an npz file."""
    with np.load(BytesIO(file.read_bytes())) as arrays:
        return dict(arrays)


def read_trajectory(case: Case) -> Arrays:
    """Recorded training steps; empty where there are none."""
    file = case.folder / "trajectory.npz"
    return read_arrays(file) if file.is_file() else {}


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """One of our results as an array."""
    return tensor.detach().cpu().numpy()


# -------------------------------------------------------------------------------------------------- tolerances

Measure = Callable[[np.ndarray], float]
"""The size of an array, or of a difference of two."""


def norm(array: np.ndarray) -> float:
    """The L2 norm."""
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def largest(array: np.ndarray) -> float:
    """The largest absolute entry."""
    return float(np.abs(array).max(initial=0.0))


@dataclass(frozen=True)
class Row:
    """One recorded tensor and its tolerance.

    Args:
        tolerance: part of the recording's size by which ours may differ.
        floor: by which ours may differ in addition.
        measure: size of the recording and of the difference.
        note: text in the table.
        amplified: rounding is amplified by the optimiser, as in single weights after several steps of Adam: steps from
            gradients near zero have the length of the rate.
    """

    recorded: np.ndarray
    tolerance: float = OUTPUT_TOLERANCE
    floor: float = 0.0
    measure: Measure = norm
    note: str = ""
    amplified: bool = False

    @property
    def size(self) -> float:
        """Size of the recording; 1 where that is all zero."""
        return self.measure(self.recorded) or 1.0

    @property
    def allowed(self) -> float:
        """Largest difference of ours, as a part of `size`."""
        return self.tolerance + self.floor / self.size

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        """Distance of two results, as a part of `size`; infinite where one is not finite."""
        difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
        return self.measure(difference) / self.size if np.isfinite(difference).all() else float("inf")


Rows = Mapping[str, Row]


def absolute(recorded: np.ndarray, tolerance: float = LOSS_TOLERANCE) -> Row:
    """Row of scores between 0 and 1: the largest difference counts."""
    return Row(recorded, 0.0, tolerance, largest, "absolute")


def integers(recorded: np.ndarray, margin: np.ndarray | None = None, least: float = MARGIN) -> Row:
    """For integer maps: equality wherever the original's margin is over `least`, everywhere where none is known."""
    counted = np.ones(recorded.shape, bool) if margin is None else margin.reshape(recorded.shape) > least
    return Row(
        recorded,
        tolerance=0.0,
        measure=lambda array: float(np.count_nonzero(array[counted])),
        note=f"{int(counted.sum())} of {counted.size} counted",
    )


def zero_gradient(scale: float) -> Row:
    """Row of the norm of a gradient that is zero in exact arithmetic: rounding compared with the whole gradient's norm
    `scale`."""
    return Row(np.zeros(()), 0.0, OUTPUT_TOLERANCE * scale, note="zero in exact arithmetic")


def constant() -> Row:
    """Row of the gradient of what is no parameter here."""
    return Row(np.zeros(()), 0.0, note="no parameter here")


def holds(note: str) -> Row:
    """Row of a statement that must be true."""
    return Row(np.array(True), 0.0, note=note)


# -------------------------------------------------------------------------------------------------- comparing


class System(NamedTuple):
    """Rows of one system's recordings, and our model's results for their inputs, by the same names."""

    rows: Callable[[Case], Rows]
    ours: Callable[[Case], Arrays]


class Verdict(Enum):
    """Result of comparing one recorded tensor."""

    PASS = "pass"
    OPEN = "open"
    """The recording program's own rounding moves it by more than the tolerance: neither right nor wrong."""
    FAIL = "FAIL"


class Beside(NamedTuple):
    """Distances of one result from float64, as parts of the recording's size."""

    recording: float
    """Of the recording from ours in float64."""
    ours: float
    """Of ours in float32 from ours in float64."""
    rounding: float
    """The largest change of ours that rounding was seen to cause."""


@dataclass(frozen=True)
class Check:
    """One recorded tensor compared with ours."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    """Size of the difference over size of the recording."""
    tolerance: float
    verdict: Verdict
    note: str = ""
    beside: Beside | None = None
    """Distances from float64, where they were computed."""

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def coarse(self) -> bool:
        """Whether the recording itself is further from float64 than a model may be from the recording."""
        return self.beside is not None and self.beside.recording > self.tolerance


@dataclass(frozen=True)
class CaseResult:
    """All checks of a case."""

    folder: str
    checks: tuple[Check, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing failed."""
        return bool(self.checks) and not self.count(Verdict.FAIL)

    def count(self, verdict: Verdict) -> int:
        """Number of checks with this verdict."""
        return sum(check.verdict is verdict for check in self.checks)


_SEEDS = range(4)
_FACTOR = 10.0
"""Largest rounding error of another program, in that of ours. Kernels differ by that much: on one machine one library's
group norm rounds ten times more coarsely than another's."""

_ANOTHER = 0.5
"""Part of a result's size above which a change by rounding means another result altogether."""


def is_open(row: Row, recorded: float, beside: Beside) -> bool:
    """Whether the recording program's own rounding explains a difference beyond the tolerance.

    There are two conditions. Ours may be as far from the recording as the tolerance and the recording's own distance
    from float64 together. And that distance must be one that rounding can cause: at most `_FACTOR` times the change
    that rounding was seen to cause in this very value, which is the larger of our float32 from our float64 and of our
    float32 from itself when weights and inputs change by a unit in the last place. A wrong model is wrong in float32
    and float64 alike: the recording is then far from both, and rounding does not explain it.

    Where rounding is amplified (`Row.amplified`), our own distance from float64 counts beside the recording's: which of
    the two went the other way is chance.

    Where a unit in the last place changes a result by over half of its size, such as that of a sampler which takes
    another code, distances mean nothing, and the first condition does not apply.

    Args:
        recorded: distance of ours from the recording.
    """
    ours = beside.ours if row.amplified else 0.0
    near = recorded <= row.allowed + beside.recording + ours or beside.rounding > _ANOTHER
    return near and beside.recording <= _FACTOR * beside.rounding


def checks(case: Case, system: System, *, float64: bool = False) -> tuple[Check, ...]:
    """Compare everything that was recorded; rows beyond their tolerance are computed in float64 too.

    Args:
        float64: compute all rows in float64.
    """
    rows, ours = system.rows(case), system.ours(case)
    found = _compared(rows, ours)
    doubtful = [name for name, check in found.items() if np.isfinite(check.relative) and not check.passed]
    if float64 or doubtful:
        exact = system.ours(variant(case, double=True))
        moved = [system.ours(variant(case, moved=seed)) for seed in _SEEDS] if doubtful else []
        for name in rows if float64 else doubtful:
            found[name] = _reconsidered(found[name], rows[name], ours, exact, moved)
    return tuple(found.values())


def beyond(case: Case, system: System) -> list[str]:
    """Names of what does not pass, in one computation: `open` or `FAIL` is not told apart."""
    found = _compared(system.rows(case), system.ours(case))
    return [name for name, check in found.items() if not check.passed]


def _compared(rows: Rows, ours: Arrays) -> dict[str, Check]:
    return {name: _check(name, row, ours.get(name)) for name, row in rows.items()}


def _check(name: str, row: Row, ours: np.ndarray | None) -> Check:
    shape = row.recorded.shape
    if ours is None or ours.shape != shape:
        note = "recorded, but not computed here" if ours is None else f"ours has shape {ours.shape}"
        return Check(name, shape, float("inf"), float("inf"), row.allowed, Verdict.FAIL, note)
    relative = row.distance(ours, row.recorded)
    most = largest(np.asarray(ours, np.float64) - np.asarray(row.recorded, np.float64))
    verdict = Verdict.PASS if relative <= row.allowed else Verdict.FAIL
    return Check(name, shape, most, relative, row.allowed, verdict, row.note)


def _reconsidered(check: Check, row: Row, ours: Arrays, exact: Arrays, moved: list[Arrays]) -> Check:
    """A check with its distances from float64, and `open` where these explain it."""
    name = check.name
    if name not in ours or name not in exact or exact[name].shape != row.recorded.shape:
        return check
    apart = row.distance(ours[name], exact[name])
    rounding = max([apart, *(row.distance(other[name], ours[name]) for other in moved)])
    beside = Beside(row.distance(row.recorded, exact[name]), apart, rounding)
    if check.passed or not is_open(row, check.relative, beside):
        return replace(check, beside=beside)
    note = f"recording {beside.recording:.1e} from float64, rounding moves ours by {rounding:.1e}"
    return replace(check, verdict=Verdict.OPEN, note=note, beside=beside)
