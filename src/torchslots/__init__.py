"""torchslots: object-centric learning on images and video."""

from typing import TYPE_CHECKING, Any

from torchslots._version import __version__

if TYPE_CHECKING:
    from torchslots.hub import load_model, load_tokenizer
    from torchslots.io.errors import UserError

__all__ = ["UserError", "__version__", "load_model", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name == "load_model":
        from torchslots.hub import load_model

        return load_model
    if name == "load_tokenizer":
        from torchslots.hub import load_tokenizer

        return load_tokenizer
    if name == "UserError":
        from torchslots.io.errors import UserError

        return UserError
    raise AttributeError(f"module 'torchslots' has no attribute '{name}'")
