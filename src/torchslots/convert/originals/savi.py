"""SAVi and SAVi++, the authors' program in JAX: flax files of its trainer (`checkpoints-0/ckpt-N.flax`)."""

from dataclasses import replace
from typing import Any

from torchslots.convert import layouts
from torchslots.convert.layouts import Shapes, WeightMap, fitting
from torchslots.io.errors import UserError
from torchslots.recipes.savi import (
    CnnConfig,
    DecoderConfig,
    ResNetConfig,
    SaviConfig,
    TransformerConfig,
    build,
    savi_large,
    savi_medium,
    savi_plus_plus,
    savi_small,
)
from torchslots.recipes.sizes import decoded_size


def leaves(config: SaviConfig) -> list[WeightMap]:
    """Every array of the original's parameter tree."""
    predictor = _block("TransformerBlock_0", "slot_encoder.predictor.block", config.predictor_heads)
    return [*leaves_but_predictor(config), *predictor]


def leaves_but_predictor(config: SaviConfig) -> list[WeightMap]:
    """All arrays but the predictor's, which systems with another predictor share."""
    return [
        *_encoder(config),
        *_initializer(config),
        *corrector(config.num_heads, mlp=config.corrector_mlp is not None),
        *_decoder(config),
    ]


def cnn(path: str, name: str, strides: tuple[int, ...], *, upsample: bool = False) -> list[WeightMap]:
    """A stack of convolutions; with `upsample`, those with a stride are transposed."""
    found = []
    for i, stride in enumerate(strides):
        rule = layouts.conv_transpose if upsample and stride > 1 else layouts.conv
        found += rule(f"{path}/conv_{i}", f"{name}.{2 * i}")
    return found


def resnet(path: str, name: str, config: ResNetConfig) -> list[WeightMap]:
    """The ResNet that SAVi and its successors share."""
    found = [
        *layouts.conv(f"{path}/init_conv", f"{name}.stem.0", bias=False),
        *layouts.norm(f"{path}/init_bn", f"{name}.stem.1"),
    ]
    for stage, num_blocks in enumerate(config.stage_sizes):
        for block in range(num_blocks):
            theirs, ours = f"{path}/stage{stage + 1}/block{block + 1}", f"{name}.stages.{stage}.{block}"
            for i in (1, 2):
                found += layouts.conv(f"{theirs}/conv{i}", f"{ours}.conv{i}", bias=False)
                found += layouts.norm(f"{theirs}/bn{i}", f"{ours}.norm{i}")
            if stage > 0 and block == 0:
                found += layouts.conv(f"{theirs}/proj_conv", f"{ours}.shortcut.0", bias=False)
                found += layouts.norm(f"{theirs}/proj_bn", f"{ours}.shortcut.1")
    return found


def _block(path: str, name: str, num_heads: int) -> list[WeightMap]:
    return [
        *layouts.attention(f"{path}/MultiHeadDotProductAttention_0", f"{name}.attention", num_heads),
        *layouts.norm(f"{path}/LayerNorm_0", f"{name}.norm_attention"),
        *layouts.perceptron(f"{path}/MLP_0", f"{name}.mlp"),
        *layouts.norm(f"{path}/LayerNorm_1", f"{name}.norm_mlp"),
    ]


def _encoder(config: SaviConfig) -> list[WeightMap]:
    theirs, ours = "FrameEncoder_0", "slot_encoder.encoder"
    if isinstance(config.encoder, ResNetConfig):
        found = resnet(f"{theirs}/ResNet_0", f"{ours}.backbone", config.encoder)
    else:
        found = cnn(f"{theirs}/CNN_0", f"{ours}.backbone", config.encoder.strides)
    found += layouts.position(f"{theirs}/PositionEmbedding_0", f"{ours}.position")
    found += layouts.perceptron(f"{theirs}/PositionEmbedding_0/MLP_0", f"{ours}.transform.0", pre_norm=True)
    if config.transformer is not None:
        found += layouts.dense(f"{theirs}/Dense_0", f"{ours}.transform.1")
        for i in range(config.transformer.num_layers):
            path = f"{theirs}/Transformer_0/TransformerBlock{i}"
            found += _block(path, f"{ours}.transform.{i + 3}", config.transformer.num_heads)
    return found


