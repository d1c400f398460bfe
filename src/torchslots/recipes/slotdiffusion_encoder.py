"""The slot encoder of SlotDiffusion (Wu et al., NeurIPS 2023), which its STEVE and SAVi baselines share.

Numbers and numerics are those of the authors' PyTorch code: images in [-1, 1], layer norms with epsilon 1e-5, one
learned vector for each slot, a perceptron in every round of slot attention, and a transformer with dropout between
frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import nn

from torchslots.io.errors import UserError
from torchslots.models.layers.blocks import TORCH_NORM_EPS, ResidualMlp, mlp, transformer
from torchslots.models.layers.conv import cnn
from torchslots.models.layers.position import PositionEmbedding, soft_grid
from torchslots.models.layers.ranges import Signed
from torchslots.models.layers.resnet import ResNet
from torchslots.models.layers.weight_init import start_as_torch, start_residual, start_spread
from torchslots.models.slots.attention import SlotAttention, eps_on_weights
from torchslots.models.slots.encoder import FrameEncoder, SlotEncoder
from torchslots.models.slots.initializers import Learned
from torchslots.models.slots.predictors import IdentityPredictor, LSTMPredictor, ModulePredictor
from torchslots.recipes.config import DataConfig, EvalConfig, OptimConfig, TrainConfig

NormName = Literal["none", "batch", "instance", "group"]
"""What follows each convolution; batch and instance norm take the place of its bias, group norm has 16 groups."""


@dataclass(frozen=True)
class ResNetEncoderConfig:
    """A ResNet with group norm and without max-pooling; its stages halve the resolution from the second on."""

    stage_sizes: tuple[int, ...] = (2, 2, 2)
    """Blocks in each stage: ResNet-18 without its last."""
    width: int = 64
    """Channels of the first stage, a multiple of 32; they double from one stage to the next."""


@dataclass(frozen=True)
class CnnEncoderConfig:
    """Plain convolutions with ReLU between them."""

    channels: tuple[int, ...] = (64, 64, 64, 64)
    kernel: int = 5
    """Odd."""
    norm: NormName = "none"
    stride: int | None = None
    """Of the first convolution; None: 2 for frames of more than 64 rows, else 1."""
    spread_start: bool = False
    """Start with kernels that pass on the spread of what they see, for short trainings: as torch starts them, what a
    place looks like is next to nothing beside where it is, and slots first learn to share out places, not objects."""

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise UserError(
                f"stride should be at least 1, got {self.stride}. Leave it out for the frames' own."
            )

    def first_stride(self, resolution: tuple[int, int]) -> int:
        """Pixels of a token's side, for frames of this height and width."""
        return 1 + (resolution[0] > 64) if self.stride is None else self.stride


@dataclass(frozen=True)
class TransformerPredictorConfig:
    """Slots of a frame attend to each other."""

    num_layers: int = 2
    num_heads: int = 4
    mlp_size: int = 768
    dropout: float = 0.1
    """Also of the attention."""
    norm_first: bool = True


@dataclass(frozen=True)
class MlpPredictorConfig:
    """A perceptron on each slot."""

    hidden_size: int = 384
    norm_first: bool = True
    """Add to the normalised slots, not to the slots themselves."""


