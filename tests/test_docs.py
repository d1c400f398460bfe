"""README and docs name only files, commands and flags that exist."""

import re
from pathlib import Path

import pytest

from help_texts import help_text
from torchslots.cli import COMMANDS
from torchslots.cli.data import COMMANDS as DATA_COMMANDS

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
EXAMPLES = {"recipes/drift.py", "convert/originals/toy.py"}
"""Files that a reader of docs/add.md writes."""
_FENCE = re.compile(r"^```.*?^```", re.S | re.M)
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")


def spans(text: str) -> list[str]:
    """What stands in backticks, each in one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _FENCE.sub("", text))]


def lines(text: str) -> list[list[str]]:
    """Words behind `torchslots` of each command line, in code blocks and in backticks."""
    blocks = [line.split("#")[0] for block in _FENCE.findall(text) for line in block.splitlines()]
    found = [re.match(r"(?:.* -m )?torchslots (.+)", line.strip()) for line in [*blocks, *spans(text)]]
    return [match[1].split() for match in found if match]


def accepted(command: tuple[str, ...]) -> set[str]:
    """Flags in the help of a command."""
    return set(_FLAG.findall(help_text(command))) | {"--help"}


def command_of(words: list[str]) -> tuple[str, ...]:
    """The words that choose the parser: a command, a part of `data`, a recipe to train."""
    named = words[1:2] if words[0] in ("data", "train") else []
    return (words[0], *(word for word in named if re.fullmatch(r"[a-z][\w-]*", word)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    text = " ".join(spans(page.read_text()))
    named = set(re.findall(r"[\w.-]+(?:/[\w.-]+)+\.py\b", text)) - EXAMPLES
    tops = (REPOSITORY, REPOSITORY / "src" / "torchslots")
    assert not [file for file in named if not any((top / file).exists() for top in tops)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_exist(page: Path) -> None:
    for words in lines(page.read_text()):
        if words[0].isupper() or words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, words
        command = command_of(words)
        assert command[0] != "data" or command[1:] == () or command[1] in DATA_COMMANDS, words
        flags = set(_FLAG.findall(" ".join(words)))
        assert flags <= (accepted(command) if flags else set()), words


def test_what_is_wrong_is_found() -> None:
    assert lines("```\ntorchslots evaluate RUN --draw 3\n```\n`torchslots nothing`") == [
        ["evaluate", "RUN", "--draw", "3"],
        ["nothing"],
    ]
    assert "--num-plots" in accepted(("evaluate",)) and "--draw" not in accepted(("evaluate",))


@pytest.mark.parametrize("page", [*PAGES, *REPOSITORY.glob("C*.md")], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """`make docs` also checks anchors, of pages in docs/ alone."""
    targets = re.findall(r"\]\(([^)#\s]+)", _FENCE.sub("", page.read_text()))
    assert not [name for name in targets if "://" not in name and not (page.parent / name).exists()]