def _initializer(config: SaviConfig) -> list[WeightMap]:
    ours = "slot_encoder.initializer"
    if config.conditioning in ("boxes", "centers"):
        return layouts.perceptron("CoordinateEncoderStateInit_0/MLP_0", f"{ours}.mlp")
    if config.conditioning == "learned":
        return [layouts.bare("ParamStateInit_0/state_init", f"{ours}.slots")]
    if config.conditioning == "masks":
        theirs = "SegmentationEncoderStateInit_0/FrameEncoder_0"
        return [
            *cnn(f"{theirs}/CNN_0", f"{ours}.encoder.backbone", CnnConfig().strides),
            *layouts.position(f"{theirs}/PositionEmbedding_0", f"{ours}.encoder.position"),
            *layouts.perceptron(
                f"{theirs}/PositionEmbedding_0/MLP_0", f"{ours}.encoder.transform", pre_norm=True
            ),
            *layouts.perceptron(f"{theirs}/MLP_0", f"{ours}.head"),
        ]
    if config.conditioning == "learned_gaussian":
        theirs = "NoHintsEncoderStateInit_0"
        return layouts.gaussian(f"{theirs}/slots_mu", f"{theirs}/slots_log_sigma", ours)
    return []


def corrector(heads: int, *, mlp: bool) -> list[WeightMap]:
    """Slot attention with or without a perceptron behind the recurrent unit."""
    theirs, ours = "SlotAttention_0", "slot_encoder.corrector"
    found = [
        *layouts.norm(f"{theirs}/LayerNorm_0", f"{ours}.norm_slots"),
        *layouts.norm(f"{theirs}/LayerNorm_1", f"{ours}.norm_inputs"),
        *layouts.gru(f"{theirs}/GRU_0/GRUCell_0", f"{ours}.gru"),
    ]
    for part in ("query", "key", "value"):
        found += layouts.heads_in(f"{theirs}/general_dense_{part[0]}_0", f"{ours}.{part}", heads, bias=False)
    if heads > 1:
        path = f"{theirs}/InvertedDotProductAttention_0/DenseGeneral_0"
        found += layouts.heads_out(path, f"{ours}.merge", heads)
    if mlp:
        found += layouts.perceptron(f"{theirs}/MLP_0", f"{ours}.mlp", pre_norm=True)
    return found


def _decoder(config: SaviConfig) -> list[WeightMap]:
    """The readouts are numbered by their targets' names in alphabetical order."""
    theirs, decoder = "SpatialBroadcastDecoder_0", config.decoder
    if not isinstance(decoder, DecoderConfig):
        raise UserError(
            "The originals have no decoder of regions; models with one cannot be converted to theirs."
        )
    found = [
        *cnn(f"{theirs}/CNN_0", "decoder.backbone", decoder.strides, upsample=True),
        *layouts.position(f"{theirs}/PositionEmbedding_0", "decoder.position"),
        *layouts.dense(f"{theirs}/alpha_logits", "decoder.mask_head"),
    ]
    readout = "Dense_{}/Dense_0" if decoder.fusion == "late" else "MLP_{}/dense_mlp_0"
    for i, target in enumerate(sorted(config.targets)):
        found += layouts.dense(f"{theirs}/Readout_0/{readout.format(i)}", f"decoder.heads.{target}")
    return found


