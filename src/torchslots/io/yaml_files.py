"""Read and write settings as YAML or JSON, with the line of every key.

Scalars are read by YAML 1.2's core schema: `2e-4` is a number, and `on`, `off`, `yes`, `no` are text.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from torchslots.io.errors import UserError

SUFFIXES = (".yaml", ".yml", ".json")
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
)


class Settings(NamedTuple):
    """The mapping in a file, and the line, from 1 on, of each key by its path."""

    values: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    def line(self, path: tuple[str, ...]) -> int | None:
        """The line of a key, or of the nearest mapping that holds it; None: unknown."""
        found = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return next((line for line in found if line is not None), None)


def read_settings(file: Path) -> Settings:
    """The settings in a YAML or JSON file.

    Raises:
        UserError: the file cannot be read, is neither, holds no mapping, or a key twice; with the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if file.suffix.lower() == ".json":
        _check_json(text, file)
        text = text.replace("\t", " ")  # YAML takes tabs in strings alone, and JSON has none there
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = file if mark is None else f"{file}, line {mark.line + 1}"
        raise UserError(f"{where}: this is not YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{file} should hold settings such as `name: value`, got {_what(node)}.")
    lines: dict[tuple[str, ...], int] = {}
    return Settings(_value(node, file, (), lines), lines)


def to_yaml(values: dict[str, Any]) -> str:
    """Settings as YAML text: mappings in lines, lists of plain values in brackets."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _check_json(text: str, file: Path) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: this is not JSON: {error.msg}.") from error


def _what(node: Any) -> str:
    return (
        "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
    )


def _value(node: yaml.Node, file: Path, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, file, path, lines) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    found: dict[str, Any] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise UserError(f"{file}, line {line}: `{'.'.join((*path, name))}` is there twice. Keep one.")
        lines[(*path, name)] = line
        found[name] = _value(value, file, (*path, name), lines)
    return found


def _scalar(node: yaml.Node) -> Any:
    """A quoted scalar as text, a plain one as what it looks like."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return node.value
    for pattern, read in _PLAIN:
        if pattern.fullmatch(node.value):
            return read(node.value)
    return node.value


class _Dumper(yaml.SafeDumper):
    """Lists of plain values in brackets."""


def _brackets(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


_Dumper.add_representer(list, _brackets)
