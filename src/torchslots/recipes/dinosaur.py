"""DINOSAUR: slots in photos that explain the features of a frozen vision transformer (Seitzer et al., ICLR 2023).

This is the authors' own form of it. Another, of VideoSAUR's code, is in `recipes/videosaur.py`: its recurrent unit
starts from normalised slots, and its rate falls faster. Figures are per image, FG-ARI and mBO of instances, in per
cent, from the authors' page.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.models.backbones.vit import Normalize
from torchslots.models.decoders.features import FeatureDecoder, Weighted, feature_error
from torchslots.models.decoders.renderers import AutoregressiveRenderer, PerceptronRenderer, Renderer
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.layers.blocks import TORCH_NORM_EPS, mlp
from torchslots.models.layers.weight_init import start_as_torch, start_together
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import Normalizer, SlotAttention, eps_on_weights
from torchslots.models.slots.encoder import SlotEncoder
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.slots.initializers import Gaussian
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.recipes.backbones import DINO_B16, DINO_S8, DINO_S16, BackboneConfig, build_backbone
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.feature_slots import PerceptronConfig
from torchslots.recipes.sweep import sweep


@dataclass(frozen=True)
class AutoregressiveConfig:
    """A causal transformer predicts each patch's features from the slots and the patches before it."""

    num_layers: int = 4
    num_heads: int = 8
    mlp_size: int | None = None
    """Hidden width of its perceptrons; None: four times the features'."""
    masks: Literal["cross_attention", "slot_attention"] = "cross_attention"
    """Where masks come from: the last layer's attention to the slots, averaged over heads; or slot attention."""


