"""Read the arrays that `torchslots data prepare` wrote; they are memory-mapped, not decoded.

Samples equal those of the original data set. `data/prepare.py` describes the files.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchslots.data.clips import Example, finish_clip, finish_cropped
from torchslots.data.config import DataConfig
from torchslots.data.transforms import Sample, number_by_rank
from torchslots.io.arrays import CHECKSUMS, check_rows, map_array
from torchslots.io.errors import UserError
from torchslots.io.json_files import check_seal, read_object

_VERSION = 1
_REMOVE = "Remove its folder and run `torchslots data prepare` again."
TARGETS = ("video", "segmentations", "ignore", "classes", "boxes", "flow", "depth", "properties")
"""Arrays of frames; one file for each."""
RANGES = ("flow_range", "depth_range")
"""Two numbers for each video."""
_LARGEST = 1 << 24
_AGAIN = "Prepare it for this recipe in another folder, or change the recipe's data settings."


class Entry(NamedTuple):
    """One video: its shard, its number and first frame in it, its length and size."""

    shard: Path
    name: str
    number: int
    start: int
    length: int
    height: int
    width: int


OWN_FILES = "folder"
"""Name of the data set of your own files."""
_LABELS = ("overlaps", "crowds", "void", "pre_resize")
_SPACE = ("interpolation", "eval_crop")
_SINCE = {name: getattr(DataConfig(), name) for name in (*_LABELS, *_SPACE)}
"""Fields that older arrays do not name; these were made with the defaults."""


def as_stored(config: DataConfig) -> bool:
    """Whether frames must be kept as they are stored: training cuts or mirrors them otherwise than evaluation."""
    cut = config.train_crop == config.eval_crop and config.label_size is None
    return config.min_object_covered is not None or config.flip > 0 or not cut


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """The fields that change what is written. The length of clips does not: whole videos are."""
    asked = {
        "version": _VERSION,
        "dataset": config.dataset,
        "keys": sorted(set(config.keys) & set(TARGETS) - {"ignore"}),
    }
    asked |= {"max_instances": config.max_instances, "max_objects": config.max_objects}
    asked |= {"random_crop": as_stored(config)} | {name: getattr(config, name) for name in _LABELS}
    if not as_stored(config):
        asked |= {"resolution": config.resolution, "depth_transform": config.depth_transform}
        asked |= {"crop": list(config.crop) if config.crop else None, "square": config.square}
        asked |= {name: getattr(config, name) for name in _SPACE}
    return asked | (_of_own_files(config) if config.dataset == OWN_FILES else {})


def _of_own_files(config: DataConfig) -> dict[str, Any]:
    """The fields that change what is read of your own files, which are cropped and shrunk at once."""
    crop = list(config.crop) if config.crop else None
    return {"resolution": config.resolution, "crop": crop, "void_id": config.void_id}


def differing(made: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first field of `wanted` in which arrays were made otherwise; None: there is none."""
    return next((name for name, value in wanted.items() if made_with(made, name) != value), None)


def made_with(made: dict[str, Any], field: str) -> Any:
    """What arrays were made with."""
    return made.get(field, _SINCE.get(field))


def unpack(key: str, packed: Tensor) -> Tensor:
    """Images from 255ths, or from quarters of them: what halving the size of 8-bit frames gives."""
    if key in ("segmentations", "classes"):
        return packed.to(torch.int32)
    if packed.dtype == torch.uint8:
        return packed.float() * (1 / 255)
    if packed.dtype == torch.uint16:
        return packed.float() * 0.25 * (1 / 255)
    return packed


