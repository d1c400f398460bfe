"""What is not as on one process where a batch is split over processes or accumulation steps."""

from torch import nn

from torchslots.models.decoders.code_transformer import CodeTransformer
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.model import ObjectCentricModel
from torchslots.models.tokenizers.dvae import DVAE


def differences(model: nn.Module, processes: int, accumulation: int, own_noise: bool) -> list[str]:
    """Sentences for the start of a run; none where the gradients are those of one process and one part.

    Args:
        own_noise: dropout and the noise of codes are sampled for each part by itself, as on GPUs and in compiled steps.
    """
    if processes * accumulation == 1:
        return []
    kinds = {"processes": processes, "accumulation steps": accumulation}
    split = " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count > 1)
    found = []
    if own_noise and samples_noise(model):
        found.append(
            f"Dropout and the noise of codes are sampled in each of {split} by itself: other numbers than in another "
            "number of them."
        )
    if isinstance(model, ObjectCentricModel) and model.decoder.compares_clips:
        found.append(
            f"The contrast compares slots of clips within each of {split}, not of the whole batch: another number of "
            "them has another loss."
        )
    return found


def samples_noise(model: nn.Module) -> bool:
    """Whether a model in training samples dropout, dropped tokens or the noise of codes."""
    return any(_samples(part) for part in model.modules())


def _samples(part: nn.Module) -> bool:
    if isinstance(part, nn.Dropout):
        return part.p > 0
    if isinstance(part, MultiHeadAttention | nn.MultiheadAttention):
        return part.dropout > 0
    if isinstance(part, CodeTransformer):
        return part.token_dropout > 0
    return isinstance(part, DVAE) and any(weight.requires_grad for weight in part.parameters())
