"""Figures of pictures that need public networks: which files, and what is said of those that are not here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchslots.errors import UserError, nearest

_HOW = "Files elsewhere are named with --weights NAME=FILE; --download brings those that are not here."


@dataclass(frozen=True)
class PictureLine:
    """Networks of LPIPS, FID and FVD, and the order of frames."""

    weights: tuple[str, ...] = ()
    """Public files of these networks as NAME=FILE: vgg16, lpips_vgg, alexnet, lpips_alex, inception, i3d. Others are
    looked for in the cache."""
    download: bool = False
    """Bring files that are not here, 528 MB for VGG16; their digests are checked."""
    published_order: bool = False
    """Name written frames 0.png, 1.png, ..., and put them into the order 0, 1, 10, 11, ... for FVD, as in the published
    figures; otherwise 00000.png, ..., in the order of time."""


def networks_of(line: PictureLine, metrics: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The networks whose weights are here, and a sentence for each figure that is left out."""
    from torchslots.metrics.pictures import load_networks

    networks, notes = load_networks(metrics, _files(line.weights), download=line.download)
    return networks, [*notes, _HOW] if notes else []


def _files(pairs: Sequence[str]) -> dict[str, Path]:
    from torchslots.metrics.networks.weights import FILES

    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"--weights takes NAME=FILE, such as vgg16=vgg16-397923af.pth, got {pair!r}.")
        if name not in FILES:
            raise UserError(
                f"--weights knows no `{name}`. {nearest(name, FILES)} There are: {', '.join(FILES)}."
            )
        found[name] = Path(file)
    return found
