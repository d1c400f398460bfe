"""Figures of frames, masks and slots, and plots of curves.

Images are uint8 with colour last, [..., H, W, 3]; ids are integers [..., H, W], 0 for background. One colour means one
object in every tile of a figure: see `match_colors`.
"""

import colorsys
import functools
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from torchslots.io.files import write_file

Pixels = NDArray[np.uint8]
Ids = NDArray[Any]
Numbers = Sequence[int | float] | NDArray[Any]
Series = Mapping[str, tuple[Numbers, Numbers]]

_INK = (231, 233, 238)
_GROUND = (23, 25, 31)
_GAP = 4
_LABEL = 18
_PREDICTED = (255, 140, 0)
_ROWS = 64
"""Rows that are tinted at once: their indices stay in the processor's cache."""
_CURVE_COLORS = (5, 6, 3, 1, 7, 2, 8, 10)
"""Palette indices of curves, in order."""
# The first eight differ under the common forms of colour blindness (Okabe and Ito, 2008).
_FIRST_COLORS = (
    "2c2f36 e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 7828a0 96dc3c a55f32 "
    "6eebd7 ff3c78 827dfa bebebe 005f3c ffbea0 6e142d 6e6e28 eb6eff 3c418c"
)


def _make_palette() -> Pixels:
    colors = [tuple(bytes.fromhex(color)) for color in _FIRST_COLORS.split()]
    for i in range(len(colors), 256):
        hue, light, full = i * 0.61803398875 % 1, 0.95 - 0.4 * (i * 0.3819 % 1), 0.45 + 0.5 * (i * 0.7548 % 1)
        colors.append(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, full, light)))
    return np.array(colors, dtype=np.uint8)


PALETTE: Pixels = _make_palette()
"""[256, 3]; row 0 is the dark grey of background."""


def colorize(ids: Ids) -> Pixels:
    """Ids [..., H, W] as colours [..., H, W, 3]; ids above 255 reuse the colours of 1 to 255."""
    ids = np.asarray(ids).astype(np.int64)
    return PALETTE[np.where(ids > 255, (ids - 1) % 255 + 1, ids)]


def boundaries(ids: Ids) -> NDArray[np.bool_]:
    """Pixels [..., H, W] whose right or lower neighbour belongs to another region."""
    ids = np.asarray(ids)
    edge = np.zeros(ids.shape, dtype=bool)
    edge[..., :-1, :] |= ids[..., :-1, :] != ids[..., 1:, :]
    edge[..., :, :-1] |= ids[..., :, :-1] != ids[..., :, 1:]
    return edge


def overlay(
    video: Pixels, ids: Ids, *, opacity: float = 0.55, outline: bool = True, size: int | None = None
) -> Pixels:
    """Tint each region of `video` [..., H, W, 3] with its colour and outline it; id 0 stays as it is.

    Args:
        opacity: of the tint, in [0, 1].
        size: height in pixels that both are enlarged to first, see `scale_up`; None: not enlarged.
    """
    if size is not None:
        factor = _factor(video, size)
        video, ids = scale_up(video, size), np.asarray(ids).repeat(factor, axis=-2).repeat(factor, axis=-1)
    image = _tinted(np.asarray(video), np.asarray(ids), opacity)
    if outline:
        image.reshape(-1, 3)[np.flatnonzero(boundaries(ids))] = 255
    return image


def _tinted(video: Pixels, ids: Ids, opacity: float) -> Pixels:
    """Colours mixed by a table of each channel, id and value, some rows at once and only where there are ids."""
    kinds, places = np.unique(ids, return_inverse=True) if ids.size and _odd(ids) else (np.arange(256), ids)
    tables, mixed = _tables(kinds, opacity), video.copy()
    width = ids.shape[-1]
    tinted, seen, places = ids.reshape(-1, width) != 0, mixed.reshape(-1, width, 3), places.reshape(-1, width)
    for top in range(0, len(seen), _ROWS):
        rows = slice(top, top + _ROWS)
        columns = np.flatnonzero(tinted[rows].any(0))
        if not len(columns):
            continue
        part = rows, slice(columns[0], columns[-1] + 1)
        start = places[part].astype(np.intp) * 256
        for channel, table in enumerate(tables):
            seen[part][..., channel] = table.take(start + seen[part][..., channel])
    return mixed


