"""VideoSAUR and SlotContrast, which is built on its code: the `.ckpt` files of their trainer, Lightning's, or the same
state dict alone. Names of models for images lack the `.module` of those for videos.

Heads, rounds and temperatures leave no trace in weights: as published, unless a configuration is given.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torchslots.convert.layouts import (
    OTHER_FILE,
    Shapes,
    count,
    explained,
    refuse_unusual,
    within,
)
from torchslots.convert.originals import videosaur_layout, vit
from torchslots.io.errors import UserError
from torchslots.recipes.backbones import BackboneConfig
from torchslots.recipes.feature_slots import FeatureSlotsConfig, LossConfig, MixerConfig, PerceptronConfig
from torchslots.recipes.slotcontrast import SlotContrastConfig
from torchslots.recipes.videosaur import VideosaurConfig, VideosaurImagesConfig

MARK = "processor."
"""Begins a name in every checkpoint."""
_HEADS = 4
_OWN_SETTINGS = "Give the configuration that the checkpoint was trained with."
_LOSSES = {"MSELoss": "features", "CrossEntropyLoss": "similarity", "Slot_Slot_Contrastive_Loss": "contrast"}
leaves = videosaur_layout.leaves
"""Every tensor of the original's state dict."""


@explained("These are not the weights of VideoSAUR's code", OTHER_FILE)
def from_shapes(shapes: Shapes) -> FeatureSlotsConfig:
    """Configuration from the names and shapes of a state dict; the rest is as published.

    Raises:
        UserError: the names are not those of this program, or the grid is no square.
    """
    parts = _parts(shapes)
    backbone = vit.from_shapes(parts["encoder"], "backbone.model.")
    patches = parts["decoder"]["pos_emb"][-2]
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"The decoder is of {patches} patches, which are no square grid. {OTHER_FILE}")
    size = side * backbone.patch_size
    return _sized(shapes, vit.published(backbone), (size, size), _HEADS, _HEADS)


def _parts(shapes: Shapes) -> dict[str, Shapes]:
    """Shapes by the original's parts, as for images."""
    inner = ".module" if _is_video(shapes) else ""
    return {part: within(shapes, f"{part}{inner}.") for part in ("encoder", "processor", "decoder")}


def _is_video(shapes: Shapes) -> bool:
    return any(name.startswith("processor.module.") for name in shapes)


def _sized(
    shapes: Shapes,
    backbone: BackboneConfig,
    resolution: tuple[int, int],
    predictor_heads: int,
    allocator_heads: int,
) -> FeatureSlotsConfig:
    """The configuration of given heads."""
    parts, video, learned = _parts(shapes), _is_video(shapes), "initializer.slots" in shapes
    kind = SlotContrastConfig if learned else VideosaurConfig if video else VideosaurImagesConfig
    processor = parts["processor"]
    slots = shapes["initializer.slots" if learned else "initializer.mean"]
    decoder = _decoder_of(parts["decoder"], slots[-1], allocator_heads)
    return kind(
        resolution=resolution,
        backbone=backbone,
        token_hidden=parts["encoder"]["output_transform.layers.1.weight"][0],
        num_slots=slots[1] if learned else _num_slots(backbone, kind),
        slot_size=slots[-1],
        initializer="learned" if learned else "gaussian",
        num_iterations=2 if video else 3,
        corrector_mlp=processor["corrector.mlp.layers.1.weight"][0]
        if "corrector.mlp.layers.1.weight" in processor
        else None,
        predictor_heads=predictor_heads if video else None,
        predictor_mlp=processor["predictor.blocks.0.linear1.weight"][0] if video else 4 * slots[-1],
        predictor_layers=count(processor, r"predictor\.blocks\.\d+\.linear1\.weight") if video else 1,
        decoder=decoder,
        losses=_losses_of(parts["decoder"], backbone, video, learned),
    )


def _num_slots(backbone: BackboneConfig, kind: type[FeatureSlotsConfig]) -> int:
    """Slots that are sampled leave no trace of their number: 11, as published for MOVi-C, or 7 for photos and
    real videos."""
    generated = kind is VideosaurConfig and backbone.patch_size == 8
    return 11 if generated else 7


