"""`torchslots train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from torchslots.cli.options import Flat, Words, parse


def train(words: Words) -> int:
    """`torchslots train RECIPE --root DIR --run-dir DIR`."""
    from torchslots.cli.recipes import recipes
    from torchslots.convert.pretrained import model_folder
    from torchslots.io.processes import is_first_process
    from torchslots.recipes import catalog
    from torchslots.recipes.config import Recipe, current_flags
    from torchslots.training import run as training
    from torchslots.training.warm_start import next_recipe

    if not words or words[0].startswith("-"):
        print("Usage: torchslots train RECIPE --root DIR --run-dir DIR [--data NAME] [overrides]")
        print(
            "`torchslots train RECIPE --help` shows the whole configuration of a recipe with units and defaults."
        )
        recipes([])
        return 0 if {"-h", "--help"} & set(words) else 2
    chosen, defaults = catalog.recipe(words[0]), training.TrainOptions()

    def train(
        root: Path,
        run: Annotated[Path, tyro.conf.arg(name="run-dir", aliases=["--run"])],
        recipe: Flat[Recipe] = chosen,
        options: Flat[training.TrainOptions] = defaults,
    ) -> int:
        """Train a recipe. The same command resumes; Ctrl-C saves a checkpoint and stops.

        Args:
            root: Folder with the data.
            run: Folder for checkpoints, logs, plots and the finished model. --run is the same, but not under torchrun,
                which takes it for an option of its own.
            recipe: The recipe.
            options: Settings that are not the recipe's.
        """
        parts = {name: getattr(options, name) for name in ("tokenizer", "slot_encoder")}
        found = {name: str(model_folder(part)) for name, part in parts.items() if part is not None}
        result = training.train(recipe, root, run, replace(options, **found))
        if not is_first_process():
            return 0
        print(f"{recipe.name}: {result.step} steps done. Next: torchslots evaluate {run} --root {root}")
        after = next_recipe(recipe)
        if after is not None:
            print(f"Then: torchslots train {after} --tokenizer {run} --root {root} --run-dir DIR")
        return 0

    return parse(train, current_flags(chosen, words[1:]), f"train {words[0]}")
