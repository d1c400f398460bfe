"""What each command's line may say, and the one function that it then calls.

Each command is a function of its own name, imported when it is asked for.
"""

from collections.abc import Callable
from importlib import import_module

_PLACES = {
    "bench": "measuring",
    "compose": "generating",
    "concepts": "generating",
    "convert": "originals",
    "data": "data_sets",
    "demo": "overviews",
    "edit": "inputs",
    "evaluate": "judging",
    "predict": "inputs",
    "recipes": "overviews",
    "report": "overviews",
    "train": "training",
    "verify": "originals",
}


def __getattr__(name: str) -> Callable[[list[str]], int]:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
