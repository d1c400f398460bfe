"""Plan, timing, training and evaluation of all demonstrations."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torchslots.io.counts import count_text
from torchslots.io.errors import note
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.recipes.demos import Demo

if TYPE_CHECKING:
    from torchslots.data.batch import ClipDataset
    from torchslots.evaluation.observers import Observer
    from torchslots.evaluation.page import Section
    from torchslots.evaluation.report import EvalReport
    from torchslots.models.model import ObjectCentricModel

UNTRAINED = "untrained"
"""Column of the model before its first step."""
_TRIALS = 15
"""Batches of which the median is a step's time: it differs with their objects, and other work may take a moment."""
_TRIAL_SECONDS = 2.0
"""About the most time for them."""
_BESIDE_STEPS = 1 / 8
"""Part of a training's time that its steps do not take: data, evaluations, checkpoints."""
_LAST_STEP = 0.97
"""Part of the time after which the last step, evaluation and checkpoint begin."""


@dataclass
class Stopwatch:
    """Seconds that each part took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block, and print its name and seconds."""
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        print(f"{name}: {self.seconds[name]:.0f} s", flush=True)


@dataclass(frozen=True)
class Plan:
    """Settings of a demonstration."""

    demo: Demo
    recipe: Recipe
    out: Path
    """Folder of all files."""
    count: int
    """Examples to train on."""
    held_out: int
    """Examples to evaluate on."""
    seed: int
    device: str
    tokenizer: Recipe | None = None
    """Recipe of the tokenizer, which is trained first; None: the model needs none."""

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def tokenizer_run(self) -> Path:
        return self.out / "tokenizer"

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def pictures(self) -> Path:
        """Folder of the images and films of the page."""
        return self.out / "pictures"


class Sets(NamedTuple):
    """Training examples, and held-out ones at full length."""

    train: "ClipDataset"
    held_out: "ClipDataset"
    frames: "ClipDataset | None" = None
    """Training examples of the tokenizer; None: none is needed."""


class Result(NamedTuple):
    """A trained model and all evaluations, by name; its own is the first."""

    plan: Plan
    sets: Sets
    model: "ObjectCentricModel"
    reports: "Mapping[str, EvalReport]"

    @property
    def own(self) -> "EvalReport":
        """The trained model's evaluation."""
        return self.reports[self.plan.demo.name]