def _tables(kinds: Ids, opacity: float) -> list[Pixels]:
    """For each channel, each id's mixture with the values 0 to 255."""
    weight = np.where(kinds > 0, np.float32(opacity), np.float32(0))[:, None]
    values = np.arange(256, dtype=np.uint8)
    mixed = [values * (1 - weight) + tint[:, None] * weight for tint in colorize(kinds).T]
    return [np.rint(table).astype(np.uint8).ravel() for table in mixed]


def _odd(ids: Ids) -> bool:
    """Whether ids are outside 0 to 255."""
    return bool(ids.min() < 0 or ids.max() > 255)


def scale_up(video: Pixels, size: int) -> Pixels:
    """Enlarge [..., H, W, 3] by the integer factor that brings its height nearest to `size`; never shrinks."""
    factor = _factor(video, size)
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _factor(video: Pixels, size: int) -> int:
    return max(1, round(size / video.shape[-3]))


def match_colors(truth: Ids | None, prediction: Ids, num_slots: int) -> NDArray[np.int64]:
    """Palette index of each slot [K], so that a slot has the colour of the object that it matches.

    Slots and objects are paired by Hungarian matching on intersection over union; unmatched slots get colours that
    no object has. Without `truth`, the slot with the most pixels counts as background.
    """
    if truth is None:
        area = np.bincount(np.asarray(prediction).astype(np.int64).ravel(), minlength=num_slots)
        return _fill_colors({int(area.argmax()): 0}, num_slots, 1)
    from scipy.optimize import linear_sum_assignment  # takes half a second, which most figures do without

    true, predicted = (np.asarray(ids).astype(np.int64).ravel() for ids in (truth, prediction))
    num_true = int(true.max()) + 1
    table = np.bincount(true * num_slots + predicted, minlength=num_true * num_slots)
    table = table.reshape(num_true, num_slots)
    union = table.sum(0, keepdims=True) + table.sum(1, keepdims=True) - table
    objects, slots = linear_sum_assignment(table / np.maximum(union, 1), maximize=True)
    overlap = table[objects, slots] > 0
    return _fill_colors(dict(zip(slots[overlap].tolist(), objects[overlap].tolist())), num_slots, num_true)


def _fill_colors(matched: dict[int, int], num_slots: int, first_free: int) -> NDArray[np.int64]:
    free = itertools.count(first_free)
    colors = [matched[slot] if slot in matched else next(free) for slot in range(num_slots)]
    return np.array(colors, dtype=np.int64)


def slot_views(images: Pixels, masks: NDArray[np.floating]) -> Pixels:
    """Each slot alone on a grey chequer, on which objects of any colour are seen, [..., K, H, W, 3].

    Args:
        images: one for all slots [..., H, W, 3], or each slot's own [..., K, H, W, 3].
        masks: [..., K, H, W] in [0, 1].
    """
    if images.ndim == masks.ndim:
        images = np.expand_dims(images, -4)
    ground, views = chequer(*masks.shape[-2:]), np.empty((*masks.shape, 3), dtype=np.uint8)
    for place in np.ndindex(masks.shape[:-3]):  # a frame's floats stay in the processor's cache
        weight = masks[place][..., None].astype(np.float32)
        views[place] = np.rint(images[place] * weight + ground * (1 - weight))
    return views


