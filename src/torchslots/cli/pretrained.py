"""`torchslots pretrained`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from torchslots.cli.options import Json, Words, chosen, parse
from torchslots.cli.table import print_table
from torchslots.io.errors import UserError

_HEADER = ("name", "data", "published", "here")
_INSIDE = ("source", "dataset", "is_tokenizer")
"""Fields of a row that `info` says in other words."""


def pretrained(words: Words) -> int:
    """`torchslots pretrained list|info|get`.

    Raises:
        UserError: no such command, or as the command.
    """
    command = chosen(words, "pretrained", {name: purpose for name, (purpose, _) in COMMANDS.items()})
    if command is None:
        return 0 if words else 2
    parse(COMMANDS[command][1], words[1:], f"pretrained {command}")
    return 0


def list_all(word: tyro.conf.Positional[str | None] = None, /, as_json: Json = False) -> None:
    """List the published checkpoints.

    Args:
        word: Only those with this word in their name, their system or their data.
        as_json: Print everything as JSON.

    Raises:
        UserError: no name, system or data set contains the word.
    """
    from torchslots.convert.locations import is_here
    from torchslots.convert.released import find_released
    from torchslots.convert.shipped import find_shipped
    from torchslots.convert.sources import NOT_STATED

    rows, shipped = find_released(word or ""), find_shipped(word or "")
    if not rows and not shipped:
        raise UserError(
            f"no published checkpoint has `{word}` in its name, system or data. See `torchslots pretrained list`."
        )
    if as_json:
        print(json.dumps({name: _facts(name) for name in (*shipped, *rows)}))
        return
    print_table(
        _HEADER,
        [(name, row.data, row.figure, "yes") for name, row in shipped.items()]
        + [
            (name, row.data, "-" if row.figure == NOT_STATED else row.figure, "yes" if is_here(name) else "")
            for name, row in rows.items()
        ],
    )


def info(name: tyro.conf.Positional[str], /, as_json: Json = False) -> None:
    """Print what is known of a published checkpoint, and what its authors do not state.

    Args:
        name: Its name in `torchslots pretrained list`.
        as_json: Print it as JSON.

    Raises:
        UserError: no such name.
    """
    facts = _facts(name)
    if as_json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for fact, text in facts.items():
        print(f"{fact:<{width}}  {text}")


def get(name: tyro.conf.Positional[str | None] = None, /, file: Path | None = None) -> None:
    """Fetch a published checkpoint and convert it, once; the same command resumes.

    Args:
        name: Its name in `torchslots pretrained list`; none: every one that the archive given by --file holds.
        file: The original file, or a folder or archive that holds it, in place of a download.

    Raises:
        UserError: neither a name nor a file, or as `convert.pretrained.get`.
    """
    from torchslots.convert import pretrained as room

    if name is None and file is None:
        raise UserError("give a name of `torchslots pretrained list`, or an archive with --file.")
    if name is not None:
        found, others = [room.get(name, file)], {}
    else:
        found, others = room.get_all(file or Path())
    for done in found:
        print(f"{done.name}: in {done.folder}", *done.notes, sep="\n    ")
    for other, what in others.items():
        print(f"{other}: {what}")
    for done in found[:1]:
        print(f"Load it: {_load_line(done.name)}")


COMMANDS: dict[str, tuple[str, Callable[..., None]]] = {
    "list": ("the published checkpoints: list [WORD] [--json]", list_all),
    "info": ("what is known of one: info NAME [--json]", info),
    "get": ("fetch and convert one: get NAME [--file PATH]", get),
}
"""Name -> what it does, and the function that does it."""


def _facts(name: str) -> dict[str, Any]:
    """All that is known of a published checkpoint, by the words of `info`."""
    from torchslots.convert.locations import address, converted_folder, is_here
    from torchslots.convert.released import released
    from torchslots.convert.shipped import SHIPPED, shipped_folder
    from torchslots.convert.sources import OnHub

    if name in SHIPPED:
        facts = {"name": name, **asdict(SHIPPED[name]), "here": str(shipped_folder(name))}
        return facts | {"load": _load_line(name)}
    row = released(name)
    facts: dict[str, Any] = {"name": name}
    facts |= {key: value for key, value in asdict(row).items() if key not in _INSIDE and value}
    digest = row.source.sha256 if isinstance(row.source, OnHub) else ""
    facts["address"] = address(row)
    facts["sha256"] = f"{digest}..." if digest else "not stated"
    facts["here"] = str(converted_folder(name)) if is_here(name) else "no"
    return facts | {"load": _load_line(name)}


def _load_line(name: str) -> str:
    from torchslots.convert.released import RELEASED

    kind = "tokenizer" if name in RELEASED and RELEASED[name].is_tokenizer else "model"
    return f'torchslots.load_{kind}("{name}")'
