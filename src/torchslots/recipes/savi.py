"""SAVi and SAVi++.

Kipf et al., Conditional Object-Centric Learning from Video (ICLR 2022).
Elsayed et al., SAVi++: Towards End-to-End Object-Centric Learning from Real-World Videos (NeurIPS 2022).

Published FG-ARI in per cent on the validation sets of MOVi-A / B / C / D / E, mean of five seeds, boxes as
conditioning, all 24 frames of a video scored together, the first included (README of the authors' code):

| | A | B | C | D | E |
|---|---|---|---|---|---|
| SAVi-S | 92.1 | 72.2 | 64.7 | 33.8 | 8.3 |
| SAVi-M | 93.4 | 75.1 | 67.4 | 20.8 | 12.2 |
| SAVi-L | 95.1 | 64.8 | 71.3 | 59.7 | 34.1 |
| SAVi++ | 85.3 | 72.5 | 79.1 | 84.8 | 85.1 |

An older version of that README has SAVi-M at 92.5, 78.6, 69.4, 29.2, 14.0 (docs/fidelity.md).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.models.backbones.vit import Normalize
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.decoders.regions import NUM_TERMS, RegionDecoder
from torchslots.models.layers.blocks import PreNormBlock, mlp
from torchslots.models.layers.conv import cnn
from torchslots.models.layers.init import dense
from torchslots.models.layers.position import PositionEmbedding, wave_grid
from torchslots.models.layers.resnet import ResNet
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder, SlotEncoder
from torchslots.models.slots.initializers import FromBoxes, FromMasks, Gaussian, Learned
from torchslots.models.slots.predictors import TransformerPredictor
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.sizes import decoded_size, patch_size, reduced, require_decoded

TARGET_CHANNELS = {"video": 3, "flow": 3, "depth": 1}
"""Channels of each image that a decoder can predict."""


@dataclass(frozen=True)
class CnnConfig:
    """The encoder's convolutions: 5x5, ReLU behind each."""

    channels: tuple[int, ...] = (32, 32, 32, 32)
    strides: tuple[int, ...] = (1, 1, 1, 1)

    def reduction(self) -> int:
        """How many times smaller the feature map is than the frame."""
        return math.prod(self.strides)


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet with group norm: blocks in each stage, channels of the first stage."""

    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    def reduction(self) -> int:
        """How many times smaller the feature map is than the frame."""
        return 2 ** (len(self.stage_sizes) - 1)


@dataclass(frozen=True)
class TransformerConfig:
    """SAVi++'s transformer over tokens, between the backbone and slot attention."""

    num_layers: int = 4
    num_heads: int = 4
    qkv_size: int = 64
    mlp_size: int = 1024


@dataclass(frozen=True)
class DecoderConfig:
    """Spatial broadcast decoder: 5x5 convolutions, ReLU behind each, stride 2 transposed."""

    grid: tuple[int, int] = (8, 8)
    """Cells over which a slot is tiled."""
    channels: tuple[int, ...] = (64, 64, 64, 64)
    strides: tuple[int, ...] = (2, 2, 2, 1)
    fusion: Literal["late", "early"] = "late"
    """Blend images (SAVi) or features (SAVi++). Both are the same function, since readouts are linear; the originals
    name their readouts by it."""
    chunk: int | None = None
    """Images decoded at once, of which each slot of a frame has one; fewer need less memory. None: all."""


@dataclass(frozen=True)
class RegionDecoderConfig:
    """A decoder of our own for small models: each slot is a region of one smooth appearance, its mask decoded by a
    perceptron, a patch of pixels for each cell of a coarse grid."""

    grid: tuple[int, int] = (16, 16)
    """Cells over which a slot is tiled; each decodes a patch of the frame's size divided by the grid's."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the masks' layers, ReLU behind each."""
    frequencies: int = 4
    """Frequencies of sines and cosines of a cell's position, the lowest of one period over two frames, each twice as
    high as the one before; 0: only the coordinates."""
    appearance_hidden: int = 128
    """Hidden width of the perceptron from a slot to the coefficients of its images."""
    sparsity: float = 0.0
    """Weight of the sum of the square roots of the masks' areas, as parts of the frame: it is least where few slots
    share the frame. Without hints, several slots share an object otherwise. 0: none."""
    sparsity_start: int = 0
    """Finished steps before `sparsity` counts: slots must have found objects, or one slot takes the whole frame."""


