"""Checkpoints: written as a whole or not at all, checked when read, never unpickled.

```
run/recipe.json                       the run's recipe
run/checkpoints/step_0001000/
    model.safetensors                 the weights
    training.safetensors              the optimiser's state and the averaged weights
    state.json                        step, best value, size and CRC-32C of the other two, and its own; written last
```
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_folder, disk_errors, remove_partial, write_file
from torchslots.io.json_files import check_seal, flatten, read_object, sealed
from torchslots.recipes.config import Recipe, current_item, from_dict, to_json

_FORMAT = 1
_PREFIX = "step_"
_PARTS = ("model.safetensors", "training.safetensors")
_UNTOUCHED = (
    "The earlier checkpoints are untouched. Free some space or choose another run folder, and start again."
)
_FREE = {
    "train.num_workers",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep",
    "train.compile",
    "evaluation.test_split",
    "evaluation.test_videos",
    "optim.clip_epsilon",
    "optim.num_steps",
    "optim.learning_rate",
    "optim.min_learning_rate",
    "optim.decoder_learning_rate",
    "optim.backbone_learning_rate",
}
"""Settings that may change when a run is resumed."""


@dataclasses.dataclass(frozen=True)
class RunState:
    """The state of a run that is not in tensors."""

    step: int = 0
    """Updates done."""
    best: float | None = None
    """Best value so far of the monitored metric."""
    best_step: int | None = None
    """Step of the best value."""
    evaluated_step: int = 0
    """Step of the last evaluation; 0: none yet."""
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
    """Metrics of the last evaluation."""
    loss_scale: dict[str, float] = dataclasses.field(default_factory=dict)
    """State of fp16's loss scaler; empty in other precisions."""
    finished: bool = False
    """Whether all steps and the last evaluation are done."""
    compiled: bool | None = None
    """Whether the model was compiled, as a resumed run does again; None: not decided yet."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read and checked; tensors are on the CPU."""

    folder: Path
    state: RunState
    model: dict[str, Tensor]
    training: dict[str, Tensor]


def claim(run: Path, recipe: Recipe, write: bool = True) -> list[str]:
    """Make `run` this recipe's folder, or check that it already is.

    Only the settings in `_FREE` may change when a run is resumed. A setting that an older version did not have had its
    default.

    Args:
        write: False on processes that only check.

    Returns:
        A sentence for each setting that differs from the run's before.

    Raises:
        UserError: the folder belongs to another recipe (each different field is named), or cannot be written.
    """
    folder, file = run / "checkpoints", run / "recipe.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{folder} is a file, where the checkpoints should be. Move it, or choose another folder."
        )
    wanted, changed = flatten(json.loads(to_json(recipe))), []
    if file.exists():
        written = (current_item(recipe, *item) for item in flatten(read_object(file)).items())
        found = flatten(defaults(recipe)) | {"family": recipe.model.family} | dict(written)
        differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
        changes = {key: f"{key} was {found.get(key)!r}, now {wanted.get(key)!r}" for key in differing}
        fixed = [text for key, text in changes.items() if key not in _FREE]
        if fixed:
            raise UserError(
                f"{run} was started with another recipe: {'; '.join(fixed)}. Choose another folder, or give the same "
                f"settings. Of a run that has begun {', '.join(sorted(_FREE))} may change."
            )
        changed = list(changes.values())
    elif list_steps(run):
        raise UserError(f"{run} has checkpoints but no recipe.json. Choose another folder.")
    if write:
        write_file(file, to_json(recipe), durable=True)
        _remove_partial(run)
    return changed


