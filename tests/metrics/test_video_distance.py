"""Fréchet distances of videos and frames: which clip is taken, in which order, and what reaches the network."""

import numpy as np
import pytest
import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.metrics.frechet import normal
from torchslots.metrics.video import FrameDistance, VideoDistance, clip_features, clip_start, frame_order
from torchslots.models.layers.ranges import to_bytes


class _FirstPixels(nn.Module):
    """The red of the first pixel of each frame: features that say which frames came."""

    num_features = 16

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        assert clips.shape[1] == 3 and clips.shape[3:] == (224, 224)
        return clips[:, 0, :, 0, 0]


class _MeanColour(nn.Module):
    num_features = 3

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3))


def _numbered(num_videos: int, num_frames: int = 24) -> torch.Tensor:
    """Frames that show their number, 10 apart for each; videos begin one later each."""
    shades = torch.arange(num_frames) * 10 + torch.arange(num_videos)[:, None]
    return shades[..., None, None, None].expand(-1, -1, 3, 20, 24).to(torch.uint8)


def _seen(features: torch.Tensor) -> list[list[int]]:
    return ((features + 1) * 127.5).round().int().tolist()


def test_clips_are_scaled_and_resized():
    features = clip_features(_FirstPixels(), _numbered(3, 16))
    assert _seen(features) == [[10 * t + video for t in range(16)] for video in range(3)]


def test_the_published_order_sorts_names_as_text():
    names = [f"{t}.png" for t in range(24)]
    assert [names[t] for t in frame_order(24, as_published=True)] == sorted(names)
    assert frame_order(24) == list(range(24))


def test_real_clips_start_anywhere_and_always_at_the_same_place():
    starts = [clip_start(f"video {i}", 24, 16, seed=0) for i in range(200)]
    assert set(starts) == set(range(9))
    assert starts == [clip_start(f"video {i}", 24, 16, seed=0) for i in range(200)]
    assert starts != [clip_start(f"video {i}", 24, 16, seed=1) for i in range(200)]
    assert clip_start("", 16, 16, 0) == 0


@pytest.mark.parametrize("published_order", [False, True])
def test_distance_is_that_of_the_chosen_clips(published_order):
    videos, names = _numbered(6), [f"{i:08d}" for i in range(6)]
    distance = VideoDistance(_FirstPixels(), published_order=published_order)
    distance.add(videos[:5], names[:5], real=True)
    distance.add(videos[5:], names[5:], real=True)
    distance.add(videos, names, real=False)
    order = np.array(frame_order(24, published_order))
    starts = [clip_start(name, 24, 16, 0) for name in names]
    real = np.stack([order[start : start + 16] * 10 + i for i, start in enumerate(starts)])
    made = np.stack([order[:16] * 10 + i for i in range(6)])
    moments = distance._distance
    for row, clips in ((1, real), (0, made)):
        found = normal(moments.count[row], moments.total[row], moments.products[row], False)
        expected = clips * 2 / 255 - 1
        np.testing.assert_allclose(found.mean, expected.mean(0), atol=1e-6)
        np.testing.assert_allclose(found.covariance, np.cov(expected.T, bias=True), atol=1e-6)
    assert distance.compute() > 0


def test_order_within_batches_does_not_matter_but_names_do():
    videos, names = _numbered(6), [f"{i:08d}" for i in range(6)]
    values = []
    for rows in (list(range(6)), list(reversed(range(6)))):
        distance = VideoDistance(_FirstPixels())
        distance.add(videos[rows], [names[row] for row in rows], real=True)
        distance.add(videos[rows], [names[row] for row in rows], real=False)
        values.append(distance.compute())
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_short_videos_are_left_out_and_counted():
    distance = VideoDistance(_FirstPixels())
    distance.add(_numbered(3, 15), ["a", "b", "c"], real=True)
    assert distance.too_short() == 3 and np.isnan(distance.compute())
    with pytest.raises(UserError, match="at least 9 frames, got 6"):
        VideoDistance(_FirstPixels(), clip_frames=6)


def test_frames():
    """One colour each: the distance is that of three numbers, covariances divided by one less than their number."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 50, 3, 1, 1, generator=generator).expand(-1, -1, -1, 4, 4)
    real, made = to_bytes(colours)
    distance = FrameDistance(_MeanColour())
    for part in real.split(33):
        distance.add(part, real=True)
    distance.add(made, real=False)
    moments = distance._distance
    expected = np.cov(real[:, :, 0, 0].T.numpy() / 255)
    found = normal(moments.count[1], moments.total[1], moments.products[1], moments.unbiased)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-5)
    assert 0 < distance.compute() < 0.1


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 1.5]).view(7, 1, 1).expand(7, 1, 3)
    assert to_bytes(values.permute(0, 2, 1)[..., None])[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 128, 255, 255]