@dataclass(frozen=True)
class SaviConfig(ModelConfig):
    """Configuration of SAVi, SAVi++ and their sizes."""

    family: ClassVar[str] = "savi"
    resolution: tuple[int, int] = (64, 64)
    """Height and width of the frames."""
    encoder: CnnConfig | ResNetConfig = CnnConfig()
    transformer: TransformerConfig | None = None
    position_hidden: int = 64
    """Hidden width of the perceptron behind the encoder's positions."""
    slot_size: int = 128
    conditioning: Literal["boxes", "centers", "masks", "learned", "gaussian", "learned_gaussian"] = "boxes"
    """What slots start from: boxes, centres of boxes or masks in the first frame; or, without hints, learned vectors,
    samples of the standard normal distribution, or of one with learned mean and deviation."""
    num_slots: int = 24
    """Slots, the background's included. With boxes their number decides: one slot each and one more."""
    initializer_hidden: int = 256
    hint_frequencies: int = 0
    """Frequencies of sines and cosines of the boxes' or centres' coordinates, beside them; 0: none, as in the paper."""
    num_iterations: int = 1
    """Rounds of slot attention in each frame."""
    num_heads: int = 1
    qkv_size: int = 128
    corrector_mlp: int | None = None
    """Hidden width of slot attention's perceptron; None: none, as in the paper."""
    predictor_heads: int = 4
    predictor_qkv: int = 128
    predictor_mlp: int = 256
    decoder: DecoderConfig | RegionDecoderConfig = DecoderConfig()
    targets: tuple[str, ...] = ("flow",)
    """Images that the decoder predicts: video, flow, depth."""
    target_weights: tuple[float, ...] = ()
    """Factor of each target's error in the loss; none: 1 each, as in the papers."""
    frame_statistics: tuple[float, float] | None = None
    """Mean and deviation of the frames' values: the encoder sees (x - mean) / deviation, in which objects before a grey
    ground stand out; None: values from 0 to 1, as in the papers."""
    recompute: bool = False
    """Recompute activations of encoder and decoder in the backward pass: less memory, slower."""

    def __post_init__(self) -> None:
        for name in self.targets:
            if name not in TARGET_CHANNELS:
                raise UserError(f"Unknown target `{name}`. Targets are {', '.join(TARGET_CHANNELS)}.")
        if self.target_weights and len(self.target_weights) != len(self.targets):
            raise UserError(
                f"`target_weights` should have one value for each of the {len(self.targets)} targets, got "
                f"{len(self.target_weights)}."
            )
        if self.frame_statistics is not None and self.frame_statistics[1] <= 0:
            raise UserError(
                f"`frame_statistics` should end with a deviation over 0, got {self.frame_statistics}."
            )
        if isinstance(self.decoder, RegionDecoderConfig):
            patch_size(self.decoder.grid, self.resolution)
        else:
            require_decoded(decoded_size(self.decoder.grid, self.decoder.strides), self.resolution)


def build(config: SaviConfig) -> ObjectCentricModel:
    """SAVi from its five parts (figure 2), with fresh weights."""
    return build_with(_predictor, config, config)


def _predictor(config: SaviConfig) -> TransformerPredictor:
    return TransformerPredictor(
        config.slot_size,
        num_heads=config.predictor_heads,
        qkv_size=config.predictor_qkv,
        mlp_size=config.predictor_mlp,
    )


