"""Tokenizers are evaluated by what they give back, each real frame of each video once."""

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.evaluation import tokenizer as reconstruction
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.report import format_figure
from torchslots.io.errors import UserError
from torchslots.metrics.image import psnr, squared_error, ssim
from torchslots.models.decoders.set_prediction import SetPredictionDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch
from torchslots.recipes import catalog
from torchslots.recipes.config import EvalConfig
from torchslots.recipes.savi import savi_demo


class Darker(Tokenizer):
    """Gives each picture back darker by a tenth of its range, and beyond it where it is darkest."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"recon": batch["video"].mean()}

    def reconstruct(self, pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        assert not self.training and pictures.min() < -0.9
        self.sizes.append(len(pictures))
        return pictures - 0.2


def _batch(videos: int, frames: int = 5, side: int = 12, seed: int = 0) -> Batch:
    video = torch.rand(videos, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(videos, frames, side, side, dtype=torch.bool)
    mask[0, 3:] = False
    return {"video": video, "padding_mask": mask, "name": [f"video {seed}{i}" for i in range(videos)]}


CONFIG = EvalConfig(num_frames=5, slice_size=2, batch_size=2)


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever weights this machine has."""
    monkeypatch.setattr(reconstruction, "perceptual_network", lambda: ({}, ["LPIPS is left out."]))


def test_figures_are_means_over_real_frames() -> None:
    batches, model = [_batch(2), _batch(1, seed=1)], Darker()
    report = evaluate(model.train(), iter(batches), CONFIG)
    true = torch.cat([batch["video"][batch["padding_mask"].flatten(2).any(2)] for batch in batches])
    back = (true - 0.1).clamp(0, 1)
    assert len(true) == 11
    expected = {
        "psnr": float(psnr(back, true).mean()),
        "mse": float(squared_error(back, true).mean()),
        "ssim": float(ssim(back, true).mean()),
    }
    assert report.metrics == pytest.approx(expected, rel=1e-5) and report.num_videos == 3
    assert report.metrics["psnr"] > 20.0  # no picture is farther off than a tenth
    assert model.training and max(model.sizes) == 4  # two videos, two frames
    assert set(report.definitions) == set(expected) and report.settings["slice_size"] == 2
    assert report.notes == ["LPIPS is left out."]


def test_a_network_that_is_there_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Apart(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x - y).abs().flatten(1).mean(1)

    monkeypatch.setattr(reconstruction, "perceptual_network", lambda: ({"lpips_vgg": Apart()}, []))
    report = evaluate(Darker(), iter([_batch(2)]), CONFIG)
    assert report.metrics["lpips_vgg"] == pytest.approx(0.2, rel=1e-5) and not report.notes


def test_pictures_show_input_and_reconstruction() -> None:
    report = evaluate(Darker(), iter([_batch(2), _batch(2, seed=1)]), CONFIG, num_plots=3)
    assert [drawn.name for drawn in report.panels] == ["video 00", "video 01", "video 10"]
    panels = [drawn.panel(64) for drawn in report.panels]
    assert [len(panel) for panel in panels] == [3, 5, 3]  # without padding
    height, width = panels[1].shape[1:3]
    assert height % 2 == 0 and width % 2 == 0
    left, right = panels[1][:, :, : width // 2], panels[1][:, :, width // 2 :]
    assert left.mean() > right.mean() + 5


def test_small_pictures_and_batches_without_masks_have_figures_too() -> None:
    batch = {"video": _batch(2, side=8)["video"]}
    report = evaluate(Darker(), iter([batch]), CONFIG, num_plots=1)
    assert set(report.metrics) == {"psnr", "mse"} and report.panels[0].name == ""


def test_no_video_is_refused() -> None:
    with pytest.raises(UserError, match="There is no video to evaluate"):
        evaluate(Darker(), iter([]), CONFIG)


def test_half_precision_is_near() -> None:
    model = catalog.build_seeded(catalog.recipe("dvae_demo").model, 0)
    batch = {"video": _batch(1, side=16)["video"]}
    full = evaluate(model, iter([batch]), CONFIG).metrics["psnr"]
    half = evaluate(model, iter([batch]), CONFIG, precision="bf16").metrics["psnr"]
    assert math.isfinite(full) and half == pytest.approx(full, rel=0.02)


def test_each_kind_of_model_names_the_figure_to_watch() -> None:
    assert Darker().monitor == "psnr" and "psnr" in evaluate(Darker(), iter([_batch(1)]), CONFIG).metrics
    model = catalog.build_seeded(savi_demo().model, 0)
    assert isinstance(model, ObjectCentricModel) and model.monitor == "fg_ari"
    sets = catalog.build_seeded(catalog.recipe("set_prediction_demo").model, 0)
    assert isinstance(sets, ObjectCentricModel) and isinstance(sets.decoder, SetPredictionDecoder)
    assert sets.monitor == "ap_inf"


def test_ratios_are_told_in_decibel() -> None:
    assert format_figure("psnr", 21.456) == "21.46 dB" and format_figure("mse", 0.012346) == "0.01235"
