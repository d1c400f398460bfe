"""What the card of a trained model says besides its configuration: data, figures, protocol, licence, command."""

from torchslots.data.catalog import datasets
from torchslots.io.counts import count_text
from torchslots.recipes import catalog, protocols
from torchslots.recipes.config import Recipe
from torchslots.training.checkpoint import RunState

_REST = "Every setting is in `recipe.json` of the run; `torchslots recipes {name} --yaml` prints the recipe's own."
_OURS = (
    "The library is under Apache-2.0. What may be done with the weights also depends on the data: {licence}."
)


def sections_of(recipe: Recipe, state: RunState) -> dict[str, str]:
    """Texts of a model card by heading."""
    row = datasets().get(recipe.data.dataset)
    about = f": {row.description}" if row is not None else ""
    clips = f"clips of {recipe.data.num_frames} frames" if recipe.data.num_frames > 1 else "images"
    sections = {
        "Data": f"Trained on `{recipe.data.dataset}`{about}; split `{recipe.data.train_split}`, {clips} of "
        f"{recipe.data.resolution} pixels.",
        "Training": f"Recipe `{recipe.name}`, seed {recipe.train.seed}, {state.step} of {recipe.optim.num_steps} steps "
        f"in batches of {recipe.train.batch_size}.\n\n```\n{_command(recipe)}\n```\n\n{_REST.format(name=recipe.name)}"
        if recipe.name in catalog.recipes()
        else f"{state.step} steps of a recipe of one's own, `recipe.json` of the run.",
        "Figures": _figures(recipe, state),
        "Licence": _OURS.format(licence=row.licence if row is not None else "unknown"),
    }
    return {heading: text for heading, text in sections.items() if text}


def _command(recipe: Recipe) -> str:
    return f"torchslots train {recipe.name} --data {recipe.data.dataset} --root DATA --run-dir RUN"


def _figures(recipe: Recipe, state: RunState) -> str:
    """A table of the last evaluation in training, the main figures first; nothing before the first."""
    from torchslots.evaluation.report import (  # seconds, not before a training's first step
        LABELS,
        format_figure,
    )
    from torchslots.evaluation.result_page import MAIN

    known = {name: value for name, value in state.metrics.items() if value is not None}
    if not known:
        return ""
    names = [*(name for name in MAIN if name in known), *(name for name in known if name not in MAIN)]
    rows = "\n".join(f"| {LABELS.get(name, name)} | {format_figure(name, known[name])} |" for name in names)
    settings = recipe.evaluation
    videos = "all" if settings.num_videos is None else f"at most {settings.num_videos}"
    return (
        f"Of the evaluation after step {state.evaluated_step}, on {videos} examples of split `{settings.split}`, up to "
        f"{count_text(settings.num_frames, 'frame')} of each.\n\n| figure | value |\n|---|---|\n{rows}\n\n"
        f"{protocols.describe(settings.protocol)}"
    )
