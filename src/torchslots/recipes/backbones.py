"""Vision transformers that slots are found on, pretrained without labels: DINO and DINOv2.

Their weights are not part of this package: `pretrained` names the model on the Hugging Face hub that has them.
"""

from dataclasses import dataclass, replace

from torchslots.io.errors import UserError
from torchslots.models.backbones.names import Kind
from torchslots.models.backbones.vit import ViT, dino, dinov2


@dataclass(frozen=True)
class BackboneConfig:
    """A vision transformer; its features are those behind its last block, before the final norm."""

    kind: Kind = "dinov2"
    size: int = 768
    """Width of the features."""
    depth: int = 12
    """Blocks."""
    num_heads: int = 12
    patch_size: int = 14
    """Pixels of a patch's side."""
    grid_size: int = 37
    """Rows, and columns, of the grid that positions are stored for."""
    num_registers: int = 0
    """Tokens between the class token and the patches; of DINOv2 alone."""
    pretrained: str = ""
    """Where its weights are on the Hugging Face hub, as owner/name; nothing: they are random."""
    trainable_from: int | None = None
    """The first block that is trained; 0: all, embeddings too; None: none, it is frozen."""
    keys: bool = False
    """Hand on the keys of the last block's attention, too."""

    def grid(self, resolution: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of frames of that size."""
        return resolution[0] // self.patch_size, resolution[1] // self.patch_size


DINO_S16 = BackboneConfig("dino", 384, 12, 6, 16, 14, pretrained="facebook/dino-vits16")
DINO_S8 = replace(DINO_S16, patch_size=8, grid_size=28, pretrained="facebook/dino-vits8")
DINO_B16 = BackboneConfig("dino", 768, 12, 12, 16, 14, pretrained="facebook/dino-vitb16")
DINO_B8 = replace(DINO_B16, patch_size=8, grid_size=28, pretrained="facebook/dino-vitb8")
DINOV2_S14 = BackboneConfig("dinov2", 384, 12, 6, 14, 37, pretrained="facebook/dinov2-small")
DINOV2_B14 = BackboneConfig("dinov2", 768, 12, 12, 14, 37, pretrained="facebook/dinov2-base")
DINOV2_L14 = BackboneConfig("dinov2", 1024, 24, 16, 14, 37, pretrained="facebook/dinov2-large")
TINY_VIT = BackboneConfig("dinov2", 24, 2, 2, 4, 4)
"""For tests and demos: random, frames of 16 x 16."""


def build_backbone(config: BackboneConfig) -> ViT:
    """The transformer with random weights.

    Raises:
        UserError: DINO with registers.
    """
    shared = {"depth": config.depth, "num_heads": config.num_heads, "trainable_from": config.trainable_from}
    sizes = {"patch_size": config.patch_size, "grid_size": config.grid_size, "keys": config.keys}
    if config.kind == "dinov2":
        return dinov2(config.size, **shared, **sizes, num_registers=config.num_registers)
    if config.num_registers:
        raise UserError("DINO has no registers: set backbone.num_registers to 0, or backbone.kind to dinov2.")
    return dino(config.size, **shared, **sizes)
