"""Values of options and configurations as their types say, whatever kind of thing was passed or read."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from torchslots.io.errors import UserError

_PLAIN = (int, float, str, bool)
Nested = Callable[[Sequence[Any], dict[str, Any], str], Any]
"""From dataclasses that a value may be, its fields, and where they were read, to the value."""


def convert_fields(options: Any) -> None:
    """Convert the fields of a frozen dataclass in place, called when it is made: the one door for what people pass.

    Paths may be text and text a path, several values a list, a set, an array, or one alone, numbers those of numpy.

    Raises:
        UserError: a value that is none of this, naming the field.
    """
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = revive(hints[field.name], getattr(options, field.name), f"`{field.name}`")
        object.__setattr__(options, field.name, value)


def revive(hint: Any, value: Any, where: str, nested: Nested | None = None) -> Any:
    """A value as its type hint says.

    Args:
        where: What the error calls it.
        nested: Makes dataclasses from their fields; None: by name.

    Raises:
        UserError: a value of another type.
    """
    value = value.item() if isinstance(value, np.generic) else value
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
    made = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    if made:
        if isinstance(value, dict):
            return nested(made, value, where) if nested else _made(made[0], value, where)
        if not isinstance(value, tuple(made)):
            raise UserError(f"{where} should be {' or '.join(map(_name, made))}, got {_shown(value)}.")
        return value
    return _as_one_of(options, value, where, nested)


def _made(kind: Any, values: dict[str, Any], where: str) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise UserError(f"{where} has no field `{unknown[0]}`. It has: {', '.join(known)}.")
    return kind(**values)


def _as_one_of(options: list[Any], value: Any, where: str, nested: Nested | None) -> Any:
    """The value as its own type if that is among the options, else as the first that takes it."""
    own = [option for option in options if type(value) is option]
    errors: list[UserError] = []
    for option in own or options:
        try:
            return _as(option, value, where, nested)
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise UserError(f"{where} should be {' or '.join(map(_name, options))}, got {_shown(value)}.")


def _as(hint: Any, value: Any, where: str, nested: Nested | None) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UserError(f"{where} should be one of {', '.join(map(str, choices))}, got {value!r}.")
        return value
    if origin is tuple:
        return _several(typing.get_args(hint), value, where, nested)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} should be an object of names and values, got {_shown(value)}.")
        kind = typing.get_args(hint)[1]
        return {str(key): revive(kind, item, f"{where}: {key}", nested) for key, item in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is str and isinstance(value, PurePath | torch.device):
        return str(value)
    if hint is np.ndarray:
        return _array(value, where)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint in (*_PLAIN, Path) and not (
        (isinstance(value, hint) and (hint is bool or not isinstance(value, bool)))
        or (hint is float and whole)
    ):
        raise UserError(f"{where} should be {_name(hint)}, got {_shown(value)}.")
    return value


def _several(inner: tuple[Any, ...], value: Any, where: str, nested: Nested | None) -> tuple[Any, ...]:
    """A tuple; one value alone, or one row, is a tuple of one, and a table is NAME=VALUE of each."""
    value = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    repeated = inner[-1:] == (Ellipsis,)
    if repeated and inner[0] is str and isinstance(value, Mapping):
        value = [f"{name}={item}" for name, item in value.items()]
    rows = repeated and typing.get_origin(inner[0]) is tuple
    if repeated and (
        isinstance(value, int | float | PurePath) or (isinstance(value, str) and inner[0] is str)
    ):
        value = (value,)
    if (
        rows
        and isinstance(value, list | tuple)
        and value
        and not isinstance(value[0], list | tuple | np.ndarray)
    ):
        value = (value,)
    if not isinstance(value, list | tuple | set | frozenset):
        raise UserError(f"{where} should be several values, such as (64, 64), got {_shown(value)}.")
    hints = inner[:1] * len(value) if repeated else inner
    if len(hints) != len(value):
        raise UserError(f"{where} should be {len(hints)} values, got {_shown(value)}.")
    return tuple(revive(hint, item, where, nested) for hint, item in zip(hints, value))


def _array(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, list | tuple | np.ndarray | Tensor):
        raise UserError(f"{where} should be an array, got {_shown(value)}.")
    try:
        found = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except ValueError as error:
        raise UserError(f"{where} should be rows of one length, got {_shown(value)}.") from error
    if found.dtype.kind not in "biuf":
        raise UserError(f"{where} should be an array of numbers, got {_shown(value)}.")
    return found


def _name(hint: Any) -> str:
    names = {Path: "a path", np.ndarray: "an array", int: "int"}
    return names.get(hint) or getattr(hint, "__name__", str(hint))


def _shown(value: Any) -> str:
    return f"{value!r:.80} of type {type(value).__name__}" if not isinstance(value, _PLAIN) else repr(value)
