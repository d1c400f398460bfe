"""Invariant Slot Attention, the authors' program in JAX: flax files of its trainer."""

from dataclasses import replace
from typing import Any, Literal

from torchslots.convert import layouts
from torchslots.convert.layouts import Shapes, WeightMap, fitting
from torchslots.convert.originals import savi
from torchslots.io.errors import UserError
from torchslots.models.slots.invariant import Part
from torchslots.recipes.isa import (
    RECIPES,
    CnnDecoderConfig,
    IsaConfig,
    PixelDecoderConfig,
    appends_grid,
    build,
)
from torchslots.recipes.savi import ResNetConfig

Invariance = Literal["none", "translation", "scale", "rotation"]

CORRECTORS: dict[Invariance, str] = {
    "none": "SlotAttention_0",
    "translation": "SlotAttentionTranslEquiv_0",
    "scale": "SlotAttentionTranslScaleEquiv_0",
    "rotation": "SlotAttentionTranslRotScaleEquiv_0",
}
"""The original's module of each invariance."""
_DECODER = "SiameseSpatialBroadcastDecoder_0"
_FRAMES = {"translation": "Positions", "scale": "PositionsScales", "rotation": "PositionsRotationsScales"}


def leaves(config: IsaConfig) -> list[WeightMap]:
    """Every array of the original's parameter tree."""
    return [*_encoder(config), *_initializer(config), *_corrector(config), *_decoder(config)]


def _encoder(config: IsaConfig) -> list[WeightMap]:
    theirs, ours = "FrameEncoder_0", "slot_encoder.encoder"
    if isinstance(config.encoder, ResNetConfig):
        found = savi.resnet(f"{theirs}/ResNet_0", f"{ours}.backbone", config.encoder)
    else:
        found = [
            leaf
            for i in range(len(config.encoder.channels))
            for leaf in layouts.conv(f"{theirs}/SimpleCNN_0/conv_simple_{i}", f"{ours}.backbone.{2 * i}")
        ]
    path = f"{theirs}/PositionEmbedding_0"
    if appends_grid(config):
        return [*found, layouts.grid(path, f"{ours}.position")]
    return [
        *found,
        *layouts.position(path, f"{ours}.position"),
        *layouts.perceptron(f"{path}/MLP_0", f"{ours}.transform", pre_norm=True),
    ]


def _initializer(config: IsaConfig) -> list[WeightMap]:
    ours = "slot_encoder.initializer"
    if config.invariance == "none":
        return [layouts.bare("ParamStateInit_0/state_init", f"{ours}.slots")]
    kind = "Random" if config.initial_pose == "sampled" else "Learnable"
    theirs = f"ParamStateInit{kind}{_FRAMES[config.invariance]}_0/state_init"
    found = [layouts.bare(theirs, f"{ours}.slots.slots")]
    if config.initial_pose == "learned":
        parts = (("position", "position"), ("scale", "scale"), ("angles", "angle"))
        count = {"translation": 1, "scale": 2, "rotation": 3}[config.invariance]
        found += [layouts.bare(f"{theirs}_{part}", f"{ours}.frames.{name}") for part, name in parts[:count]]
    return found


def _corrector(config: IsaConfig) -> list[WeightMap]:
    """Norms and perceptrons, numbered in the order in which the original makes them."""
    theirs, ours = CORRECTORS[config.invariance], "slot_encoder.corrector"
    if config.invariance == "none":
        return savi.corrector(1, mlp=True)
    core = f"{ours}.core"
    found = [
        *layouts.gru(f"{theirs}/GRU_0/GRUCell_0", f"{core}.gru"),
        *layouts.perceptron(f"{theirs}/MLP_1", f"{core}.mlp", pre_norm=True),
        *layouts.norm(f"{theirs}/LayerNorm_0", f"{core}.norm_inputs"),
        *layouts.norm(f"{theirs}/LayerNorm_1", f"{core}.norm_slots"),
        *layouts.dense(f"{theirs}/dense_gp_0", f"{ours}.grid_encoder.project"),
        *layouts.norm(f"{theirs}/MLP_0/LayerNorm_0", f"{ours}.grid_encoder.norm"),
        *layouts.dense(f"{theirs}/MLP_0/dense_mlp_0", f"{ours}.grid_encoder.first"),
        *layouts.dense(f"{theirs}/MLP_0/dense_mlp_1", f"{ours}.grid_encoder.last"),
    ]
    for part in ("query", "key", "value"):
        found += layouts.dense(f"{theirs}/general_dense_{part[0]}_0", f"{core}.{part}", bias=False)
    if config.append_pose:
        found += layouts.dense(f"{theirs}/dense_embed_0", f"{ours}.tell")
    return found


def _decoder(config: IsaConfig) -> list[WeightMap]:
    relative = "Relative" if config.invariance != "none" else ""
    return [
        *_backbone(config.decoder),
        *layouts.position(f"{_DECODER}/{relative}PositionEmbedding_0", "decoder.position"),
        *layouts.dense(f"{_DECODER}/alphas", "decoder.mask_head"),
        *layouts.dense(f"{_DECODER}/Readout_0/MLP_0/dense_mlp_0", "decoder.heads.video"),
    ]


def _backbone(config: PixelDecoderConfig | CnnDecoderConfig) -> list[WeightMap]:
    if isinstance(config, CnnDecoderConfig):
        return savi.cnn(f"{_DECODER}/CNN_0", "decoder.backbone", config.strides, upsample=True)
    found = []
    for i in range(len(config.channels)):
        found += layouts.pixelwise(f"{_DECODER}/MLP_0/dense_mlp_{i}", f"decoder.backbone.{2 * i}")
    return found


