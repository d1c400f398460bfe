"""Read JSON objects."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchslots.io.errors import UserError


def read_object(file: Path, remedy: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: the file cannot be read, is not JSON, or holds something else; the message ends with `remedy`.
    """
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}). {remedy}".rstrip()) from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): it is damaged. {remedy}".rstrip()) from error
    if not isinstance(values, dict):
        raise UserError(f"{file} should hold a JSON object, got {type(values).__name__}. {remedy}".rstrip())
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested object as a flat one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
