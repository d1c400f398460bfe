"""Options for commands that run a trained model on the whole videos of a data set: which videos, and where to run."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchslots.data.catalog import entry, has_split, split_on
from torchslots.io.errors import UserError, nearest
from torchslots.io.processes import is_first_process
from torchslots.io.values import convert_fields
from torchslots.metrics.networks.weights import FILES
from torchslots.metrics.reconstruction import load_networks
from torchslots.recipes import catalog
from torchslots.recipes.config import DataConfig, EvalConfig

KEYS = ("video", "boxes", "segmentations")
"""Keys of a batch that are inputs of a model."""
_SETTINGS = ("split", "num_frames", "slice_size", "batch_size", "num_videos")
_HOW = "Name files elsewhere with --weights NAME=FILE; --download fetches missing ones."


@dataclass(frozen=True)
class VideosOptions:
    """The videos, and where to run."""

    data: str | None = None
    """Data set by name; None: the one the run was trained on."""
    split: str | None = None
    """Split, or a part of it as in `train[70%:85%]`; None: the recipe's, for some the one that finished runs are tested
    on."""
    num_frames: int | None = None
    """Frames of each video; None: the recipe's."""
    slice_size: int | None = None
    """Frames that the model processes at once; None: the recipe's."""
    batch_size: int | None = None
    """Videos at once; None: the recipe's."""
    num_videos: int | None = None
    """Videos to use, the first of the split; 0: the whole split. None: as many as the recipe says, for some the whole
    split."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: as in training."""
    void_id: int | None = None
    """Value of void pixels in palette masks of your own files, -1 for none; None: the recipe's."""
    allow_odd_masks: bool = False
    """Take masks of your own files that cannot be label maps: stored with loss, smoothed, or of hundreds of ids."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""
    num_workers: int = 2
    """Data loading processes."""

    def __post_init__(self) -> None:
        convert_fields(self)


def settings_of(
    where: str | Path | None,
    model: Any,
    options: VideosOptions,
    keys: Sequence[str],
    root: Path | None = None,
) -> tuple[DataConfig, EvalConfig]:
    """Data and evaluation settings of the run in the folder `where`, or else of the model, changed by the options.

    A recipe that tests on another split than it watches in training (`test_split`) is read from there.

    Args:
        root: folder with the data; None: the data set has its published splits.
        keys: keys of a batch to read, if the recipe has them.

    Raises:
        UserError: neither a recipe nor the options name a data set; fewer than no videos.
    """
    file = None if where is None else Path(where) / "recipe.json"
    if file is not None and file.is_file():
        recipe = catalog.read_recipe(file)
        data, settings = recipe.data, recipe.evaluation
    else:
        data, settings = DataConfig(resolution=model.config.resolution[0]), EvalConfig()
        if options.data is None:
            raise UserError(
                f"{where or 'The model'} is not a run with a recipe: name the data set with --data (`data`)."
            )
    keys = tuple(key for key in keys if key in data.keys)
    if options.data == "folder" != data.dataset:  # the crop belongs to the frames of another data set
        data = dataclasses.replace(data, crop=None)
    if options.split is None and options.data not in (None, data.dataset):
        split = split_on(options.data, root, settings.split, EvalConfig.split)
        settings = dataclasses.replace(settings, split=split)
    data = dataclasses.replace(data, keys=keys, dataset=options.data or data.dataset)
    _check_shape(model, data)
    if options.void_id is not None:
        data = dataclasses.replace(data, void_id=options.void_id)
    if options.allow_odd_masks:
        data = dataclasses.replace(data, allow_odd_masks=True)
    if options.max_objects is not None:
        rows = max(options.max_objects, data.max_instances)
        data = dataclasses.replace(data, max_objects=options.max_objects, max_instances=rows)
    if options.split is None:
        settings = _tested(settings, data.dataset, root)
    changes = {name: value for name in _SETTINGS if (value := getattr(options, name)) is not None}
    if options.data is not None and (background := entry(options.data).num_background) is not None:
        changes["num_background"] = background
    if options.num_videos is not None:
        changes["num_videos"] = _limit(options.num_videos)
    return data, dataclasses.replace(settings, **changes)


def _check_shape(model: Any, data: DataConfig) -> None:
    """Check that frames of one's own, which are cut to their central square, are of the model's shape.

    Raises:
        UserError: the model is built for others.
    """
    if data.dataset != "folder" or data.crop is not None:
        return
    height, width = getattr(model.config, "resolution", (1, 1))
    if height != width:
        raise UserError(
            f"The model is built for frames of {height} x {width}, and frames of your own are cut to their central "
            "square. Take a run that was trained on them with --data.crop; `torchslots predict` takes films of any "
            "shape."
        )


def _tested(settings: EvalConfig, dataset: str, root: Path | None) -> EvalConfig:
    """The settings with the split for tests as the split to read; where the data set lacks it a line says so."""
    wanted = settings.test_split
    if wanted is None:
        return settings
    if not has_split(dataset, root, wanted):
        what = (
            f"`{dataset}` has no split `{wanted}`, on which the recipe is tested: reading `{settings.split}`."
        )
        if is_first_process():
            print(what, file=sys.stderr, flush=True)
        return settings
    return dataclasses.replace(
        settings, split=wanted, num_videos=settings.test_videos, test_split=None, test_videos=None
    )


def _limit(num_videos: int) -> int | None:
    """0 as None: all videos.

    Raises:
        UserError: fewer than none.
    """
    if num_videos < 0:
        raise UserError(f"--num-videos should be 1 or more, or 0 for the whole split, got {num_videos}.")
    return num_videos or None


@dataclass(frozen=True)
class NetworkOptions:
    """Weights of the networks of LPIPS, FID and FVD."""

    weights: tuple[str, ...] = ()
    """Public files of these networks as NAME=FILE: vgg16, lpips_vgg, alexnet, lpips_alex, inception, i3d. Others are
    read from the cache."""
    download: bool = False
    """Download missing files, 528 MB for VGG16; their digests are checked."""

    def __post_init__(self) -> None:
        convert_fields(self)


def networks_of(options: NetworkOptions, metrics: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The networks whose weights are on this machine, and a note for each metric that is left out.

    Raises:
        UserError: `weights` that are not NAME=FILE of a known name.
    """
    networks, notes = load_networks(metrics, _files(options.weights), download=options.download)
    return networks, [*notes, _HOW] if notes else []


def _files(pairs: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"--weights takes NAME=FILE, such as vgg16=vgg16-397923af.pth, got {pair!r}.")
        if name not in FILES:
            raise UserError(
                f"--weights has no `{name}`. {nearest(name, FILES)} There are: {', '.join(FILES)}."
            )
        found[name] = Path(file)
    return found
