"""Read JSON: the one place that turns what a damaged or foreign file makes the parser meet into one message."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from torchslots.io.errors import UserError, first_line

_DEEPEST = 100
"""Most levels of nesting; no file of this library or of a data set has more than ten."""
_BLOCK = 1 << 22
_SEAL = "crc32c"


def parse_json(data: bytes | str) -> Any:
    """The value that JSON text stands for.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested more deeply than any file that is read here.
    """
    raw = data.encode() if isinstance(data, str) else data
    if _may_be_deep(raw):
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    return json.loads(raw)


def read_json(file: Path, remedy: str = "") -> Any:
    """The value in a file.

    Raises:
        UserError: the file cannot be read or is not JSON; the message ends with `remedy`.
    """
    try:
        return parse_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}). {remedy}".rstrip()) from error
    except ValueError as error:
        raise UserError(
            f"{file} is not JSON ({first_line(error)}): it is damaged. {remedy}".rstrip()
        ) from error


def read_object(file: Path, remedy: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: as `read_json`, or the file holds something else.
    """
    values = read_json(file, remedy)
    if not isinstance(values, dict):
        raise UserError(f"{file} should hold a JSON object, got {type(values).__name__}. {remedy}".rstrip())
    return values


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the CRC-32C of its other fields, for `check_seal`."""
    return {**values, _SEAL: _checksum(values)}


def check_seal(values: dict[str, Any], file: Path, remedy: str = "") -> dict[str, Any]:
    """The object without its checksum; one that never had a checksum is not checked.

    Raises:
        UserError: the fields are not those that were written; the message ends with `remedy`.
    """
    found = {key: value for key, value in values.items() if key != _SEAL}
    if _SEAL in values and values[_SEAL] != _checksum(found):
        raise UserError(f"{file} is damaged: its content does not match its checksum. {remedy}".rstrip())
    return found


def _checksum(values: Mapping[str, Any]) -> int:
    return google_crc32c.value(json.dumps(values, sort_keys=True, default=str).encode())


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested object as a flat one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _may_be_deep(raw: bytes) -> bool:
    """Whether more than `_DEEPEST` brackets are open at once; those inside strings count only where they might."""
    return _deepest(raw) > _DEEPEST and _deepest(_without_strings(raw)) > _DEEPEST


def _deepest(raw: bytes) -> int:
    deepest = depth = 0
    for start in range(0, len(raw), _BLOCK):
        letters = np.frombuffer(raw, np.uint8, min(_BLOCK, len(raw) - start), start) | 0x20
        steps = (letters == ord("{")).astype(np.int8) - (letters == ord("}"))
        depths = np.cumsum(steps, dtype=np.int32)
        deepest, depth = max(deepest, depth + int(depths.max())), depth + int(depths[-1])
    return deepest


def _without_strings(raw: bytes) -> bytes:
    return re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', raw, flags=re.DOTALL)
