"""`torchslots evaluate`."""

from pathlib import Path

import tyro

from torchslots.cli.options import Flat, Words, parse
from torchslots.cli.table import print_comparison


def evaluate(words: Words) -> int:
    """`torchslots evaluate MODEL --root DIR`."""
    from torchslots.convert.pretrained import model_folder
    from torchslots.evaluation.report import EvalReport
    from torchslots.inference.evaluate import EvaluateOptions, evaluate_with_baseline
    from torchslots.io.devices import announce_device
    from torchslots.io.processes import is_first_process, processes

    defaults = EvaluateOptions()

    def evaluate(
        model: tyro.conf.Positional[str],
        /,
        root: Path,
        out: Path | None = None,
        options: Flat[EvaluateOptions] = defaults,
    ) -> int:
        """Evaluate a model on whole videos, and plot some. Works under `torchrun` too; each video counts once.

        Args:
            model: A run folder, a model folder, a published checkpoint by name, or owner/name on the hub.
            root: Folder with the data.
            out: Folder for eval.json, curves and videos; None: `eval` in the run or model folder.
            options: Which videos and metrics, and what to write.
        """
        folder = out or out_folder(model, "eval")
        place = model_folder(model)
        announce_device(options.device)
        page = folder / "index.html"
        with processes(options.device):
            report, baseline = evaluate_with_baseline(place, root, options, folder)
            if is_first_process():
                report.print_table()
                if isinstance(report, EvalReport) and baseline is not None:
                    print_comparison({"model": report, "boxes copied": baseline}, "Beside the baseline")
                print(
                    f"Written to {folder}" + (f"; look at {page}" if isinstance(report, EvalReport) else "")
                )
        return 0

    return parse(evaluate, words, "evaluate")


def out_folder(model: str, name: str) -> Path:
    """Default folder of results: in the run or model folder, else in the current one."""
    return Path(model) / name if Path(model).is_dir() else Path(name)
