"""Picture metrics equal recorded scikit-image values (8 of the recorded cases, to keep the file small)."""

import numpy as np
import pytest
import torch

from recorded import GOLDEN
from torchslots.metrics.image import psnr, squared_error, ssim

_RECORDED = np.load(GOLDEN / "sd_metrics/img_first_8.npz")


@pytest.mark.parametrize(("name", "score"), [("mse", squared_error), ("psnr", psnr), ("ssim", ssim)])
def test_recorded_values(name, score):
    values = score(torch.from_numpy(_RECORDED["x"]), torch.from_numpy(_RECORDED["y"]))
    assert values.shape == _RECORDED["x"].shape[:-3]
    np.testing.assert_allclose(values.mean(1), _RECORDED[name], rtol=1e-6)


def test_equal_pictures():
    picture = torch.rand(2, 3, 16, 16)
    assert torch.allclose(ssim(picture, picture), torch.ones(2, dtype=torch.float64))
    assert psnr(picture, picture).isinf().all()
    assert (squared_error(picture, picture) == 0).all()