class PreparedArrays:
    """One prepared split."""

    title, keys = "prepared arrays", None

    def __init__(self, root: Path, split: str, config: DataConfig) -> None:
        """Read the index.

        Args:
            root: The folder that `prepare` wrote.
            config: Compared with that of the preparation; not where it has no keys.

        Raises:
            UserError: nothing is prepared there, it is not finished, or it was prepared with other settings.
        """
        self._folder = Path(root) / split
        made = _check(self._folder, config)
        self._finish = finish_cropped if made.get("dataset") == OWN_FILES else finish_clip
        if not made.get("random_crop", False):
            self._finish = _finish

    @cached_property
    def _entries(self) -> list[Entry]:
        return read_entries(self._folder)

    @property
    def files(self) -> str:
        """Number and size of the arrays."""
        return arrays_text(self._folder)

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """The example's name in the original data set."""
        return self._entries[index].name

    def open(self, index: int, keys: Collection[str] | None) -> Example:
        """A video: as originally stored for recipes with a random crop, else all but padded and renumbered."""
        entry = self._entries[index]
        if keys is None:
            keys = [key for key in TARGETS if _file(entry, key).exists()]
            return Example(entry.length, lambda start, stop: _look(_read(entry, keys, start, stop)))
        return Example(entry.length, lambda start, stop: _read(entry, keys, start, stop), self._finish)

    def num_objects(self, index: int) -> None:
        """Unknown; videos of too many objects were left out on preparing."""


def arrays_text(folder: Path) -> str:
    """Number and size of the arrays in the shards of `folder`."""
    sizes = [file.stat().st_size for file in folder.glob("*/*.npy")]
    return f"{len(sizes)} arrays of {sum(sizes) / 1e6:,.1f} MB"


def read_entries(folder: Path) -> list[Entry]:
    """The videos of a finished split, by the indices of its shards."""
    entries, file = [], folder / "meta.json"
    try:
        for shard in range(len(read_index(file)["videos_in_shards"])):
            file = shard_folder(folder, shard) / "index.json"
            index, start = read_index(file), 0
            _demand_checksums(file.parent, index)
            for number, (name, shape) in enumerate(zip(index["names"], index["shapes"])):
                length, height, width = (_size(value) for value in shape)
                entries.append(Entry(file.parent, str(name), number, start, length, height, width))
                start += length
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged: it does not list videos as `prepare` does. {_REMOVE}") from error
    return entries


def _demand_checksums(shard: Path, index: dict[str, Any]) -> None:
    """Refuse a shard that has lost the checksums it was written with; earlier versions wrote none."""
    lost = [file for file in shard.glob("*.npy") if not file.with_suffix(CHECKSUMS).is_file()]
    if index.get("checksums") and lost:
        raise UserError(f"{min(lost).with_suffix(CHECKSUMS)} is missing. {_REMOVE}")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} is no size")
    return value


def splits(root: Path) -> Sequence[str]:
    """The prepared splits below a folder."""
    return sorted(file.parent.name for file in root.glob("*/meta.json"))


def _read(entry: Entry, keys: Collection[str], start: int, stop: int) -> dict[str, np.ndarray]:
    wanted = [key for key in keys if key in TARGETS and (key != "ignore" or _file(entry, key).exists())]
    arrays = {key: _frames(entry, key, start, stop) for key in wanted}
    for key in ("flow", "depth"):
        if key in arrays and (entry.shard / f"{key}_range.npy").exists():
            arrays[f"{key}_range"] = np.array(
                read_rows(entry.shard / f"{key}_range.npy", entry.number, entry.number + 1)[0]
            )
    return arrays | {"padding_mask": np.ones((stop - start, entry.height, entry.width), bool)}


def _file(entry: Entry, key: str) -> Path:
    return entry.shard / f"{key}.npy"


def _frames(entry: Entry, key: str, start: int, stop: int) -> np.ndarray:
    """A copy of some frames; channels, which are stored first, come last."""
    array = np.array(read_rows(_file(entry, key), entry.start + start, entry.start + stop))
    return np.moveaxis(array, 1, -1) if key in ("video", "flow", "depth") else array


