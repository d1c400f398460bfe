"""Losses and attention maps of held-out videos: of which clips, which slots."""

import numpy as np
import pytest
import torch

from tiny_models import batch, tiny
from torchslots.evaluation.evaluate import autocast, evaluate
from torchslots.evaluation.held_out import AttentionMaps, held_out
from torchslots.evaluation.observers import Losses, whole_clips
from torchslots.recipes import catalog
from torchslots.recipes.config import EvalConfig, with_changes

CONFIG = EvalConfig(num_frames=6, slice_size=3)
CPU = torch.device("cpu")


def padded(lengths: tuple[int, ...]) -> dict:
    """The batch of two videos with so many real frames each."""
    found = batch(6)
    mask = torch.ones(2, 6, 16, 24, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, length:] = False
    return {**found, "padding_mask": mask, "name": ["first", "second"]}


def test_clips_lie_end_to_end_and_padding_is_left_out() -> None:
    whole = padded((6, 5))
    parts = list(whole_clips(whole, 2))
    assert [len(part["video"]) for part in parts] == [2, 2, 1]
    assert torch.equal(parts[1]["boxes"], whole["boxes"][:, 2:4])
    assert torch.equal(parts[2]["video"], whole["video"][:1, 4:6]) and parts[2]["name"] == ["first"]
    assert [part["video"].shape[:2] for part in whole_clips(whole, 4)] == [(2, 4)]
    assert [part["video"].shape[:2] for part in whole_clips(padded((2, 1)), 4)] == [(2, 4)]
    assert not list(whole_clips(padded((0, 0)), 4))


def test_the_loss_is_the_mean_over_clips_as_in_training() -> None:
    model, videos = tiny(), padded((6, 5))
    report = evaluate(
        model,
        [videos],
        CONFIG,
        num_plots=0,
        observers=held_out(model, recipe(2), 7, 0, CPU, "fp32"),
    )
    with torch.no_grad():
        each = [
            float(sum(model.loss(clip(row, start, 2)).values()))
            for row, start in ((0, 0), (1, 0), (0, 2), (1, 2), (0, 4))
        ]
    names = [name for name in report.metrics if name.startswith("loss_")]
    assert report.metrics["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert report.metrics["loss"] == pytest.approx(sum(report.metrics[name] for name in names)) and names
    assert all("clips of 2 frames" in report.definitions[name] for name in names)
    alone = evaluate(model, [videos], CONFIG, num_plots=0).metrics
    assert alone == {name: value for name, value in report.metrics.items() if not name.startswith("loss")}


def clip(row: int, start: int, frames: int) -> dict:
    """A clip of one of the videos."""
    return {key: value[row : row + 1, start : start + frames] for key, value in batch(6).items()}


def test_losses_follow_the_step_and_are_none_without_targets() -> None:
    model = tiny()
    losses, _ = held_out(model, recipe(2), 7, 0, CPU, "fp32")
    assert isinstance(losses, Losses)
    losses.finish({key: value for key, value in batch(4).items() if key != "flow"})
    assert losses.report().metrics == {}


def recipe(frames: int):
    return with_changes(catalog.recipe("savi_small"), **{"data.num_frames": frames})


def test_attention_is_that_of_the_clips_last_frame() -> None:
    model = tiny()
    maps = AttentionMaps(model, 1, 4, 0, CPU, lambda: autocast(CPU, "fp32"))
    evaluate(model, [padded((6, 6)), padded((6, 6))], CONFIG, num_plots=0, observers=[maps])
    assert len(maps.sheets) == 1 and maps.sheets[0].dtype == np.uint8
    with torch.no_grad():
        attn = model.encode({key: value[:1, :4] for key, value in batch(6).items()}).attn[0, -1]
    slot, cell = divmod(int(attn.argmax()), attn.shape[-1])
    sheet, tile = maps.sheets[0], 128
    assert len(attn) == 5 and sheet.max() == 255
    first = attn[slot].unflatten(0, (8, 12))
    assert first.flatten().argmax() == cell and sheet.shape[1] >= 6 * tile
