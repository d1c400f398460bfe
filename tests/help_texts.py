"""The help of every command, in long lines."""

import contextlib
import io
import os
from functools import cache
from unittest import mock

from torchslots.cli import COMMANDS, main
from torchslots.cli.data import COMMANDS as DATA_COMMANDS
from torchslots.cli.pretrained import COMMANDS as PRETRAINED_COMMANDS

SCREENS: list[tuple[str, ...]] = [
    (),
    *((name,) for name in COMMANDS),
    *(("data", name) for name in DATA_COMMANDS),
    *(("pretrained", name) for name in PRETRAINED_COMMANDS),
    ("train", "savi_small"),
    ("train", "--replay"),
    ("data", "prepare", "savi_small"),
    ("data", "prepare", "--features", "slotcontrast_demo"),
]
"""The words before `--help` of every screen of help."""


@cache
def help_text(command: tuple[str, ...]) -> str:
    """What `torchslots COMMAND --help` prints."""
    shown, wide = io.StringIO(), mock.patch.dict(os.environ, COLUMNS="2000")
    with wide, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        assert main([*command, "--help"]) == 0
    return shown.getvalue()
