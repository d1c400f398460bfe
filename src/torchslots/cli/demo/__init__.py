"""`torchslots demo`: generate data in a published set's format, train, evaluate beside baselines, write a page."""

from dataclasses import replace
from pathlib import Path

from torchslots.cli.demo import generative, images, properties, videos
from torchslots.cli.demo.outcome import print_figures, write_metrics, write_result
from torchslots.cli.demo.plan import (
    Kind,
    Plan,
    Stopwatch,
    as_begun,
    as_trained,
    evaluate_model,
    in_time,
    train_model,
    train_tokenizer,
)
from torchslots.io.devices import announce_device
from torchslots.io.errors import UserError, nearest
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.recipes.demos import DEFAULT_DEMO, DEMOS, Demo, DemoKind

KINDS: dict[DemoKind, Kind] = {
    "tracking": videos.TRACKING,
    "memory": videos.MEMORY,
    "discovery": images.DISCOVERY,
    "poses": images.POSES,
    "properties": properties.PROPERTIES,
    "generation": generative.GENERATION,
}


def demo(
    out: Path | None = None,
    *,
    system: str = DEFAULT_DEMO,
    examples: int | None = None,
    held_out: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Generate data, train a small model, evaluate it on held-out data, and write a page of results.

    The same command resumes. Returns the page.

    Args:
        out: Folder for data, run, metrics.json, images and index.html; None: runs/demo, or
            runs/demo-SYSTEM for other systems than the default.
        system: What to train. savi, statm: track objects in videos; slot-attention, isa: find objects in images;
            set-prediction: predict their properties; steve, slotdiffusion: train a tokenizer, then slots from which
            videos are generated and edited.
        examples: Videos or images to train on; None: as many as the system's demonstration needs.
        held_out: Videos or images to evaluate on; None: likewise.
        steps: Training steps; None: what this machine does in the demonstration's time where it has one, else the
            recipe's. A tokenizer's change in proportion.
        seed: Seed of the data, the weights and the order of training.
        device: cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu.

    Raises:
        UserError: unknown system; data of other settings in the folder; errors of training.
    """
    for name, count in (("--examples", examples), ("--held-out", held_out)):
        if count is not None and count < 1:
            raise UserError(f"{name} is {count}: give at least 1, or leave it out.")
    if system not in DEMOS:
        raise UserError(f"There is no demonstration of `{system}`. {nearest(system, DEMOS)}")
    chosen = DEMOS[system]
    kind = KINDS[chosen.kind]
    plan = Plan(
        demo=chosen,
        recipe=_recipe(chosen, steps, held_out or kind.held_out, seed),
        out=out or Path("runs") / ("demo" if system == DEFAULT_DEMO else f"demo-{system}"),
        count=examples or kind.count,
        held_out=held_out or kind.held_out,
        seed=seed,
        device=str(announce_device(device)),
        tokenizer=_tokenizer(chosen, steps, seed),
    )
    begun = None if chosen.seconds is None else as_begun(plan, steps)
    return _carry_out(begun or plan, kind, chosen.seconds if steps is None else None, begun is None)


def _carry_out(plan: Plan, kind: Kind, seconds: float | None, fresh: bool) -> Path:
    clock = Stopwatch()
    with clock.part(f"Generating {kind.unit}"):
        sets = kind.make_sets(plan)
    if plan.tokenizer is not None:
        with clock.part("Training the tokenizer"):
            train_tokenizer(plan, plan.tokenizer, sets)
    if seconds is not None and fresh:
        with clock.part("Timing a step"):
            plan = in_time(plan, sets, seconds)
    with clock.part("Training"):
        train_model(plan, sets, kind.monitor, seconds)
    plan = as_trained(plan)
    with clock.part("Evaluating"):
        result = evaluate_model(plan, sets, kind)
    with clock.part("Plotting"):
        plan.pictures.mkdir(parents=True, exist_ok=True)
        shown = kind.show(result)
    write_metrics(result, shown, clock.seconds)
    print_figures(result, kind)
    return write_result(result, shown, kind, clock.seconds)


def _recipe(demo: Demo, steps: int | None, held_out: int, seed: int) -> Recipe:
    recipe = catalog.recipe(demo.recipe)
    optim = recipe.optim if steps is None else replace(recipe.optim, num_steps=steps)
    most = min(held_out, recipe.evaluation.num_videos or held_out)
    evaluation = replace(recipe.evaluation, num_videos=most)
    return replace(recipe, optim=optim, train=replace(recipe.train, seed=seed), evaluation=evaluation)


def _tokenizer(demo: Demo, steps: int | None, seed: int) -> Recipe | None:
    """The tokenizer's recipe, its steps scaled as the model's are."""
    if demo.tokenizer is None:
        return None
    recipe, usual = catalog.recipe(demo.tokenizer), catalog.recipe(demo.recipe).optim.num_steps
    optim = replace(recipe.optim, num_steps=max(1, round(recipe.optim.num_steps * (steps or usual) / usual)))
    return replace(recipe, optim=optim, train=replace(recipe.train, seed=seed))
