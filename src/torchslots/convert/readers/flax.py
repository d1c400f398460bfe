"""Reader of flax checkpoints (`ckpt-N.flax`, msgpack) without JAX; nothing in the file is executed."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from torchslots.convert.layouts import Arrays
from torchslots.convert.readers.checkpoint import Checkpoint, find_file
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import size_text

_ALWAYS, _RATIO = 1 << 28, 20
"""Unpacked bytes: what is always read, and the most for each packed one."""
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
"""Tags of `flax.serialization`."""
_OPTAX_ADAM = ("opt_state", "1", "0")
"""Path of Adam's state in optax, behind gradient clipping."""


def read(source: Path) -> Checkpoint:
    """Read a checkpoint file, or the newest below a folder (`checkpoints-0/ckpt-N.flax`, possibly gzipped).

    Accepts a train state, `{"params": ...}` and a bare parameter tree.

    Raises:
        UserError: nothing there, not msgpack (a pickle, a TensorFlow file), cut off, or without weights.
    """
    path = find_file(source, _candidates, "ckpt-N.flax", "checkpoints-0", "ckpt-21.flax")
    tree = _parse(path)
    try:
        return _content(path, tree)
    except UserError:
        raise
    except Exception as error:  # a tree of another form may lack anything
        raise UserError(
            f"{path} is msgpack, but no flax checkpoint as its writers make them ({type(error).__name__}: {error}). "
            "Copy or download it again."
        ) from error


def _content(path: Path, tree: dict[str, Any]) -> Checkpoint:
    params = _subtree(tree, ("optimizer", "target"), ("params",), ("opt_target",)) or tree
    weights = {name: leaf for name, leaf in _leaves(params) if isinstance(leaf, np.ndarray)}
    if not weights or not any(name.endswith("kernel") for name in weights):
        raise UserError(
            f"{path} is msgpack but holds no flax parameters (its keys: {', '.join(map(str, tree))[:200]})."
        )
    first, second = _moments(tree)
    updates = _subtree(tree, ("optimizer", "state", "step"), (*_OPTAX_ADAM, "count"))
    return Checkpoint(path, weights, first, second, None if updates is None else int(updates))


def _moments(tree: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Adam's two moments: flax stores a pair for each weight, optax two trees."""
    optax = _subtree(tree, _OPTAX_ADAM)
    if optax is not None:
        return dict(_leaves(optax["mu"])), dict(_leaves(optax["nu"]))
    states = dict(_leaves(_subtree(tree, ("optimizer", "state", "param_states")) or {}))
    first, second = (
        {name.removesuffix(end): leaf for name, leaf in states.items() if name.endswith(end)}
        for end in ("/grad_ema", "/grad_sq_ema")
    )
    return first, second


def holds(source: Path) -> bool:
    """Whether a folder or a prefix, such as `checkpoints-0/ckpt-1`, has a flax file."""
    return bool(_candidates(source))


def _candidates(source: Path) -> list[Path]:
    """Flax files of a folder or prefix, the newest first."""
    if not source.is_dir():
        return [path for path in (Path(f"{source}.flax"), Path(f"{source}.flax.gz")) if path.is_file()]
    found = [path for pattern in ("*.flax*", "checkpoints-*/*.flax*") for path in source.glob(pattern)]
    return sorted(found, key=lambda path: -int((re.findall(r"ckpt-(\d+)", path.name) or ["0"])[0]))


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = _unpacked(data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}. Copy or download it again.") from error
    if data[:1] == b"\x80" or data[:2] == b"PK":
        raise UserError(
            f"{path} is a pickle or a torch file, not a flax checkpoint; pickles are never executed here."
        )
    try:
        tree = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds for bytes that are cut off or not its own
        raise UserError(
            f"{path} is not a whole flax checkpoint ({type(error).__name__}: {error}). Copy or download it again."
        ) from error
    if not isinstance(tree, dict):
        raise UserError(
            f"{path} is not a flax checkpoint: a {type(tree).__name__} where a map of arrays should be."
        )
    return tree


def _unpacked(data: bytes) -> bytes:
    """Decompressed bytes.

    Raises:
        ValueError: they are far more than weights ever give.
    """
    most = max(_ALWAYS, _RATIO * len(data))
    with gzip.open(io.BytesIO(data)) as packed:
        found = packed.read(most + 1)
    if len(found) > most:
        raise ValueError(f"it unpacks to more than {size_text(most)}, which no weights of its size do")
    return found


def _extension(tag: int, data: bytes) -> Any:
    """flax's packed arrays: (shape, dtype name, bytes)."""
    if tag == _COMPLEX:
        return complex(*msgpack.unpackb(data))
    if tag not in (_NDARRAY, _SCALAR):
        raise ValueError(f"unknown extension type {tag}")
    shape, dtype, raw = msgpack.unpackb(data, raw=False)
    if dtype == "bfloat16":
        array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(raw, np.dtype(dtype))
    array = array.reshape(shape)
    return array if tag == _NDARRAY else array[()]


def _subtree(tree: Any, *paths: tuple[str, ...]) -> Any:
    """The node at the first of `paths` that exists; None where none does."""
    for path in paths:
        node = tree
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if node is not None:
            return node
    return None


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every leaf; arrays that flax cut into chunks are joined."""
    for key, value in tree.items():
        if isinstance(value, dict) and "__msgpack_chunked_array__" in value:
            chunks = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
            shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
            yield f"{prefix}{key}", np.concatenate(chunks).reshape(shape)
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
