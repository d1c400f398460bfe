"""The HTML page: all inside, text escaped, what cannot be shown refused."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from torchslots.evaluation.page import Heading, Image, Row, Table, Text, Video, write_page
from torchslots.io.errors import UserError
from torchslots.io.video import write_gif, write_png, write_video


class _Reader(HTMLParser):
    """Checks that tags are balanced and keeps every tag's attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def _media(folder: Path) -> tuple[Path, Path, Path]:
    clip = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3)).astype(np.uint8)
    png, mp4, gif = folder / "a.png", folder / "a.mp4", folder / "a.gif"
    write_png(png, clip[0])
    write_video(mp4, clip)
    write_gif(gif, clip)
    return png, mp4, gif


def test_page_holds_its_media_and_links_nowhere(tmp_path):
    png, mp4, gif = _media(tmp_path)
    sections = [
        Heading("Results"),
        Text("One.\n\nTwo."),
        Row([Image(png, "a curve"), Video(mp4, "a clip")]),
        Image(gif, "g"),
    ]
    page = write_page(tmp_path / "out", "Demo", sections)
    text = page.read_text()
    reader = _Reader(text)
    sources = [attributes["src"] for _, attributes in reader.tags if "src" in attributes]
    assert len(sources) == 3 and all(source and source.startswith("data:") for source in sources)
    for source, path in zip(sources, (png, mp4, gif)):
        assert base64.b64decode(str(source).split(",")[1]) == path.read_bytes()
    assert not re.search(r"https?://|@import|<script", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    [video] = [attributes for tag, attributes in reader.tags if tag == "video"]
    assert {"autoplay", "loop", "muted", "playsinline", "controls"} <= set(video)
    assert text.count("<p>") == 2 and text.count("<figcaption>") == 3


def test_text_is_escaped_everywhere(tmp_path):
    png, mp4, _ = _media(tmp_path)
    evil = """<script>alert("1")</script> & '$title'"""
    sections = [Heading(evil), Text(evil), Table([evil], [[evil]], evil), Image(png, evil), Video(mp4, evil)]
    text = write_page(tmp_path, evil, sections).read_text()
    _Reader(text)
    assert (
        "<script" not in text
        and text.count("&lt;script&gt;") == 11
        and text.count("&#x27;$title&#x27;") == 11
    )


def test_columns_of_numbers_are_set_to_the_right(tmp_path):
    table = Table(["figure", "value", "meaning"], [["fg_ari", "50.0 %", "agreement beyond chance"]])
    text = write_page(tmp_path, "t", [table]).read_text()
    assert '<td class="number">50.0 %</td>' in text
    assert "<td>fg_ari</td>" in text and "<td>agreement beyond chance</td>" in text


def test_media_that_cannot_be_shown_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        write_page(tmp_path, "t", [Image(tmp_path / "gone.png", "")])
    with pytest.raises(UserError, match=r"\.mp4, \.webm"):
        write_page(tmp_path, "t", [Video(tmp_path / "a.gif", "")])
    with pytest.raises(UserError, match="the image files that browsers show"):
        write_page(tmp_path, "t", [Image(tmp_path / "a.mp4", "")])
    assert not (tmp_path / "index.html").exists()
