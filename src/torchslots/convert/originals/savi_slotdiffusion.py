"""SlotDiffusion's PyTorch SAVi (and its Slot Attention for images): the original's names and numbers, and ours."""

from collections.abc import Mapping
from typing import Any

from torchslots.convert.layouts import WeightMap
from torchslots.convert.originals import slotdiffusion_encoder as slot_encoder_torch
from torchslots.io.errors import UserError
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig, SaviPytorchDecoderConfig


def leaves(config: SaviPytorchConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict."""
    decoder = config.decoder
    return [
        *slot_encoder_torch.leaves(config.slots),
        *slot_encoder_torch.convolutions("decoder", "decoder.backbone", len(decoder.channels), decoder.norm),
        *_head(f"decoder.{len(decoder.channels)}"),
        *slot_encoder_torch.position("decoder_pos_embedding", "decoder.position"),
    ]


def _head(path: str) -> list[WeightMap]:
    """One 1x1 convolution to colours and, last, mask score: two linear maps here."""
    return [
        WeightMap(
            f"{path}.weight",
            "decoder.heads.video.weight",
            lambda a: a[:3, :, 0, 0],
            lambda a: a[..., None, None],
        ),
        WeightMap(
            f"{path}.weight",
            "decoder.mask_head.weight",
            lambda a: a[3:, :, 0, 0],
            lambda a: a[..., None, None],
        ),
        WeightMap(f"{path}.bias", "decoder.heads.video.bias", lambda a: a[:3], lambda a: a),
        WeightMap(f"{path}.bias", "decoder.mask_head.bias", lambda a: a[3:], lambda a: a),
    ]


def from_reference(reference: Mapping[str, Any]) -> SaviPytorchConfig:
    """Numbers from the original's own configuration.

    Raises:
        UserError: a field is missing, or asks for what is not built here.
    """
    slots = slot_encoder_torch.from_reference(reference)
    try:
        numbers = reference["dec_dict"]
        rows, columns = numbers["dec_resolution"]
        decoder = SaviPytorchDecoderConfig(
            grid=(rows, columns),
            channels=tuple(numbers["dec_channels"][1:]),
            kernel=numbers["dec_ks"],
            norm=slot_encoder_torch.norm_name(numbers["dec_norm"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"This is no configuration of SAVi in SlotDiffusion's code: {error!r} of `dec_dict` is missing or "
            "ill-typed. Give the original's params as JSON."
        ) from error
    return SaviPytorchConfig(slots, decoder)


def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> SaviPytorchConfig:
    """Numbers from the names and shapes of a state dict; see `slot_encoder_torch.from_shapes` for what they leave open.

    Raises:
        UserError: the names are not those of this model.
    """
    slots = slot_encoder_torch.from_shapes(shapes)
    layers = slot_encoder_torch.count(shapes, r"decoder\.\d+\.0\.weight")
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
        norm=slot_encoder_torch.norm_of(shapes, "decoder"),
    )
    return SaviPytorchConfig(slots, decoder)
