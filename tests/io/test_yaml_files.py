"""Settings that no file should hold."""

from pathlib import Path

import pytest

from torchslots.io.errors import UserError
from torchslots.io.yaml_files import read_settings

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '{"a": ' * 5000, "nested more than 100 levels"),
        ("a.json", '{"a": %s}' % ("9" * 5000), "not JSON that is read here"),
        ("a.yaml", "a: " + "[" * 500, "more deeply than settings"),
        ("a.yaml", "a: " + "[" * 50 + "]" * 50, "more deeply than settings"),
        ("a.yaml", "a: &a [*a]", "more deeply than settings"),
        ("a.yaml", "a: &a {b: *a}", "more deeply than settings"),
        ("a.yaml", _BOMB, "more deeply than settings"),
        ("a.yaml", "x: 1\na: " + "9" * 5000, "line 2: a number of 5000 digits"),
        ("a.yaml", "? [a]\n: 1", "line 1: a name should be one word, got a list"),
        ("a.yaml", "? {a: 1}\n: 1", "got several settings"),
        ("a.yaml", "a: \0", r"unacceptable character #x0000: special characters are not allowed\.$"),
    ],
    ids=range(11),
)
def test_settings_without_end_are_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        read_settings(tmp_path / name)
