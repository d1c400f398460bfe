"""`torchslots convert`: an original checkpoint to a folder that `torchslots.load_model` reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchslots.convert import flax_checkpoint, flax_systems, layouts
from torchslots.errors import UserError
from torchslots.hub import save_pretrained
from torchslots.recipes import catalog
from torchslots.training.recipe import ModelConfig


@dataclass(frozen=True)
class Converted:
    """What was read and what was written."""

    source: Path
    out: Path
    config: ModelConfig
    num_arrays: int
    num_weights: int
    step: int | None

    def __str__(self) -> str:
        trained = "" if self.step is None else f" after {self.step} updates"
        return (
            f"Read {self.num_arrays} arrays, {self.num_weights:,} numbers, of a model of the family "
            f"{catalog.family_of(self.config)}{trained} from {self.source}.\n"
            f"Wrote {self.out / 'config.json'} and {self.out / 'model.safetensors'}."
        )


def convert(
    checkpoint: Path, /, out: Path, *, recipe: str | None = None, config: Path | None = None
) -> Converted:
    """Convert a checkpoint of an original program.

    Args:
        checkpoint: Checkpoint file, or the folder that holds it (`checkpoints-0`, or its parent).
        out: Folder to write config.json and model.safetensors to.
        recipe: Recipe whose numbers the checkpoint has; by default they are recognised from names and shapes.
        config: The original's own configuration as JSON, for sizes that were not published.

    Raises:
        UserError: a file that is damaged, foreign or of another system, or numbers that do not fit it.
    """
    if recipe is not None and config is not None:
        raise UserError("give either --recipe or --config: both say what the sizes are.")
    read = flax_checkpoint.read(checkpoint)
    numbers = flax_systems.numbers(read, recipe, None if config is None else _read_json(config))
    model = catalog.build(numbers)
    leaves = flax_systems.system_of(read).leaves(numbers)
    state = layouts.to_ours(leaves, read.params, str(read.path))
    _load(model, state, read.path)
    save_pretrained(model, numbers, out)
    return Converted(
        read.path,
        out,
        numbers,
        len(read.params),
        sum(array.size for array in read.params.values()),
        read.step,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
        return values["config"] if "model" not in values or isinstance(values["model"], str) else values
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is not an original configuration as JSON: {error}.") from error


def _load(model: Any, state: dict[str, Any], path: Path) -> None:
    """Strict, with the first wrong shapes in the message."""
    wanted = model.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)}, not {tuple(wanted[name].shape)}"
        for name, value in state.items()
        if value.shape != wanted[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} arrays have other sizes than the recipe: {'; '.join(wrong[:3])}."
        )
    model.load_state_dict(state)
