"""Trained models in the package, which work without a network: `torchslots.load_model("savi_sim")`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Shipped:
    """A model in the package.

    Args:
        system: whose model it is.
        recipe: name of its recipe.
        data: what it was trained on, in words.
        figure: measured on held-out data, as its card says.
        hint: what slots start from.
    """

    system: str
    recipe: str
    data: str
    figure: str
    hint: str


_DATA = "sim_a"

SHIPPED: Mapping[str, Shipped] = {
    "savi_sim": Shipped(
        system="SAVi",
        recipe="savi_sim",
        data=_DATA,
        figure="FG-ARI 80.4, whole videos",
        hint="boxes in the first frame",
    ),
    "slots_sim": Shipped(
        system="SAVi with learned slots",
        recipe="slots_sim",
        data=_DATA,
        figure="FG-ARI 79.8, single frames",
        hint="nothing",
    ),
}
"""Models in the package by name; each has a card, README.md, with figures, protocol and the command that trained it."""


def shipped_folder(name: str) -> Path:
    """Model folder of a model in the package."""
    return _FOLDER / name


def find_shipped(word: str = "") -> Mapping[str, Shipped]:
    """Models with a word in their name, their system or their data."""
    word = word.lower()
    return {
        name: row
        for name, row in SHIPPED.items()
        if any(word in text.lower() for text in (name, row.system, row.data))
    }
