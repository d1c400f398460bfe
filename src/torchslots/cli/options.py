"""A trained model and the whole videos of a data set: what the commands have in common that go through one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from torchslots.io.errors import UserError, nearest
from torchslots.recipes.config import DataConfig, EvalConfig

if TYPE_CHECKING:
    from torchslots.data.loader import ClipDataset


@dataclass(frozen=True)
class VideosOptions:
    """Which model, which videos, where to run."""

    model: tyro.conf.Positional[str]
    """A run folder, a model folder, or owner/name on the hub."""
    root: Path
    """Folder with the data."""
    dataset: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """Data set by name; None: the one the run was trained on."""
    split: str | None = None
    """Split; None: the recipe's."""
    num_frames: int | None = None
    """Frames of each video; None: the recipe's."""
    slice_size: int | None = None
    """Frames that go through the model at once; None: the recipe's."""
    batch_size: int | None = None
    """Videos at once; None: the recipe's."""
    num_videos: int | None = None
    """Videos to use; None: the whole split."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: as in training."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    num_workers: int = 2
    """Data loading processes."""


def whole_videos(data: DataConfig, evaluation: EvalConfig, root: Path) -> "ClipDataset":
    """The data set with its videos whole, as they are judged."""
    from torchslots.data.catalog import open_dataset

    whole = dataclasses.replace(data, num_frames=evaluation.num_frames)
    return open_dataset(data.dataset, root, evaluation.split, whole, False)


def numbers_of(line: VideosOptions, model: Any, wanted: tuple[str, ...]) -> tuple[DataConfig, EvalConfig]:
    """The run's own numbers, or what the model's say, changed by the line.

    Args:
        wanted: keys of a batch to read where the recipe has them.

    Raises:
        UserError: no recipe to take the data set from, and none named.
    """
    from torchslots.recipes import catalog

    file = Path(line.model) / "recipe.json"
    if file.is_file():
        recipe = catalog.read_recipe(file)
        data, settings = recipe.data, recipe.evaluation
    else:
        data = DataConfig(resolution=model.config.resolution[0])
        settings = EvalConfig()
        if line.dataset is None:
            raise UserError(f"{line.model} is not a run with a recipe: name the data with --data.")
    keys = tuple(key for key in wanted if key in data.keys)
    data = dataclasses.replace(data, keys=keys, dataset=line.dataset or data.dataset)
    if line.max_objects is not None:
        rows = max(line.max_objects, data.max_instances)
        data = dataclasses.replace(data, max_objects=line.max_objects, max_instances=rows)
    given = {
        name: getattr(line, name)
        for name in ("split", "num_frames", "slice_size", "batch_size", "num_videos")
    }
    return data, dataclasses.replace(
        settings, **{name: value for name, value in given.items() if value is not None}
    )


def out_folder(line: VideosOptions, name: str) -> Path:
    """Where results go that nobody named a folder for: in the run or model folder, else here."""
    return Path(line.model) / name if Path(line.model).is_dir() else Path(name)


Words = list[str]


def parse(what: Any, words: Words, prog: str, **options: Any) -> Any:
    """Fill a dataclass, or call a function, from the line; a wrong line is explained and exits with 2."""
    return tyro.cli(
        what, args=words, prog=f"torchslots {prog}", config=(tyro.conf.AvoidSubcommands,), **options
    )


_HOW = "Files elsewhere are named with --weights NAME=FILE; --download brings those that are not here."


@dataclass(frozen=True)
class NetworkOptions:
    """Networks of LPIPS, FID and FVD, and the order of frames."""

    weights: tuple[str, ...] = ()
    """Public files of these networks as NAME=FILE: vgg16, lpips_vgg, alexnet, lpips_alex, inception, i3d. Others are
    looked for in the cache."""
    download: bool = False
    """Bring files that are not here, 528 MB for VGG16; their digests are checked."""
    published_order: bool = False
    """Name written frames 0.png, 1.png, ..., and put them into the order 0, 1, 10, 11, ... for FVD, as in the published
    figures; otherwise 00000.png, ..., in the order of time."""


def networks_of(line: NetworkOptions, metrics: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The networks whose weights are here, and a sentence for each figure that is left out."""
    from torchslots.metrics.reconstruction import load_networks

    networks, notes = load_networks(metrics, _files(line.weights), download=line.download)
    return networks, [*notes, _HOW] if notes else []


def _files(pairs: Sequence[str]) -> dict[str, Path]:
    from torchslots.metrics.networks.weights import FILES

    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"--weights takes NAME=FILE, such as vgg16=vgg16-397923af.pth, got {pair!r}.")
        if name not in FILES:
            raise UserError(
                f"--weights knows no `{name}`. {nearest(name, FILES)} There are: {', '.join(FILES)}."
            )
        found[name] = Path(file)
    return found
