"""Which inputs of `predict` are done: a record of each result, of the model, the input and the options it is of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from torchslots.inference.view import FirstFrameHint
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.io.files import write_file
from torchslots.io.json_files import read_object

_FOLDER = ".done"


class Record(NamedTuple):
    """A finished result: what it is of, and its files with their sizes in bytes."""

    key: str
    """Hash of the model, the input, its hint and the options."""
    strict: bool
    """Whether damaged frames were refused."""
    files: dict[str, dict[str, int]]
    """For each name of `save` its files, below the result's folder."""


def record_file(folder: Path) -> Path:
    """Where the record of a result folder lies."""
    return folder.parent / _FOLDER / f"{folder.name}.json"


def read_record(folder: Path) -> Record | None:
    """The record of a result folder; None: there is none, or it cannot be read, and the input is not done."""
    try:
        record = Record(**read_object(record_file(folder)))
    except (UserError, TypeError):
        return None
    groups = record.files.values() if isinstance(record.files, dict) else [None]
    sizes = [size for files in groups for size in (files.values() if isinstance(files, dict) else [None])]
    return record if all(isinstance(size, int) for size in sizes) else None


def is_done(folder: Path, key: str, save: tuple[str, ...], strict: bool) -> bool:
    """Whether a folder holds all files of `save`, of the same model, input and options."""
    record = read_record(folder)
    if record is None or record.key != key or (strict and not record.strict):
        return False
    return all(name in record.files and _there(folder, record.files[name]) for name in save)


def finish(folder: Path, record: Record) -> None:
    """Write a result's record, and remove the files of an earlier result of something else.

    Raises:
        UserError: the record cannot be written.
    """
    old = read_record(folder)
    if old is not None and old.key == record.key:
        record = record._replace(strict=old.strict and record.strict, files={**old.files, **record.files})
    elif old is not None:
        kept = {file for files in record.files.values() for file in files}
        for file in {file for files in old.files.values() for file in files} - kept:
            (folder / file).unlink(missing_ok=True)
    write_file(record_file(folder), json.dumps(record._asdict()))


def sizes(folder: Path, files: list[Path]) -> dict[str, int]:
    """Size of each file, by its path below `folder`."""
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _there(folder: Path, files: Mapping[str, int]) -> bool:
    paths = [(folder / name, size) for name, size in files.items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def model_key(model: nn.Module, config: Any) -> str:
    """Hash of a model's configuration and weights."""
    found = hashlib.blake2b(repr(config).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def job_key(model: str, source: Path, hint: FirstFrameHint, options: Mapping[str, Any]) -> str:
    """Hash of a model's key, an input by its path, size and time, its hint, and options."""
    files = video.image_files(source) if source.is_dir() else [source]
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    arrays = [None if part is None else (part.shape, part.tobytes().hex()) for part in (hint.boxes, hint.ids)]
    told = json.dumps([model, states, arrays, hint.in_pixels, dict(options)], sort_keys=True, default=str)
    return hashlib.blake2b(told.encode()).hexdigest()
