"""LPIPS with the weights that the original programs save beside their VQ-VAEs."""

import re
from collections.abc import Mapping

from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.metrics.lpips import Lpips, with_weights
from torchslots.metrics.networks.stages import alexnet, vgg16


def lpips_from_state(state: Mapping[str, Tensor], dropout: float = 0.0) -> Lpips:
    """LPIPS from the state dict of the original program, or of one that contains it, as its VQ-VAE checkpoints do.

    Names end in `net.slice1.0.weight` or `lin0.model.1.weight`; the prefix in front of them and all other tensors are
    ignored. The names decide between VGG16 and AlexNet.

    Raises:
        UserError: tensors are missing or of another shape.
    """
    first = "net.slice1.0.weight"
    prefix = next((name.removesuffix(first) for name in state if name.endswith(first)), None)
    if prefix is None:
        raise UserError(
            "There is no LPIPS in this checkpoint (no `net.slice1.0.weight`). Checkpoints without "
            "`loss.perceptual_loss` have lost it: use the published files."
        )
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    trunk = {
        re.sub(r"net\.slice\d\.", "features.", name): value
        for name, value in inner.items()
        if name.startswith("net.slice")
    }
    heads = {name: value for name, value in inner.items() if re.match(r"lin\d\.", name)}
    return with_weights(Lpips(vgg16() if "features.2.weight" in trunk else alexnet(), dropout), trunk, heads)
