"""From an original checkpoint to a run folder in which `torchslots train` goes on where the original stopped."""

from pathlib import Path

import torch
from torch import Tensor, nn

from torchslots.errors import UserError
from torchslots.training import checkpoint
from torchslots.training.recipe import Recipe


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
