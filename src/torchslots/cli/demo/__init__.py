"""`torchslots demo`: the whole way on generated data, in minutes, from nothing to a page of pictures.

Data are generated in a published set's format, learned from, judged beside baselines, and shown.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torchslots.cli.demo import generative, images, properties, videos
from torchslots.cli.demo.outcome import print_figures, write_metrics, write_result
from torchslots.cli.demo.plan import Plan, Stopwatch, System, judge, train_model, train_tokenizer
from torchslots.io.errors import UserError, nearest
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe

SystemName = Literal["savi", "slot-attention", "set-prediction", "isa", "statm", "steve", "slotdiffusion"]
SYSTEMS: dict[SystemName, System] = {
    "savi": videos.SAVI,
    "slot-attention": images.SLOT_ATTENTION,
    "set-prediction": properties.SET_PREDICTION,
    "isa": images.ISA,
    "statm": videos.STATM,
    "steve": generative.STEVE,
    "slotdiffusion": generative.SLOTDIFFUSION,
}


def demo(
    out: Path | None = None,
    *,
    system: SystemName = "savi",
    examples: int | None = None,
    held_out: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Generate data, train a small model on them, judge it on held-out ones, and make a page of pictures.

    The same command goes on where it was interrupted. Returns the page.

    Args:
        out: Folder for everything: data, run, metrics.json, pictures, index.html; None: runs/demo, for other systems
            than savi runs/demo-SYSTEM.
        system: savi, statm: objects followed through videos; slot-attention, isa: objects found in pictures;
            set-prediction: their properties named; steve, slotdiffusion: an image code is learned first, then slots
            from which videos are generated and edited.
        examples: Videos or pictures to train on; None: as many as the system's demonstration needs.
        held_out: Videos or pictures to judge on; None: likewise.
        steps: Training steps; None: the recipe's. An image code's are changed in proportion.
        seed: Seed of the data, the weights and the order of training.
        device: cpu, cuda or cuda:N.

    Raises:
        UserError: no such system, data of other settings in the folder, and whatever stops a training.
    """
    if system not in SYSTEMS:
        raise UserError(f"There is no demonstration of `{system}`. {nearest(system, SYSTEMS)}")
    kind = SYSTEMS[system]
    plan = Plan(
        recipe=_recipe(kind, steps, held_out or kind.held_out, seed),
        out=out or Path("runs") / ("demo" if system == "savi" else f"demo-{system}"),
        count=examples or kind.count,
        held_out=held_out or kind.held_out,
        seed=seed,
        device=device,
        tokenizer=_tokenizer(kind, steps, seed),
    )
    return _carry_out(plan, kind)


def _carry_out(plan: Plan, kind: System) -> Path:
    clock = Stopwatch()
    with clock.part(f"Generating {kind.unit}"):
        sets = kind.make_sets(plan)
    if plan.tokenizer is not None:
        with clock.part("Training the image code"):
            train_tokenizer(plan, plan.tokenizer, sets)
    with clock.part("Training"):
        train_model(plan, sets, kind.monitor)
    with clock.part("Evaluating"):
        result = judge(plan, sets, kind)
    with clock.part("VideoPanel"):
        plan.pictures.mkdir(parents=True, exist_ok=True)
        shown = kind.show(result)
    write_metrics(result, shown, clock.seconds)
    print_figures(result, kind)
    return write_result(result, shown, kind, clock.seconds)


def _recipe(kind: System, steps: int | None, held_out: int, seed: int) -> Recipe:
    recipe = catalog.recipe(kind.recipe)
    optim = recipe.optim if steps is None else replace(recipe.optim, num_steps=steps)
    most = min(held_out, recipe.evaluation.num_videos or held_out)
    evaluation = replace(recipe.evaluation, num_videos=most)
    return replace(recipe, optim=optim, train=replace(recipe.train, seed=seed), evaluation=evaluation)


def _tokenizer(kind: System, steps: int | None, seed: int) -> Recipe | None:
    """The recipe of what is trained first, as much longer or shorter as the model's training is."""
    if kind.tokenizer is None:
        return None
    recipe, usual = catalog.recipe(kind.tokenizer), catalog.recipe(kind.recipe).optim.num_steps
    num_steps = max(1, round(recipe.optim.num_steps * (steps or usual) / usual))
    optim = replace(recipe.optim, num_steps=num_steps)
    return replace(recipe, optim=optim, train=replace(recipe.train, seed=seed))