def defaults(config: Any) -> dict[str, Any]:
    """The fields of a frozen dataclass that have a default, with these, as `to_json` writes them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = defaults(value)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = json.loads(json.dumps(field.default))
    return found


def save(
    run: Path, state: RunState, model: dict[str, Tensor], training: dict[str, Tensor], keep: int
) -> Path:
    """Write a checkpoint as a whole or not at all, then remove all but the last `keep` and the best.

    Raises:
        UserError: no space or no permission; earlier checkpoints are unchanged, and no partial one is left.
    """
    final = folder_of(run, state.step)
    with atomic_folder(final, advice=_UNTOUCHED) as folder:
        _fill(folder, state, model, training)
    with disk_errors(final.parent, _UNTOUCHED):
        _prune(run, state, keep)
    return final


def tidy(run: Path, state: RunState, keep: int) -> None:
    """Remove what a killed process left: unfinished files, and checkpoints that `save` was about to remove.

    Raises:
        UserError: no permission.
    """
    _remove_partial(run)
    with disk_errors(run / "checkpoints", _UNTOUCHED):
        _prune(run, state, keep)


def latest(run: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is not damaged; None: there is none yet.

    Args:
        tell: called with a message for each damaged checkpoint.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    steps = list_steps(run)
    problems = []
    for step in reversed(steps):
        try:
            return read(folder_of(run, step))
        except UserError as problem:
            problems.append(str(problem))
            tell(f"{problem} Skipping this checkpoint.")
    if problems:
        raise UserError(
            f"None of the {len(steps)} checkpoints in {run / 'checkpoints'} can be read; the newest: {problems[0]} "
            f"Remove the run folder to start again."
        )
    return None


def read(folder: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        UserError: a part is missing, truncated, changed, of another program or version, or a pickle.
    """
    file = folder / "state.json"
    values = read_object(file)
    if values.get("format") != _FORMAT:
        raise UserError(
            f"{file}: format {values.get('format')!r} is not {_FORMAT}, which this version reads. Resume with the "
            "version that wrote it."
        )
    check_seal(values, file)
    stated, parts = values.get("state"), values.get("files")
    if not isinstance(stated, dict) or "step" not in stated or not isinstance(parts, dict):
        raise UserError(f"{file} is damaged: it does not say what the checkpoint holds.")
    state = from_dict(RunState, stated, str(file))
    if state.step != _step_of(folder):
        raise UserError(f"{file} is damaged: it is of step {state.step}, its folder is {folder.name}.")
    return Checkpoint(folder, state, *(_read_part(folder / name, parts) for name in _PARTS))


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / "checkpoints" / f"{_PREFIX}{step:07d}"


def _step_of(folder: Path) -> int | None:
    digits = folder.name.removeprefix(_PREFIX)
    return int(digits) if digits.isdecimal() else None


def list_steps(run: Path) -> list[int]:
    """Steps of the checkpoints in a run folder, damaged ones included, oldest first."""
    names = [path.name for path in (run / "checkpoints").glob(f"{_PREFIX}*") if path.is_dir()]
    return sorted(int(name[len(_PREFIX) :]) for name in names if name[len(_PREFIX) :].isdecimal())


def read_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose bytes are `data`.

    Raises:
        UserError: a pickle, which is never read, or not a whole safetensors file.
    """
    # A safetensors file begins with its header's length, whose lowest byte may be a pickle's first; byte nine is `{`.
    if data[:4] == b"PK\x03\x04" or (data[:1] == b"\x80" and data[8:9] != b"{"):
        raise UserError(
            f"{path} is a pickle, which can run code when opened: refused. Use a safetensors file."
        )
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({first_line(error)}).") from error


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file; tied tensors are written under each name."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(own, metadata)


def _fill(folder: Path, state: RunState, model: dict[str, Tensor], training: dict[str, Tensor]) -> None:
    parts = {}
    for name, tensors in zip(_PARTS, (model, training)):
        data = to_bytes(tensors)
        parts[name] = {"bytes": len(data), "crc32c": google_crc32c.value(data)}
        (folder / name).write_bytes(data)
    values = {"format": _FORMAT, "state": dataclasses.asdict(state), "files": parts}
    (folder / "state.json").write_text(json.dumps(sealed(values), indent=2))


def _read_part(path: Path, parts: dict[str, Any]) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}).") from error
    tensors = read_tensors(path, data)
    expected = parts.get(path.name)
    if not isinstance(expected, dict):
        raise UserError(f"{path.with_name('state.json')} is damaged: it has no checksum of {path.name}.")
    if google_crc32c.value(data) != expected.get("crc32c"):
        raise UserError(
            f"{path} is damaged: {len(data)} bytes whose CRC-32C is not the one in state.json "
            f"({expected.get('bytes')} bytes were written)."
        )
    return tensors


def _remove_partial(run: Path) -> None:
    remove_partial(run)
    remove_partial(run / "checkpoints")


def _prune(run: Path, state: RunState, keep: int) -> None:
    """Remove old checkpoints, and those of later steps, which are damaged ones that a resume skipped."""
    steps = list_steps(run)
    stay = {*[step for step in steps if step <= state.step][-keep:], state.best_step}
    for step in steps:
        if step not in stay:
            shutil.rmtree(folder_of(run, step))
