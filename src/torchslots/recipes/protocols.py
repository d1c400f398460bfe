"""Published evaluations by name: how figures are computed, what of the labels counts, what the tables print."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torchslots.data.catalog import entry
from torchslots.io.errors import UserError, nearest
from torchslots.metrics.protocol import CLASSES, Protocol
from torchslots.recipes.config import DataConfig, EvalConfig

_CROWDS_UNCOVERED = {"crowds": "uncovered"}
_VIDEO = {"fg_ari": "Video ARI", "mbo": "mBO"}


@dataclass(frozen=True)
class Published:
    """One published evaluation."""

    about: str
    """Where it comes from and what sets it apart, in a sentence or two."""
    tables: Mapping[str, str]
    """Figures that its tables print: our name, and theirs."""
    computed: Protocol = field(default_factory=Protocol)
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `DataConfig`: how it treats crowds, void and overlaps. Sizes, crops and subsets are a recipe's."""


PROTOCOLS: dict[str, Published] = {
    "savi": Published(
        "Kipf et al. (2022), and evaluations after it on generated scenes: a video without objects counts 1 in FG-ARI.",
        {"fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"},
    ),
    "videosaur": Published(
        "Zadaianchuk et al. (2023), whole videos: where background has no label, videos without labels are left out. "
        "J&F, which the program knows and no table prints, takes boundaries that coincide.",
        _VIDEO,
        Protocol("left_out", boundaries="exact"),
        _CROWDS_UNCOVERED,
    ),
    "slotcontrast": Published(
        "Manasyan et al. (2025): as VideoSAUR's program; its tables on YouTube-VIS cover the first 210 of the last 300 "
        "videos.",
        _VIDEO,
        Protocol("left_out", boundaries="exact"),
        _CROWDS_UNCOVERED,
    ),
    "vs_dinosaur": Published(
        "DINOSAUR on COCO in VideoSAUR's program: images alone, those without labels are left out, pixels of several "
        "objects are ignored.",
        {"fg_ari_frame": "FG-ARI", "mbo_frame": "mBO"},
        Protocol("left_out"),
        {**_CROWDS_UNCOVERED, "overlaps": "ignore"},
    ),
    "dinosaur": Published(
        "Seitzer et al. (2023), images alone, in the authors' framework (OCLF): an image without labels counts 1 in "
        "FG-ARI and is left out of the rest; void pixels of VOC count against the slots that cover them.",
        {
            "fg_ari_frame": "FG-ARI",
            "mbo_frame": "mBO^i",
            "class_mbo_frame": "mBO^c",
            "corloc_frame": "CorLoc",
            "recall_frame": "recall",
        },
        Protocol("one", ("corloc", "corloc_frame", "recall", "recall_frame")),
        {**_CROWDS_UNCOVERED, "overlaps": "ignore", "void": "uncovered"},
    ),
    "ftdinosaur": Published(
        "Didolkar et al. (2025), images alone, in a fork of DINOSAUR's framework. Which FG-ARI its tables print is "
        "open, of all images or of those with at least two objects.",
        {
            "fg_ari_frame": "FG-ARI",
            "fg_ari_several_frame": "FG-ARI",
            "mbo_frame": "mBO_i",
            "class_mbo_frame": "mBO_c",
        },
        Protocol("one", ("fg_ari_several", "fg_ari_several_frame")),
        {**_CROWDS_UNCOVERED, "overlaps": "ignore"},
    ),
    "davis": Published(
        "DAVIS' official program for unsupervised segmentation (Caelles et al., 2019): J&F with tolerant boundaries, "
        "the mean over the objects of all videos; void is ignored.",
        {"j_and_f": "J&F mean", "j": "J mean", "f": "F mean"},
        Protocol("left_out", boundaries="tolerant"),
        {"void": "ignore"},
    ),
}


def find(name: str) -> Published:
    """The evaluation of that name.

    Raises:
        UserError: there is none, with the nearest names.
    """
    if name not in PROTOCOLS:
        raise UserError(f"There is no protocol `{name}`. {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def evaluation_data(data: DataConfig, settings: EvalConfig) -> DataConfig:
    """A recipe's data settings for whole videos, with labels as the protocol wants them.

    What the recipe itself says of crowds, void and overlaps stays. Classes are read where the protocol has figures of
    them and the data set knows them.
    """
    published, usual = find(settings.protocol), DataConfig()
    labels = {
        name: value for name, value in published.labels.items() if getattr(data, name) == getattr(usual, name)
    }
    keys = data.keys if settings.keys is None else settings.keys
    if any(name in CLASSES for name in published.tables) and entry(data.dataset).classes:
        keys = (*keys, "classes") if "segmentations" in keys and "classes" not in keys else keys
    return replace(data, num_frames=settings.num_frames, keys=keys, **labels)


def describe(name: str) -> str:
    """A sentence or two on it, and the figures that its tables print."""
    found = find(name)
    tables = ", ".join(f"{ours} as {theirs}" for ours, theirs in found.tables.items())
    return f"Protocol `{name}`: {found.about} Its tables print {tables}."
