"""Slots on the features of a frozen vision transformer, as VideoSAUR's code builds them: VideoSAUR, SlotContrast, and a
DINOSAUR for images.

Three of its choices are other than in the papers: the recurrent unit of slot attention starts from normalised slots,
attention between slots multiplies its logits with the root of a head's width, and the contrast between slots runs over
those of the earlier frame. The published weights need them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.io.ranges import check_ranges
from torchslots.models.backbones.vit import Normalize
from torchslots.models.decoders.features import (
    FeatureDecoder,
    Weighted,
    feature_error,
    similarity_error,
    temporal_contrast,
)
from torchslots.models.decoders.renderers import MixerRenderer, PerceptronRenderer, Renderer
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.layers.blocks import TORCH_NORM_EPS, PreNormBlock, mlp
from torchslots.models.layers.weight_init import start_as_torch, start_together
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention, eps_on_weights
from torchslots.models.slots.encoder import SlotEncoder
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.slots.initializers import Gaussian, Learned
from torchslots.models.slots.predictors import IdentityPredictor, ModulePredictor
from torchslots.recipes.backbones import DINO_B8, BackboneConfig, build_backbone
from torchslots.recipes.config import RANGES, ModelConfig


@dataclass(frozen=True)
class PerceptronConfig:
    """A perceptron on each slot at each patch; its scores blend the slots (DINOSAUR)."""

    hidden: tuple[int, ...] = (1024, 1024, 1024)
    """Widths of its hidden layers."""


@dataclass(frozen=True)
class MixerConfig:
    """Slots are mixed at each patch, and the mixture is decoded (VideoSAUR)."""

    hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """Widths of the layers on the mixture, ReLU behind each."""
    num_blocks: int = 2
    """Blocks in which patches attend to slots."""
    num_heads: int = 4
    position_size: int | None = None
    """Width of the patches' queries; None: that of the slots."""
    mlp_size: int | None = None
    """Hidden width of the blocks' perceptrons; None: four times their own."""
    use_positions: Literal["add", "concat", "none"] = "add"
    """Add the queries' position embeddings to the mixture, put them beside it, or leave them out."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, 0: without it, and what they depend on."""

    features: float = 1.0
    """Error of the features."""
    similarity: float = 0.0
    """Error of where each patch goes in the next frame (VideoSAUR)."""
    similarity_temperature: float = 0.075
    contrast: float = 0.0
    """Each slot against the others in the next frame (SlotContrast)."""
    contrast_temperature: float = 0.1
    contrast_whole_batch: bool = True
    """The others are those of all clips of the batch, not of one alone."""
    similarity_threshold: float = 0.0
    """Cosine of two patches' keys, below which neither goes to the other."""


