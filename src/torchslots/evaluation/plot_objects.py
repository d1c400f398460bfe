"""Plots and tables of predicted properties beside the true ones."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from torchslots.data.objects import ObjectProperties, decode_object
from torchslots.io.draw import Pixels, scale_up

HEADER = ("object", "true", "at x, y, z", "predicted", "at x, y, z", "distance", "confidence", "")
"""Columns of `properties_table`."""
CONFIDENT = 0.5
"""Predictions without a true object are shown from this confidence on."""

_INK, _GROUND, _FAINT = (231, 233, 238), (23, 25, 31), (120, 125, 138)
_RIGHT, _WRONG = (110, 205, 130), (240, 115, 95)
_INKS = {
    "gray": (140, 140, 140),
    "blue": (42, 75, 215),
    "brown": (129, 74, 25),
    "yellow": (255, 238, 51),
    "red": (200, 45, 45),
    "green": (29, 135, 40),
    "purple": (150, 60, 205),
    "cyan": (41, 208, 208),
}
_ROW, _GAP, _TILE = 20, 10, 240
_COLUMNS = (58, 190, 150, 190, 134, 66, 78, 40)
_REACH = 4.0


class Pair(NamedTuple):
    """A true object and the prediction matched to it; one of them may be missing."""

    true: ObjectProperties | None
    predicted: ObjectProperties | None

    @property
    def distance(self) -> float | None:
        """Distance of the positions in the scene's units; None: one is missing."""
        if self.true is None or self.predicted is None:
            return None
        return float(np.linalg.norm(np.subtract(self.true.position, self.predicted.position)))

    @property
    def right(self) -> bool:
        """Whether all four attributes agree."""
        if self.true is None or self.predicted is None:
            return False
        return self.true.words() == self.predicted.words()

    @property
    def verdict(self) -> str:
        """ "right" or "wrong"; empty without a true object."""
        return "" if self.true is None else "right" if self.right else "wrong"


def match_objects(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> list[Pair]:
    """Each true object with its prediction, by the least sum of squared differences; then the other predictions of at
    least `CONFIDENT`, the most confident first.

    Args:
        predicted: [K, 19].
        true: [n, 19]; rows of zeros are padding.
    """
    real = true[true[:, -1] != 0]
    cost = np.square(real[:, None] - predicted[None]).sum(-1)
    partner = dict(zip(*(side.tolist() for side in linear_sum_assignment(cost))))
    objects = [decode_object(row) for row in predicted]
    pairs = [
        Pair(decode_object(row), objects[partner[i]] if i in partner else None) for i, row in enumerate(real)
    ]
    left = [
        one for k, one in enumerate(objects) if k not in set(partner.values()) and one.confidence >= CONFIDENT
    ]
    return pairs + [Pair(None, one) for one in sorted(left, key=lambda one: -one.confidence)]


def properties_table(
    predicted: NDArray[np.floating], true: NDArray[np.floating] | None = None
) -> list[tuple[str, ...]]:
    """One row for each pair of `match_objects`, in the columns of `HEADER`."""
    return [_row(i, pair) for i, pair in enumerate(_pairs(predicted, true))]


def properties_markdown(predicted: NDArray[np.floating], true: NDArray[np.floating] | None = None) -> str:
    """`properties_table` as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER), *properties_table(predicted, true)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pairs(predicted: NDArray[np.floating], true: NDArray[np.floating] | None) -> list[Pair]:
    return match_objects(predicted, predicted[:0] if true is None else true)


def _row(index: int, pair: Pair) -> tuple[str, ...]:
    sides = [_side(pair.true, ""), _side(pair.predicted, "missed")]
    distance = "" if pair.distance is None else f"{pair.distance:.2f}"
    confidence = "" if pair.predicted is None else f"{pair.predicted.confidence:.2f}"
    return (str(index + 1), *sides[0], *sides[1], distance, confidence, pair.verdict)


def _side(one: ObjectProperties | None, otherwise: str) -> tuple[str, str]:
    if one is None:
        return otherwise, ""
    return one.words(), ", ".join(f"{value:+.2f}" for value in one.position)


def plot_properties(
    image: Pixels, predicted: NDArray[np.floating], true: NDArray[np.floating] | None = None
) -> Pixels:
    """The image, a map of the scene from above, and a table of predicted beside true objects [H', W', 3].

    On the map true objects are rings, predictions are dots, and a line joins a pair. Attributes that agree are green,
    others red.

    Args:
        image: [H, W, 3].
        predicted: [K, 19].
        true: [n, 19]; None: predictions alone.
    """
    pairs = _pairs(predicted, true)
    scaled = scale_up(image, _TILE)
    left = max(scaled.shape[1], _TILE) + 2 * _GAP
    height = max(scaled.shape[0] + _TILE + 3 * _GAP, (len(pairs) + 1) * _ROW + 2 * _GAP)
    sheet = Image.new("RGB", (left + sum(_COLUMNS) + _GAP, height), _GROUND)
    sheet.paste(Image.fromarray(scaled), (_GAP, _GAP))
    pen = ImageDraw.Draw(sheet)
    _plot_map(pen, pairs, (_GAP, scaled.shape[0] + 2 * _GAP))
    _plot_table(pen, pairs, (left, _GAP))
    return np.asarray(sheet)


def _plot_map(pen: ImageDraw.ImageDraw, pairs: list[Pair], corner: tuple[int, int]) -> None:
    """Map of the positions x and y, four units to each side of the centre."""
    left, top = corner
    pen.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), outline=_FAINT)
    pen.text((left + 4, top + 2), "from above", _FAINT, ImageFont.load_default(size=12))
    for pair in pairs:
        ends = [(one, _on_map(one, corner)) for one in pair if one is not None]
        if len(ends) == 2:
            pen.line((*ends[0][1], *ends[1][1]), _INK)
        for one, (x, y) in ends:
            filled, color = one is pair.predicted, _INKS[one.color]
            radius = 4 if filled else 9 if one.size == "large" else 6
            fill, outline, width = (color, _INK, 1) if filled else (None, color, 3)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, width)


def _on_map(one: ObjectProperties, corner: tuple[int, int]) -> tuple[int, int]:
    x, y = (min(max(value / _REACH, -1.0), 1.0) for value in one.position[:2])
    half = _TILE // 2
    return corner[0] + half + round(x * (half - 12)), corner[1] + half - round(y * (half - 12))


def _plot_table(pen: ImageDraw.ImageDraw, pairs: list[Pair], corner: tuple[int, int]) -> None:
    font = ImageFont.load_default(size=12)
    _plot_row(pen, font, corner, HEADER, [_FAINT] * len(HEADER))
    for i, pair in enumerate(pairs):
        place = (corner[0], corner[1] + (i + 1) * _ROW)
        verdict = _RIGHT if pair.right else _WRONG
        ink = [_FAINT, _INK, _INK, verdict, _INK, _INK, _INK, verdict]
        _plot_row(pen, font, place, _row(i, pair), ink)
        for one, column in ((pair.true, 1), (pair.predicted, 3)):
            if one is not None:
                left, top = place[0] + sum(_COLUMNS[:column]) - 16, place[1] + 3
                pen.rectangle((left, top, left + 9, top + 9), _INKS[one.color], _INK)


def _plot_row(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    place: tuple[int, int],
    cells: tuple[str, ...],
    inks: list[tuple[int, int, int]],
) -> None:
    left = place[0]
    for cell, ink, width in zip(cells, inks, _COLUMNS):
        pen.text((left, place[1]), cell, ink, font)
        left += width