def _decoder_of(shapes: Shapes, slot_size: int, num_heads: int) -> PerceptronConfig | MixerConfig:
    if "mlp.layers.0.weight" in shapes:
        layers = count(shapes, r"mlp\.layers\.\d+\.weight")
        return PerceptronConfig(tuple(shapes[f"mlp.layers.{2 * i}.weight"][0] for i in range(layers - 1)))
    layers, size = count(shapes, r"renderer\.layers\.\d+\.weight"), shapes["pos_emb"][-1]
    use = "concat" if shapes["renderer.layers.0.weight"][1] == slot_size + size else "add"
    use = "none" if use == "add" and size != slot_size else use
    return MixerConfig(
        hidden=tuple(shapes[f"renderer.layers.{2 * i}.weight"][0] for i in range(layers)),
        num_blocks=count(shapes, r"allocator\.blocks\.\d+\.linear1\.weight"),
        num_heads=num_heads,
        position_size=None if size == slot_size else size,
        mlp_size=_unless(4 * size, shapes["allocator.blocks.0.linear1.weight"][0]),
        use_positions=use,
    )


def _unless(usual: int, value: int) -> int | None:
    return None if value == usual else value


def _losses_of(shapes: Shapes, backbone: BackboneConfig, video: bool, learned: bool) -> LossConfig:
    """Losses by the decoder's channels, with the weights and temperatures that are published."""
    if learned:
        return LossConfig(contrast=0.5)
    outputs, patches = shapes.get("output_transform.weight", (backbone.size,))[0], shapes["pos_emb"][-2]
    if not video or outputs == backbone.size:
        return LossConfig()
    if outputs == patches:
        return LossConfig(features=0.0, similarity=0.1)
    if outputs != backbone.size + patches:
        raise UserError(
            f"The decoder has {outputs} channels for features of {backbone.size} and {patches} patches. {OTHER_FILE}"
        )
    temperature = 0.15 if backbone.kind == "dinov2" else 0.25
    return LossConfig(similarity=0.1, similarity_temperature=temperature)


def assumed(config: FeatureSlotsConfig) -> str:
    """What a configuration that was read from shapes takes to be as published, in a sentence or two."""
    facts = [f"{config.num_iterations} rounds of slot attention"]
    facts += [] if config.initializer == "learned" else [f"{config.num_slots} slots"]
    facts += [] if config.predictor_heads is None else [f"{config.predictor_heads} heads of the predictor"]
    mixer = config.decoder
    if isinstance(mixer, MixerConfig):
        facts.append(f"{mixer.num_heads} heads of the decoder")
        if mixer.use_positions == "add":
            facts.append(
                "position embeddings that are added to the mixture (`pos_embed_mode: add`, not none)"
            )
    return f"Assumed, since weights do not tell: {', '.join(facts)}. If that is wrong, give its settings with --config."


def configures(model: Any) -> bool:
    """Whether `model` in an original's configuration is of this program."""
    return isinstance(model, dict) and "grouper" in model


@explained(
    "This is no configuration of VideoSAUR's code", "Give its settings, or the published one, as JSON."
)
def from_reference(reference: Mapping[str, Any], shapes: Shapes) -> FeatureSlotsConfig:
    """Configuration from the original's settings and its arrays' shapes.

    Heads of the transformer are in `vit.num_heads`, frames in `image_size`, where they are not the usual.

    Raises:
        UserError: a setting is missing, or asks for what is not built here.
    """
    model = reference["model"]
    if _is_video(shapes) != (model["input_type"] == "video"):
        kinds = ("videos", "images") if model["input_type"] == "video" else ("images", "videos")
        raise UserError(
            f"The configuration is of a model of {kinds[0]}, the checkpoint of {kinds[1]}. {_OWN_SETTINGS}"
        )
    rounds = model["grouper"]["n_iters"]
    first = model.get("latent_processor", {}).get("first_step_corrector_args", {}).get("n_iters", rounds)
    _refuse(model)
    decoder, predictor = model["decoder"], model.get("predictor") or {}
    _check_blocks(predictor, shapes)
    num_heads = reference.get("vit", {}).get("num_heads")
    backbone = vit.published(vit.from_shapes(_parts(shapes)["encoder"], "backbone.model.", num_heads))
    found = _sized(
        shapes,
        backbone,
        _resolution(reference, shapes, backbone),
        predictor.get("n_heads", _HEADS),
        decoder.get("allocator", {}).get("n_heads", _HEADS),
    )
    if isinstance(found.decoder, MixerConfig):
        use = decoder.get("pos_embed_mode") or "none"
        found = replace(found, decoder=replace(found.decoder, use_positions=use))
    return replace(
        found,
        num_slots=model["initializer"]["n_slots"],
        num_iterations=rounds,
        first_iterations=first,
        losses=_losses(model, found, _parts(shapes)["decoder"]["pos_emb"][-2]),
    )