def from_shapes(shapes: Shapes) -> SaviConfig:
    """The published configuration whose arrays have exactly these names and shapes.

    Raises:
        UserError: none fits.
    """
    recipes = [make() for make in (savi_small, savi_medium, savi_large, savi_plus_plus)]
    return next(iter(fitting("SAVi", recipes, like, leaves, build, shapes).values()))


def like(config: Any, shapes: Shapes) -> SaviConfig:
    """`config` with the conditioning and the number of slots that the arrays show."""
    if "ParamStateInit_0/state_init" in shapes:
        return replace(config, conditioning="learned", num_slots=shapes["ParamStateInit_0/state_init"][0])
    if any(path.startswith("SegmentationEncoderStateInit_0") for path in shapes):
        return replace(config, conditioning="masks")
    boxes = shapes.get("CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0/kernel")
    if boxes is None:
        gaussian = "learned_gaussian" if "NoHintsEncoderStateInit_0/slots_mu" in shapes else "gaussian"
        return replace(config, conditioning=gaussian)
    return replace(config, conditioning="boxes" if boxes[0] == 4 else "centers")


def configures(model: Any) -> bool:
    """Whether `model` in an original's configuration is SAVi's. Ask it last: that of any flax program passes."""
    return isinstance(model, dict) and "module" in model


def from_reference(reference: dict[str, Any], shapes: Shapes) -> SaviConfig:
    """Configuration from the original's configuration (its `model` part) and its arrays' shapes.

    Rounds of slot attention, strides and fusion are in the configuration alone; the shapes show the conditioning.
    """
    model = reference["model"]
    encoder, decoder, initializer = model["encoder"], model["decoder"], model["initializer"]
    num_slots = initializer.get("max_num_slots", initializer.get("num_slots", reference.get("num_slots", 24)))
    transform = initializer.get("embedding_transform", {})
    strides = tuple(stride[0] for stride in decoder["backbone"]["strides"])
    grid = (decoder["resolution"][0], decoder["resolution"][1])
    config = SaviConfig(
        resolution=decoded_size(grid, strides),
        encoder=backbone_config(encoder["backbone"], shapes),
        transformer=_transformer(encoder.get("output_transform")),
        position_hidden=encoder["pos_emb"]["output_transform"]["hidden_size"],
        slot_size=shapes["SlotAttention_0/GRU_0/GRUCell_0/hn/bias"][0],
        num_iterations=model["corrector"]["num_iterations"],
        num_heads=model["corrector"].get("num_heads", 1),
        qkv_size=model["corrector"]["qkv_size"],
        corrector_mlp=model["corrector"].get("mlp_size"),
        predictor_heads=model["predictor"]["num_heads"],
        predictor_qkv=model["predictor"]["qkv_size"],
        predictor_mlp=model["predictor"]["mlp_size"],
        decoder=DecoderConfig(
            grid=grid,
            channels=tuple(decoder["backbone"]["features"]),
            strides=strides,
            fusion="early" if decoder.get("early_fusion") else "late",
        ),
        targets=tuple(sorted(decoder["target_readout"]["keys"])),
        num_slots=num_slots,
        initializer_hidden=transform.get("hidden_size", SaviConfig.initializer_hidden),
    )
    return like(config, shapes)


def backbone_config(backbone: dict[str, Any], shapes: Shapes) -> CnnConfig | ResNetConfig:
    """The encoder's convolutions or ResNet from its part of the original's configuration."""
    if backbone["module"].endswith("CNN"):
        return CnnConfig(tuple(backbone["features"]), tuple(stride[0] for stride in backbone["strides"]))
    width = shapes["FrameEncoder_0/ResNet_0/init_conv/kernel"][-1]
    return ResNetConfig(tuple(backbone.get("stage_sizes", (3, 4, 6, 3))), width)


def _transformer(transform: dict[str, Any] | None) -> TransformerConfig | None:
    if not transform:
        return None
    return TransformerConfig(
        transform["num_layers"], transform["num_heads"], transform["qkv_size"], transform["mlp_size"]
    )
