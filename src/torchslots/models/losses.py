"""Losses as functions of tensors; each returns one scalar."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def sum_squared_error(prediction: Float[Tensor, "B *n"], target: Float[Tensor, "B *n"]) -> Float[Tensor, ""]:
    """Squared error summed over everything but the batch, then averaged over the batch (SAVi, appendix A).

    It is large, 1e3 to 1e5 for a clip: the gradient clipping of SAVi's recipes is tuned to that.
    """
    return (prediction - target).square().sum() / prediction.shape[0]


def mean_squared_error(prediction: Float[Tensor, "B *n"], target: Float[Tensor, "B *n"]) -> Float[Tensor, ""]:
    """Squared error averaged over everything (Slot Attention, section 4.1)."""
    return (prediction - target).square().mean()


def mean_colour_error(
    prediction: Float[Tensor, "n 3 H W"], target: Float[Tensor, "n 3 H W"], weight: float
) -> Float[Tensor, ""]:
    """Squared error averaged over everything, with the part that is not grey counted `weight` times.

    Brightness differs about ten times as much as colour does, and is learned sooner.
    """
    error = prediction - target
    grey = error.mean(1, keepdim=True)
    return grey.square().mean() + weight * (error - grey).square().mean()


def mean_cross_entropy(logits: Float[Tensor, "n l V"], codes: Int[Tensor, "n l"]) -> Float[Tensor, ""]:
    """Cross entropy of the true codes, averaged over all of them: SlotDiffusion's STEVE."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def sum_cross_entropy(logits: Float[Tensor, "n l V"], codes: Int[Tensor, "n l"]) -> Float[Tensor, ""]:
    """Cross entropy of the true codes, summed over an image and averaged over images: STEVE's original."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum") / len(codes)
