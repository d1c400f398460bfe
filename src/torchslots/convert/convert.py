"""`torchslots convert`: an original checkpoint to a folder that `torchslots.load_model` reads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchslots.convert import flax_systems, layouts
from torchslots.convert import systems as torch_systems
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import slot_attention as slot_attention_tf
from torchslots.convert.originals import slot_attention_layout
from torchslots.convert.readers import flax as flax_checkpoint
from torchslots.convert.readers import tensorflow as tensorflow_checkpoint
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.convert.reference import read_reference
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

    def __str__(self) -> str:
        trained = "" if self.step is None else f" after {self.step} updates"
        return (
            f"Read {self.num_arrays} arrays, {self.num_weights:,} numbers, of a model of the family "
            f"{self.config.family}{trained} from {self.source}.\n"
            f"Wrote {self.out / 'config.json'} and {self.out / 'model.safetensors'}."
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
        checkpoint: Checkpoint file or prefix, or the folder that holds it (`checkpoints-0`, or its parent; of torch's
            `.pth` files the best, else the newest).
        out: Folder to write config.json and model.safetensors to.
        recipe: Recipe whose numbers the checkpoint has; by default they are recognised from names and shapes.
        config: The original's own configuration as JSON, for sizes that were not published.
        run: New folder to write as a run with the optimiser's moments, in which `torchslots train` goes on; needs
            --recipe, which with --config says no more than how to train.

    Raises:
        UserError: a file that is damaged, foreign or of another system, or numbers that do not fit it.
    """
    if recipe is not None and config is not None and run is None:
        raise UserError("give either --recipe or --config: both say what the sizes are.")
    if run is not None and recipe is None:
        raise UserError("--run needs --recipe: data, schedule and batch size of the training come from it.")
    sizes = None if config is not None else recipe
    original = _reader(checkpoint)(checkpoint, sizes, config)
    save_pretrained(original.model, original.numbers, out)
    if run is not None and recipe is not None:
        chosen = replace(catalog.recipe(recipe), model=original.numbers)
        write_run(run, chosen, original.model, original.adam, original.step)
    params = original.params.values()
    return Converted(
        original.path, out, original.numbers, len(params), sum(array.size for array in params), original.step
    )


@dataclass(frozen=True)
class _Original:
    """A checkpoint as a model of ours, and the memory of its optimiser."""

    path: Path
    params: Arrays
    numbers: ModelConfig
    model: Any
    adam: dict[str, Tensor]
    step: int | None


def _reader(checkpoint: Path) -> Callable[[Path, str | None, Path | None], _Original]:
    """What reads the kind of checkpoint that is there."""
    # Trainers in flax write an empty TensorFlow checkpoint beside their own file.
    if flax_checkpoint.holds(checkpoint):
        return _flax
    if tensorflow_checkpoint.is_checkpoint(checkpoint):
        return _tensorflow
    return _torch if torch_checkpoint.holds(checkpoint) else _flax


def _flax(checkpoint: Path, recipe: str | None, config: Path | None) -> _Original:
    read = flax_checkpoint.read(checkpoint)
    system = flax_systems.system_of(read)
    reference = None if config is None else read_reference(config, read.path, system.title)
    numbers = flax_systems.numbers(read, recipe, reference)
    model, leaves = catalog.build(numbers), system.leaves(numbers)
    ours = partial(layouts.to_ours, leaves, where=str(read.path))
    _load(model, ours(read.params), read.path)
    moments = [ours(part) if part else {} for part in (read.first_moments, read.second_moments)]
    adam = adam_state(model, moments[0], moments[1], read.step)
    return _Original(read.path, read.params, numbers, model, adam, read.step)


def _tensorflow(checkpoint: Path, recipe: str | None, config: Path | None) -> _Original:
    read = slot_attention_tf.read(checkpoint)
    if config is not None:
        reference = read_reference(config, read.path, slot_attention_tf.TITLE)
        numbers = slot_attention_tf.config_from_reference(reference, read)
    else:
        numbers = slot_attention_tf.numbers(read, None if recipe is None else catalog.recipe(recipe).model)
    model = slot_attention_tf.model_of(read, numbers)
    ours = partial(slot_attention_layout.to_ours, numbers, where=str(read.path))
    moments = [ours(part) if part else {} for part in (read.first_moments, read.second_moments)]
    adam = adam_state(model, moments[0], moments[1], read.step)
    return _Original(read.path, read.params, numbers, model, adam, read.step)


def _torch(checkpoint: Path, recipe: str | None, config: Path | None) -> _Original:
    read = torch_checkpoint.read(checkpoint)
    title = torch_systems.system_of(read).title
    reference = None if config is None else read_reference(config, read.path, title)
    numbers = torch_systems.numbers(read, recipe, reference)
    model = catalog.build(numbers)
    _load(model, torch_systems.weights(read, numbers), read.path)
    adam = adam_state(model, *torch_systems.moments(read, numbers), read.step)
    return _Original(read.path, read.params, numbers, model, adam, read.step)


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


def adam_state(
    model: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor], step: int | None
) -> dict[str, Tensor]:
    """Adam's memory of a model's parameters, in the form that `training.optim.load_optimizer` takes; empty where there
    are no moments.

    Args:
        first, second: moments by our names; those of constants that the original counted as weights are left out.
        step: updates done.
    """
    names = [name for name, _ in model.named_parameters() if name in first and name in second]
    found: dict[str, Tensor] = {}
    for name in names:
        found |= {f"exp_avg/{name}": first[name], f"exp_avg_sq/{name}": second[name]}
        found[f"step/{name}"] = torch.tensor(float(step or 0))
    return found


def write_run(
    run: Path, recipe: Recipe, model: nn.Module, optimizer: dict[str, Tensor], step: int | None
) -> Path:
    """Write one checkpoint of the trainer's own kind; returns its folder.

    The same `recipe` must then be named to `torchslots train`, with the same changes.

    Args:
        run: a new folder.
        optimizer: Adam's moments and steps, as `training.optim.optimizer_tensors` names them.
        step: updates done.

    Raises:
        UserError: no moments or no step to go on from, or a folder that is already a run's.
    """
    if not optimizer or step is None:
        raise UserError(
            "This checkpoint holds weights alone, no optimiser to go on with. Convert it without resuming, and train "
            "from its weights."
        )
    if checkpoint.list_steps(run):
        raise UserError(f"{run} is already a run with checkpoints. Choose a new folder.")
    checkpoint.claim(run, recipe)
    tensors = {f"optim/{key}": value for key, value in optimizer.items()}
    state = checkpoint.RunState(step=step)
    return checkpoint.save(run, state, dict(model.state_dict()), tensors, recipe.train.keep)
