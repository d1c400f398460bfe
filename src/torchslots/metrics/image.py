"""Squared error, PSNR and SSIM of each frame."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_WINDOW, _SPREAD = 11, 1.5
_STABILIZERS = (0.01**2, 0.03**2)

Images = Float[Tensor, "*batch C H W"]


def squared_error(prediction: Images, target: Images) -> Float[Tensor, "*batch"]:
    """Squared error of each frame, summed over channels and pixels as in SlotDiffusion's tables."""
    return (prediction.double() - target.double()).square().sum((-3, -2, -1))


def psnr(prediction: Images, target: Images) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio of each frame in dB, images in [0, 1]; infinite where they are equal."""
    return -10 * torch.log10((prediction.double() - target.double()).square().mean((-3, -2, -1)))


def ssim(prediction: Images, target: Images) -> Float[Tensor, "*batch"]:
    """Structural similarity of each frame for images in [0, 1] (Wang et al., 2004), mean over channels.

    Gaussian window of 11 pixels and standard deviation 1.5, population covariance, only windows inside the frame, as in
    scikit-image; torchmetrics differs at small sizes. Height and width must be at least 11.
    """
    x, y = (image.double().flatten(0, -3)[:, None] for image in (prediction, target))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _STABILIZERS[0]) / (mean_x**2 + mean_y**2 + _STABILIZERS[0])
    structure = (2 * covariance + _STABILIZERS[1]) / (var_x + var_y + _STABILIZERS[1])
    return (luminance * structure).mean((1, 2, 3)).reshape(prediction.shape[:-2]).mean(-1)


def _blur(image: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n 1 h w"]:
    offset = torch.arange(_WINDOW, dtype=image.dtype, device=image.device) - _WINDOW // 2
    kernel = torch.exp(-0.5 * (offset / _SPREAD) ** 2)
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(image, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
