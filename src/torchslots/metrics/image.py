"""How near a picture is to its target: MSE, PSNR and SSIM, one figure per frame, and their mean."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

_WINDOW, _SPREAD = 11, 1.5
_STABILIZERS = (0.01**2, 0.03**2)

Pictures = Float[Tensor, "*batch C H W"]


def squared_error(prediction: Pictures, target: Pictures) -> Float[Tensor, "*batch"]:
    """Squared error of each frame, summed over channels and pixels as SlotDiffusion reports it."""
    return (prediction.double() - target.double()).square().sum((-3, -2, -1))


def psnr(prediction: Pictures, target: Pictures) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio of each frame in dB, pictures in [0, 1]; infinite where they are equal."""
    return -10 * torch.log10((prediction.double() - target.double()).square().mean((-3, -2, -1)))


def ssim(prediction: Pictures, target: Pictures) -> Float[Tensor, "*batch"]:
    """Structural similarity of each frame for pictures in [0, 1] (Wang et al., 2004), mean over channels.

    Gaussian window of 11 pixels and standard deviation 1.5, population covariance, and only windows that lie
    inside the frame, as scikit-image computes it; torchmetrics' own differs at small sizes. Frames need 11
    pixels a side.
    """
    x, y = (picture.double().flatten(0, -3)[:, None] for picture in (prediction, target))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _STABILIZERS[0]) / (mean_x**2 + mean_y**2 + _STABILIZERS[0])
    structure = (2 * covariance + _STABILIZERS[1]) / (var_x + var_y + _STABILIZERS[1])
    return (luminance * structure).mean((1, 2, 3)).reshape(prediction.shape[:-2]).mean(-1)


def _blur(picture: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n 1 h w"]:
    offset = torch.arange(_WINDOW, dtype=picture.dtype, device=picture.device) - _WINDOW // 2
    kernel = torch.exp(-0.5 * (offset / _SPREAD) ** 2)
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(picture, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


class PictureMean(Metric):
    """Mean of a figure over all frames that were seen, over all processes, in float64."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Float[Tensor, "n"]) -> None:
        """Add a figure of each of n frames."""
        self.total += values.detach().double().sum()
        self.count += len(values)

    def compute(self) -> Float[Tensor, ""]:
        """The mean; NaN without any frame."""
        return self.total / self.count
