"""Convert an original program's checkpoint to a folder that `torchslots.load_model` reads."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from torchslots.convert import layouts, systems
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.models.weights import save_pretrained
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig, Recipe
from torchslots.training import checkpoint


@dataclass(frozen=True)
class Converted:
    """What was read and what was written."""

    source: Path
    out: Path
    config: ModelConfig
    num_arrays: int
    num_weights: int
    step: int | None
    assumed: str = ""
    """Sentences on what the checkpoint does not say."""

    def __str__(self) -> str:
        trained = "" if self.step is None else f" after {self.step} updates"
        return (
            f"Read {count_text(self.num_arrays, 'array')}, {self.num_weights:,} numbers, of a model of the family "
            f"{self.config.family}{trained} from {self.source}.\n"
            f"Wrote {self.out / 'config.json'} and {self.out / 'model.safetensors'}."
            + (f"\n{self.assumed}" if self.assumed else "")
        )


def convert(
    checkpoint: Path,
    /,
    out: Path,
    *,
    recipe: str | None = None,
    config: Path | None = None,
    run: Path | None = None,
) -> Converted:
    """Convert a checkpoint of an original program, in flax, TensorFlow or torch.

    Args:
        checkpoint: Checkpoint file or prefix, or the folder that holds it (`checkpoints-0`), or its parent (of torch's
            `.pth` files the best, else the newest).
        out: Folder to write config.json and model.safetensors to.
        recipe: Recipe whose configuration the checkpoint has; by default it is recognised from names and shapes.
        config: The original's own configuration as JSON, for sizes that were not published.
        run: New folder to write as a run with the optimiser's moments, which `torchslots train` resumes; needs
            --recipe, which with --config says only how to train.

    Raises:
        UserError: a file that is damaged, foreign or of another system, or a configuration that does not fit it.
    """
    if recipe is not None and config is not None and run is None:
        raise UserError("give either --recipe or --config: both say what the sizes are.")
    if run is not None and recipe is None:
        raise UserError("--run needs --recipe: data, schedule and batch size of the training come from it.")
    program, read = systems.open_original(checkpoint)
    found = systems.configuration(program, read, None if config is not None else recipe, config)
    model = catalog.build(found)
    layouts.fill(model, systems.weights(program, read, found), str(read.path))
    adam = adam_state(model, *systems.moments(program, read, found), read.step)
    save_pretrained(model, found, out)
    if run is not None and recipe is not None:
        write_run(run, replace(catalog.recipe(recipe), model=found), model, adam, read.step)
    params = read.params.values()
    assumed = program.assumed(found) if recipe is None and config is None else ""
    return Converted(
        read.path, out, found, len(params), sum(array.size for array in params), read.step, assumed
    )


def adam_state(
    model: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor], step: int | None
) -> dict[str, Tensor]:
    """Adam's moments and steps for `training.optim.load_optimizer`; empty without moments.

    Args:
        first, second: moments by our names; those of constants, which the original counts as weights, are left out.
        step: updates done.
    """
    found: dict[str, Tensor] = {}
    for name, _ in model.named_parameters():
        if name in first and name in second:
            found |= {f"exp_avg/{name}": first[name], f"exp_avg_sq/{name}": second[name]}
            found[f"step/{name}"] = torch.tensor(float(step or 0))
    return found


def write_run(
    run: Path, recipe: Recipe, model: nn.Module, optimizer: dict[str, Tensor], step: int | None
) -> Path:
    """Write a checkpoint that `torchslots train` with the same `recipe` and changes resumes; returns its folder.

    Args:
        run: a new folder.
        optimizer: Adam's moments and steps, as `training.optim.optimizer_tensors` names them.
        step: updates done.

    Raises:
        UserError: no moments or no step to resume from, or a folder that is already a run's.
    """
    if not optimizer or step is None:
        raise UserError(
            "This checkpoint holds weights alone, without an optimiser to resume. Convert it without --run, and train "
            "from its weights."
        )
    if checkpoint.list_steps(run):
        raise UserError(f"{run} is already a run with checkpoints. Choose a new folder.")
    checkpoint.claim(run, recipe)
    tensors = {f"optim/{key}": value for key, value in optimizer.items()}
    state = checkpoint.RunState(step=step)
    return checkpoint.save(run, state, dict(model.state_dict()), tensors, recipe.train.keep)
