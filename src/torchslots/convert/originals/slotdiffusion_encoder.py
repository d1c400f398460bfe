"""The slot encoder of SAVi, STEVE and SlotDiffusion in SlotDiffusion's PyTorch program: a part of their files."""

import re
from collections.abc import Mapping
from typing import Any

from torchslots.convert.layouts import OTHER_FILE, RECONFIGURE, Shapes, WeightMap, bare, count, explained
from torchslots.io.errors import UserError
from torchslots.recipes.slotdiffusion_encoder import (
    CnnEncoderConfig,
    MlpPredictorConfig,
    NormName,
    ResNetEncoderConfig,
    SlotsConfig,
    TransformerPredictorConfig,
)

NORMS: dict[str, NormName] = {"": "none", "bn": "batch", "in": "instance", "gn": "group"}
"""Norms of plain convolutions, the original's names to ours."""
_RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def leaves(config: SlotsConfig, name: str = "slot_encoder") -> list[WeightMap]:
    """Every tensor of the slot encoder in the original's state dict, buffers among them."""
    return [
        WeightMap("init_latents", f"{name}.initializer.slots", lambda a: a[0], lambda a: a[None]),
        *_corrector("slot_attention", f"{name}.corrector"),
        *_backbone(config, f"{name}.encoder.backbone.1"),
        *position("encoder_pos_embedding", f"{name}.encoder.position"),
        *(
            leaf
            for i in (0, 1, 3)
            for leaf in pair(f"encoder_out_layer.{i}", f"{name}.encoder.transform.{i}")
        ),
        *_predictor(config, f"{name}.predictor"),
    ]


def pair(path: str, name: str) -> list[WeightMap]:
    """Weight and bias of a layer, in the same layout on both sides."""
    return [bare(f"{path}.{part}", f"{name}.{part}") for part in ("weight", "bias")]


def position(path: str, name: str) -> list[WeightMap]:
    """The stored grid (1, H, W, 4) and its projection."""
    grid = WeightMap(f"{path}.grid", f"{name}.grid", lambda a: a[0], lambda a: a[None])
    return [grid, *pair(f"{path}.dense", f"{name}.project")]


def convolutions(path: str, name: str, num_layers: int, norm: NormName) -> list[WeightMap]:
    """A stack of convolutions, plain or transposed, each with its norm."""
    found: list[WeightMap] = []
    for i in range(num_layers):
        theirs, ours = f"{path}.{i}", f"{name}.{i * (2 if norm == 'none' else 3)}"
        found.append(bare(f"{theirs}.0.weight", f"{ours}.weight"))
        found += [bare(f"{theirs}.0.bias", f"{ours}.bias")] if norm in ("none", "group") else []
        found += _norm(f"{theirs}.1", f"{name}.{3 * i + 1}", norm)
    return found


def _norm(path: str, name: str, norm: NormName) -> list[WeightMap]:
    """Weights and, of a batch norm, its running statistics; an instance norm has neither."""
    statistics = ("running_mean", "running_var", "num_batches_tracked") if norm == "batch" else ()
    found = [bare(f"{path}.{part}", f"{name}.{part}") for part in statistics]
    return [*pair(path, name), *found] if norm in ("group", "batch") else []


def _corrector(path: str, name: str) -> list[WeightMap]:
    projections = {"project_q.1": "query", "project_k": "key", "project_v": "value"}
    return [
        *pair(f"{path}.norm_inputs", f"{name}.norm_inputs"),
        *pair(f"{path}.project_q.0", f"{name}.norm_slots"),
        *(bare(f"{path}.{theirs}.weight", f"{name}.{ours}.weight") for theirs, ours in projections.items()),
        *(bare(f"{path}.gru.{part}", f"{name}.gru.{part}") for part in _CELL),
        *(leaf for i in (0, 1, 3) for leaf in pair(f"{path}.mlp.{i}", f"{name}.mlp.{i}")),
    ]


