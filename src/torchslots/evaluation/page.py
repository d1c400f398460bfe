"""A report as one HTML file with its images and videos embedded, in light and dark."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from torchslots._version import __version__
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import write_file
from torchslots.io.films import film_size

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
_SHORT = 16
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; what stands in backticks is set as code."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a header; columns of short cells are aligned right, except the first."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """One number of `Figures`."""

    value: str
    label: str
    note: str = ""
    """Small text below, such as a baseline's value."""


@dataclass(frozen=True)
class Figures:
    """The main figures, large and side by side."""

    items: Sequence[Figure]


@dataclass(frozen=True)
class Image:
    """An image or GIF with a caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Video:
    """An mp4 or webm with a caption, played in a loop without sound; the controls are below the frames."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Row:
    """Images and videos side by side on wide screens."""

    items: Sequence[Image | Video]


Section = Heading | Text | Figures | Table | Image | Video | Row


def write_page(folder: Path, title: str, sections: Sequence[Section], name: str = "index.html") -> Path:
    """Write `folder/name` and return its path. All text is escaped.

    Raises:
        UserError: an image or video that cannot be read or that browsers do not show, or a full disk.
    """
    template = Template((files("torchslots.evaluation") / "page.html").read_text(encoding="utf-8"))
    body = "\n".join(_render(section) for section in sections)
    text = template.substitute(
        title=escape(title), body=body, footer=f"Made by torchslots {escape(__version__)}."
    )
    write_file(folder / name, text)
    return folder / name


def _render(section: Section) -> str:
    if isinstance(section, Heading):
        level = min(max(section.level, 2), 3)
        return f"<h{level}>{escape(section.text)}</h{level}>"
    if isinstance(section, Text):
        parts = [part.strip() for part in section.text.split("\n\n")]
        return "\n".join(f"<p>{_with_code(part)}</p>" for part in parts if part)
    if isinstance(section, Figures):
        return '<div class="figures">' + "\n".join(map(_number, section.items)) + "</div>"
    if isinstance(section, Table):
        return _figure(_table(section), section.caption)
    if isinstance(section, Row):
        return '<div class="row">' + "\n".join(_render(item) for item in section.items) + "</div>"
    if isinstance(section, Video):
        about = f'aria-label="{escape(section.caption)}" src="{_embedded(section.path, "video")}"'
        height, width = film_size(section.path)
        video = f"<video autoplay loop muted playsinline controls {about}></video>"
        film = f'<div class="film wide" style="aspect-ratio: {width} / {height}">{video}</div>'
        return _figure(film, section.caption)
    image = f'<img class="wide" src="{_embedded(section.path, "image")}" alt="{escape(section.caption)}">'
    return _figure(image, section.caption)


def _with_code(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _number(figure: Figure) -> str:
    note = f"<small>{escape(figure.note)}</small>" if figure.note else ""
    return f"<div><strong>{escape(figure.value)}</strong><span>{escape(figure.label)}</span>{note}</div>"


def _figure(content: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{content}</div>{below}</figure>'


def _table(table: Table) -> str:
    marks = [_mark(column, [row[column] for row in table.rows]) for column in range(len(table.header))]
    head = "".join(f"<th{mark}>{escape(cell)}</th>" for cell, mark in zip(table.header, marks))
    rows = ("".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks)) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mark(column: int, cells: Sequence[str]) -> str:
    return ' class="number"' if column and all(len(cell) <= _SHORT for cell in cells) else ""


def _embedded(path: Path, kind: str) -> str:
    """The file as a data address."""
    media = _TYPES.get(path.suffix.lower(), "")
    if not media.startswith(kind):
        known = ", ".join(suffix for suffix, name in _TYPES.items() if name.startswith(kind))
        raise UserError(
            f"{path} should be one of {known}, the {kind} files that browsers show. Convert it to one of them."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read for the page ({first_line(error)}).") from error
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
