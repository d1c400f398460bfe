"""The app's page in headless Chromium: the whole way of a person, with boxes drawn by the mouse."""

import json
import shutil
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_models import TINY
from torchslots.cli.app.command import AppOptions, serve
from torchslots.io import video
from torchslots.models.weights import save_pretrained
from torchslots.recipes import savi

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in (BROWSER, DRIVER), reason="needs chromium and chromium-driver"),
    pytest.mark.filterwarnings("ignore:::(?!torchslots)"),
]
_PATIENCE = 90
_BEFORE = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'


def square_film() -> np.ndarray:
    """Two squares that move over a dark ground, 90 x 120."""
    film = np.full((8, 90, 120, 3), 50, np.uint8)
    for t in range(len(film)):
        film[t, 10:40, 10 + 3 * t : 40 + 3 * t] = (240, 200, 40)
        film[t, 55 - t : 80 - t, 70:100] = (60, 120, 250)
    return film


class Person:
    """A browser, and what a person does with it."""

    def __init__(self, url: str, downloads: Path) -> None:
        from selenium import webdriver  # pyright: ignore[reportMissingImports]

        options = webdriver.ChromeOptions()
        options.binary_location = str(BROWSER)
        for flag in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "window-size=1400,1800",
        ):
            options.add_argument(f"--{flag}")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(str(DRIVER))
        self.driver, self.downloads = webdriver.Chrome(options=options, service=service), downloads
        self.driver.get(url)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return " ".join(each.text for each in self.all(selector))

    def wait(self, seen: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if found := seen():
                    return found
            except Exception as error:  # the page changes while it is read
                if "stale" not in str(error).lower():
                    raise
            time.sleep(0.2)
        self.picture("failed")
        raise AssertionError(f"not seen: {what}; the page says {self.text('body')[:600]}")

    def click(self, selector: str, number: int = 0) -> None:
        chosen = self.wait(lambda: self.all(selector)[number:], selector)[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chosen)
        chosen.click()

    def give(self, selector: str, file: Path) -> None:
        self.wait(lambda: self.all(f"{selector} input[type=file]"), selector)[0].send_keys(str(file))

    def draw(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a box with the mouse, in parts of the image on the canvas."""
        from selenium.webdriver.common.action_chains import (  # pyright: ignore[reportMissingImports]
            ActionChains,
        )

        canvas = self.all("#boxes canvas")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        wide, tall = canvas.size["width"], canvas.size["height"]
        scale = min(wide / 640, tall / 480)
        at = lambda x, y: (round((x - 0.5) * 640 * scale), round((y - 0.5) * 480 * scale))  # noqa: E731
        (x, y), (to_x, to_y) = at(left, top), at(right, bottom)
        moves = ActionChains(self.driver).move_to_element_with_offset(canvas, x, y).click_and_hold()
        moves.move_by_offset((to_x - x) // 2, (to_y - y) // 2)
        moves.move_by_offset(to_x - x - (to_x - x) // 2, to_y - y - (to_y - y) // 2).release().perform()

    def picture(self, name: str) -> None:
        self.driver.save_screenshot(str(self.downloads.parent / f"{name}.png"))

    def requests(self) -> set[str]:
        """Addresses that the page asked."""
        entries = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (entry for entry in entries if entry["method"] == "Network.requestWillBeSent")
        return {entry["params"]["request"]["url"] for entry in sent}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Person, Path, str]]:
    pytest.importorskip("selenium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("gradio_image_annotation")
    runs = tmp_path / "work"
    for name, conditioning in (("finder", "learned"), ("follower", "boxes")):
        config = replace(TINY, conditioning=conditioning, targets=("video",))
        save_pretrained(savi.build(config).eval(), config, runs / name)
        time.sleep(0.02)  # the newest comes first
    files, downloads = tmp_path / "app", tmp_path / "downloads"
    downloads.mkdir()
    blocks, url = serve(files, None, AppOptions(device="cpu", max_upload=1), runs)
    person = Person(url, downloads)
    try:
        yield person, files / "files", url
    finally:
        person.driver.quit()
        blocks.close(verbose=False)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def answer_to(url: str, sent: bytes | None = None) -> int:
    """Status of an answer; `sent` is the content of an uploaded file."""
    body = None if sent is None else _BEFORE + sent + b"\r\n--X--\r\n"
    asked = urllib.request.Request(url, body, {"Content-Type": "multipart/form-data; boundary=X"})
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_whole_way(started: tuple[Person, Path, str], tmp_path: Path) -> None:
    person, files, url = started
    person.wait(lambda: "boxes" in person.text("#about"), "what the model needs")
    large, broken, good = (tmp_path / name for name in ("large.mp4", "broken.mp4", "my <b>film.mp4"))
    large.write_bytes(bytes(1_500_000))
    broken.write_bytes(b"this is no film" * 99)
    video.write_video(good, square_film(), fps=8)

    person.give("#upload", large)
    person.wait(lambda: "maximum" in person.text("body") or "1 MB" in person.text("body"), "the bound")
    person.picture("1-too-large")
    person.driver.refresh()
    person.wait(lambda: "boxes" in person.text("#about"), "what the model needs")
    person.give("#upload", broken)
    person.wait(lambda: "broken.mp4" in person.text("body") and "damaged" in person.text("body"), "no film")
    person.picture("2-no-film")
    assert "/" not in person.text("[data-testid=toast-body]")
    person.click("[data-testid=toast-close]")

    person.give("#upload", good)
    person.wait(lambda: "8 frames, 120 x 90 pixels" in person.text("#film"), "the film")
    person.wait(lambda: person.all("#boxes canvas"), "the canvas")
    time.sleep(2)
    person.click("#find")
    person.wait(lambda: "Draw a box" in person.text("[data-testid=toast-body]"), "a message on boxes")
    person.click("[data-testid=toast-close]")
    person.draw(0.08, 0.1, 0.34, 0.45)
    person.draw(0.58, 0.6, 0.84, 0.9)
    person.picture("3-boxes")
    person.click("#find")
    person.wait(lambda: person.all("#view svg"), "objects")
    time.sleep(1.5)
    person.picture("4-found")
    assert len(person.all("#view .ts-slots figure")) == 3
    assert person.all("#view .ts-frame img")[0].get_attribute("alt").startswith("frame 0")

    person.click("#download")
    (archive,) = person.wait(lambda: list(person.downloads.glob("*.zip")), "the download")
    with zipfile.ZipFile(archive) as packed:
        names = {Path(name).name for name in packed.namelist()}
        tracks = json.loads(
            packed.read(next(name for name in packed.namelist() if name.endswith("tracks.json")))
        )
    assert {"overlay.mp4", "slots.mp4", "slots.npz", "tracks.json", "00007.png"} <= names
    assert len(tracks["frames"]) == 8 and tracks["source"] == "my_bfilm.mp4"

    slider = person.all("#frame input[type=range]")[0]
    for _ in range(3):
        slider.send_keys("\ue014")
    person.wait(lambda: person.all("#view img[alt^='frame 3']"), "the fourth frame")
    person.click("#shown label", 1)
    person.wait(lambda: len(person.all("#view .ts-slots figure")) == 2, "a slot less")
    person.picture("5-scrubbed")

    person.click("#edited-slots label", 1)
    person.click("#decode")
    person.wait(lambda: person.all("#edited img[alt^='frame 3']"), "the edit")
    person.wait(lambda: person.all("#edited-download"), "its download")
    person.picture("6-edited")

    outside = {each for each in person.requests() if not each.startswith((url, "data:", "blob:", "chrome"))}
    assert not outside
    for path in ("/etc/passwd", str(tmp_path / "work" / "follower" / "config.json"), str(large)):
        assert answer_to(f"{url}/gradio_api/file={path}") == 403
    before = sorted(left_over(files))
    assert answer_to(f"{url}/gradio_api/upload", bytes(3 << 20)) == 413 and sorted(left_over(files)) == before
    assert left_over(files)
    person.driver.get("about:blank")
    person.wait(lambda: not left_over(files), f"an empty folder, but {left_over(files)}")
