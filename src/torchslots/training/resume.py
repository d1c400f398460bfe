"""The options of a training, and what a run remembers of its start, so that it resumes from its folder alone."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from torchslots.io.errors import UserError
from torchslots.io.files import disk_errors, write_file
from torchslots.io.json_files import read_object
from torchslots.io.values import convert_fields
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe, from_dict

_START, _CHANGES, _RECIPE = "start.json", "changes.jsonl", "recipe.json"
_GIVEN_ONCE = ("dataset", "tokenizer", "slot_encoder", "init", "backbone")
"""Options that a run has in its recipe and its weights."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training besides its recipe."""

    dataset: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """Data set by name, see `torchslots data list`; None: the recipe's own. `prepared`: what `torchslots data prepare`
    wrote; where it stored features (--features), they are read in place of frames."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""
    tokenizer: str | None = None
    """Trained tokenizer, for a model that decodes with one: a run folder, a model folder, or owner/name on the hub; on
    the command line a published checkpoint, too. Its configuration takes the place of `--model.tokenizer.*`."""
    slot_encoder: str | None = None
    """Trained model whose slot encoder to start with, of the same kind: a run folder, a model folder, or owner/name on
    the hub; on the command line a published checkpoint, too. Its configuration takes the place of `--model.slots.*`."""
    init: str | None = None
    """Trained model of the same system and sizes to start with, all of it: a run folder, a model folder, or owner/name
    on the hub. Frames may be larger or smaller: the decoder's positions are resampled."""
    backbone: str | None = None
    """Weights of the pretrained backbone that slots are found on: a file, a folder, or owner/name on the hub; None: the
    recipe's own, `--model.backbone.pretrained`."""
    monitor: Annotated[str | None, tyro.conf.arg(name="best-metric", aliases=["--monitor"])] = None
    """Metric whose best value marks the best model; None: the decoder's (fg_ari or ap_inf), psnr for tokenizers. On
    data without labels it is the error of reconstruction, or the loss, by default."""
    num_plots: int = 4
    """Videos plotted at each evaluation."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""

    def __post_init__(self) -> None:
        convert_fields(self)


USUAL = TrainOptions()
"""The options by default."""


class Start(NamedTuple):
    """What a run was started with."""

    recipe: Recipe
    root: Path | None
    """Folder with the data; None: an older version began the run, or a program."""
    options: TrainOptions


def read_start(run: Path) -> Start:
    """What a run was started with; `run` may also be its recipe.json.

    Raises:
        UserError: this is no run, or its files are damaged.
    """
    run = run.parent if run.name == _RECIPE else run
    if not (run / _RECIPE).is_file():
        raise UserError(
            f"{run} is no run folder: it has no {_RECIPE}. Start one: torchslots train RECIPE --run-dir {run}."
        )
    recipe = catalog.read_recipe(run / _RECIPE)
    if not (run / _START).is_file():
        return Start(recipe, None, TrainOptions())
    found = read_object(run / _START)
    options = from_dict(TrainOptions, found.get("options", {}), str(run / _START))
    root = found.get("root")
    return Start(recipe, Path(root) if isinstance(root, str) else None, options)


def start_of(root: Path, options: TrainOptions) -> dict[str, Any]:
    """What `write_start` writes."""
    usual = {field.name: field.default for field in fields(options)}
    known = {name: usual[name] if name in _GIVEN_ONCE else value for name, value in asdict(options).items()}
    return {"root": str(root.resolve()), "options": known}


def write_start(run: Path, start: dict[str, Any]) -> None:
    """Write a run's start beside its recipe.

    Raises:
        UserError: no space or no permission.
    """
    write_file(run / _START, json.dumps(start, indent=2) + "\n")


def note_change(run: Path, step: int, change: str) -> None:
    """Add a line on a setting that was changed when the run resumed, unless a killed process already has.

    Raises:
        UserError: no space or no permission.
    """
    file, line = run / _CHANGES, json.dumps({"step": step, "change": change})
    with disk_errors(file):
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        if line not in lines:
            write_file(file, "\n".join([*lines, line]) + "\n")