class Shown(NamedTuple):
    """Additions of a kind of demonstration to the metrics and the page."""

    sections: "list[Section]"
    """Images and texts."""
    metrics: dict[str, Any]
    """Added to metrics.json."""


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of demonstrations."""

    unit: str
    """Plural name of an example."""
    count: int
    """Examples to train on by default."""
    held_out: int
    """Examples to evaluate on by default."""
    monitor: str
    """The metric whose learning curve is shown."""
    make_sets: Callable[[Plan], Sets]
    """Generates and opens the data."""
    introduce: Callable[[Result], str]
    """Text on what was trained, with the figures."""
    show: Callable[[Result], Shown]
    baselines: "Callable[[Plan, Sets], dict[str, EvalReport]]" = lambda plan, sets: {}
    """Evaluations of baselines, besides the untrained model."""
    observers: "Callable[[ObjectCentricModel, str], Sequence[Observer]]" = lambda model, device: ()
    """Observers that evaluate decoded frames of the trained model; the second argument is the device."""


def batches_of(plan: Plan, dataset: "ClipDataset", what: str) -> Iterator[Any]:
    """Batches of held-out examples, each example once, with a progress bar."""
    from torchslots.evaluation.evaluate import shown_batches

    return shown_batches(dataset, plan.recipe.evaluation, what, unit="examples")


def train_tokenizer(plan: Plan, recipe: Recipe, sets: Sets) -> None:
    """Train the tokenizer, from the newest checkpoint where there is one."""
    from torchslots.training.loop import train

    assert sets.frames is not None
    model = catalog.build_seeded(recipe.model, recipe.train.seed)
    train(recipe, model, sets.frames, sets.held_out, plan.tokenizer_run, device=plan.device)


def train_model(plan: Plan, sets: Sets, monitor: str, seconds: float | None) -> None:
    """Train, from the newest checkpoint where there is one, with the tokenizer that was trained before."""
    from torchslots.training.loop import train
    from torchslots.training.warm_start import assemble

    recipe, model = assemble(plan.recipe, plan.run, plan.tokenizer and plan.tokenizer_run)
    device, run = plan.device, plan.run
    end = None if seconds is None else _LAST_STEP * seconds
    train(recipe, model, sets.train, sets.held_out, run, device=device, monitor=monitor, seconds=end)


def in_time(plan: Plan, sets: Sets, seconds: float) -> Plan:
    """The plan with as many steps as fit into a time on this machine, measured on a model that is thrown away.

    The learning rate falls over that many; the clock may end the training some steps before. The recipe's number is the
    most, and short clips are at most the first third.
    """
    from torchslots.data.batch import cut_clips
    from torchslots.data.loader import train_batches
    from torchslots.training.step import TrainStep

    optim, train = plan.recipe.optim, plan.recipe.train
    model = catalog.build_seeded(plan.recipe.model, train.seed)
    stepper = TrainStep(model, optim, train, plan.device, train.short_clip or plan.recipe.data.num_frames)
    read = train_batches(sets.train, batch_size=train.batch_size, seed=train.seed)
    first = next(read)
    once = stepper.trial([first])
    batches = [first, *islice(read, min(_TRIALS - 1, int(_TRIAL_SECONDS / once)))]
    whole = short = stepper.trial(batches)
    if train.short_clip:
        short = stepper.trial([cut_clips(batch, train.short_clip) for batch in batches])
    stepping = seconds * (1 - _BESIDE_STEPS)
    brief = min(train.short_steps, int(stepping / 3 / short))
    steps = min(optim.num_steps, max(1, brief + int((stepping - brief * short) / whole)))
    print(f"A step takes {whole:.3f} s here: at most {steps} steps in {seconds:.0f} s.", flush=True)
    chosen = replace(optim, num_steps=steps, warmup_steps=min(optim.warmup_steps, max(1, steps // 10)))
    return replace(plan, recipe=replace(plan.recipe, optim=chosen, train=replace(train, short_steps=brief)))


def as_begun(plan: Plan, steps: int | None) -> Plan | None:
    """The plan of a run that has begun: it keeps its steps, or does as many as are asked for; None: none has begun."""
    file = plan.run / "recipe.json"
    if not file.is_file():
        return None
    begun = catalog.read_recipe(file)
    kept = {"num_steps": steps or begun.optim.num_steps, "warmup_steps": begun.optim.warmup_steps}
    if steps is None:
        note(
            f"{plan.run} keeps its {count_text(begun.optim.num_steps, 'step')}; --steps trains it longer, another "
            "--out begins anew."
        )
    optim = replace(plan.recipe.optim, **kept)
    train = replace(plan.recipe.train, short_steps=begun.train.short_steps)
    return replace(plan, recipe=replace(plan.recipe, optim=optim, train=train))


def as_trained(plan: Plan) -> Plan:
    """The plan with the steps that were done, which are fewer where the clock ended the training."""
    steps = catalog.read_recipe(plan.run / "recipe.json").optim.num_steps
    return replace(plan, recipe=replace(plan.recipe, optim=replace(plan.recipe.optim, num_steps=steps)))


def evaluate_model(plan: Plan, sets: Sets, kind: Kind) -> Result:
    """Evaluate the trained model, its baselines and the untrained model on all held-out examples."""
    from torchslots.evaluation.evaluate import evaluate
    from torchslots.hub import load_model

    trained = load_model(plan.run, device=plan.device)
    untrained = catalog.build_seeded(plan.recipe.model, plan.recipe.train.seed).to(plan.device)
    settings, reports = plan.recipe.evaluation, {}
    own, observers = plan.demo.name, kind.observers(trained, plan.device)
    for name, model, num_plots, looking in ((own, trained, 4, observers), (UNTRAINED, untrained, 0, ())):
        batches = batches_of(plan, sets.held_out, f"Evaluating: {name}")
        reports[name] = evaluate(
            model, batches, settings, device=plan.device, num_plots=num_plots, observers=looking
        )
    ordered = {own: reports[own], **kind.baselines(plan, sets), UNTRAINED: reports[UNTRAINED]}
    return Result(plan, sets, trained, ordered)


def percent(result: Result, name: str, figure: str) -> str:
    """A figure of one report, in per cent; `no figure` where it could not be computed."""
    value = result.reports[name].metrics.get(figure)
    return "no figure" if value is None else f"{100 * value:.1f}"
