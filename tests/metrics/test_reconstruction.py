"""Figures of reconstructions: slices, batches and processes add up, padding does not count."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from torchslots.metrics.image import psnr, squared_error, ssim
from torchslots.metrics.lpips import Lpips
from torchslots.metrics.networks.stages import alexnet
from torchslots.metrics.reconstruction import DEFINITIONS, LABELS, NETWORK_METRICS, ReconstructionScores
from torchslots.metrics.video import clip_start, frame_order


class _Pooled(nn.Module):
    """A few numbers of a picture or a clip, in place of a large network."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(pictures.flatten(0, -4), 2).flatten(1)
        return nn.functional.pad(pooled.reshape(len(pictures), -1), (0, self.num_features))[
            :, : self.num_features
        ]

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    metric = Lpips(alexnet())
    for head in metric.heads:
        head.weight.data.abs_()
    return {"lpips_alex": metric, "fid": _Pooled(12), "fvd": _Pooled(30)}


def _videos(num_videos: int = 4, num_frames: int = 18) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(num_videos, num_frames, 3, 36, 40, generator=generator)
    made = real + 0.2 * torch.randn(real.shape, generator=generator)
    return made, real, [f"video_{i}" for i in range(num_videos)]


def test_every_figure_is_explained():
    assert set(DEFINITIONS) == set(LABELS) >= set(NETWORK_METRICS)


def test_slices_and_batches_add_up_to_the_figures_of_frames():
    made, real, names = _videos()
    whole, parts = ReconstructionScores({"fvd": _Pooled(30)}), ReconstructionScores({"fvd": _Pooled(30)})
    whole.add(made, real)
    whole.finish(names)
    for rows in (slice(0, 1), slice(1, 4)):
        parts.add(made[rows, :7], real[rows, :7])
        parts.add(made[rows, 7:], real[rows, 7:])
        parts.finish(names[rows])
    (figures, notes), (again, _) = whole.compute(), parts.compute()
    assert notes == [] and figures == pytest.approx(again, rel=1e-9)
    clipped = made.clamp(0, 1)
    for name, figure in (("mse", squared_error), ("psnr", psnr), ("ssim", ssim)):
        assert figures[name] == pytest.approx(float(figure(clipped, real).mean()))


def test_frames_of_padding_do_not_count():
    made, real, names = _videos(3, 20)
    mask = torch.ones(3, 20, 36, 40, dtype=torch.bool)
    mask[1, 17:] = False
    mask[2, 5:] = False
    padded = ReconstructionScores(_networks())
    padded.add(made, real, mask)
    padded.finish(names)
    apart = ReconstructionScores(_networks())
    for row, frames in ((0, 20), (1, 17), (2, 5)):
        apart.add(made[row : row + 1, :frames], real[row : row + 1, :frames])
        apart.finish(names[row : row + 1])
    (figures, notes), (expected, _) = padded.compute(), apart.compute()
    assert set(figures) == {"mse", "psnr", "ssim", "lpips_alex", "fid", "fvd"}
    assert figures == pytest.approx(expected, rel=1e-4)
    assert notes == ["FVD leaves out 1 video, shorter than its clips."]


def test_lpips_sees_what_is_beyond_the_range():
    made, real, _ = _videos(1, 2)
    scores = ReconstructionScores({"lpips_alex": (metric := _networks()["lpips_alex"])})
    scores.add(made, real)
    expected = metric(made[0] * 2 - 1, real[0] * 2 - 1).mean()
    assert scores.compute()[0]["lpips_alex"] == pytest.approx(float(expected), rel=1e-5)


def test_what_is_not_defined_is_left_out():
    picture = torch.rand(1, 3, 3, 8, 8)
    scores = ReconstructionScores({"fvd": _Pooled(30)})
    scores.add(picture, picture)
    scores.finish(["a"])
    figures, notes = scores.compute()
    assert figures == {"mse": 0}
    assert len(notes) == 2 and "PSNR is left out" in notes[0]
    assert ReconstructionScores().compute() == ({}, [])


def test_the_published_order_changes_fvd_alone():
    made, real, names = _videos(4, 24)
    values = []
    for published in (False, True):
        scores = ReconstructionScores({"fvd": _Pooled(30)}, published_order=published)
        scores.add(made, real)
        scores.finish(names)
        values.append(scores.compute()[0])
    by_hand = ReconstructionScores({"fvd": _Pooled(30)})
    order = frame_order(24, as_published=True)
    by_hand.add(made[:, order], real[:, order])
    by_hand.finish(names)
    assert values[0].pop("fvd") != values[1]["fvd"]
    assert values[1].pop("fvd") == by_hand.compute()[0]["fvd"]
    assert values[0] == values[1]
    assert {clip_start(name, 24, 16, 0) for name in names} != {0}


@pytest.mark.device
def test_figures_on_a_device(device):
    made, real, names = _videos(3)
    values = []
    for place in (torch.device("cpu"), device):
        scores = ReconstructionScores(_networks(), device=place)
        scores.add(made.to(place), real.to(place))
        scores.finish(names)
        values.append(scores.compute()[0])
    assert values[0] == pytest.approx(values[1], rel=1e-3)


_TWO_PROCESSES = """
import json, os, sys
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_reconstruction import _Pooled, _videos
from torchslots.metrics.reconstruction import ReconstructionScores

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
made, real, names = _videos()
scores = ReconstructionScores({"fvd": _Pooled(30)})
rows = [slice(0, 3), slice(3, 4)][rank]
scores.add(made[rows], real[rows])
scores.finish(names[rows])
figures = scores.compute()[0]
if rank == 0:
    print(json.dumps(figures))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tmp_path):
    folder = str(__file__).rsplit("/", 1)[0]
    arguments = [sys.executable, "-c", _TWO_PROCESSES, folder]
    running = [
        subprocess.Popen([*arguments, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    made, real, names = _videos()
    alone = ReconstructionScores({"fvd": _Pooled(30)})
    alone.add(made, real)
    alone.finish(names)
    assert json.loads(outputs[0]) == pytest.approx(alone.compute()[0], rel=1e-9)
