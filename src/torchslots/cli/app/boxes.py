"""Boxes that are drawn on the first frame: what the component shows, and what comes back."""

from pathlib import Path
from typing import Any

from torchslots.cli.app.render import color, fitted
from torchslots.cli.app.uploads import Film
from torchslots.inference.view import resized
from torchslots.io import video

_ANNOTATED_SIDE = 640
"""Longest side in pixels of the frame on which boxes are drawn."""


def annotated(film: Film, file: Path) -> dict[str, Any]:
    """The first frame and its known boxes, for the component on which boxes are drawn.

    Args:
        file: PNG that the frame is written to.
    """
    height, width = fitted(film.first.shape[:2], _ANNOTATED_SIDE)
    boxes = [
        {
            "ymin": round(a * height),
            "xmin": round(b * width),
            "ymax": round(c * height),
            "xmax": round(d * width),
        }
        for a, b, c, d in film.boxes
    ]
    inks = (bytes.fromhex(color(slot)[1:]) for slot in range(1, len(boxes) + 1))
    colors = [f"rgb({red}, {green}, {blue})" for red, green, blue in inks]
    video.write_png(file, resized(film.first, (height, width)))
    return {
        "image": str(file),
        "boxes": [box | {"label": "", "color": ink} for box, ink in zip(boxes, colors)],
    }


def boxes_of(value: dict[str, Any] | None, film: Film) -> list[tuple[float, float, float, float]]:
    """Boxes that were drawn, as (ymin, xmin, ymax, xmax) in [0, 1]; those without an area are left out."""
    height, width = fitted(film.first.shape[:2], _ANNOTATED_SIDE)
    rows = []
    for box in (value or {}).get("boxes") or []:
        ymin, ymax = (min(max(box[key] / height, 0.0), 1.0) for key in ("ymin", "ymax"))
        xmin, xmax = (min(max(box[key] / width, 0.0), 1.0) for key in ("xmin", "xmax"))
        if ymax > ymin and xmax > xmin:
            rows.append((ymin, xmin, ymax, xmax))
    return rows
