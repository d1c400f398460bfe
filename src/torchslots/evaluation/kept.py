"""Results that an interrupted evaluation leaves in files, so that the same one goes on where it stopped.

Every batch of videos, or every composed video, has a file of what the model decoded. The next run with the same model,
data and options reads it instead of running the model; figures are computed again, so they are equal.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import google_crc32c
import safetensors.torch
import torch
from torch import Tensor

from torchslots.evaluation.observers import Needs, Slice, at_labels
from torchslots.evaluation.tokenizer import Reconstruction
from torchslots.io.errors import UserError
from torchslots.io.files import locked, write_file
from torchslots.io.json_files import read_object
from torchslots.models.types import Batch, Prediction

_KEY, _LOCK, _PREFIX = "key.json", "lock", ".unfinished_"
_CHECKSUM = 4
"""Bytes of the CRC-32C at the end of a file."""
_SMALL = torch.iinfo(torch.uint8).max


class Kept:
    """Files of tensors of one job, in a hidden folder for each process; those of another job are removed.

    Args:
        results: folder of the job's results.
        key: hash of all that results depend on.
        rank: number of this process.
        anew: remove what an interrupted run of this job left, too.

    Raises:
        UserError: another process writes results of a job in this folder; also by the first `write`.
    """

    def __init__(self, results: Path, key: str, rank: int = 0, anew: bool = False) -> None:
        folder = results / f"{_PREFIX}{rank}"
        self._folder, self._key, self._rank = folder, key, rank
        self._held = ExitStack()
        if folder.exists():
            self._lock()
        try:
            known = read_object(folder / _KEY) if (folder / _KEY).exists() else {}
        except UserError:
            known = {}
        self.resumes = known.get("key") == key and not anew
        """Whether an earlier run of this job was interrupted."""
        if not self.resumes and folder.exists():
            shutil.rmtree(folder)
            self._held.close()

    def _lock(self) -> None:
        """Keep other processes out until the job is done, or this process ends."""
        busy = f"Another process writes results in {self._folder.parent}. Wait for it, or give another --out."
        self._held.enter_context(locked(self._folder / _LOCK, busy))

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a file; None: it is not there, or not as it was written."""
        try:
            sealed = self._file(name).read_bytes()
        except OSError:
            return None
        data = sealed[:-_CHECKSUM]
        return safetensors.torch.load(data) if sealed == data + _checksum(data) else None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a file as a whole or not at all.

        Raises:
            UserError: no space left.
        """
        if not (self._folder / _KEY).exists():
            self._lock()
            write_file(self._folder / _KEY, json.dumps({"key": self._key}))
        own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        data = safetensors.torch.save(own)
        write_file(self._file(name), data + _checksum(data))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.kept"

    def remove(self) -> None:
        """Remove the folder: the job is done. The first process removes those of processes that are no more, too."""
        left = [self._folder] if self._rank else self._folder.parent.glob(f"{_PREFIX}*")
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        self._held.close()


def _checksum(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(_CHECKSUM, "big")


def fingerprint(*tensors: Tensor) -> str:
    """Hash of the values of tensors."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), found
        )
    return f"{found:08x}"


def through(
    kept: Kept,
    batch: Batch,
    slices: Iterable[Slice],
    needs: Callable[[], Needs],
    run: Callable[[Iterable[Slice]], Iterator[tuple[Slice, Any]]],
) -> Iterator[tuple[Slice, Any]]:
    """The slices of a batch with the model's results: kept ones, or else those of `run`, which are kept.

    Args:
        batch: its frames, hints and labels and the names of its videos name the file.
        needs: what observers need of the next slice.
        run: slices to pairs of a slice and its result.
    """
    names = zlib.crc32(os.fsencode(" ".join(map(str, batch.get("name", ())))))
    tensors = [value for _, value in sorted(batch.items()) if isinstance(value, Tensor)]
    file = f"{names:08x}_{fingerprint(*tensors)}"
    stored = kept.read(file)
    if stored is not None:
        for index, seen in enumerate(slices):
            yield seen, _restored(stored, f"{index}/", seen.part["video"].device)
        return
    fresh: dict[str, Tensor] = {}
    wanted = needs()
    for index, (seen, found) in enumerate(run(slices)):
        fresh |= {f"{index}/{key}": value for key, value in _stored(found, seen, wanted).items()}
        yield seen, found
        wanted = needs()
    kept.write(file, fresh)


def _stored(found: Prediction | Reconstruction, seen: Slice, needs: Needs) -> dict[str, Tensor]:
    """What observers read of a result. Soft masks are kept where they are plotted, else the slot of each pixel at the
    size of the labels."""
    tensors = {f"recon/{name}": value for name, value in found.recon.items()}
    if isinstance(found, Reconstruction):
        return tensors
    ids, whole = seen.part.get("segmentations"), needs.slot_recon
    slots = found.segmentation if whole or ids is None else at_labels(found, ids)
    few = found.masks.shape[2] <= _SMALL
    tensors["segmentation"] = slots.to(torch.uint8) if few else slots
    tensors["slots"] = found.slots
    if whole:
        tensors["masks"] = found.masks
    else:
        tensors["shape"] = torch.tensor(found.masks.shape)
    if found.properties is not None:
        tensors["properties"] = found.properties
    for name, value in (found.slot_recon or {}).items():
        tensors[f"slot_recon/{name}"] = value
    return tensors


def _restored(stored: Mapping[str, Tensor], prefix: str, device: torch.device) -> Prediction | Reconstruction:
    mine = {key[len(prefix) :]: value.to(device) for key, value in stored.items() if key.startswith(prefix)}
    recon = {key[6:]: value for key, value in mine.items() if key.startswith("recon/")}
    if "segmentation" not in mine:
        return Reconstruction(recon)
    own = {key[11:]: value for key, value in mine.items() if key.startswith("slot_recon/")}
    masks = mine.get("masks")
    if masks is None:
        masks = torch.zeros((), device=device).expand(*mine["shape"].tolist())
    return Prediction(
        segmentation=mine["segmentation"].long(),
        masks=masks,
        slots=mine["slots"],
        attn=torch.zeros(*mine["slots"].shape[:3], 0, device=device),
        recon=recon,
        slot_recon=own or None,
        state=cast(Any, None),
        properties=mine.get("properties"),
    )
