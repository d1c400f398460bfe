"""`torchslots COMMAND ...`: call the command's function, and print a `UserError` as one line.

Nothing heavy is imported before a command needs it; the overview imports no torch.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from torchslots._version import __version__
from torchslots.cli.memory import keep_freed_memory
from torchslots.cli.streams import drop_output, flush_output, reader_is_gone, standard_streams
from torchslots.io.errors import UserError, first_line, memory_is_full, nearest, speaks

COMMANDS = {
    "demo": "generate data, train a small model, evaluate it, show the result: start here",
    "train": "train a recipe; the same command resumes",
    "evaluate": "evaluate a model on whole videos: FG-ARI, ARI, mIoU, mBO, plots",
    "predict": "segment your own images and videos",
    "edit": "remove, move, resize, turn or swap objects, and decode again",
    "app": "open a local page: drop a film, draw boxes, see and edit objects",
    "compose": "decode new videos from slots exchanged across a data set; measure FVD, FID",
    "concepts": "cluster the slots of a data set, and decode new images from the clusters",
    "slots": "write the slots of a data set to files, to train other models on them",
    "export": "write a model as ONNX or torch.export graphs for other programs",
    "convert": "turn an original checkpoint into a model folder",
    "pretrained": "list published checkpoints, and fetch them by name",
    "data": "list, download, inspect, prepare or generate data sets",
    "recipes": "list the recipes, with sizes and published results",
    "bench": "time a recipe's training step and inference, or plot how they grow",
    "completion": "print a script that completes commands and recipes in bash and zsh",
    "report": "compare finished runs: mean over seeds, tables, a page with images",
}
"""Commands and what they do; each is the function of its name in the file or folder of its name."""
_FOLDERS = ("app", "bench", "demo")
"""Commands with a folder; their function is in `command.py`."""
_GONE = {"verify": 'it is a test now: in a copy of the repository, run `make fidelity CASES="DIR..."`.'}
"""Commands of earlier versions, and what replaces them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 0: done, 1: a check failed, 2: a `UserError`, 130: interrupted."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with standard_streams():
        return _status(words)


def _status(words: list[str]) -> int:
    try:
        try:
            status = _answer(words[0], words[1:])
        except SystemExit:  # of help, and of words that are not understood
            flush_output()
            raise
        flush_output()
        return status
    except UserError as error:
        code = getattr(error, "exit_code", 2)
        alone = error.process is not None and "RANK" in os.environ and code == 2
        if speaks() or alone:
            who = f", process {error.process}" if alone else ""
            print(f"torchslots {words[0]}{who}: {error}", file=sys.stderr)
        return code
    except OSError as error:
        if error.errno is None:
            raise
        gone = isinstance(error, BrokenPipeError) and reader_is_gone()
        drop_output()
        if gone:  # such as `head`
            return 0
        who = "The output, or a file that is read," if error.filename is None else str(error.filename)[:200]
        reason = f"{who} cannot be used: {first_line(error)}."
        print(f"torchslots {words[0]}: {reason} Check the name and the permissions.", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        less = "Give smaller batches or slices, fewer workers, a lower resolution, or another device."
        print(f"torchslots {words[0]}: the memory is full ({first_line(error)}). {less}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if speaks():
            print("Interrupted.", file=sys.stderr)
        return 130


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
