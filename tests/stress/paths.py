"""Commands whose inputs and results lie at strange paths: what is written must be as at plain ones."""

import html
import json
import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stress.commands import Inputs, commands, contents, copy_of, run
from stress.disk import forked
from stress.kills import Tally, Whole, chosen, differences, untold, whole

_KEY = re.compile(rb'"key": "[0-9a-f]+"')
"""In a record by which `predict` knows an input again: a hash of where it lies; its sizes are those of names, too."""
_TITLES = re.compile(rb"(?s)<title>.*?</title>|<h1>.*?</h1>|<p>Runs: .*?</p>")
"""In pages, what names of runs and models stand in."""
_LONG = 255
"""Bytes that a name may have."""


class Place(NamedTuple):
    """A folder for inputs, the current folder, and names."""

    inputs: Path
    work: Path
    below: str = ""
    """What names of results begin with."""
    film: str = "one"
    """Name of the first film, without its ending."""


def _named(name: str) -> Callable[[Path], Place]:
    """All in a folder of this name, and results in one more."""
    return lambda folder: Place(
        folder / name / "inputs", folder / f"work {name}", f"./{name}/", name[: _LONG - 10]
    )


def _linked(folder: Path) -> Place:
    """Behind symbolic links."""
    for name in ("inputs", "work"):
        (folder / f"real {name}").mkdir()
        (folder / name).symlink_to(folder / f"real {name}", target_is_directory=True)
    return Place(folder / "inputs" / "a", folder / "work" / "a", "")


def _relative(folder: Path) -> Place:
    """Given relative to the current folder, with `..` and `.` in it."""
    return Place(Path("../inputs/../inputs/."), folder / "work", "./relative/../relative/./")


def _deep(folder: Path) -> Place:
    """Many folders with long names."""
    names = Path(*["n" * 100] * 8)
    return Place(folder / names / "inputs", folder / "work", f"{names}/")


PLACES: dict[str, Callable[[Path], Place]] = {
    "spaces": _named(" a  b "),
    "quotes": _named('it\'s "a" `b`'),
    "unicode": _named("ünï 文字 🎈"),
    "decomposed": _named("u\u0308n"),
    "newline": _named("a\nb"),
    "dash": _named("-dash"),
    "dashes": _named("--out"),
    "wildcards": _named("[ab]*?{c}"),
    "format": _named("%04d %s {} $HOME \\n"),
    "colon": _named("c:d#e&f=g,h;i"),
    "markup": _named("<b>&amp;"),
    "hidden": _named(".hidden"),
    "no text": _named(os.fsdecode(b"a\xff")),
    "long": _named("n" * (_LONG - len("work "))),
    "deep": _deep,
    "link": _linked,
    "relative": _relative,
}

_REFUSED = ("no text",)
"""Kinds that may be refused with one message."""


def strange(
    given: Inputs, word: str, folder: Path, count: int | None, seed: int, until: float = float("inf")
) -> dict[str, Tally]:
    """Run the commands with `word` in their names at strange places.

    Args:
        count: as many places for each command, chosen at random; None: all.
        until: a time by the monotonic clock, at which to stop.
    """
    plain = [command for command in commands(given) if word in command.name]
    tallies = {}
    for number, command in enumerate(plain):
        end = time.monotonic() + (until - time.monotonic()) / (len(plain) - number)
        expected = whole(command, folder / "plain")
        tally = Tally(len(expected.operations), Counter(), [])
        for at in chosen(len(PLACES), count, seed + number):
            if time.monotonic() > end:
                break
            kind = list(PLACES)[at - 1]
            tally.add(f"{command.name}, {kind}", _at(kind, command.name, given, folder / "strange", expected))
        tallies[command.name] = tally
    return tallies


def _at(kind: str, name: str, given: Inputs, folder: Path, expected: Whole) -> list[tuple[str, str]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    place = PLACES[kind](folder)
    place.work.mkdir(parents=True)
    base = given.data.parent
    there = copy_of(base, Path(os.path.realpath(place.work / place.inputs)))
    moved = Inputs(*(place.inputs / path.relative_to(base) for path in given))
    moved = moved._replace(first=moved.first.with_stem(place.film))
    (there / "films" / "one.mp4").rename(there / "films" / f"{place.film}.mp4")
    command = next(command for command in commands(moved, place.below) if command.name == name)
    for words in (*command.before, command.words):
        ended = forked(partial(run, words, place.work), folder / "work")
        if faults := untold(ended):
            return faults
        if ended.status != 0:
            return [] if kind in _REFUSED else [("failed", ended.text[-700:])]
    below = f"{os.path.normpath(place.below)}/" if place.below else ""
    paths = {
        str(there): str(base),
        str(place.inputs): str(base),
        str(place.work.resolve()): str(folder.parent / "plain" / "work"),
        place.below: "",
        below: "",
        place.film: "one",
    }
    found = {
        _plain_name(name, below, place.film): value
        for name, value in contents(place.work).items()
        if f"{name}/" != below and not (value == "folder" and name.endswith(f"/{place.film}"))
    }
    end = {name: _plain_text(value, {}) for name, value in expected.end.items()}
    return differences(
        {name: _plain_text(value, paths) for name, value in found.items()}, expected._replace(end=end)
    )


def _plain_name(name: str, below: str, film: str) -> str:
    return name.removeprefix(below).replace(f"/{film}", "/one")


def _plain_text(value: Any, paths: dict[str, str]) -> Any:
    """A text in which strange paths are told, however they are written, with the plain ones in their place."""
    if not isinstance(value, bytes) or b"\0" in value:
        return value
    value = _TITLES.sub(b"", value)
    if _KEY.search(value):
        return b""
    for strange, plain in paths.items():
        for write in (str, _in_json, _in_ascii_json, html.escape, _quoted, shlex.quote) if strange else ():
            value = value.replace(os.fsencode(write(strange)), os.fsencode(write(plain)))
    return value


def _quoted(text: str) -> str:
    return html.escape(shlex.quote(text))


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _in_ascii_json(text: str) -> str:
    return json.dumps(text)[1:-1]