def _backbone(config: SlotsConfig, name: str) -> list[WeightMap]:
    if isinstance(config.encoder, CnnEncoderConfig):
        return convolutions("encoder", name, len(config.encoder.channels), config.encoder.norm)
    stem = [bare("encoder.conv1.weight", f"{name}.stem.0.weight"), *pair("encoder.bn1", f"{name}.stem.1")]
    for stage, num_blocks in enumerate(config.encoder.stage_sizes):
        for block in range(num_blocks):
            projected = stage > 0 and block == 0
            stem += _block(f"encoder.layer{stage + 1}.{block}", f"{name}.stages.{stage}.{block}", projected)
    return stem


def _block(path: str, name: str, projected: bool) -> list[WeightMap]:
    parts = [("conv1", "bn1", "conv1", "norm1"), ("conv2", "bn2", "conv2", "norm2")]
    parts += [("downsample.0", "downsample.1", "shortcut.0", "shortcut.1")] if projected else []
    found: list[WeightMap] = []
    for conv, norm, ours, our_norm in parts:
        found.append(bare(f"{path}.{conv}.weight", f"{name}.{ours}.weight"))
        found += pair(f"{path}.{norm}", f"{name}.{our_norm}")
    return found


def _predictor(config: SlotsConfig, name: str) -> list[WeightMap]:
    if config.predictor is None:
        return []
    if config.recurrent_size is None:
        return _predictor_block("predictor", f"{name}.block", config.predictor)
    return [
        *_predictor_block("predictor.base_predictor", f"{name}.block", config.predictor),
        *(bare(f"predictor.rnn.{part}_l0", f"{name}.cell.{part}") for part in _CELL),
        *pair("predictor.out_projector", f"{name}.out"),
    ]


