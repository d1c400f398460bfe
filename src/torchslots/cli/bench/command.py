"""`torchslots bench`."""

import json
from pathlib import Path
from typing import Any

import tyro

from torchslots.cli.options import Json, Words, parse


def bench(words: Words) -> int:
    """`torchslots bench RECIPE ...`."""
    from torchslots.cli.bench import growth
    from torchslots.cli.bench import step as measured
    from torchslots.cli.bench.timing import table
    from torchslots.io.devices import announce_device
    from torchslots.recipes.demos import DEFAULT_RECIPE

    defaults, axes = measured.BenchOptions(), growth.GrowthOptions()

    def bench(
        recipe: tyro.conf.Positional[str] = DEFAULT_RECIPE,
        options: tyro.conf.OmitArgPrefixes[measured.BenchOptions] = defaults,
        curves: tyro.conf.OmitArgPrefixes[growth.GrowthOptions] = axes,
        plot: bool = False,
        out: Path = Path("growth"),
        as_json: Json = False,
    ) -> int:
        """Time a recipe's training step and inference on random data, at its own size or another.

        Args:
            recipe: Name in `torchslots recipes`.
            options: What to measure.
            curves: Values on the axes of --plot.
            plot: Measure and plot how time and memory grow with batch, frames, slots and resolution.
            out: Folder for growth.json and growth.png.
            as_json: Print JSON only, without the table.
        """
        if plot:
            return _plot_growth(recipe, options, curves, out)
        announce_device(options.device)
        report = measured.bench(recipe, options)
        print(json.dumps(report, indent=2))
        if not as_json:
            print(table(report))
        return 0

    return parse(bench, words, "bench")


def _plot_growth(recipe: str, options: Any, curves: Any, out: Path) -> int:
    from torchslots.cli.bench import growth
    from torchslots.recipes import catalog

    words = ["--precision", options.precision, "--steps", str(options.steps)]
    words += ["--compile"] if options.compile else []
    words += ["--recompute"] if options.recompute else []
    words += [] if options.device is None else ["--device", options.device]
    words += [] if options.threads is None else ["--threads", str(options.threads)]
    one_frame = catalog.recipe(recipe).data.num_frames == 1
    found = growth.grow(curves, growth.in_a_process(recipe, words), one_frame)
    written = growth.save(found, recipe, out)
    for curve in found:
        print(curve.verdict())
    print(f"Written: {', '.join(str(path) for path in written)}")
    return 0