@dataclass(frozen=True)
class SlotsConfig:
    """The numbers of the slot encoder."""

    resolution: tuple[int, int] = (128, 128)
    """Height and width of the frames."""
    encoder: ResNetEncoderConfig | CnnEncoderConfig = field(default_factory=ResNetEncoderConfig)
    token_size: int = 192
    num_slots: int = 15
    """Each is learned."""
    slot_size: int = 192
    num_iterations: int = 2
    """Rounds of slot attention in each frame."""
    mlp_size: int = 384
    """Hidden width of slot attention's perceptron."""
    predictor: TransformerPredictorConfig | MlpPredictorConfig | None = field(
        default_factory=TransformerPredictorConfig
    )
    """What slots do between frames; None (images): nothing."""
    recurrent_size: int | None = None
    """Width of a recurrent unit behind the predictor; None: no such unit."""
    truncate_every: int | None = None
    """Frames after which the recurrent unit lets no gradient back; None: never."""
    recompute: bool = False
    """Recompute activations of the encoder in the backward pass: less memory, slower."""

    def __post_init__(self) -> None:
        if isinstance(self.predictor, TransformerPredictorConfig):
            require_heads("slot_size", self.slot_size, self.predictor.num_heads)

    def token_grid(self) -> tuple[int, int]:
        """Height and width of the encoder's token map, and so of `Clip.attn`."""
        encoder = self.encoder
        if isinstance(encoder, ResNetEncoderConfig):
            reduction = 2 ** (len(encoder.stage_sizes) - 1)
        else:
            reduction = encoder.first_stride(self.resolution)
        return -(-self.resolution[0] // reduction), -(-self.resolution[1] // reduction)


def require_heads(name: str, size: int, num_heads: int) -> None:
    """Raises UserError where a width cannot be shared out among heads of attention."""
    if num_heads < 1 or size % num_heads:
        raise UserError(
            f"{name} {size} cannot be shared out among {num_heads} heads of attention. Choose heads that divide it; "
            "for a checkpoint give the original's numbers with --config."
        )


def build_slot_encoder(config: SlotsConfig) -> SlotEncoder:
    """Frames in [0, 1] to slots, with fresh weights; nothing in it is drawn at random later but dropout."""
    encoder = SlotEncoder(
        encoder=_frame_encoder(config),
        initializer=Learned(config.num_slots, config.slot_size),
        corrector=SlotAttention(
            config.token_size,
            config.slot_size,
            num_iterations=config.num_iterations,
            mlp_size=config.mlp_size,
            normalizer=eps_on_weights(1e-6),
            norm_eps=TORCH_NORM_EPS,
            full_bias=True,
        ),
        predictor=_predictor(config),
        recompute=config.recompute,
    )
    start_as_torch(encoder.corrector)
    return encoder


def _frame_encoder(config: SlotsConfig) -> FrameEncoder:
    if isinstance(config.encoder, ResNetEncoderConfig):
        backbone, channels = _resnet(config.encoder)
    else:
        backbone, channels = _convolutions(config.encoder, config.resolution), config.encoder.channels[-1]
    encoder = FrameEncoder(
        nn.Sequential(Signed(), backbone),
        PositionEmbedding(config.token_grid(), channels, grid=soft_grid),
        mlp(channels, [config.token_size], config.token_size, pre_norm=True, norm_eps=TORCH_NORM_EPS),
    )
    start_as_torch(encoder)
    if isinstance(backbone, ResNet):
        start_residual(backbone)
    elif isinstance(config.encoder, CnnEncoderConfig) and config.encoder.spread_start:
        start_spread(backbone)
    return encoder


def _resnet(config: ResNetEncoderConfig) -> tuple[nn.Module, int]:
    network = ResNet(
        config.stage_sizes, config.width, norm_eps=TORCH_NORM_EPS, activate_stem=True, centered=True
    )
    return network, network.output_size


def _convolutions(config: CnnEncoderConfig, resolution: tuple[int, int]) -> nn.Module:
    strides = [config.first_stride(resolution), *(1 for _ in config.channels[1:])]
    layers = partial(torch_cnn, kernel=config.kernel, norm=config.norm, activate_last=False)
    return layers(3, config.channels, strides)


def torch_cnn(
    input_size: int,
    channels: Sequence[int],
    strides: Sequence[int],
    *,
    kernel: int,
    norm: NormName,
    transposed: Sequence[bool] | None = None,
    activate_last: bool = True,
) -> nn.Sequential:
    """Convolutions with torch's padding and the norm of that name."""
    return cnn(
        input_size,
        channels,
        strides,
        kernel=kernel,
        transposed=transposed,
        activate_last=activate_last,
        norm=_NORMS[norm],
        bias=norm in ("none", "group"),
        centered=True,
    )


_NORMS = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "group": partial(nn.GroupNorm, 16),
}


def _predictor(config: SlotsConfig) -> nn.Module:
    if config.predictor is None:
        return IdentityPredictor()
    block = _block(config.slot_size, config.predictor)
    if config.recurrent_size is None:
        return ModulePredictor(block)
    return LSTMPredictor(block, config.slot_size, config.recurrent_size, truncate_every=config.truncate_every)