def _refuse(model: Mapping[str, Any]) -> None:
    """Settings that the code has and no published configuration uses."""
    usual = {"use_gru": True, "n_heads": 1, "eps": 1e-8}
    refuse_unusual("Slot attention", model["grouper"], usual)
    refuse_unusual("The predictor", model.get("predictor") or {}, {"pre_norm": True})
    if "allocator" in model["decoder"]:
        refuse_unusual("The decoder", model["decoder"], {"use_layer_norms": True})
        refuse_unusual("The decoder's renderer", model["decoder"]["renderer"], {"final_activation": True})
    refuse_unusual("The backbone", model["encoder"]["backbone"], {"frozen": True})


def _check_blocks(predictor: Mapping[str, Any], shapes: Shapes) -> None:
    found = count(_parts(shapes)["processor"], r"predictor\.blocks\.\d+\.linear1\.weight")
    asked = predictor.get("n_blocks", found)
    if asked != found:
        raise UserError(f"The predictor has `n_blocks` {asked}, the checkpoint {found} of them. {OTHER_FILE}")


def _resolution(reference: Mapping[str, Any], shapes: Shapes, backbone: BackboneConfig) -> tuple[int, int]:
    if "image_size" in reference:
        rows, columns = reference["image_size"]
        return rows, columns
    side = math.isqrt(_parts(shapes)["decoder"]["pos_emb"][-2]) * backbone.patch_size
    return side, side


def _losses(model: Mapping[str, Any], config: FeatureSlotsConfig, num_patches: int) -> LossConfig:
    """Raise UserError where a loss is not one of those that are built here."""
    named: Mapping[str, Any] = model.get("losses") or {"mse": {"name": "MSELoss"}}
    weights = model.get("loss_weights") or {}
    found: dict[str, Any] = {"features": 0.0}
    for name, loss in named.items():
        kind = _LOSSES.get(str(loss.get("name")))
        if kind is None:
            raise UserError(f"The loss `{loss.get('name')}` is not built here, only {', '.join(_LOSSES)}.")
        found[kind] = float(weights.get(name, 1.0))
        if kind == "similarity":
            target = loss["target_transform"]
            refuse_unusual("The similarity", target, {"softmax": True})
            found["similarity_temperature"] = float(target["temperature"])
            found["similarity_threshold"] = float(target.get("threshold", 0.0))
        if kind == "contrast":
            found["contrast_temperature"] = float(loss["temperature"])
            found["contrast_whole_batch"] = bool(loss["batch_contrast"])
    losses = LossConfig(**found)
    _check_channels(named, replace(config, losses=losses), num_patches)
    return losses


def _check_channels(named: Mapping[str, Any], config: FeatureSlotsConfig, num_patches: int) -> None:
    first = config.feature_size
    usual = {"MSELoss": [0, first], "CrossEntropyLoss": [first, first + num_patches]}
    for loss in named.values():
        wanted = usual.get(loss["name"])
        if wanted is not None and loss.get("pred_dims", wanted) != wanted:
            raise UserError(
                f"{loss['name']} has `pred_dims` {loss['pred_dims']}, and the checkpoint's features and patches make "
                f"them {wanted}. {_OWN_SETTINGS}"
            )
