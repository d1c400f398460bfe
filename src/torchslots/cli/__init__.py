"""`torchslots COMMAND ...`: finds the command, calls one function, and turns a `UserError` into one line.

Nothing heavy is imported before a command needs it: the overview answers without torch.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from torchslots._version import __version__
from torchslots.cli.memory import keep_freed_memory
from torchslots.io.errors import UserError, nearest

COMMANDS = {
    "demo": "generate data, train a small model on it, evaluate it, and show the result: the place to start",
    "train": "train a recipe; the same command again goes on where it stopped",
    "evaluate": "measure a model on whole videos: FG-ARI, ARI, mIoU, mBO, plots",
    "predict": "segment your own images and videos",
    "edit": "remove, move, resize, turn or swap objects, and decode the image again",
    "compose": "exchange slots across the videos of a data set, decode new videos, measure how real they look",
    "concepts": "cluster the slots of a data set, and decode new images from one slot of each cluster",
    "convert": "turn an original checkpoint into a model folder",
    "pretrained": "list the published checkpoints, and fetch them by name",
    "data": "list, download, inspect, prepare or generate data",
    "recipes": "list the recipes with their sizes and published results",
    "bench": "time a recipe's training step and inference here, or plot how they grow",
    "report": "tables over finished runs: mean and standard error over seeds",
}
"""Each is the function of that name in the file or folder of that name."""
_FOLDERS = ("bench", "demo")
"""Commands of several files, whose function is in `command.py`."""
_GONE = {"verify": 'it is a test now: in a copy of the repository, run `make fidelity CASES="DIR..."`.'}
"""Commands of earlier versions, and where each went."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0: done, 1: a check failed, 2: something is wrong outside the program."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _answer(words[0], words[1:])
    except UserError as error:
        print(f"torchslots {words[0]}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _answer(name: str, words: list[str]) -> int:
    if name in ("-h", "--help", "help"):
        print(_overview(), flush=True)
        return 0
    if name in ("-V", "--version"):
        print(f"torchslots {__version__}")
        return 0
    if name in _GONE:
        raise UserError(_GONE[name])
    if name not in COMMANDS:
        raise UserError(f"there is no such command. {nearest(name, COMMANDS)} See `torchslots --help`.")
    keep_freed_memory()
    place = f"{__name__}.{name}.command" if name in _FOLDERS else f"{__name__}.{name}"
    return getattr(import_module(place), name)(words)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    head = [
        f"torchslots {__version__}: object-centric learning on images and video.",
        "",
        "Usage: torchslots COMMAND [arguments]. `torchslots COMMAND --help` explains each.",
        "",
    ]
    return "\n".join([*head, *lines, "", "Start with: torchslots demo"])
