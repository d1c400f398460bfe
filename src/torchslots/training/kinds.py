"""Kinds of models that are trained: how each is judged, and by which figure the best of a run is chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from torchslots.decoders.properties import Properties
from torchslots.latents.tokenizer import Tokenizer
from torchslots.model import ObjectCentricModel
from torchslots.shapes import Batch
from torchslots.training.eval_report import EvalReport
from torchslots.training.evaluate import evaluate
from torchslots.training.painted import Onlooker
from torchslots.training.recipe import EvalConfig
from torchslots.training.reconstruction import evaluate_tokenizer


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
        onlookers: Sequence[Onlooker] = (),
    ) -> EvalReport:
        """See `torchslots.training.evaluate.evaluate`."""
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
    names_properties = isinstance(model, ObjectCentricModel) and isinstance(model.decoder, Properties)
    return SETS if names_properties else SLOTS
