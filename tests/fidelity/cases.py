"""`torchslots verify`: our models against recordings of the original programs.

A case is a folder with `config.json`, `inputs.npz`, `outputs.npz` and a checkpoint in the original's own format.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError

OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
DEEP_GRADIENT_TOLERANCE = 2.5e-3
"""Gradient norms behind a full ResNet, where float32 rounding of the original itself is larger."""
MARGIN = 1e-4
"""Integer maps must agree wherever the original's winner leads by more than this."""


@dataclass(frozen=True)
class Case:
    """A recorded case, read."""

    folder: Path
    config: dict[str, Any]
    inputs: Arrays
    outputs: Arrays
    double: bool = False
    """Whether our model computes in float64, to show how coarse the recording itself is."""


@dataclass(frozen=True)
class Check:
    """One recorded tensor beside ours."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    """Norm of the difference over the norm of the recording."""
    tolerance: float
    passed: bool
    note: str = ""
    ours: np.ndarray | None = field(default=None, repr=False, compare=False)
    """What was compared, where it is numbers."""


@dataclass(frozen=True)
class CaseResult:
    """All checks of a folder."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


def read_case(folder: Path) -> Case:
    """Raises UserError where a file of the case is missing or damaged."""
    for name in ("config.json", "inputs.npz", "outputs.npz"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a recorded case: {name} is missing. It needs config.json, inputs.npz, outputs.npz."
            )
    try:
        config = json.loads((folder / "config.json").read_text())
        inputs, outputs = (_read_arrays(folder / name) for name in ("inputs.npz", "outputs.npz"))
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise UserError(f"{folder} cannot be read: {error}. Copy the folder again.") from error
    except Exception as error:  # zipfile.BadZipFile and zlib.error of a damaged npz
        raise UserError(f"{folder} holds a damaged npz file: {error}. Copy the folder again.") from error
    return Case(folder, config, inputs, outputs)


def _read_arrays(file: Path) -> Arrays:
    with np.load(BytesIO(file.read_bytes())) as arrays:
        return dict(arrays)


def compare(name: str, ours: np.ndarray, recorded: np.ndarray, tolerance: float, note: str = "") -> Check:
    """Relative error in the L2 norm; a wrong shape or a non-finite value fails."""
    if ours.shape != recorded.shape:
        return Check(
            name, recorded.shape, float("inf"), float("inf"), tolerance, False, f"ours has shape {ours.shape}"
        )
    difference = np.asarray(ours, np.float64) - np.asarray(recorded, np.float64)
    largest = float(np.abs(difference).max(initial=0.0))
    norm = float(np.linalg.norm(np.asarray(recorded, np.float64)))
    relative = float(np.linalg.norm(difference)) / norm if norm else largest
    passed = relative <= tolerance
    return Check(name, recorded.shape, largest, relative, tolerance, passed, note, np.asarray(ours))


def compare_absolute(name: str, ours: np.ndarray, recorded: np.ndarray, tolerance: float) -> Check:
    """Largest difference, for scores whose scale is one."""
    check = compare(name, ours, recorded, tolerance, "absolute")
    return replace(check, passed=check.max_abs <= tolerance)


def compare_integers(name: str, ours: np.ndarray, recorded: np.ndarray, margin: np.ndarray | None) -> Check:
    """Equality wherever the original's margin is over `MARGIN`; everywhere where no margin was recorded."""
    if ours.shape != recorded.shape:
        return Check(
            name, recorded.shape, float("inf"), float("inf"), 0.0, False, f"ours has shape {ours.shape}"
        )
    counted = np.ones(recorded.shape, bool) if margin is None else margin.reshape(recorded.shape) > MARGIN
    wrong = int(((ours != recorded) & counted).sum())
    note = f"{int(counted.sum())} of {counted.size} counted; {int((ours != recorded).sum())} differ in all"
    return Check(
        name, recorded.shape, float(wrong), wrong / max(int(counted.sum()), 1), 0.0, wrong == 0, note
    )


def compare_zero(name: str, ours: float, scale: float) -> Check:
    """A gradient that is zero in exact arithmetic: ours must be rounding noise beside the whole gradient."""
    relative = ours / scale
    return Check(
        name, (), ours, relative, OUTPUT_TOLERANCE, relative <= OUTPUT_TOLERANCE, "zero in exact arithmetic"
    )


def verify(folders: list[Path]) -> list[CaseResult]:
    """Run our model on every folder's inputs and compare with its outputs."""
    return [CaseResult(str(folder), tuple(checks(read_case(folder)))) for folder in folders]


def checks(case: Case) -> Iterator[Check]:
    """What the case's system compares."""
    system, systems = system_name(case), _systems()
    known = [prefix for prefix in systems if system.startswith(prefix)]
    if known:
        return systems[max(known, key=len)](case)
    raise UserError(f"{case.folder}: no way to verify `{system}` here. Known: {', '.join(systems)}.")


def system_name(case: Case) -> str:
    """What config.json calls the system."""
    nested = case.config.get("config")
    return str(case.config.get("model") or (nested.get("model") if isinstance(nested, dict) else None))


def _systems() -> dict[str, Callable[[Case], Iterator[Check]]]:
    """THE place to add a system: the beginning of `model` in config.json, and its checks."""
    from fidelity import dvae as dvae_golden
    from fidelity import isa as isa_golden
    from fidelity import savi as savi_golden
    from fidelity import savi_slotdiffusion as savi_pytorch_golden
    from fidelity import slot_attention as slot_attention_golden
    from fidelity import slotdiffusion as slotdiffusion_golden
    from fidelity import statm as statm_golden
    from fidelity import steve as steve_golden
    from fidelity import vqvae as vqvae_golden

    return {
        "savi": savi_golden.checks,
        "statm": statm_golden.checks,
        "isa": isa_golden.checks,
        "object_discovery": slot_attention_golden.checks,
        "set_prediction": slot_attention_golden.checks,
        "VQVAE": vqvae_golden.checks,
        "dVAE": dvae_golden.checks,
        "SAViDiffusion": slotdiffusion_golden.checks,
        "SAVi": savi_pytorch_golden.checks,
        "STEVE": steve_golden.checks,
    }


def print_results(results: list[CaseResult]) -> None:
    """A table for each folder, and a line for each verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    for result in results:
        table = Table(
            "tensor",
            "shape",
            "max abs",
            "relative",
            "allowed",
            "",
            "",
            title=result.folder,
            title_justify="left",
        )
        for check in result.checks:
            verdict = "[green]pass[/]" if check.passed else "[bold red]FAIL[/]"
            shape = "x".join(map(str, check.shape)) or "-"
            numbers = [f"{value:.2e}" for value in (check.max_abs, check.relative, check.tolerance)]
            table.add_row(check.name, shape, *numbers, verdict, check.note)
        console.print(table)
    for result in results:
        failed = sum(not check.passed for check in result.checks)
        verdict = "passed" if result.passed else "FAILED"
        console.print(f"{verdict}  {result.folder}: {len(result.checks) - failed} passed, {failed} failed")


def results_json(results: list[CaseResult]) -> str:
    """The same as JSON."""
    return json.dumps(
        [
            {
                "folder": result.folder,
                "checks": [
                    {name: value for name, value in vars(check).items() if name != "ours"}
                    for check in result.checks
                ],
                "passed": result.passed,
            }
            for result in results
        ],
        indent=2,
    )
