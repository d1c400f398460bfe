"""`torchslots train`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from torchslots.cli.examples import examples
from torchslots.cli.options import Flat, Words, is_asked, parse
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError

if TYPE_CHECKING:
    from torchslots.recipes.config import Recipe


def train(words: Words) -> int:
    """`torchslots train RECIPE --root DIR --run-dir DIR`; RECIPE is a name, or a YAML or JSON file."""
    from torchslots.cli.recipes import recipes
    from torchslots.convert import train as training
    from torchslots.io.devices import announce_device
    from torchslots.io.processes import is_first_process
    from torchslots.recipes import catalog
    from torchslots.recipes.config import Recipe, current_flags
    from torchslots.recipes.recipe_files import is_recipe_file, read_recipe_file
    from torchslots.training.resume import TrainOptions, read_start
    from torchslots.training.warm_start import next_recipe

    if words[:1] == ["--replay"]:
        return _replay(words[1:])
    resumed = _resumed(words)
    if resumed is None and (not words or words[0].startswith("-")):
        print("Usage: torchslots train RECIPE --root DIR --run-dir DIR [--data NAME] [overrides]")
        print("       torchslots train my.yaml --root DIR --run-dir DIR [overrides]")
        print("       torchslots train --resume RUN [overrides]")
        print("       torchslots train --replay RUN/nonfinite_batch_step_N.safetensors")
        print(
            "`torchslots train RECIPE --help` shows the whole configuration of a recipe with units and defaults."
        )
        recipes([])
        print(examples("train"))
        return 0 if is_asked(words) else 2
    if resumed is None:
        known = read_recipe_file(Path(words[0])) if is_recipe_file(words[0]) else catalog.recipe(words[0])
        chosen, defaults, flags = known, TrainOptions(), words[1:]
    else:
        start = read_start(resumed)
        chosen, defaults, flags = start.recipe, start.options, words[words.index(str(resumed)) + 1 :]
        flags += _unless_given(
            flags, "--run-dir", resumed.parent if resumed.name == "recipe.json" else resumed
        )
        flags += _unless_given(flags, "--root", start.root)

    def train(
        root: Path,
        run: Annotated[Path, tyro.conf.arg(name="run-dir", aliases=["--run"])],
        recipe: Flat[Recipe] = chosen,
        options: Flat[TrainOptions] = defaults,
    ) -> int:
        """Train a recipe. The same command resumes; Ctrl-C saves a checkpoint and stops.

        Args:
            root: Folder with the data.
            run: Folder for checkpoints, logs, plots and the finished model. --run is the same, but not under torchrun,
                which takes it for an option of its own.
            recipe: The recipe.
            options: Settings that are not the recipe's.
        """
        announce_device(options.device)
        result = training.train(recipe, root, run, options)
        if not is_first_process():
            return 0
        folder, data = shlex.quote(str(run)), shlex.quote(str(root))
        print(
            f"{recipe.name}: {count_text(result.step, 'step')} done. Next: torchslots evaluate {folder} --root {data}"
        )
        own = _own_video(recipe, options.dataset or recipe.data.dataset, root)
        if own is not None:
            print(f"Or: torchslots predict {folder} {shlex.quote(str(own))} --out seen")
        after = next_recipe(recipe)
        if after is not None:
            print(f"Then: torchslots train {after} --tokenizer {folder} --root {data} --run-dir DIR")
        return 0

    return parse(train, current_flags(chosen, flags), f"train {words[0]}")


def _replay(words: Words) -> int:
    from torchslots.training.replay import replay

    def run(file: Annotated[Path, tyro.conf.Positional], device: str | None = None) -> int:
        """Run the step of a saved batch again, and name its first tensor that is not finite.

        Args:
            file: The batch that a run saved when it stopped.
            device: cpu, cuda or cuda:N; None: cuda where there is one.
        """
        print(replay(file, device))
        return 0

    return parse(run, words, "train --replay")


def _own_video(recipe: "Recipe", dataset: str, root: Path) -> Path | None:
    """A held-out video of your own, to look at what a model without hints makes of it; None: of other recipes and
    data."""
    from torchslots.data.sets.own_files import split_clips

    made_for_them = dataset == "folder" and recipe.data.windows == "back_and_forth"
    return split_clips(root, recipe.evaluation.split)[0] if made_for_them else None


def _resumed(words: Words) -> Path | None:
    """The run named by `--resume RUN`, a run folder or its recipe.json; None: the words name a recipe."""
    if words[:1] == ["--resume"]:
        if len(words) < 2:
            raise UserError("--resume needs the folder of a run: torchslots train --resume RUN.")
        return Path(words[1])
    named = Path(words[0]) if words else Path()
    return named if named.name == "recipe.json" or (named / "recipe.json").is_file() else None


def _unless_given(flags: Words, flag: str, value: Path | None) -> Words:
    """The flag with a value that the run remembers, where the words do not have the flag."""
    given = any(word.partition("=")[0] in (flag, "--run" if flag == "--run-dir" else flag) for word in flags)
    return [] if given or value is None else [flag, str(value)]
