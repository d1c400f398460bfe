"""SAVi, and Slot Attention for images, in SlotDiffusion's PyTorch program: `.pth` files of its trainer."""

from collections.abc import Mapping
from typing import Any

from torchslots.convert.layouts import RECONFIGURE, Shapes, WeightMap, count, explained
from torchslots.convert.originals import slotdiffusion_encoder as slot_encoder
from torchslots.io.errors import UserError
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig, SaviPytorchDecoderConfig


def leaves(config: SaviPytorchConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict."""
    decoder = config.decoder
    return [
        *slot_encoder.leaves(config.slots),
        *slot_encoder.convolutions("decoder", "decoder.backbone", len(decoder.channels), decoder.norm),
        *_head(f"decoder.{len(decoder.channels)}"),
        *slot_encoder.position("decoder_pos_embedding", "decoder.position"),
    ]


def _head(path: str) -> list[WeightMap]:
    """A 1x1 convolution to colours and, last, mask score; two linear maps here."""
    colours, mask, weight = "decoder.heads.video", "decoder.mask_head", f"{path}.weight"
    return [
        WeightMap(weight, f"{colours}.weight", lambda a: a[:3, :, 0, 0], lambda a: a[..., None, None]),
        WeightMap(weight, f"{mask}.weight", lambda a: a[3:, :, 0, 0], lambda a: a[..., None, None]),
        WeightMap(f"{path}.bias", f"{colours}.bias", lambda a: a[:3]),
        WeightMap(f"{path}.bias", f"{mask}.bias", lambda a: a[3:]),
    ]


@explained("This is no configuration of SAVi in SlotDiffusion's program", RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> SaviPytorchConfig:
    """Configuration from the original's own configuration.

    Raises:
        UserError: a field is missing, or asks for what is not built here.
    """
    slots = slot_encoder.from_reference(reference)
    theirs = reference["dec_dict"]
    rows, columns = theirs["dec_resolution"]
    decoder = SaviPytorchDecoderConfig(
        grid=(rows, columns),
        channels=tuple(theirs["dec_channels"][1:]),
        kernel=theirs["dec_ks"],
        norm=slot_encoder.norm_name(theirs["dec_norm"]),
    )
    return SaviPytorchConfig(slots, decoder)


def from_shapes(shapes: Shapes) -> SaviPytorchConfig:
    """Configuration from the names and shapes of a state dict; see `slot_encoder.from_shapes` for what they leave open.

    Raises:
        UserError: the names are not those of this model.
    """
    slots = slot_encoder.from_shapes(shapes)
    layers = count(shapes, r"decoder\.\d+\.0\.weight")
    grid = shapes.get("decoder_pos_embedding.grid")
    if not layers or grid is None or len(grid) != 4:
        raise UserError(
            "These are not the weights of SAVi in SlotDiffusion's code: it has a decoder with a grid."
        )
    kernels = [shapes[f"decoder.{i}.0.weight"] for i in range(layers)]
    decoder = SaviPytorchDecoderConfig(
        grid=(grid[1], grid[2]),
        channels=tuple(kernel[1] for kernel in kernels),
        kernel=kernels[0][-1],
        norm=slot_encoder.norm_of(shapes, "decoder"),
    )
    return SaviPytorchConfig(slots, decoder)