def _block(slot_size: int, numbers: TransformerPredictorConfig | MlpPredictorConfig) -> nn.Module:
    if isinstance(numbers, MlpPredictorConfig):
        perceptron = ResidualMlp(
            slot_size, numbers.hidden_size, from_norm=numbers.norm_first, norm_eps=TORCH_NORM_EPS
        )
        start_as_torch(perceptron)
        return perceptron
    return transformer(
        slot_size,
        num_layers=numbers.num_layers,
        num_heads=numbers.num_heads,
        mlp_size=numbers.mlp_size,
        dropout=numbers.dropout,
        norm_first=numbers.norm_first,
    )


# ----------------------------------------------------------------------------------------------- data sets

_SOLIDS = SlotsConfig(encoder=CnnEncoderConfig(), num_slots=12)

SLOTS = {
    "movi_d": SlotsConfig(),
    "movi_e": SlotsConfig(),
    "movi_solid": _SOLIDS,
    "movi_tex": _SOLIDS,
    "clevrtex": SlotsConfig(num_slots=11, num_iterations=3, predictor=None),
}
"""The slot encoder of each data set, the same in all of the authors' systems."""

_CLIPS = {1: 24, 3: 22}
"""Clips of a video of 24 frames, by their frames: one from each start."""
_EXAMPLES = {"clevrtex": 40_000}
_VIDEOS = 9749
"""Training videos of MOVi-E; an epoch of the other video data sets is taken to be as long."""


def steps(dataset: str, epochs: int, batch_size: int, num_frames: int = 1) -> int:
    """Updates of so many of the authors' epochs, in which every video gives a clip from each of its frames that starts
    one; what does not fill a batch is left out.

    Args:
        num_frames: of a clip; 1 for images.
    """
    examples = _EXAMPLES.get(dataset) or _VIDEOS * _CLIPS[num_frames]
    return epochs * (examples // batch_size)


def data(dataset: str, num_frames: int, keys: tuple[str, ...] = ("video", "segmentations")) -> DataConfig:
    """Frames of 128 x 128: videos as they are, images cut to their middle."""
    found = DataConfig(dataset=dataset, keys=keys, resolution=128, num_frames=num_frames)
    if dataset == "clevrtex":
        return replace(found, crop=(24, 64, 192, 192), max_instances=11)
    return replace(found, windows="anywhere", renumber=True)


def evaluation(dataset: str, batch_size: int) -> EvalConfig:
    """Whole videos, or single images."""
    if dataset == "clevrtex":
        return EvalConfig(num_frames=1, slice_size=1, batch_size=batch_size)
    split = "validation" if dataset in ("movi_d", "movi_e") else "test"
    return EvalConfig(split=split, num_frames=24, slice_size=6, batch_size=batch_size)


# ----------------------------------------------------------------------------------------------- demonstrations


def demo_slots() -> SlotsConfig:
    """Of `torchslots demo`: few and narrow slots of small frames; all sizes are ours.

    No norm between the convolutions: with so few channels it takes away the colours by which objects are told apart.
    """
    return SlotsConfig(
        resolution=(32, 32),
        encoder=CnnEncoderConfig(channels=(32, 32, 32), stride=2, spread_start=True),
        token_size=64,
        num_slots=5,
        slot_size=64,
        mlp_size=128,
        predictor=TransformerPredictorConfig(num_layers=1, mlp_size=128, dropout=0.0),
    )


def demo_data(num_frames: int = 3, keys: tuple[str, ...] = ("video", "segmentations")) -> DataConfig:
    """The middle of generated videos of 64x64: textured objects, a third larger than in the whole."""
    return DataConfig(dataset="sim_c", keys=keys, resolution=32, crop=(8, 8, 48, 48), num_frames=num_frames)


def demo_optim(num_steps: int) -> OptimConfig:
    """Slots learn more slowly than what is to be told by them."""
    return OptimConfig(
        learning_rate=5e-4,
        decoder_learning_rate=1e-3,
        warmup_steps=0.02 * num_steps,
        num_steps=num_steps,
        max_grad_norm=1.0,
    )


def demo_training(num_steps: int, batch_size: int) -> TrainConfig:
    """Frames one by one in the first six tenths: slots learn to find objects sooner than to follow them."""
    return TrainConfig(
        batch_size=batch_size,
        num_workers=0,
        log_every=50,
        eval_every=num_steps // 4,
        checkpoint_every=500,
        keep=1,
        short_clip=1,
        short_steps=6 * num_steps // 10,
    )
