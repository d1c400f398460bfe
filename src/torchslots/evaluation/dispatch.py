"""Kinds of models that are trained: how each is judged, and by which figure the best of a run is chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.observers import Observer
from torchslots.evaluation.report import EvalReport
from torchslots.evaluation.tokenizer import evaluate_tokenizer
from torchslots.models.decoders.set_prediction import SetPredictionDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.types import Batch
from torchslots.recipes.config import EvalConfig


class Evaluate(Protocol):
    """Judges a model on whole videos."""

    def __call__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        config: EvalConfig,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        draw: int = 4,
        onlookers: Sequence[Observer] = (),
    ) -> EvalReport:
        """See `torchslots.evaluation.evaluate.evaluate`."""
        ...


@dataclass(frozen=True)
class Kind:
    """One kind of model."""

    evaluate: Evaluate
    monitor: str
    """The figure whose highest value marks the best model, where nobody names another."""


SLOTS = Kind(evaluate, "fg_ari")
SETS = Kind(evaluate, "ap_inf")
TOKENIZER = Kind(evaluate_tokenizer, "psnr")


def kind_of(model: nn.Module) -> Kind:
    """The kind of a model: an image code, or slots that paint or that name properties."""
    if isinstance(model, Tokenizer):
        return TOKENIZER
    names_properties = isinstance(model, ObjectCentricModel) and isinstance(
        model.decoder, SetPredictionDecoder
    )
    return SETS if names_properties else SLOTS