def _predictor_block(
    path: str, name: str, config: TransformerPredictorConfig | MlpPredictorConfig
) -> list[WeightMap]:
    if isinstance(config, MlpPredictorConfig):
        renamed = {"ln": "norm", "mlp.0": "mlp.0", "mlp.2": "mlp.2"}
        return [
            leaf for theirs, ours in renamed.items() for leaf in pair(f"{path}.{theirs}", f"{name}.{ours}")
        ]
    parts = [f"self_attn.in_proj_{part}" for part in ("weight", "bias")]
    layers = ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")
    parts += [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    return [
        bare(f"{path}.transformer_encoder.layers.{i}.{part}", f"{name}.layers.{i}.{part}")
        for i in range(config.num_layers)
        for part in parts
    ]


@explained("This is no configuration of a slot encoder", RECONFIGURE)
def from_reference(reference: Mapping[str, Any]) -> SlotsConfig:
    """Configuration from the original's own configuration: `resolution`, `slot_dict`, `enc_dict`, `pred_dict`.

    Raises:
        UserError: a field is missing, or asks for what is not built here.
    """
    slots, encoder, predictor = reference["slot_dict"], reference["enc_dict"], reference.get("pred_dict")
    height, width = reference["resolution"]
    return SlotsConfig(
        resolution=(height, width),
        encoder=_encoder_config(encoder),
        token_size=encoder["enc_out_channels"],
        num_slots=slots["num_slots"],
        slot_size=slots["slot_size"],
        num_iterations=slots["num_iterations"],
        mlp_size=slots["slot_mlp_size"],
        predictor=None if predictor is None else _predictor_config(predictor, slots["slot_size"]),
        recurrent_size=slots["slot_mlp_size"] if predictor and predictor["pred_rnn"] else None,
        truncate_every=predictor.get("pred_sg_every") if predictor else None,
    )


def _encoder_config(reference: Mapping[str, Any]) -> ResNetEncoderConfig | CnnEncoderConfig:
    if reference.get("dino") or any(reference.get("replace_stride_with_dilation") or ()):
        raise UserError(
            "Encoders of DINO or with dilated convolutions are not built here, only ResNets and plain convolutions."
        )
    if not reference.get("resnet"):
        return CnnEncoderConfig(
            tuple(reference["enc_channels"][1:]), reference["enc_ks"], norm_name(reference["enc_norm"])
        )
    return ResNetEncoderConfig(_RESNETS[reference["resnet"]][: 4 if reference["use_layer4"] else 3])


def norm_name(theirs: str) -> NormName:
    """Our name of a norm.

    Raises:
        UserError: a norm that is not built here.
    """
    if theirs not in NORMS:
        raise UserError(f"There is no norm `{theirs}` for convolutions here. Known: {', '.join(NORMS)}.")
    return NORMS[theirs]


def _predictor_config(
    reference: Mapping[str, Any], slot_size: int
) -> TransformerPredictorConfig | MlpPredictorConfig:
    if reference.get("pred_type") == "mlp":
        return MlpPredictorConfig(2 * slot_size, reference["pred_norm_first"])
    return TransformerPredictorConfig(
        num_layers=reference["pred_num_layers"],
        num_heads=reference["pred_num_heads"],
        mlp_size=reference["pred_ffn_dim"],
        norm_first=reference["pred_norm_first"],
    )


@explained("These are not the weights of a slot encoder of SlotDiffusion's program", OTHER_FILE)
def from_shapes(shapes: Shapes) -> SlotsConfig:
    """Configuration from the names and shapes of a state dict.

    What no weight depends on is as in the released configurations: 2 rounds, 3 for images; 4 heads; norms first; a
    first stride of 2 where plain convolutions leave more than 32 rows.

    Raises:
        UserError: a name that every slot encoder has is missing.
    """
    (_, num_slots, slot_size), grid = shapes["init_latents"], shapes["encoder_pos_embedding.grid"]
    encoder, predictor = _encoder_of(shapes), _predictor_of(shapes)
    halvings = len(encoder.stage_sizes) - 1 if isinstance(encoder, ResNetEncoderConfig) else int(grid[1] > 32)
    return SlotsConfig(
        resolution=(grid[1] << halvings, grid[2] << halvings),
        encoder=encoder,
        token_size=shapes["encoder_out_layer.3.weight"][0],
        num_slots=num_slots,
        slot_size=slot_size,
        num_iterations=3 if predictor is None else 2,
        mlp_size=shapes["slot_attention.mlp.1.weight"][0],
        predictor=predictor,
        recurrent_size=shapes.get("predictor.rnn.weight_hh_l0", (0, None))[1],
    )


def norm_of(shapes: Shapes, path: str) -> NormName:
    """The norm of a stack of convolutions."""
    if f"{path}.0.1.running_mean" in shapes:
        return "batch"
    if f"{path}.0.1.weight" in shapes:
        return "group"
    return "none" if f"{path}.0.0.bias" in shapes else "instance"


def _encoder_of(shapes: Shapes) -> ResNetEncoderConfig | CnnEncoderConfig:
    if "encoder.conv1.weight" in shapes:
        sizes = [count(shapes, rf"encoder\.layer{stage}\.\d+\.conv1\.weight") for stage in range(1, 5)]
        return ResNetEncoderConfig(tuple(size for size in sizes if size), shapes["encoder.conv1.weight"][0])
    layers = range(count(shapes, r"encoder\.\d+\.0\.weight"))
    kernels = [shapes[f"encoder.{i}.0.weight"] for i in layers]
    return CnnEncoderConfig(
        tuple(kernel[0] for kernel in kernels), kernels[0][-1], norm_of(shapes, "encoder")
    )


def _predictor_of(shapes: Shapes) -> TransformerPredictorConfig | MlpPredictorConfig | None:
    if not any(name.startswith("predictor.") for name in shapes):
        return None
    path = "predictor.base_predictor" if "predictor.out_projector.weight" in shapes else "predictor"
    if f"{path}.ln.weight" in shapes:
        return MlpPredictorConfig(shapes[f"{path}.mlp.0.weight"][0])
    layers = f"{path}.transformer_encoder.layers"
    num_layers = count(shapes, rf"{re.escape(layers)}\.\d+\.linear1\.weight")
    return TransformerPredictorConfig(num_layers, mlp_size=shapes[f"{layers}.0.linear1.weight"][0])