def chequer(height: int, width: int) -> Pixels:
    """Squares of two greys [H, W, 3], 16 along the shorter side or as many as have 2 pixels."""
    side = max(2, min(height, width) // 16)
    odd = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    return np.where(odd[..., None] == 1, np.uint8(112), np.uint8(84)).repeat(3, axis=-1)


def slot_strip(images: Pixels, masks: NDArray[np.floating], *, tile: int = 128) -> Pixels:
    """Labelled images of the slots of a frame, or of each frame, side by side [..., H', W', 3]."""
    views = slot_views(images, masks)
    frames = views.reshape(-1, *views.shape[-4:])
    strip = _arrange([_slot_tiles(frames, range(frames.shape[1]), tile)])
    return strip.reshape(*views.shape[:-4], *strip.shape[1:])


Tile = tuple[str, Pixels, "int | None"]
"""A label, its frames [T, H, W, 3], and the palette index of the swatch before the label, if any."""


def _slot_tiles(views: Pixels, colors: Sequence[int], tile: int) -> list[Tile]:
    return [(f"slot {k}", scale_up(views[:, k], tile), int(colors[k])) for k in range(views.shape[1])]


def clip_panel(
    video: Pixels,
    prediction: Ids,
    *,
    truth: Ids | None = None,
    recon: Mapping[str, Pixels] | None = None,
    masks: NDArray[np.floating] | None = None,
    slot_images: Pixels | None = None,
    tile: int = 128,
    columns: int = 6,
) -> Pixels:
    """A clip and a model's output for it [T, H', W', 3], with even sides as video files need them.

    First input, ground truth, prediction and reconstructions; then one labelled tile for each slot.

    Args:
        video: [T, H, W, 3].
        prediction: slot ids [T, H, W].
        truth: object ids [T, H, W]; None: no such tile, and colours follow the slots' own order.
        recon: videos by name [T, H, W, 3], for example the flow that the model predicts.
        masks: soft masks [T, K, H, W]; None: no slot tiles.
        slot_images: each slot's own reconstruction [T, K, H, W, 3]; None: the input through the masks.
        tile: height in pixels that small videos are enlarged to.
        columns: most tiles in a row.
    """
    num_slots = int(prediction.max()) + 1 if masks is None else masks.shape[1]
    colors = match_colors(truth, prediction, num_slots)
    tiles: list[Tile] = [("input", scale_up(video, tile), None)]
    if truth is not None:
        tiles.append(("ground truth", overlay(video, truth, size=tile), None))
    colored = colors[np.asarray(prediction).astype(np.int64)]
    tiles.append(("prediction", overlay(video, colored, size=tile), None))
    tiles += [(name, scale_up(image, tile), None) for name, image in (recon or {}).items()]
    slots: list[Tile] = []
    if masks is not None:
        seen = video if slot_images is None else slot_images
        slots = _slot_tiles(slot_views(seen, masks), colors.tolist(), tile)
    return _arrange(_rows(tiles, columns) + _rows(slots, columns))


def _rows(tiles: Sequence[Tile], most: int) -> list[Sequence[Tile]]:
    """Rows of at most `most` tiles, as equal in length as they can be."""
    columns = math.ceil(len(tiles) / max(math.ceil(len(tiles) / most), 1)) or 1
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def _arrange(rows: Sequence[Sequence[Tile]]) -> Pixels:
    """Rows of labelled tiles of one size on one dark sheet."""
    frames, height, width = rows[0][0][1].shape[:3]
    width_cell, height_cell = max(width, 72) + _GAP, height + _LABEL + _GAP
    sheet_height = _even(len(rows) * height_cell + _GAP)
    sheet_width = _even(max(len(row) for row in rows) * width_cell + _GAP)
    sheet = np.empty((frames, sheet_height, sheet_width, 3), dtype=np.uint8)
    labels = tuple(tuple((label, color) for label, _, color in row) for row in rows)
    sheet[:] = _labels(labels, (sheet_height, sheet_width), (height_cell, width_cell))
    for i, row in enumerate(rows):
        for j, (_, image, _) in enumerate(row):
            top, left = _GAP + i * height_cell + _LABEL, _GAP + j * width_cell
            sheet[:, top : top + height, left : left + width] = image
    return sheet


@functools.lru_cache(maxsize=8)  # a film is drawn frame by frame
def _labels(
    rows: tuple[tuple[tuple[str, int | None], ...], ...], sheet: tuple[int, int], cell: tuple[int, int]
) -> Pixels:
    image = Image.new("RGB", (sheet[1], sheet[0]), _GROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    for i, row in enumerate(rows):
        for j, (label, color) in enumerate(row):
            left, top = _GAP + j * cell[1], _GAP + i * cell[0]
            if color is not None:
                pen.rectangle((left, top + 3, left + 9, top + 12), tuple(PALETTE[color].tolist()), _INK)
                left += 14
            pen.text((left, top), label, _INK, font)
    return np.asarray(image)


def _even(size: int) -> int:
    return size + size % 2


def contact_sheet(
    images: Sequence[Pixels], labels: Sequence[str] | None = None, *, columns: int = 6, tile: int = 128
) -> Pixels:
    """Images [H, W, 3] of one size, labelled, on one sheet [H', W', 3]."""
    names = labels if labels is not None else [str(i) for i in range(len(images))]
    tiles: list[Tile] = [(name, scale_up(image, tile)[None], None) for name, image in zip(names, images)]
    return _arrange(_rows(tiles, columns))[0]


def plot_curves(
    series: Series,
    out: Path,
    *,
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
) -> Path:
    """Plot one line for each name through its points (x, y), as a PNG; returns `out`."""
    figure, axes = _figure(title, x_label, y_label)
    for (name, (x, y)), color in zip(series.items(), itertools.cycle(PALETTE[list(_CURVE_COLORS)] / 255)):
        axes.plot(x, y, label=name, color=color, linewidth=2, marker="o" if len(x) < 30 else "", markersize=4)
    if log_y:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_file(out, buffer.getvalue())
    return out


def _figure(title: str, x_label: str, y_label: str) -> tuple[Any, Any]:
    """A figure outside pyplot's registry: it need not be closed, and no backend is chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def number_slots(image: Pixels, ids: Ids) -> Pixels:
    """Write each slot's number into its region.

    Args:
        image: [H, W, 3]
        ids: slot of each pixel [H, W].
    """
    canvas, pen, font = _canvas(image, smallest=9)
    for slot in np.unique(ids).tolist():
        row, column = _middle(np.asarray(ids) == slot)
        place, white = (column, row), (255, 255, 255)
        pen.text(place, str(slot), white, font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)


def _canvas(image: Pixels, smallest: int) -> tuple[Image.Image, ImageDraw.ImageDraw, Any]:
    """A copy of the image, its pen, and a font of a sixteenth of its height, at least `smallest` pixels."""
    canvas = Image.fromarray(np.ascontiguousarray(image))
    return canvas, ImageDraw.Draw(canvas), ImageFont.load_default(size=max(smallest, image.shape[0] // 16))


def _middle(region: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel farthest from the region's edge; of several the most central one."""
    from scipy import ndimage  # takes a third of a second, which predictions do without

    depth = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    row, column = deepest[np.square(deepest - deepest.mean(0)).sum(1).argmin()].tolist()
    return row, column


def mark_predicted(frame: Pixels) -> Pixels:
    """Mark a frame [H, W, 3] as predicted without input: an orange border and the word `predicted`."""
    canvas, pen, font = _canvas(frame, smallest=8)
    height, width = frame.shape[:2]
    border = height // 64
    pen.rectangle((0, 0, width - 1, height - 1), outline=_PREDICTED, width=max(1, border))
    place = width - 3 - border, 1 + border
    pen.text(place, "predicted", _PREDICTED, font, anchor="ra", stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)