@dataclass(frozen=True)
class ImageSlotsConfig(ModelConfig):
    """What the systems for images that explain features have in common."""

    resolution: tuple[int, int] = (224, 224)
    """Height and width of the images it is trained on."""
    backbone: BackboneConfig = DINO_B16
    token_hidden: int = 768
    """Hidden width of the perceptron from features to tokens."""
    num_slots: int = 7
    slot_size: int = 256
    num_iterations: int = 3
    """Rounds of slot attention."""
    corrector_mlp: int = 1024
    """Hidden width of slot attention's perceptron."""
    chunk: int | None = 2
    """Images decoded at once without gradients; fewer need less memory. None: all."""

    def __post_init__(self) -> None:
        patch = self.backbone.patch_size
        if any(side % patch or not side for side in self.resolution):
            raise UserError(
                f"Frames of {tuple(self.resolution)} do not divide into patches of {patch} x {patch}. Change "
                "resolution, or choose another backbone."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.backbone.grid(self.resolution)


_WIDE = PerceptronConfig(hidden=(2048, 2048, 2048))


@dataclass(frozen=True)
class DinosaurConfig(ImageSlotsConfig):
    """The configuration of a DINOSAUR."""

    family: ClassVar[str] = "dinosaur"
    decoder: PerceptronConfig | AutoregressiveConfig = _WIDE


def build(config: DinosaurConfig) -> ObjectCentricModel:
    """Five parts, put together; the backbone's weights are random."""
    return ObjectCentricModel(
        build_slot_encoder(config, eps_on_weights(1e-8)),
        FeatureDecoder(
            started(_renderer(config)),
            {"features": Weighted(feature_error)},
            feature_size=config.backbone.size,
            chunk=config.chunk,
        ),
        config,
    )


def build_slot_encoder(
    config: ImageSlotsConfig, normalizer: Normalizer, antialias: bool = False
) -> SlotEncoder:
    """Images to slots, which start from samples with a learned mean and deviation.

    Args:
        antialias: images were resized with antialiasing in training.
    """
    backbone, size = build_backbone(config.backbone), config.slot_size
    transform = mlp(backbone.size, [config.token_hidden], size, pre_norm=True, norm_eps=TORCH_NORM_EPS)
    corrector = SlotAttention(
        size,
        size,
        num_iterations=config.num_iterations,
        mlp_size=config.corrector_mlp,
        normalizer=normalizer,
        norm_eps=TORCH_NORM_EPS,
        full_bias=True,
    )
    initializer = Gaussian(config.num_slots, size)
    with torch.no_grad():
        for parameter in (initializer.mean, initializer.log_sigma):
            parameter.uniform_(-((3 / size) ** 0.5), (3 / size) ** 0.5)
    start_as_torch(corrector)
    start_without_biases([transform, corrector.mlp or nn.Identity()])
    encoder = FeatureEncoder(Normalize(), backbone, transform, antialias=antialias)
    return SlotEncoder(encoder, initializer, corrector, IdentityPredictor())


def _renderer(config: DinosaurConfig) -> Renderer:
    numbers, size = config.decoder, config.backbone.size
    if isinstance(numbers, PerceptronConfig):
        return PerceptronRenderer(config.grid, config.slot_size, numbers.hidden, size)
    return AutoregressiveRenderer(
        config.grid,
        config.slot_size,
        size,
        num_layers=numbers.num_layers,
        num_heads=numbers.num_heads,
        mlp_size=numbers.mlp_size or 4 * size,
        own_masks=numbers.masks == "cross_attention",
    )


def started(renderer: Renderer) -> Renderer:
    """The original's initial weights: torch's, in perceptrons without biases; Glorot's in attention."""
    if isinstance(renderer, PerceptronRenderer):
        start_without_biases([renderer.first, renderer.middle, renderer.last])
        nn.init.normal_(renderer.positions.table, std=0.02)
        return renderer
    start_as_torch(renderer)
    for part in renderer.modules():
        if isinstance(part, MultiHeadAttention):
            start_together([part.query, part.key, part.value])
            nn.init.zeros_(part.out.bias)
    return renderer


def start_without_biases(networks: Iterable[nn.Module]) -> None:
    """Torch's initial weights, and biases of zero."""
    for network in networks:
        start_as_torch(network)
        for layer in network.modules():
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


# ------------------------------------------------------------------------------------------------------- recipes


def _optim(num_steps: int) -> OptimConfig:
    return OptimConfig(
        learning_rate=4e-4,
        warmup_steps=10_000,
        num_steps=num_steps,
        max_grad_norm=1.0,
        schedule="exponential_after_warmup",
        decay_steps=100_000,
    )


_IMAGES = EvalConfig(num_frames=1, slice_size=1, batch_size=32, num_background=0, protocol="dinosaur")
_TRAIN = TrainConfig(batch_size=64, log_every=100, eval_every=10_000, checkpoint_every=10_000)


def _photos(dataset: str, crop: Literal["random", "center"]) -> DataConfig:
    return DataConfig(
        dataset=dataset,
        keys=("video", "segmentations"),
        resolution=224,
        num_frames=1,
        interpolation="bicubic",
        train_crop=crop,
        eval_crop="center",
        flip=0.5,
        label_size=320,
    )


def _coco(model: DinosaurConfig) -> Recipe:
    return Recipe("", model, _photos("coco", "center"), _optim(500_000), _TRAIN, _IMAGES)


def _voc(model: DinosaurConfig) -> Recipe:
    """Most images that it is trained on have no masks."""
    data = replace(_photos("voc", "random"), keys=("video",), train_split="trainaug")
    evaluation = replace(_IMAGES, keys=("video", "segmentations"))
    return Recipe("", model, data, _optim(300_000), _TRAIN, evaluation)


def _movi(dataset: str, model: DinosaurConfig) -> Recipe:
    """Single frames; whole videos are evaluated, each frame by itself."""
    data = DataConfig(
        dataset=dataset,
        keys=("video", "segmentations"),
        resolution=224,
        num_frames=1,
        windows="anywhere",
        square=True,
        interpolation="bicubic",
        label_size=128,
    )
    return Recipe("", model, data, _optim(500_000), _TRAIN, EvalConfig(protocol="dinosaur"))


def _of_movi(num_slots: int, autoregressive: bool) -> DinosaurConfig:
    decoder = AutoregressiveConfig(num_heads=4, masks="slot_attention")
    return DinosaurConfig(
        backbone=DINO_S16 if autoregressive else DINO_S8,
        token_hidden=384,
        num_slots=num_slots,
        slot_size=128,
        corrector_mlp=512,
        decoder=decoder if autoregressive else PerceptronConfig(),
    )


_SMALL = {"backbone": DINO_S16, "token_hidden": 384}
_SETTINGS: dict[str, Callable[[], Recipe]] = {
    "coco_mlp": lambda: _coco(DinosaurConfig()),
    "coco_auto": lambda: _coco(DinosaurConfig(decoder=AutoregressiveConfig())),
    "coco_mlp_small": lambda: _coco(DinosaurConfig(**_SMALL)),
    "coco_auto_small": lambda: _coco(DinosaurConfig(**_SMALL, decoder=AutoregressiveConfig())),
    "voc_mlp": lambda: _voc(DinosaurConfig(num_slots=6)),
    "voc_auto": lambda: _voc(DinosaurConfig(num_slots=6, decoder=AutoregressiveConfig(num_heads=4))),
    "movi_c_mlp": lambda: _movi("movi_c", _of_movi(11, False)),
    "movi_c_auto": lambda: _movi("movi_c", _of_movi(11, True)),
    "movi_e_mlp": lambda: _movi("movi_e", _of_movi(24, False)),
    "movi_e_auto": lambda: _movi("movi_e", _of_movi(24, True)),
}


def _recipe(setting: str) -> Recipe:
    return replace(_SETTINGS[setting](), name=f"dinosaur_{setting}")


RECIPES = sweep(
    "dinosaur",
    _recipe,
    {
        "coco_mlp": """DINOSAUR on COCO at 224x224: DINO ViT-B/16, 7 slots of 256, a perceptron of 3 x 2048 decodes,
        batches of 64 images, 500k steps; FG-ARI 40.5, mBO 27.7 on masks of 320x320 without crowds.""",
        "coco_auto": """DINOSAUR on COCO with an autoregressive decoder of 4 layers and 8 heads, otherwise as
        `dinosaur_coco_mlp`; FG-ARI 34.1, mBO 31.6.""",
        "coco_mlp_small": """DINOSAUR on COCO with DINO ViT-S/16, otherwise as `dinosaur_coco_mlp`; the authors give no
        figure.""",
        "coco_auto_small": """DINOSAUR on COCO with DINO ViT-S/16 and an autoregressive decoder, otherwise as
        `dinosaur_coco_auto`; FG-ARI 36.9, mBO 29.7.""",
        "voc_mlp": """DINOSAUR on PASCAL VOC 2012 (`trainaug`) at 224x224: DINO ViT-B/16, 6 slots of 256, a perceptron
        of 3 x 2048 decodes, batches of 64 images, 300k steps; FG-ARI 24.6, mBO 39.5 on masks of 320x320, where void
        pixels count as background.""",
        "voc_auto": """DINOSAUR on PASCAL VOC 2012 with an autoregressive decoder of 4 layers and 4 heads, otherwise as
        `dinosaur_voc_mlp`; FG-ARI 24.8, mBO 44.0.""",
        "movi_c_mlp": """DINOSAUR on frames of MOVi-C at 224x224: DINO ViT-S/8, 11 slots of 128, a perceptron of
        3 x 1024 decodes, batches of 64 images, 500k steps; FG-ARI 67.2, mBO 38.6 on masks of 128x128.""",
        "movi_c_auto": """DINOSAUR on frames of MOVi-C with DINO ViT-S/16 and an autoregressive decoder of 4 layers and
        4 heads, whose masks are those of slot attention, otherwise as `dinosaur_movi_c_mlp`; the authors give figures
        of ViT-B/16 alone, FG-ARI 55.7, mBO 42.4.""",
        "movi_e_mlp": """DINOSAUR on frames of MOVi-E with 24 slots, otherwise as `dinosaur_movi_c_mlp`; FG-ARI 64.7,
        mBO 34.1. With 11 slots (--model.num-slots 11) 76.7, 29.7.""",
        "movi_e_auto": """DINOSAUR on frames of MOVi-E with 24 slots, otherwise as `dinosaur_movi_c_auto`; the authors
        give no figure.""",
    },
)
