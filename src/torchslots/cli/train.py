"""`torchslots train`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from torchslots.cli.options import Words, parse, whole_videos
from torchslots.cli.recipes import recipes
from torchslots.recipes.config import Recipe, current_flags

if TYPE_CHECKING:
    from torchslots.data.loader import ClipDataset


@dataclass(frozen=True)
class TrainOptions:
    """Train a recipe. The same command again goes on where it stopped; Ctrl-C saves first."""

    root: Path
    """Folder with the data."""
    run: Path
    """Folder for checkpoints, logs, pictures and the finished model."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    dataset: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """Data set by name, see `torchslots data list`; None: the recipe's own."""
    device: str | None = None
    """cpu, cuda or cuda:N; None: cuda where there is one."""
    tokenizer: str | None = None
    """Trained image code, for a model that draws in one: a run folder, a model folder, or owner/name on the hub. Its
    numbers take the place of `--model.tokenizer.*`."""
    slot_encoder: str | None = None
    """Trained model whose slot encoder to begin with, of the same kind: a run folder, a model folder, or owner/name on
    the hub. Its numbers take the place of `--model.slots.*`."""
    monitor: str | None = None
    """Metric whose highest value marks the best model; None: the usual one, fg_ari of slots, psnr of an image code."""
    draw: int = 4
    """Videos drawn at each evaluation."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    skip_corrupt: bool = False
    """Leave damaged records out and count them, in place of stopping at the first."""


def train(words: Words) -> int:
    """`torchslots train RECIPE ...`."""
    from torchslots.recipes import catalog
    from torchslots.training import loop
    from torchslots.training.warm_start import assemble, next_recipe

    if not words or words[0].startswith("-"):
        print("Usage: torchslots train RECIPE --root DIR --run DIR [--data NAME] [overrides]")
        print("`torchslots train RECIPE --help` shows every number of a recipe with unit and default.")
        recipes([])
        return 0 if {"-h", "--help"} & set(words) else 2
    chosen = catalog.recipe(words[0])
    blank = TrainOptions(root=tyro.MISSING, run=tyro.MISSING, recipe=chosen)
    line: TrainOptions = parse(
        TrainOptions, current_flags(chosen, words[1:]), f"train {words[0]}", default=blank
    )
    recipe, model = assemble(
        _with_dataset(line.recipe, line.dataset), line.run, line.tokenizer, line.slot_encoder
    )
    train_set, eval_set = _open_sets(recipe, line.root)
    result = loop.train(
        recipe,
        model,
        train_set,
        eval_set,
        line.run,
        device=line.device,
        monitor=line.monitor,
        draw=line.draw,
        wandb=line.wandb,
        skip_corrupt=line.skip_corrupt,
    )
    print(f"{recipe.name}: {result.step} steps done. Next: torchslots evaluate {line.run} --root {line.root}")
    after = next_recipe(recipe)
    if after is not None:
        print(f"Then: torchslots train {after} --tokenizer {line.run} --root {line.root} --run DIR")
    return 0


def _with_dataset(recipe: Recipe, name: str | None) -> Recipe:
    return (
        recipe
        if name is None
        else dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, dataset=name))
    )


def _open_sets(recipe: Recipe, root: Path) -> "tuple[ClipDataset, ClipDataset]":
    """Training clips and whole videos for evaluation."""
    from torchslots.data.catalog import open_dataset

    train_set = open_dataset(recipe.data.dataset, root, recipe.data.train_split, recipe.data, True)
    return train_set, whole_videos(recipe.data, recipe.evaluation, root)
