"""Read and write settings as YAML or JSON, with the line of every key.

Scalars are read by YAML 1.2's core schema: `2e-4` is a number, and `on`, `off`, `yes`, `no` are text.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from torchslots.io.errors import UserError, first_line
from torchslots.io.json_files import parse_json

SUFFIXES = (".yaml", ".yml", ".json")
_DEEPEST, _MOST_VALUES, _LONGEST_NUMBER = 30, 100_000, 100
"""Levels, values, and letters of a number; those of a recipe are 5, a few hundred, and 20."""
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
        data = file.read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}).") from error
    if file.suffix.lower() == ".json":
        _check_json(data, file)
        text = text.replace("\t", " ")  # YAML takes tabs in strings alone, and JSON has none there
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = file if mark is None else f"{file}, line {mark.line + 1}"
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{where}: this is not YAML: {problem}.") from error
    except RecursionError as error:
        raise _too_deep(file) from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{file} should hold settings such as `name: value`, got {_what(node)}.")
    lines: dict[tuple[str, ...], int] = {}
    return Settings(_Values(file, lines).of(node, ()), lines)


def to_yaml(values: dict[str, Any]) -> str:
    """Settings as YAML text: mappings in lines, lists of plain values in brackets."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _check_json(data: bytes, file: Path) -> None:
    try:
        parse_json(data)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: this is not JSON: {error.msg}.") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON that is read here: {first_line(error)}.") from error


def _too_deep(file: Path) -> UserError:
    return UserError(f"{file} is nested more deeply than settings are. Write each setting in a line.")


def _what(node: Any) -> str:
    kinds = {yaml.SequenceNode: "a list", yaml.MappingNode: "several settings", type(None): "nothing"}
    return kinds.get(type(node), "a single value")


class _Values:
    """The values that nodes stand for; aliases, by which a node may hold itself or a few lines millions of values,
    count each time."""

    def __init__(self, file: Path, lines: dict[tuple[str, ...], int]) -> None:
        self.file, self.lines, self.left = file, lines, _MOST_VALUES

    def of(self, node: yaml.Node, path: tuple[str, ...], depth: int = 0) -> Any:
        """Raises UserError: a key twice or no text, too many values, or too deep."""
        self.left -= 1
        if self.left < 0 or depth > _DEEPEST:
            raise _too_deep(self.file)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, path, depth + 1) for item in node.value]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node)
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self.file}, line {line}: a name should be one word, got {_what(key)}.")
            name = str(key.value)
            if name in found:
                twice = ".".join((*path, name))
                raise UserError(f"{self.file}, line {line}: `{twice}` is there twice. Keep one.")
            self.lines[(*path, name)] = line
            found[name] = self.of(value, (*path, name), depth + 1)
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        """A quoted scalar as text, a plain one as what it looks like."""
        if not isinstance(node, yaml.ScalarNode) or node.style is not None:
            return node.value
        for pattern, read in _PLAIN:
            if pattern.fullmatch(node.value):
                if len(node.value) > _LONGEST_NUMBER:
                    where = f"{self.file}, line {node.start_mark.line + 1}"
                    raise UserError(f"{where}: a number of {len(node.value)} digits. Write it shorter.")
                return read(node.value)
        return node.value


class _Dumper(yaml.SafeDumper):
    """Lists of plain values in brackets."""


def _brackets(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


_Dumper.add_representer(list, _brackets)
