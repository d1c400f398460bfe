"""The examples of an evaluation, read batch by batch behind a progress bar."""

from collections.abc import Iterator

from torchslots.data.loader import ClipDataset, eval_batches, number_read
from torchslots.progress import progress
from torchslots.shapes import Batch
from torchslots.training.recipe import EvalConfig


def shown_batches(
    dataset: ClipDataset,
    settings: EvalConfig,
    what: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    skip_corrupt: bool = False,
    unit: str = "videos",
) -> Iterator[Batch]:
    """Each example once over all processes, in order.

    Args:
        what: is done, in front of the bar.
        unit: what the bar counts.

    Raises:
        UserError: the data set is empty, or data are wrong.
    """
    batches = eval_batches(
        dataset,
        batch_size=settings.batch_size,
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
        limit=settings.num_videos,
        skip_corrupt=skip_corrupt,
    )
    with progress(what, number_read(dataset, settings.num_videos), unit) as advance:
        for batch in batches:
            yield batch
            advance(len(batch["video"]) * world_size)
