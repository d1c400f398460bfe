"""Recipes as YAML and JSON files: written by `torchslots recipes NAME --yaml`, read by `torchslots train FILE`."""

import json
import re
from pathlib import Path
from typing import Any

from torchslots.io.errors import UserError
from torchslots.io.json_files import flatten
from torchslots.io.ranges import check_ranges
from torchslots.io.yaml_files import SUFFIXES, Settings, read_settings, to_yaml
from torchslots.recipes import catalog
from torchslots.recipes.config import RANGES, Recipe, to_json, with_changes

_BASE = "base"
_NAMED = re.compile(r"`([\w.]+)` should be")
_FACTS = {*catalog.Summary._fields} - {"name"}
"""What `torchslots recipes --json` says of a recipe besides its settings."""


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML text that `read_recipe_file` reads again."""
    return to_yaml(json.loads(to_json(recipe)))


def is_recipe_file(name: str) -> bool:
    """Whether a word of the command line is the name of such a file, not of a recipe."""
    return Path(name).suffix.lower() in SUFFIXES


def read_recipe_file(file: Path) -> Recipe:
    """The recipe in a YAML or JSON file: all settings, or `base: NAME` and what differs from that recipe.

    Raises:
        UserError: the file cannot be read, or a key or value is wrong; the message names the key and its line.
    """
    found = _alone(read_settings(file), file)
    try:
        if _BASE in found.values:
            return _changed(dict(found.values))
        recipe = catalog.recipe_of(found.values, str(file))
        check_ranges(recipe, RANGES)
    except UserError as error:
        raise UserError(_located(str(error), error.path, found, file)) from error
    return recipe


def _alone(found: Settings, file: Path) -> Settings:
    """The settings of a file that `torchslots recipes NAME --json` wrote, where they lie under the recipe's name."""
    values = found.values
    if not values or not all(isinstance(value, dict) and "model" in value for value in values.values()):
        return found
    if len(values) > 1:
        raise UserError(f"{file} holds several recipes: {', '.join(values)}. Keep one of them.")
    ((name, inner),) = values.items()
    kept = {key: value for key, value in inner.items() if key not in _FACTS}
    return Settings(kept, {path[1:]: line for path, line in found.lines.items() if path[:1] == (name,)})


def _changed(values: dict[str, Any]) -> Recipe:
    base = values.pop(_BASE)
    try:
        recipe = catalog.recipe(base)
    except UserError as error:
        error.path = (_BASE,)
        raise
    changes = flatten(values)
    try:
        return with_changes(recipe, **changes)
    except UserError as error:
        wrong = (path for path in changes if _fails(recipe, path, changes[path], str(error)))
        error.path = tuple(next(wrong, "").split("."))
        raise


def _fails(recipe: Recipe, path: str, value: Any, message: str) -> bool:
    """Whether a change alone gives that error; others only show together."""
    try:
        with_changes(recipe, **{path: value})
    except UserError as error:
        return str(error) == message
    return False


def _located(message: str, path: tuple[str, ...], found: Settings, file: Path) -> str:
    """The message behind the file, the line and the key, also of a value that is out of range."""
    named = _NAMED.search(message)
    if named and (*path, *named[1].split(".")) in found.lines:
        path = (*path, *named[1].split("."))
    line = found.line(path)
    where = str(file) if line is None else f"{file}, line {line}"
    key = f" `{'.'.join(path)}`:" if path else ""
    return f"{where}:{key} {message.removeprefix(f'{file}: ')}"
