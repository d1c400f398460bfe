"""Predict the properties of objects in generated CLEVR-like images."""

from pathlib import Path
from typing import TYPE_CHECKING

from torchslots.cli.demo.plan import UNTRAINED, Kind, Plan, Result, Sets, Shown, percent
from torchslots.io import draw, video
from torchslots.io.counts import count_text
from torchslots.metrics.set_prediction import THRESHOLDS

if TYPE_CHECKING:
    from torchslots.evaluation.page import Section

_ANY = 2.0
"""Position of `any distance` in the plot."""


def make_sets(plan: Plan) -> Sets:
    """Generate images to train on, and a tenth as many to evaluate on, in CLEVR's format."""
    from torchslots.data.catalog import open_dataset
    from torchslots.sim.generate_images import generate_images

    wanted = plan.recipe.data
    generate_images(
        plan.data,
        kind="clevr",
        count=plan.count,
        resolution=(wanted.resolution, wanted.resolution * 3 // 2),
        seed=plan.seed,
        max_objects=wanted.max_objects,
    )
    return Sets(
        open_dataset(wanted.dataset, plan.data, "train_full", wanted, True),
        open_dataset(wanted.dataset, plan.data, plan.recipe.evaluation.split, wanted, False),
    )


def introduce(result: Result) -> str:
    """What was trained, and its figures."""
    found, most = result.plan.demo.name, result.plan.recipe.data.max_objects
    return (
        f"A small {result.plan.demo.about} was trained for "
        f"{count_text(result.plan.recipe.optim.num_steps, 'step')} of {result.plan.recipe.train.batch_size} images on "
        f"{result.plan.count} generated CLEVR-like images of 3 to {most} objects, with the true size, material, "
        f"shape, colour and position of each object as labels. On {result.own.num_videos} held-out images "
        f"its average precision is {percent(result, found, 'ap_inf')} where all four attributes must be "
        f"right at any distance, {percent(result, found, 'ap_1')} where it must be less than 1 unit away, "
        f"and {percent(result, found, 'ap_0.5')} for half a unit; the same model before training has "
        f"{percent(result, UNTRAINED, 'ap_inf')} at any distance. The scene is 6 units wide. The paper's model is "
        "trained on larger images of up to 10 objects for 150,000 steps of 512."
    )


def show(result: Result) -> Shown:
    """Predicted beside true properties of held-out images, and precision at each distance."""
    from torchslots.evaluation.page import Image, Text
    from torchslots.evaluation.panels import PlottedVideo

    sections: list[Section] = [Text(_HOW_TO_READ)]
    for index, plotted in enumerate(result.own.panels):
        image = plotted.properties_plot() if isinstance(plotted, PlottedVideo) else None
        if image is not None:
            path = result.plan.pictures / f"properties_{index}.png"
            video.write_png(path, image)
            sections.append(Image(path, f"Held-out image {index}: true objects and what the model predicts."))
    sections.append(
        Image(_plot_precision(result), "Average precision at each distance; 2 stands for any distance.")
    )
    return Shown(sections, {})


def _plot_precision(result: Result) -> Path:
    distances = [_ANY, *THRESHOLDS[1:]]
    series = {
        name: (distances, [100 * report.metrics.get(f"ap_{threshold:g}", 0.0) for threshold in THRESHOLDS])
        for name, report in result.reports.items()
    }
    return draw.plot_curves(
        series,
        result.plan.pictures / "average_precision.png",
        title="Average precision on held-out images",
        x_label="greatest distance of a right prediction, in units of the scene (2: any)",
        y_label="average precision, per cent",
    )


_HOW_TO_READ = (
    "The image; below it the scene from above, true objects as rings and predictions as dots, with a line between "
    "matched ones; and each true object beside its best prediction. An object counts as right when size, "
    "colour, material and shape are all right."
)

PROPERTIES = Kind(
    unit="images",
    count=8000,
    held_out=500,
    monitor="ap_inf",
    make_sets=make_sets,
    introduce=introduce,
    show=show,
)