def build_with(
    predictor: Callable[[SaviConfig], nn.Module], config: SaviConfig, whole: ModelConfig
) -> ObjectCentricModel:
    """SAVi with another predictor; `whole`, of which `config` is a part, is saved with the model."""
    tokens, encoder = _encoder(config)
    slot_encoder = SlotEncoder(
        encoder=encoder,
        initializer=_INITIALIZERS[config.conditioning](config),
        corrector=SlotAttention(
            tokens,
            config.slot_size,
            qkv_size=config.qkv_size,
            num_iterations=config.num_iterations,
            num_heads=config.num_heads,
            mlp_size=config.corrector_mlp,
        ),
        predictor=predictor(config),
        recompute=config.recompute,
    )
    return ObjectCentricModel(slot_encoder, _decoder(config), whole)


def _encoder(config: SaviConfig) -> tuple[int, FrameEncoder]:
    """Width of the tokens, and the encoder that makes them."""
    channels, network = backbone(config.encoder)
    if config.frame_statistics is not None:
        mean, std = config.frame_statistics
        network = nn.Sequential(Normalize([mean] * 3, [std] * 3), network)
    layers: list[nn.Module] = [mlp(channels, [config.position_hidden], channels, pre_norm=True)]
    tokens, transformer = channels, config.transformer
    if transformer is not None:
        tokens = transformer.qkv_size
        layers += [dense(channels, tokens), nn.ReLU()]
        for _ in range(transformer.num_layers):
            heads, hidden = transformer.num_heads, transformer.mlp_size
            layers.append(PreNormBlock(tokens, num_heads=heads, qkv_size=tokens, mlp_size=hidden))
    position = PositionEmbedding(reduced(config.resolution, config.encoder.reduction()), channels)
    return tokens, FrameEncoder(network, position, nn.Sequential(*layers))


def backbone(config: CnnConfig | ResNetConfig, *, activate_last: bool = True) -> tuple[int, nn.Module]:
    """Channels of the encoder's feature map, and the network that makes it.

    Args:
        activate_last: whether ReLU follows the last convolution, too.
    """
    if isinstance(config, ResNetConfig):
        network = ResNet(config.stage_sizes, config.width)
        return network.output_size, network
    return config.channels[-1], cnn(3, config.channels, config.strides, activate_last=activate_last)


def _from_masks(config: SaviConfig) -> FromMasks:
    """As the authors do: a small strided CNN over each mask, averaged over its places, and a perceptron."""
    channels, strides = (32, 32, 32, 32), (2, 2, 2, 1)
    encoder = FrameEncoder(
        cnn(1, channels, strides),
        PositionEmbedding(reduced(config.resolution, 8), channels[-1]),
        mlp(channels[-1], [64], channels[-1], pre_norm=True),
    )
    head = mlp(channels[-1], [config.initializer_hidden], config.slot_size)
    return FromMasks(encoder, head, num_slots=config.num_slots)


def _from_boxes(config: SaviConfig, centers: bool) -> FromBoxes:
    return FromBoxes(
        config.slot_size,
        hidden_size=config.initializer_hidden,
        centers=centers,
        frequencies=config.hint_frequencies,
    )


_INITIALIZERS: dict[str, Callable[[SaviConfig], nn.Module]] = {
    "boxes": lambda config: _from_boxes(config, centers=False),
    "centers": lambda config: _from_boxes(config, centers=True),
    "masks": _from_masks,
    "learned": lambda config: Learned(config.num_slots, config.slot_size),
    "gaussian": lambda config: Gaussian(config.num_slots, config.slot_size, learned=False),
    "learned_gaussian": lambda config: Gaussian(config.num_slots, config.slot_size),
}


def _decoder(config: SaviConfig) -> BroadcastDecoder | RegionDecoder:
    decoder = config.decoder
    if isinstance(decoder, RegionDecoderConfig):
        return _region_decoder(config, decoder)
    transposed = [stride > 1 for stride in decoder.strides]
    return BroadcastDecoder(
        PositionEmbedding(decoder.grid, config.slot_size),
        cnn(config.slot_size, decoder.channels, decoder.strides, transposed=transposed),
        grid=decoder.grid,
        features=decoder.channels[-1],
        targets={name: TARGET_CHANNELS[name] for name in config.targets},
        chunk=decoder.chunk,
        recompute=config.recompute,
        weights=dict(zip(config.targets, config.target_weights)),
    )


