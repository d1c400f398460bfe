"""Object-centric learning on images and video: published slot models, their data, checkpoints and metrics.

The names in `torchslots.__all__` and the modules named in docs/api.md are public; everything else is internal and may
change. `import torchslots` imports no torch: a name is imported when it is first used. It decides how torch's threads
wait, see `torchslots.io.threads`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchslots._version import __version__
from torchslots.io.collection import without_collection
from torchslots.io.threads import wait_briefly

if TYPE_CHECKING:
    from torchslots import metrics
    from torchslots.convert.by_name import predict
    from torchslots.convert.evaluate_by_name import evaluate
    from torchslots.convert.pretrained import load_model, load_tokenizer
    from torchslots.convert.released import list_pretrained
    from torchslots.convert.train import train
    from torchslots.data.catalog import list_datasets
    from torchslots.data.dataset import open_dataset
    from torchslots.data.register import register_dataset
    from torchslots.hub import create_model, list_recipes
    from torchslots.inference.predict import predict_frames
    from torchslots.io.errors import UserError
    from torchslots.recipes.register import register_model, register_recipe

__all__ = [
    "UserError",
    "__version__",
    "create_model",
    "evaluate",
    "list_datasets",
    "list_pretrained",
    "list_recipes",
    "load_model",
    "load_tokenizer",
    "metrics",
    "open_dataset",
    "predict",
    "predict_frames",
    "register_dataset",
    "register_model",
    "register_recipe",
    "train",
]

wait_briefly()

_PLACES = {
    "UserError": "io.errors",
    "create_model": "hub",
    "evaluate": "convert.evaluate_by_name",
    "list_datasets": "data.catalog",
    "list_pretrained": "convert.released",
    "list_recipes": "hub",
    "load_model": "convert.pretrained",
    "load_tokenizer": "convert.pretrained",
    "open_dataset": "data.dataset",
    "predict": "convert.by_name",
    "predict_frames": "inference.predict",
    "register_dataset": "data.register",
    "register_model": "recipes.register",
    "register_recipe": "recipes.register",
    "train": "convert.train",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name == "metrics":
        return import_module("torchslots.metrics")
    if name not in _PLACES:
        raise AttributeError(f"module 'torchslots' has no attribute '{name}'")
    with without_collection():
        return getattr(import_module(f"torchslots.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
