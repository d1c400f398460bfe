"""Table of the demonstrations of `torchslots demo`, and the default of `torchslots bench`; imports no torch.

A demonstration is one row of `DEMOS`: the system's name on the command line, its recipe, and the text and kind of its
page. The command knows kinds of pages, no systems.
"""

from dataclasses import dataclass
from typing import Literal

DEFAULT_RECIPE = "savi_small"
"""The recipe that `torchslots bench` measures by default."""
DEFAULT_DEMO = "savi"
"""The demonstration of `torchslots demo` by default."""

DemoKind = Literal["tracking", "memory", "discovery", "poses", "properties", "generation"]
"""What a page shows: objects followed through videos; also with the memory's attention; objects found in images; also
with each slot's pose; their properties; videos that are generated and edited."""


@dataclass(frozen=True)
class Demo:
    """One demonstration.

    Args:
        name: of the model, over its column.
        recipe: what is trained.
        title: of the page.
        kind: of the page.
        about: the model in the page's introduction, behind "A small".
        tokenizer: recipe of the tokenizer that is trained first; None: the model needs none.
        decoder: what decodes the slots, in the introduction of generated videos; empty for the other kinds.
        seconds: of training; the number of steps is what this machine does in them, at most the recipe's. None: the
            recipe's number of steps.
    """

    name: str
    recipe: str
    title: str
    kind: DemoKind
    about: str
    tokenizer: str | None = None
    decoder: str = ""
    seconds: float | None = None


DEMOS: dict[str, Demo] = {
    "savi": Demo("SAVi", "savi_sim_small", "objects found in video", "tracking", "SAVi", seconds=300),
    "slot-attention": Demo(
        "Slot Attention",
        "slot_attention_demo",
        "objects found in images",
        "discovery",
        "Slot Attention model",
    ),
    "set-prediction": Demo(
        "Slot Attention",
        "set_prediction_demo",
        "properties of objects in images",
        "properties",
        "Slot Attention model with a head that predicts properties",
    ),
    "isa": Demo(
        "Invariant Slot Attention",
        "isa_demo",
        "objects and their positions found in images",
        "poses",
        "Invariant Slot Attention model, whose slots have positions,",
    ),
    "statm": Demo(
        "STATM",
        "statm_demo",
        "objects remembered in video",
        "memory",
        "STATM, a SAVi with a predictor that remembers,",
    ),
    "steve": Demo(
        "STEVE",
        "steve_demo",
        "videos decoded from slots code by code",
        "generation",
        "STEVE",
        tokenizer="dvae_demo",
        decoder="a transformer that decodes codes one after the other",
    ),
    "slotdiffusion": Demo(
        "SlotDiffusion",
        "slotdiffusion_demo",
        "videos sampled from slots by diffusion",
        "generation",
        "SlotDiffusion",
        tokenizer="vqvae_demo",
        decoder="a U-Net that removes noise",
    ),
}
"""Demonstrations by their names in `torchslots demo --system NAME`."""
