"""The report page in a real browser: headless Chromium must show every picture and play every film in it.

By hand: `python tests/test_page_browser.py runs/demo/index.html` prints what the browser made of a page.
"""

import base64
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from torchslots.evaluation.page import Heading, Image, Row, Video, write_page
from torchslots.io import video

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
PATIENCE = (3_000, 20_000, 60_000)
"""Milliseconds of the browser's virtual clock; decoders run on the real one, so a busy machine needs more."""
PROBE = """<script>
addEventListener("load", () => {
  const films = [...document.querySelectorAll("video")];
  const report = document.body.appendChild(document.createElement("pre"));
  report.id = "probe";
  films.forEach(film => {
    film.muted = true; film.preload = "auto"; film.load(); film.play().catch(() => {});
  });
  setInterval(() => {
    const images = [...document.images].map(image => ({
      kind: "img", name: image.alt || image.src.slice(0, 30), width: image.complete ? image.naturalWidth : 0,
    }));
    const videos = films.map(film => ({
      kind: "video", name: film.ariaLabel, width: film.readyState >= 2 ? film.videoWidth : 0,
      seconds: film.duration, error: film.error && film.error.message,
    }));
    report.textContent = JSON.stringify([...images, ...videos]);
  }, 100);
});
</script>"""


def find_browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium on PATH; on Debian: apt-get install chromium"
)


def probe(page: Path, scratch: Path) -> list[dict]:
    """Every picture and film of a page and the width in pixels that the browser gives it, 0 if it fails."""
    found: list[dict] = []
    for budget in PATIENCE:
        found = look(page, scratch, budget)
        if found and all(item["width"] for item in found):
            break
    return found


def look(page: Path, scratch: Path, budget: int) -> list[dict]:
    """Open a copy of the page with a script, which the page itself forbids, that writes what has loaded."""
    text, copy = page.read_text(encoding="utf-8"), scratch / "probed.html"
    text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(find_browser()), *QUIET, f"--user-data-dir={scratch / f'profile_{budget}'}"]
    command += [f"--virtual-time-budget={budget}", "--dump-dom", copy.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert report, f"{command[0]} gave no page (exit {done.returncode}): {done.stderr[-500:]}"
    return json.loads(html.unescape(report[1]) or "[]")


@pytest.fixture
def media(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    video.write_png(tmp_path / "picture.png", frames[0])
    video.write_gif(tmp_path / "clip.gif", frames, 12.0)
    video.write_video(tmp_path / "clip.mp4", frames, 12.0)
    return [tmp_path / name for name in ("picture.png", "clip.gif", "clip.mp4")]


def inline(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@needs_browser
def test_the_probe_tells_what_loads_from_what_does_not(tmp_path, media):
    picture, gif, film = (file.read_bytes() for file in media)
    page = tmp_path / "page.html"
    page.write_text(
        f"<body><img src='{inline('image/png', picture)}'><img src='{inline('image/gif', gif)}'>"
        f"<img src='{inline('image/png', picture[:40])}'><img src='missing.png'>"
        f"<video src='{inline('video/mp4', film)}'></video>"
        f"<video src='{inline('video/mp4', film[:200])}'></video></body>"
    )
    expected = [("img", 64), ("img", 64), ("img", 0), ("img", 0), ("video", 64), ("video", 0)]
    for budget in PATIENCE:
        found = [(item["kind"], item["width"]) for item in look(page, tmp_path, budget)]
        if found == expected:
            break
    assert found == expected


@needs_browser
def test_every_picture_and_film_of_a_page_loads(tmp_path, media):
    picture, gif, film = media
    shown = [Image(picture, "a picture"), Row([Image(gif, "a GIF"), Video(film, "a film")])]
    page = write_page(tmp_path / "page", "A page", [Heading("Results"), *shown])
    for file in media:
        file.unlink()
    found = {item["name"]: (item["kind"], item["width"]) for item in probe(page, tmp_path)}
    assert found == {"a picture": ("img", 64), "a GIF": ("img", 64), "a film": ("video", 64)}


def test_a_page_refers_to_nothing_outside_itself(tmp_path, media):
    page = write_page(tmp_path / "page", "A page", [Image(media[0], "a picture"), Video(media[2], "a film")])
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]+)""", page.read_text())
    assert len(addresses) >= 2
    assert all(address.startswith(("data:", "#")) for address in addresses)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(probe(Path(sys.argv[1]), Path(folder)), indent=1))
