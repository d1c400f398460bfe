"""Picture metrics equal recorded scikit-image values (8 of the recorded cases, to keep the file small)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from torchslots.metrics.image import psnr, squared_error, ssim

_GOLDEN = np.load(Path(__file__).parents[1] / "golden/sd_metrics/img_first_8.npz")


@pytest.mark.parametrize(("name", "score"), [("mse", squared_error), ("psnr", psnr), ("ssim", ssim)])
def test_recorded_values(name, score):
    values = score(torch.from_numpy(_GOLDEN["x"]), torch.from_numpy(_GOLDEN["y"]))
    assert values.shape == _GOLDEN["x"].shape[:-3]
    np.testing.assert_allclose(values.mean(1), _GOLDEN[name], rtol=1e-6)


def test_equal_pictures():
    picture = torch.rand(2, 3, 16, 16)
    assert torch.allclose(ssim(picture, picture), torch.ones(2, dtype=torch.float64))
    assert psnr(picture, picture).isinf().all()
    assert (squared_error(picture, picture) == 0).all()