def _region_decoder(config: SaviConfig, decoder: RegionDecoderConfig) -> RegionDecoder:
    """Images start as an empty scene: the frames' mean, and no motion."""
    patch = patch_size(decoder.grid, config.resolution)
    targets = {name: TARGET_CHANNELS[name] for name in config.targets}
    channels = [*decoder.hidden, patch**2]
    network = cnn(config.slot_size, channels, [1] * len(channels), kernel=1, activate_last=False)
    network.append(nn.PixelShuffle(patch))
    appearance = mlp(config.slot_size, [decoder.appearance_hidden], NUM_TERMS * sum(targets.values()))
    start = {"video": (config.frame_statistics or (0.5,))[0], "flow": 1.0}
    readout = appearance[-1]
    assert isinstance(readout, nn.Linear)
    with torch.no_grad():
        readout.weight.mul_(0.05)
        constant = [start.get(name, 0.0) for name, size in targets.items() for _ in range(size)]
        readout.bias[: len(constant)] = torch.tensor(constant)
    return RegionDecoder(
        PositionEmbedding(
            decoder.grid, config.slot_size, grid=partial(wave_grid, frequencies=decoder.frequencies)
        ),
        network,
        appearance,
        grid=decoder.grid,
        resolution=config.resolution,
        targets=targets,
        weights=dict(zip(config.targets, config.target_weights)),
        sparsity=decoder.sparsity,
        sparsity_start=decoder.sparsity_start,
    )


def savi_small() -> Recipe:
    """SAVi-S on MOVi-A at 64x64, optical flow as target, 100k steps; FG-ARI 92.1 (895,268 weights)."""
    return Recipe("savi_small", SaviConfig(), DataConfig(), OptimConfig(clip_epsilon=0.0), TrainConfig())


def savi_medium() -> Recipe:
    """SAVi-M on MOVi-A at 128x128: wider, strided encoder, 100k steps; FG-ARI 93.4 (1,140,740 weights)."""
    model = SaviConfig(
        resolution=(128, 128),
        encoder=CnnConfig((64, 64, 64, 64), (2, 1, 1, 1)),
        decoder=DecoderConfig(strides=(2, 2, 2, 2)),
    )
    return replace(savi_small(), name="savi_medium", model=model, data=DataConfig(resolution=128))


def savi_large() -> Recipe:
    """SAVi-L on MOVi-A at 128x128: ResNet-34 encoder, 500k steps; FG-ARI 95.1 (22,273,412 weights)."""
    model = SaviConfig(
        resolution=(128, 128), encoder=ResNetConfig(), decoder=DecoderConfig(strides=(2, 2, 2, 2))
    )
    base = savi_medium()
    return replace(base, name="savi_large", model=model, optim=replace(base.optim, num_steps=500_000))


def savi_plus_plus() -> Recipe:
    """SAVi++ on MOVi-E at 128x128: transformer encoder, flow and depth, random crops, 500k steps; FG-ARI 85.1
    (23,132,165 weights)."""
    model = SaviConfig(
        resolution=(128, 128),
        encoder=ResNetConfig(),
        transformer=TransformerConfig(),
        qkv_size=256,
        predictor_qkv=256,
        predictor_mlp=1024,
        decoder=DecoderConfig(strides=(2, 2, 2, 2), fusion="early"),
        targets=("depth", "flow"),
    )
    data = DataConfig(
        dataset="movi_e",
        keys=("video", "segmentations", "boxes", "flow", "depth"),
        resolution=128,
        min_object_covered=0.75,
    )
    return replace(savi_large(), name="savi_plus_plus", model=model, data=data)