@dataclass(frozen=True)
class FeatureSlotsConfig(ModelConfig):
    """The configuration of the model."""

    resolution: tuple[int, int] = (224, 224)
    """Height and width of the frames it is trained on."""
    backbone: BackboneConfig = DINO_B8
    token_hidden: int = 1536
    """Hidden width of the perceptron from features to tokens."""
    num_slots: int = 11
    slot_size: int = 128
    initializer: Literal["gaussian", "learned"] = "gaussian"
    """What slots start from: samples of a normal distribution with learned mean and deviation, or learned vectors."""
    num_iterations: int = 2
    """Rounds of slot attention in each frame but the first."""
    first_iterations: int = 3
    """Rounds in the first frame."""
    corrector_mlp: int | None = None
    """Hidden width of slot attention's perceptron; None: none."""
    predictor_heads: int | None = 4
    """Heads of the transformer between frames; None: slots are left as they are, as for images."""
    predictor_mlp: int = 512
    predictor_layers: int = 1
    """Blocks of that transformer."""
    decoder: PerceptronConfig | MixerConfig = MixerConfig()
    losses: LossConfig = LossConfig()
    chunk: int | None = 2
    """Frames decoded at once without gradients; fewer need less memory. None: all."""

    def __post_init__(self) -> None:
        check_ranges(self.backbone, RANGES, "backbone.")
        patch, weights = self.backbone.patch_size, self.losses
        if any(side % patch or not side for side in self.resolution):
            raise UserError(
                f"Frames of {tuple(self.resolution)} do not divide into patches of {patch} x {patch}. Change "
                "resolution, or choose another backbone."
            )
        if self.predictor_layers < 1:
            raise UserError(
                f"predictor_layers is {self.predictor_layers}. Give 1 or more; predictor_heads None leaves slots as "
                "they are."
            )
        if not (weights.features > 0 or weights.similarity > 0):
            raise UserError(
                "The decoder has nothing to decode: set losses.features or losses.similarity to more than 0."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.backbone.grid(self.resolution)

    @property
    def feature_size(self) -> int:
        """Channels of the decoder that predict features."""
        return self.backbone.size if self.losses.features > 0 else 0

    @property
    def output_size(self) -> int:
        """All channels of the decoder: the features', and a score for each patch of the next frame."""
        return self.feature_size + (math.prod(self.grid) if self.losses.similarity > 0 else 0)


def build(config: FeatureSlotsConfig) -> ObjectCentricModel:
    """Five parts, put together; the backbone's weights are random."""
    size, needs_keys = config.slot_size, config.backbone.keys or config.losses.similarity > 0
    backbone = build_backbone(replace(config.backbone, keys=needs_keys))
    transform = mlp(backbone.size, [config.token_hidden], size, pre_norm=True, norm_eps=TORCH_NORM_EPS)
    corrector = SlotAttention(
        size,
        size,
        num_iterations=config.num_iterations,
        first_iterations=config.first_iterations,
        mlp_size=config.corrector_mlp,
        normalizer=eps_on_weights(1e-8),
        norm_eps=TORCH_NORM_EPS,
        full_bias=True,
        normed_memory=True,
    )
    slot_encoder = SlotEncoder(
        FeatureEncoder(Normalize(), backbone, transform),
        _initializer(config),
        corrector,
        IdentityPredictor() if config.predictor_heads is None else _predictor(config, config.predictor_heads),
    )
    decoder = FeatureDecoder(
        _renderer(config), _losses(config), feature_size=config.feature_size, chunk=config.chunk
    )
    start([transform, corrector, slot_encoder.predictor, decoder])
    _without_biases(transform)
    return ObjectCentricModel(slot_encoder, decoder, config)


@torch.no_grad()
def _initializer(config: FeatureSlotsConfig) -> Gaussian | Learned:
    """Slots of length about one."""
    size, deviation = config.slot_size, config.slot_size**-0.5
    if config.initializer == "learned":
        learned = Learned(config.num_slots, size)
        learned.slots.mul_(deviation)
        return learned
    gaussian = Gaussian(config.num_slots, size)
    gaussian.mean.zero_()
    gaussian.log_sigma.fill_(math.log(deviation))
    return gaussian


def _predictor(config: FeatureSlotsConfig, num_heads: int) -> ModulePredictor:
    blocks = [
        PreNormBlock(
            config.slot_size,
            num_heads=num_heads,
            qkv_size=config.slot_size,
            mlp_size=config.predictor_mlp,
            norm_eps=TORCH_NORM_EPS,
            scale=_scale(config.slot_size, num_heads),
        )
        for _ in range(config.predictor_layers)
    ]
    return ModulePredictor(blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks))


def _scale(size: int, num_heads: int) -> float:
    """The original divides queries by the inverse root of a head's width."""
    return (size / num_heads) ** 0.5


def _renderer(config: FeatureSlotsConfig) -> Renderer:
    numbers = config.decoder
    if isinstance(numbers, PerceptronConfig):
        return PerceptronRenderer(config.grid, config.slot_size, numbers.hidden, config.output_size)
    size = numbers.position_size or config.slot_size
    return MixerRenderer(
        config.grid,
        config.slot_size,
        numbers.hidden,
        config.output_size,
        position_size=size,
        num_blocks=numbers.num_blocks,
        num_heads=numbers.num_heads,
        mlp_size=numbers.mlp_size,
        scale=_scale(size, numbers.num_heads),
        use_positions=numbers.use_positions,
    )


def _losses(config: FeatureSlotsConfig) -> dict[str, Weighted]:
    numbers = config.losses
    found = {
        "features": Weighted(feature_error, numbers.features),
        "similarity": Weighted(
            partial(
                similarity_error,
                temperature=numbers.similarity_temperature,
                first_channel=config.feature_size,
                threshold=numbers.similarity_threshold,
            ),
            numbers.similarity,
        ),
        "contrast": Weighted(
            partial(
                temporal_contrast,
                temperature=numbers.contrast_temperature,
                whole_batch=numbers.contrast_whole_batch,
            ),
            numbers.contrast,
            compares_clips=numbers.contrast_whole_batch,
        ),
    }
    return {name: loss for name, loss in found.items() if loss.weight > 0}


def start(parts: Iterable[nn.Module]) -> None:
    """The original's initial weights: torch's, without biases in perceptrons; Glorot's in attention and behind the
    mixture."""
    for part in parts:
        start_as_torch(part)
        for module in part.modules():
            if isinstance(module, MultiHeadAttention):
                for layer in (module.query, module.key, module.value, module.out):
                    start_together([layer])
            elif isinstance(module, MixerRenderer):
                _without_biases(module.mlp)
                for layer in (module.query, module.key, module.mlp[-1]):
                    start_together([layer])
            elif isinstance(module, PerceptronRenderer):
                for layer in (module.first, module.middle, module.last):
                    _without_biases(layer)
            elif isinstance(module, SlotAttention) and module.mlp is not None:
                _without_biases(module.mlp)


@torch.no_grad()
def _without_biases(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.bias.zero_()
