"""TODO."""

import json
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchslots.data.clips import clip_window, finish_clip
from torchslots.data.config import DataConfig
from torchslots.data.transforms import Sample, number_by_rank
from torchslots.io.errors import UserError

_VERSION = 1


_TARGETS = ("video", "segmentations", "boxes", "flow", "depth", "properties")


_RANGES = ("flow_range", "depth_range")


_AGAIN = "Prepare it for this recipe in another folder, or change the recipe's data settings."


class _Entry(NamedTuple):
    """One video: its shard, its number and first frame there, how many frames of what size it has."""

    shard: Path
    name: str
    number: int
    start: int
    length: int
    height: int
    width: int


def _fingerprint(config: DataConfig) -> dict[str, Any]:
    """The fields that change what is written. The length of clips does not: whole videos are."""
    asked = {"version": _VERSION, "dataset": config.dataset, "keys": sorted(set(config.keys) & set(_TARGETS))}
    asked |= {"max_instances": config.max_instances, "max_objects": config.max_objects}
    asked |= {"random_crop": config.min_object_covered is not None}
    if config.min_object_covered is None:
        asked |= {"resolution": config.resolution, "depth_transform": config.depth_transform}
        asked |= {"crop": list(config.crop) if config.crop else None, "square": config.square}
    return asked


def _unpack(key: str, packed: Tensor) -> Tensor:
    """Pictures from 255ths, or from quarters of them: what halving the size of 8-bit frames gives."""
    if key == "segmentations":
        return packed.to(torch.int32)
    if packed.dtype == torch.uint8:
        return packed.float() * (1 / 255)
    if packed.dtype == torch.uint16:
        return packed.float() * 0.25 * (1 / 255)
    return packed


class PreparedClips:
    """What `prepare` wrote, as a data set. Its samples equal those of the data set it was made from."""

    def __init__(self, root: Path, split: str, config: DataConfig, train: bool = True) -> None:
        """Read the index.

        Args:
            root: The folder that `prepare` wrote into.
            train: False: no clip at a random place, but the first `config.num_frames` frames of each video.

        Raises:
            UserError: nothing was prepared there, it is not finished, or it was made for another recipe.
        """
        self.config, self.split, self.train = config, split, train
        self._folder = Path(root) / split
        _check(self._folder, config)

    @cached_property
    def _entries(self) -> list[_Entry]:
        entries = []
        for shard in range(len(_read_json(self._folder / "meta.json")["videos_in_shards"])):
            index = _read_json(_shard(self._folder, shard) / "index.json")
            start = 0
            for number, (name, shape) in enumerate(zip(index["names"], index["shapes"])):
                entries.append(_Entry(_shard(self._folder, shard), name, number, start, *shape))
                start += shape[0]
        return entries

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """The name that the example had in the data set it was prepared from."""
        return self._entries[index].name

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        """One clip at a random place; without `rng`, the whole video (its beginning, where not `train`)."""
        entry, config = self._entries[index], self.config
        rng = rng if self.train else None
        start, length = clip_window(entry.length, config, self.train, rng)
        stop = min(start + length, entry.length)
        clip = {key: _frames(entry, key, start, stop) for key in config.keys if key in _TARGETS}
        clip["padding_mask"] = torch.ones(stop - start, entry.height, entry.width, dtype=torch.bool)
        if config.min_object_covered is not None:
            clip |= {
                f"{key}_range": _range(entry, f"{key}_range") for key in ("flow", "depth") if key in clip
            }
            return {**finish_clip(clip, config, length, rng), "name": entry.name}
        clip = {key: value if key == "padding_mask" else _unpack(key, value) for key, value in clip.items()}
        clip = _pad(clip, config, length)
        return {**(number_by_rank(clip) if config.renumber else clip), "name": entry.name}


def _check(folder: Path, config: DataConfig) -> None:
    meta = folder / "meta.json"
    if not meta.exists():
        raise UserError(f"{folder} holds nothing prepared. Make it with `torchslots data prepare`.")
    found = _read_json(meta)
    if not found.get("complete"):
        raise UserError(f"{folder} is not finished. Run the same `torchslots data prepare` again.")
    made, wanted = found["made_for"], _fingerprint(config)
    del wanted["dataset"]
    missing = set(wanted.pop("keys")) - set(made.get("keys", ()))
    if missing:
        raise UserError(f"{folder} was prepared without `{missing.pop()}`. {_AGAIN}")
    for field, value in wanted.items():
        if made.get(field) != value:
            raise UserError(
                f"{folder} was prepared with `{field}` = {made.get(field)!r}, the recipe has {value!r}. "
                f"{_AGAIN}"
            )


def _frames(entry: _Entry, key: str, start: int, stop: int) -> Tensor:
    array = _mapped(entry.shard / f"{key}.npy")
    return torch.from_numpy(np.array(array[entry.start + start : entry.start + stop]))


def _range(entry: _Entry, key: str) -> Tensor:
    return torch.from_numpy(np.array(_mapped(entry.shard / f"{key}.npy")[entry.number]))


def _pad(clip: Sample, config: DataConfig, length: int) -> Sample:
    """Frames that the video lacks, as `finish_clip` leaves them: it pads first, and no motion is white."""
    present = len(clip["padding_mask"])
    if present >= length:
        return clip
    kinds = {"video": torch.uint8, "segmentations": torch.uint8, "flow": torch.uint16, "depth": torch.uint16}
    nothing = {key: value[:0].to(kinds.get(key, value.dtype)) for key, value in clip.items()}
    if "flow" in nothing:
        nothing["flow"] = nothing["flow"][:, :2]
    ranges = {f"{key}_range": torch.zeros(2) for key in ("flow", "depth") if key in clip}
    padding = finish_clip(
        {**nothing, **ranges}, replace(config, crop=None, renumber=False), length - present, None
    )
    return {key: torch.cat([value, padding[key]]) for key, value in clip.items()}


@lru_cache(maxsize=128)
def _mapped(file: Path) -> np.ndarray:
    """An array on disk; the operating system keeps what is used often in memory, for all workers together."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{file} cannot be read: {error}. Remove its folder and run `torchslots data prepare` again."
        ) from error


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Remove its folder and prepare again.") from error