def _look(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for `data inspect`: frames unpacked, without `padding_mask`."""
    frames = unpack("video", torch.from_numpy(arrays["video"])).numpy() if "video" in arrays else None
    shown = {key: array for key, array in arrays.items() if key != "padding_mask"}
    return shown if frames is None else {**shown, "video": frames}


def _finish(clip: Sample, config: DataConfig, length: int, rng: np.random.Generator | None) -> Sample:
    """Samples from arrays that are already finished."""
    clip = {key: value if key == "padding_mask" else unpack(key, value) for key, value in clip.items()}
    clip = _pad(clip, config, length)
    return number_by_rank(clip) if config.renumber else clip


def _check(folder: Path, config: DataConfig) -> dict[str, Any]:
    """The settings that the arrays were prepared with, if they suit the recipe."""
    made, wanted = made_for(folder), fingerprint(config)
    if not config.keys:
        return made
    del wanted["dataset"]
    if made.get("dataset") == OWN_FILES:
        wanted |= {name: value for name, value in _of_own_files(config).items() if name in made}
    missing = set(wanted.pop("keys")) - set(made.get("keys", ()))
    if missing:
        raise UserError(f"{folder} was prepared without `{missing.pop()}`. {_AGAIN}")
    field = differing(made, wanted)
    if field is not None:
        raise UserError(
            f"{folder} was prepared with `{field}` = {made_with(made, field)!r}, the recipe has {wanted[field]!r}. "
            f"{_AGAIN}"
        )
    return made


def made_for(folder: Path) -> dict[str, Any]:
    """The settings of a prepared split.

    Raises:
        UserError: nothing is prepared there, or it is not finished.
    """
    meta = folder / "meta.json"
    if not meta.exists():
        raise UserError(f"{folder} holds nothing prepared. Make it with `torchslots data prepare`.")
    found = read_index(meta)
    if not found.get("complete"):
        raise UserError(f"{folder} is not finished. Run the same `torchslots data prepare` again.")
    made = found.get("made_for")
    if not isinstance(made, dict):
        raise UserError(f"{meta} is damaged: it does not say what was prepared. {_REMOVE}")
    return made


def _pad(clip: Sample, config: DataConfig, length: int) -> Sample:
    """Pad to `length` frames as `finish_clip` does: it pads first, so that zero flow becomes white."""
    present = len(clip["padding_mask"])
    if present >= length:
        return clip
    kinds = {"video": torch.uint8, "segmentations": torch.uint8, "flow": torch.uint16, "depth": torch.uint16}
    nothing = {key: value[:0].to(kinds.get(key, value.dtype)) for key, value in clip.items()}
    if "flow" in nothing:
        nothing["flow"] = nothing["flow"][:, :2]
    ranges = {f"{key}_range": torch.zeros(2) for key in ("flow", "depth") if key in clip}
    padding = finish_clip(
        {**nothing, **ranges},
        replace(config, crop=None, pre_resize=None, renumber=False),
        length - present,
        None,
    )
    return {key: torch.cat([value, padding[key]]) for key, value in clip.items()}


@lru_cache(maxsize=128)
def mapped(file: Path) -> np.ndarray:
    """A memory-mapped array, shared by all workers through the page cache; what is written to it stays in memory."""
    return map_array(file, _REMOVE, writable=True)


def read_rows(file: Path, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop`, still mapped.

    Raises:
        UserError: they are not there, or are not what was written.
    """
    rows = np.asarray(mapped(file)[start:stop])
    check_rows(file, rows, start, stop - start, _REMOVE)
    return rows


def shard_folder(folder: Path, number: int) -> Path:
    """Folder of a shard."""
    return folder / f"{number:05d}"


def read_index(file: Path) -> dict[str, Any]:
    """Read a JSON file that `prepare` wrote.

    Raises:
        UserError: it cannot be read, or is not what was written.
    """
    return check_seal(read_object(file, _REMOVE), file, _REMOVE)
