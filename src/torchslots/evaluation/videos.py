"""The data set of an evaluation; without the metrics, whose import takes seconds."""

from pathlib import Path

from torchslots.data.batch import ClipDataset
from torchslots.data.catalog import open_dataset
from torchslots.recipes.config import DataConfig, EvalConfig
from torchslots.recipes.protocols import evaluation_data


def whole_videos(data: DataConfig, settings: EvalConfig, root: Path) -> ClipDataset:
    """The data set of whole videos, for evaluation.

    Raises:
        UserError: no such data, split or protocol.
    """
    return open_dataset(data.dataset, root, settings.split, evaluation_data(data, settings), False)