def from_shapes(shapes: Shapes) -> IsaConfig:
    """The released configuration whose arrays have exactly these names and shapes.

    Several may have them, since weights do not show image size, strides and whether values hold coordinates.

    Raises:
        UserError: none fits, or more than one.
    """
    parts = {path.split("/")[0] for path in shapes}
    if _DECODER not in parts or parts.isdisjoint(CORRECTORS.values()):
        raise UserError(
            f"This is not an Invariant Slot Attention checkpoint: it holds {', '.join(sorted(parts))}. Name its system "
            "with --recipe."
        )
    recipes = [make() for make in RECIPES.values()]
    found = fitting("Invariant Slot Attention", recipes, like, leaves, build, shapes)
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    raise UserError(
        f"These weights fit {', '.join(found)}, which differ in what weights do not show. Choose one with --recipe."
    )


def like(config: Any, shapes: Shapes) -> IsaConfig:
    """`config` with the number of slots, the initial poses and the grid that the arrays show."""
    states = [path for path in shapes if path.endswith("/state_init")]
    project_added = "FrameEncoder_0/PositionEmbedding_0/dense_pe_0/kernel" in shapes
    invariant = config.invariance != "none"
    return replace(
        config,
        num_slots=shapes[states[0]][0] if states else config.num_slots,
        initial_pose="learned" if any("Learnable" in path for path in states) else "sampled",
        grid="missing_as_released" if project_added and invariant else "appended",
        append_pose=any(path.endswith("dense_embed_0/kernel") for path in shapes),
    )


def configures(model: Any) -> bool:
    """Whether `model` in an original's configuration is of this program."""
    return isinstance(model, dict) and str(model.get("module")).startswith("invariant_slot_attention.")


def from_reference(reference: dict[str, Any], shapes: Shapes) -> IsaConfig:
    """Configuration from the original's configuration (its `model` part) and its arrays' shapes.

    Raises:
        UserError: an option that the released configurations do not use and this model lacks.
    """
    model = reference["model"]
    corrector, encoder = model["corrector"], model["encoder"]
    invariance: Invariance = next(
        key for key, name in CORRECTORS.items() if corrector["module"].endswith("." + name.removesuffix("_0"))
    )
    decoder = _decoder_config(model["decoder"], shapes)
    kernel = shapes[f"{CORRECTORS[invariance]}/general_dense_q_0/kernel"]
    return IsaConfig(
        resolution=decoder.image_size(),
        encoder=savi.backbone_config(encoder["backbone"], shapes),
        invariance=invariance,
        grid="appended" if encoder["pos_emb"]["update_type"] == "concat" else "missing_as_released",
        num_slots=model["initializer"]["shape"][0],
        slot_size=model["initializer"]["shape"][1],
        qkv_size=kernel[-1],
        num_iterations=corrector["num_iterations"],
        slot_hidden=corrector["mlp_size"],
        grid_hidden=corrector.get("grid_encoder", {}).get("hidden_size", 128),
        position_hidden=encoder["pos_emb"].get("output_transform", {}).get("hidden_size", 128),
        initial_pose="learned" if "Learnable" in model["initializer"]["module"] else "sampled",
        decoder=decoder,
        **({} if invariance == "none" else _options(corrector, model["decoder"]["pos_emb"], invariance)),
    )


def _options(corrector: dict[str, Any], position: dict[str, Any], invariance: Invariance) -> dict[str, Any]:
    """Options of the equivariant modules, with the modules' defaults where the configuration has none."""
    unknown = [name for name in ("mix_slots", "ablate_non_equivariant") if corrector.get(name)]
    if unknown:
        raise UserError(
            f"The original's option {', '.join(unknown)} is not built here; no released configuration uses it."
        )
    factor = corrector.get("scales_factor", 1.0)
    if invariance != "translation" and position.get("scales_factor", 1.0) != factor:
        raise UserError(
            f"Corrector and decoder divide coordinates by {factor} and {position.get('scales_factor', 1.0)}; models "
            "here divide both by the same. This checkpoint cannot be converted."
        )
    return {
        "scale_factor": factor,
        "relative_values": corrector.get("add_rel_pos_to_values", False),
        "append_pose": corrector.get("append_statistics", False),
        "rotation_limit": 45 if corrector.get("limit_rot_to_45_deg", True) else 90,
        "detach": _detached(corrector),
        "temperature": corrector.get("softmax_temperature", 1.0),
        "centered": corrector.get("zero_position_init", True),
        "fixed_scale": corrector.get("init_with_fixed_scale", 0.1),
        "scale_sampling": "independent" if invariance == "rotation" else "correlated",
    }


def _detached(corrector: dict[str, Any]) -> tuple[Part, ...]:
    if corrector.get("stop_grad_positions_and_scales"):
        return ("position", "scale")
    parts: tuple[Part, ...] = ("position", "scale", "rotation")
    return tuple(part for part in parts if corrector.get(f"stop_grad_{part}s"))


def _decoder_config(decoder: dict[str, Any], shapes: Shapes) -> PixelDecoderConfig | CnnDecoderConfig:
    backbone, grid = decoder["backbone"], (decoder["resolution"][0], decoder["resolution"][1])
    if backbone["module"].endswith("CNN"):
        strides = tuple(stride[0] for stride in backbone["strides"])
        return CnnDecoderConfig(grid, tuple(backbone["features"]), strides)
    depth = backbone["num_hidden_layers"] + 1
    widths = (shapes[f"{_DECODER}/MLP_0/dense_mlp_{i}/bias"][0] for i in range(depth))
    return PixelDecoderConfig(grid, tuple(widths))