def savi_demo() -> Recipe:
    """SAVi at 32x32 on generated videos, for `torchslots demo`: minutes on two cores; all sizes are chosen here.

    Many small steps, and pairs of frames at first: slots learn to find objects, then to follow them. Both flow and RGB
    are targets, since flow is zero in a video's first frame. With a much higher rate or a much shorter warm-up all
    ReLUs of the encoder's last layer stay at zero, and slots see nothing.
    """
    model = SaviConfig(
        resolution=(32, 32),
        encoder=CnnConfig(strides=(2, 1, 1, 1)),
        slot_size=64,
        num_slots=11,
        initializer_hidden=128,
        qkv_size=64,
        predictor_qkv=64,
        predictor_mlp=128,
        decoder=DecoderConfig(channels=(16, 16, 16), strides=(2, 2, 1)),
        targets=("video", "flow"),
    )
    return Recipe(
        "savi_demo",
        model,
        DataConfig(dataset="sim_a", resolution=32, max_instances=10, crop=(4, 6, 48, 48)),
        OptimConfig(learning_rate=5e-4, warmup_steps=500, num_steps=6000),
        TrainConfig(
            batch_size=3,
            precision="bf16",
            compile=False,
            num_workers=0,
            log_every=50,
            eval_every=1500,
            checkpoint_every=1500,
            keep=1,
            short_clip=2,
            short_steps=2000,
        ),
        EvalConfig(slice_size=24, batch_size=8),
    )


def savi_sim() -> Recipe:
    """SAVi at 64x64 on generated videos (`sim_a`), for an hour on two cores; all sizes are chosen here.

    What differs from SAVi-S makes it learn with less computation: slots decode to regions of smooth appearance; boxes
    enter as waves, as the decoder's positions do (without waves, slots of some seeds ignore them); frames without
    their mean, and images that start as an empty scene; RGB beside flow as target, since objects at rest have no flow;
    pairs of frames first.
    """
    demo = savi_demo()
    model = replace(
        demo.model,
        resolution=(64, 64),
        encoder=CnnConfig(strides=(2, 2, 1, 1)),
        hint_frequencies=4,
        decoder=RegionDecoderConfig(),
        target_weights=(20.0, 1.0),
        frame_statistics=(0.42, 0.4),
    )
    return replace(
        demo,
        name="savi_sim",
        model=model,
        data=DataConfig(dataset="sim_a", max_instances=10),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=200, num_steps=9000, ema_decay=0.999),
        train=replace(
            demo.train, batch_size=8, log_every=100, eval_every=1000, checkpoint_every=1000, short_steps=700
        ),
    )


def savi_sim_small() -> Recipe:
    """`savi_sim` at 32x32, for minutes on two cores: `torchslots demo`."""
    sim = savi_sim()
    assert isinstance(sim.model, SaviConfig)
    model = replace(
        sim.model,
        resolution=(32, 32),
        encoder=CnnConfig(strides=(2, 1, 1, 1)),
        decoder=RegionDecoderConfig(grid=(8, 8)),
    )
    return replace(
        sim,
        name="savi_sim_small",
        model=model,
        data=replace(sim.data, resolution=32, crop=(4, 6, 48, 48)),
        optim=replace(sim.optim, num_steps=6000),
        train=replace(sim.train, short_steps=500),
    )


def slots_sim() -> Recipe:
    """Learned slots at 64x64 on images and short films of `sim_a`, without hints; all sizes are chosen here.

    The parts of `savi_sim`, with two rounds of attention in each frame, and tokens for every second pixel of the frame:
    slots that look for objects by themselves lose small ones among fewer. Slots divide single frames first, then short
    films, and share no object after that. The model in the package was trained in four runs, see its card.
    """
    sim = savi_sim()
    assert isinstance(sim.model, SaviConfig)
    model = replace(
        sim.model,
        conditioning="learned",
        hint_frequencies=0,
        num_iterations=2,
        frame_statistics=(0.42, 0.12),
        encoder=CnnConfig(strides=(2, 1, 1, 1)),
        decoder=RegionDecoderConfig(sparsity=100.0, sparsity_start=3500),
    )
    return replace(
        sim,
        name="slots_sim",
        model=model,
        data=replace(sim.data, num_frames=4, keys=("video", "segmentations", "flow")),
        optim=replace(sim.optim, learning_rate=1e-3, warmup_steps=300),
        train=replace(sim.train, short_clip=1, short_steps=2000),
    )
