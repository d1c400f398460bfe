"""Encode frames to tokens through the features of a vision transformer (Seitzer et al. 2023, section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchslots.io.errors import UserError
from torchslots.models.backbones.vit import ViT
from torchslots.models.slots.encoder import Encoder
from torchslots.models.types import Encoded, Features


class FeatureEncoder(Encoder):
    """A backbone, and a transform of each patch's features to a token; features are handed on as they are.

    Args:
        normalize: frames in [0, 1] to what the backbone was trained on.
        backbone: normalised frames to `Features`.
        transform: features [B, N, C] to tokens [B, N, D].
        antialias: frames were resized with antialiasing in training.
    """

    def __init__(self, normalize: nn.Module, backbone: ViT, transform: nn.Module, *, antialias: bool = False):
        super().__init__()
        self.antialias = antialias
        self.normalize, self.backbone, self.transform = normalize, backbone, transform

    def encode(self, frames: Float[Tensor, "B 3 H W"], keys: bool = True) -> Encoded:
        """Raise UserError where frames do not divide into patches."""
        features: Features = self.backbone(self.normalize(frames), keys)
        return Encoded(self.transform(features.tokens), features, self.backbone.grid(frames))

    def encode_features(self, features: Features) -> Encoded:
        """Tokens of stored features, in the precision of the transform's weights.

        Raises:
            UserError: features of another width than the backbone's.
        """
        if features.tokens.shape[-1] != self.backbone.size:
            raise UserError(
                f"`features` should be {self.backbone.size} wide, as this model's backbone makes them, got "
                f"{list(features.tokens.shape)}. Store them again with the model's own backbone."
            )
        precise = features.map(torch.Tensor.float)
        return Encoded(self.transform(precise.tokens), precise)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Tokens alone."""
        return self.encode(frames, keys=False).tokens
