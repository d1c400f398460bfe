"""A trained model and the whole videos of a data set: what the commands have in common that go through one."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from torchslots.errors import UserError
from torchslots.training.recipe import DataConfig, EvalConfig

if TYPE_CHECKING:
    from torchslots.data.loader import ClipDataset


@dataclass(frozen=True)
class VideosLine:
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


def numbers_of(line: VideosLine, model: Any, wanted: tuple[str, ...]) -> tuple[DataConfig, EvalConfig]:
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


class processes:
    """This process' rank among those that `torchrun` or `accelerate launch` started; alone, 0 of 1."""

    def __init__(self, device: str):
        self.device, self.joined = device, False

    def __enter__(self) -> tuple[int, int]:
        import os

        import torch

        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        torch.distributed.init_process_group("nccl" if self.device.startswith("cuda") else "gloo")
        self.joined = True
        return torch.distributed.get_rank(), torch.distributed.get_world_size()

    def __exit__(self, *error: object) -> None:
        import torch

        if self.joined:
            torch.distributed.destroy_process_group()


def demand_one_process(what: str) -> None:
    """Raises UserError under `torchrun` with several processes."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{what} by one process: run it without torchrun.")


def out_folder(line: VideosLine, name: str) -> Path:
    """Where results go that nobody named a folder for: in the run or model folder, else here."""
    return Path(line.model) / name if Path(line.model).is_dir() else Path(name)
