"""Losses as functions of tensors; each returns one scalar."""

from jaxtyping import Float
from torch import Tensor


def sum_squared_error(prediction: Float[Tensor, "B *n"], target: Float[Tensor, "B *n"]) -> Float[Tensor, ""]:
    """Squared error summed over everything but the batch, then averaged over the batch (SAVi, appendix A).

    It is large, 1e3 to 1e5 for a clip: the gradient clipping of SAVi's recipes is tuned to that.
    """
    return (prediction - target).square().sum() / prediction.shape[0]


def mean_squared_error(prediction: Float[Tensor, "B *n"], target: Float[Tensor, "B *n"]) -> Float[Tensor, ""]:
    """Squared error averaged over everything (Slot Attention, section 4.1)."""
    return (prediction - target).square().mean()
