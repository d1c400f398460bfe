"""HTML of a frame with its objects, of its slots, and of tracks: what the page shows."""

import base64
from collections.abc import Collection
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image

from torchslots.cli.app.session import Found
from torchslots.inference.view import resized
from torchslots.io.draw import PALETTE, overlay, slot_views
from torchslots.io.notebook import png

_SIDE, _TILE = 560, 150
"""Longest side of the frame and of a slot's image, in pixels."""
_TRAIL = 24
"""Frames of a track that are shown behind an object."""
_BACKGROUND = '<span class="ts-note"> (background)</span>'

STYLE = """
.ts-frame{position:relative;margin:0 auto;max-width:760px}
.ts-frame img{width:100%;display:block;image-rendering:auto;border-radius:6px}
.ts-frame svg{position:absolute;inset:0;width:100%;height:100%}
#preview img{max-height:360px;width:100%;object-fit:contain;border-radius:6px}
.ts-slots{display:grid;grid-template-columns:repeat(auto-fill,minmax(96px,1fr));gap:8px;margin-top:10px}
.ts-slots figure{margin:0}.ts-slots img{width:100%;display:block;border-radius:4px}
.ts-slots figcaption,.ts-tracks{font-size:13px}
.ts-dot{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
.ts-tracks{width:100%;border-collapse:collapse}
.ts-tracks td,.ts-tracks th{padding:3px 8px;text-align:left;white-space:nowrap}
.ts-tracks td.ts-line{width:100%}
@media(max-width:520px){.ts-tracks td,.ts-tracks th{padding:3px 4px;font-size:12px}.ts-tracks .ts-note{display:none}}
.ts-line svg{width:100%;height:12px;display:block}
"""


def color(slot: int) -> str:
    """A slot's colour, as in the overlay."""
    return "#" + bytes(PALETTE[slot if slot < 256 else (slot - 1) % 255 + 1].tolist()).hex()


def image_tag(image: UInt8[ndarray, "H W 3"], text: str) -> str:
    """An image inside the page."""
    data = base64.b64encode(png(Image.fromarray(np.ascontiguousarray(image)))).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of a frame whose longest side becomes `side`."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _nearest(ids: Int[ndarray, "H W"], size: tuple[int, int]) -> Int[ndarray, "h w"]:
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, ids.shape))
    return ids[rows.astype(int)[:, None], columns.astype(int)]


def frame_html(found: Found, number: int, shown: Collection[int]) -> str:
    """A frame with the chosen slots tinted, their boxes, numbers and tracks; below it each chosen slot alone.

    Args:
        number: of the frame, from 0; beyond the end the last one.
        shown: slots that are switched on.
    """
    number = max(0, min(int(number), len(found.tracks["frames"]) - 1))
    frame, ids = found.frame(number), found.ids(number)
    size = fitted(ids.shape[:2], _SIDE)
    ids_large = _nearest(ids, size)
    tinted = overlay(resized(frame, size), np.where(np.isin(ids_large, list(shown)), ids_large, 0))
    marks = "".join(_marks(found.tracks, number, slot, size) for slot in sorted(shown) if slot > 0)
    picture = image_tag(tinted, f"frame {number} with its objects")
    svg = f'<svg viewBox="0 0 {size[1]} {size[0]}" xmlns="http://www.w3.org/2000/svg">{marks}</svg>'
    return f'<div class="ts-frame">{picture}{svg}</div>{_slots_html(frame, ids, sorted(shown))}'


def _marks(tracks: dict[str, Any], number: int, slot: int, size: tuple[int, int]) -> str:
    """The box and number of a slot in a frame, and the way of the box's centre in the frames before."""
    height, width = size
    centers: list[str] = []
    box: list[float] | None = None
    for entry in tracks["frames"][max(0, number - _TRAIL) : number + 1]:
        box = next((each["box"] for each in entry["objects"] if each["slot"] == slot), None)
        if box is not None:
            centers.append(f"{(box[1] + box[3]) / 2 * width:.1f},{(box[0] + box[2]) / 2 * height:.1f}")
    if box is None:
        return ""
    top, left = box[0] * height, box[1] * width
    tall, wide = (box[2] - box[0]) * height, (box[3] - box[1]) * width
    ink = color(slot)
    trail = f'<polyline points="{" ".join(centers)}" fill="none" stroke="{ink}" stroke-width="3"/>'
    edge = f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="none" stroke="{ink}" '
    place = f'x="{left + 4:.1f}" y="{max(top + 16, 16):.1f}"'
    text = f'<text {place} font-size="15" font-family="sans-serif" font-weight="700" fill="white" stroke="black" '
    return f'{trail}{edge}stroke-width="1.5"/>{text}stroke-width="3" paint-order="stroke">{slot}</text>'


def _slots_html(frame: UInt8[ndarray, "H W 3"], ids: Int[ndarray, "H W"], shown: Collection[int]) -> str:
    if not shown:
        return "<p>Every slot is switched off.</p>"
    size = fitted(ids.shape[:2], _TILE)
    small, tile = _nearest(ids, size), resized(frame, size)
    masks = np.stack([small == slot for slot in shown]).astype(np.float32)
    figures = (_slot_figure(slot, view) for slot, view in zip(shown, slot_views(tile, masks)))
    return f'<div class="ts-slots">{"".join(figures)}</div>'


def _slot_figure(slot: int, view: UInt8[ndarray, "H W 3"]) -> str:
    caption = f"{_dot(slot)}slot {slot}{' (background)' if slot == 0 else ''}"
    return f"<figure>{image_tag(view, f'slot {slot}')}<figcaption>{caption}</figcaption></figure>"


def _dot(slot: int) -> str:
    return f'<span class="ts-dot" style="background:{color(slot)}"></span>'


def tracks_html(found: Found, number: int | None = None) -> str:
    """A row for each slot that has pixels: its frames, the mean part of the image, and a line over time.

    Args:
        number: frame that is marked on the lines; None: none.
    """
    frames = found.tracks["frames"]
    height, width = found.tracks["size"]
    rows = "".join(_row(frames, entry, height * width, number) for entry in found.tracks["slots"])
    head = "<tr><th>slot</th><th>frames</th><th>mean size</th><th>over time</th></tr>"
    return f'<table class="ts-tracks">{head}{rows}</table>'


def _row(frames: list[dict[str, Any]], entry: dict[str, Any], pixels: int, number: int | None) -> str:
    slot = entry["slot"]
    areas = [next((o["area"] for o in frame["objects"] if o["slot"] == slot), 0) for frame in frames]
    part = sum(areas) / max(1, entry["frames"]) / pixels
    bars = "".join(f'<rect x="{t}" y="2" width="1" height="8"/>' for t, area in enumerate(areas) if area)
    here = "" if number is None else f'<rect x="{number}" y="0" width="1" height="12" fill="#8888" />'
    line = f'<svg viewBox="0 0 {len(frames)} 12" preserveAspectRatio="none" fill="{color(slot)}">{bars}{here}</svg>'
    name = f"{_dot(slot)}{slot}{_BACKGROUND if slot == 0 else ''}"
    cells = f"<td>{name}</td><td>{entry['frames']} of {len(frames)}</td><td>{part:.1%}</td>"
    return f'<tr>{cells}<td class="ts-line">{line}</td></tr>'
