"""Every frame that a model decodes is evaluated and written once, beside what its tokenizer alone could reach."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.small_sets import Means, Videos, painter
from tiny_models import batch as tiny_batch
from tiny_models import tiny
from torchslots.data.loader import eval_batches
from torchslots.evaluation import tokenizer as reconstruction
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.frame_folders import FrameFolders
from torchslots.evaluation.observers import ReconstructionFigures
from torchslots.evaluation.report import LABELS, compare, format_figure
from torchslots.evaluation.tokenizer import Ceiling
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.metrics.image import psnr, squared_error, ssim
from torchslots.metrics.reconstruction import ReconstructionScores
from torchslots.models.layers.ranges import to_bytes
from torchslots.recipes.config import EvalConfig

CONFIG = EvalConfig(num_frames=3, slice_size=2, batch_size=2)
VIDEOS = Videos(3, lengths={1: 1})


class Apart(nn.Module):
    """Mean distance of two pictures."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().flatten(1).mean(1)


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever weights this machine has."""
    monkeypatch.setattr(reconstruction, "perceptual_network", lambda: ({}, []))


@torch.no_grad()
def decoded(model) -> tuple[torch.Tensor, torch.Tensor]:
    """All real frames of the videos, and what the model decodes of them, one video at a time."""
    pairs = []
    for index in range(3):
        sample = VIDEOS.sample(index, None)
        found = model.predict({"video": sample["video"][None]}).recon["video"][0]
        shown = sample["padding_mask"].flatten(1).any(1)
        pairs.append((sample["video"][shown], found[shown]))
    true, made = (torch.cat(part) for part in zip(*pairs))
    return true, made


@pytest.mark.parametrize("name", ["steve", "slotdiffusion"])
def test_figures_and_the_ceiling_of_the_tokenizer(name):
    model = painter(name)
    code = model.decoder.round_trip()
    assert code is not None
    networks = {"lpips_vgg": Apart(), "fid": Means()}
    observers = [ReconstructionFigures(ReconstructionScores(networks)), Ceiling(code, networks)]
    report = evaluate(model, eval_batches(VIDEOS, batch_size=2), CONFIG, num_plots=0, observers=observers)
    true, made = decoded(model)
    assert len(true) == 7
    clipped = made.clamp(0, 1)
    expected = {
        "mse": squared_error(clipped, true),
        "psnr": psnr(clipped, true),
        "ssim": ssim(clipped, true),
        "lpips_vgg": Apart()(made * 2 - 1, true * 2 - 1),
    }
    for figure, values in expected.items():
        assert report.metrics[figure] == pytest.approx(float(values.mean()), rel=1e-4)
    tokenizer = model.decoder.frozen_tokenizer()
    assert tokenizer is not None
    alone = evaluate(tokenizer, eval_batches(VIDEOS, batch_size=2), CONFIG, num_plots=0)
    for figure in ("mse", "psnr", "ssim"):
        assert report.metrics[f"{figure}_ceiling"] == pytest.approx(alone.metrics[figure], rel=1e-5)
    assert "lpips_vgg_ceiling" in report.metrics and "fid_ceiling" not in report.metrics
    assert report.metrics["fid"] > 0
    assert set(report.metrics) == set(report.definitions)
    losses = {figure for figure in report.metrics if figure.startswith("loss_")}
    assert len(losses) == 1 and set(report.metrics) - losses <= set(LABELS)
    assert format_figure("psnr_ceiling", 20.0) == "20.00 dB"
    assert ["PSNR (dB), tokenizer alone", format_figure("psnr", report.metrics["psnr_ceiling"])] in compare(
        {"model": report}
    )[1]


def test_models_without_a_tokenizer_have_no_ceiling():
    assert tiny().decoder.round_trip() is None


def test_models_that_decode_no_frames_are_refused():
    observer = ReconstructionFigures(ReconstructionScores())
    with pytest.raises(UserError, match="decodes flow and no frames"):
        evaluate(tiny(), [tiny_batch(3)], CONFIG, num_plots=0, observers=[observer])


def test_without_observers_no_frames_are_decoded():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.asked = painter("steve"), []

        def predict(self, *args, **kwargs):
            self.asked.append(kwargs["recon"])
            return self.inner.predict(*args, **kwargs)

    model = Counting()
    evaluate(model, eval_batches(VIDEOS, batch_size=2), CONFIG, num_plots=0)
    assert model.asked and not any(model.asked)


@pytest.mark.parametrize("published", [False, True], ids=["padded", "published"])
def test_frames_are_written_in_the_published_layout(published, tmp_path):
    model, videos = painter("steve"), Videos(3, frames=11, lengths={1: 2})
    stale = tmp_path / "recon_vids" / "1"
    stale.mkdir(parents=True)
    video.write_png(stale / "00007.png", np.zeros((4, 4, 3), np.uint8))
    (stale / "notes.txt").write_text("mine")
    config = EvalConfig(num_frames=11, slice_size=4)
    folders = FrameFolders(tmp_path, published)
    evaluate(model, eval_batches(videos, batch_size=2), config, num_plots=0, observers=[folders])
    names = [str(time) if published else f"{time:05d}" for time in range(11)]
    for index, length in ((0, 11), (1, 2), (2, 11)):
        sample = videos.sample(index, None)["video"]
        with torch.no_grad():
            made = model.predict({"video": sample[None]}).recon["video"][0]
        for folder, frames in (("gt_vids", sample), ("recon_vids", made)):
            files = {file.stem: file for file in (tmp_path / folder / str(index)).glob("*.png")}
            assert set(files) == set(names[:length])
            for time in range(length):
                expected = to_bytes(frames[time]).permute(1, 2, 0).numpy().astype(int)
                assert np.abs(video.read_image(files[names[time]]) - expected).max() <= 1
    assert (stale / "notes.txt").is_file()


def test_processes_write_videos_under_their_own_numbers(tmp_path):
    videos = Videos(5, frames=1)
    for rank in range(2):
        folders = FrameFolders(tmp_path, rank=rank, world_size=2)
        batches = eval_batches(videos, batch_size=2, rank=rank, world_size=2)
        evaluate(painter("steve"), batches, EvalConfig(num_frames=1), num_plots=0, observers=[folders])
    for index in range(5):
        file: Path = tmp_path / "gt_vids" / str(index) / "00000.png"
        expected = to_bytes(videos.sample(index, None)["video"][0]).permute(1, 2, 0).numpy()
        assert np.array_equal(video.read_image(file), expected)
    assert len(list((tmp_path / "recon_vids").iterdir())) == 5


def test_tokenizers_are_written_and_evaluated_too(tmp_path):
    code = painter("slotdiffusion").decoder.frozen_tokenizer()
    assert code is not None
    scores = ReconstructionScores({"lpips_vgg": Apart()})
    observers = [ReconstructionFigures(scores), FrameFolders(tmp_path)]
    report = evaluate(code, eval_batches(VIDEOS, batch_size=2), CONFIG, num_plots=0, observers=observers)
    assert report.metrics["lpips_vgg"] > 0 and len(list((tmp_path / "recon_vids").rglob("*.png"))) == 7
