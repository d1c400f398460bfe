"""The slot encoder of SlotDiffusion (Wu et al., NeurIPS 2023) and of its STEVE and SAVi baselines.

Sizes and numerics are those of the authors' PyTorch code: images in [-1, 1], layer norms with epsilon 1e-5, one learned
vector for each slot, a perceptron in every round of slot attention, and a transformer with dropout between frames.
Also here: what their three systems share of data, schedules and `torchslots demo`.
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
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.sizes import reduced, require_heads

NormName = Literal["none", "batch", "instance", "group"]
"""Norm behind each convolution; batch and instance norm replace its bias, group norm has 16 groups."""


@dataclass(frozen=True)
class ResNetEncoderConfig:
    """ResNet with group norm and without max-pooling; each stage but the first halves the resolution."""

    stage_sizes: tuple[int, ...] = (2, 2, 2)
    """Blocks in each stage; by default ResNet-18 without its last stage."""
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
    """Stride of the first convolution; None: 2 for frames of more than 64 rows, else 1."""
    spread_start: bool = False
    """Start with kernels that preserve the variance of their input, for short trainings: as torch starts them, features
    are small beside position embeddings, and slots first learn to divide the frame, not objects."""

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise UserError(
                f"stride should be at least 1, got {self.stride}. None takes 1 or 2 by frame size."
            )

    def first_stride(self, resolution: tuple[int, int]) -> int:
        """Pixels of a token's side, for frames of this height and width."""
        return 1 + (resolution[0] > 64) if self.stride is None else self.stride


@dataclass(frozen=True)
class TransformerPredictorConfig:
    """Transformer over the slots of a frame."""

    num_layers: int = 2
    num_heads: int = 4
    mlp_size: int = 768
    dropout: float = 0.1
    """Also of attention weights."""
    norm_first: bool = True


@dataclass(frozen=True)
class MlpPredictorConfig:
    """Perceptron on each slot."""

    hidden_size: int = 384
    norm_first: bool = True
    """Add its output to the normalised slots, not to the slots themselves."""


@dataclass(frozen=True)
class SlotsConfig:
    """Configuration of the slot encoder."""

    resolution: tuple[int, int] = (128, 128)
    """Height and width of the frames."""
    encoder: ResNetEncoderConfig | CnnEncoderConfig = field(default_factory=ResNetEncoderConfig)
    token_size: int = 192
    num_slots: int = 15
    """Slots, each a learned vector."""
    slot_size: int = 192
    num_iterations: int = 2
    """Rounds of slot attention in each frame."""
    first_iterations: int | None = None
    """Rounds in a video's first frame; None: as in the others."""
    mlp_size: int = 384
    """Hidden width of slot attention's perceptron."""
    predictor: TransformerPredictorConfig | MlpPredictorConfig | None = field(
        default_factory=TransformerPredictorConfig
    )
    """What changes slots between frames; None, for images: nothing."""
    recurrent_size: int | None = None
    """Width of an LSTM behind the predictor; None: no LSTM."""
    truncate_every: int | None = None
    """Frames after which the LSTM stops the gradient; None: never."""
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
        return reduced(self.resolution, reduction)


@dataclass(frozen=True)
class SlotsModelConfig(ModelConfig):
    """Base of configurations of models with this slot encoder."""

    slots: SlotsConfig = field(default_factory=SlotsConfig)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.slots.resolution


def build_slot_encoder(config: SlotsConfig) -> SlotEncoder:
    """The slot encoder with fresh weights; it takes frames in [0, 1]."""
    encoder = SlotEncoder(
        encoder=_frame_encoder(config),
        initializer=Learned(config.num_slots, config.slot_size),
        corrector=SlotAttention(
            config.token_size,
            config.slot_size,
            num_iterations=config.num_iterations,
            first_iterations=config.first_iterations,
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
    channels, backbone = _backbone(config.encoder, config.resolution)
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


def _backbone(
    config: ResNetEncoderConfig | CnnEncoderConfig, resolution: tuple[int, int]
) -> tuple[int, nn.Module]:
    """Channels of the feature map, and the network that makes it."""
    if isinstance(config, ResNetEncoderConfig):
        resnet = partial(ResNet, norm_eps=TORCH_NORM_EPS, activate_stem=True, centered=True)
        network = resnet(config.stage_sizes, config.width)
        return network.output_size, network
    strides = [config.first_stride(resolution), *(1 for _ in config.channels[1:])]
    layers = partial(torch_cnn, kernel=config.kernel, norm=config.norm, activate_last=False)
    return config.channels[-1], layers(3, config.channels, strides)


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
    """Convolutions with torch's padding and with a norm of that name."""
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


def _block(slot_size: int, config: TransformerPredictorConfig | MlpPredictorConfig) -> nn.Module:
    if isinstance(config, MlpPredictorConfig):
        hidden, norm_first = config.hidden_size, config.norm_first
        perceptron = ResidualMlp(slot_size, hidden, from_norm=norm_first, norm_eps=TORCH_NORM_EPS)
        start_as_torch(perceptron)
        return perceptron
    return transformer(
        slot_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        mlp_size=config.mlp_size,
        dropout=config.dropout,
        norm_first=config.norm_first,
    )


# ----------------------------------------------------------------------------------------------- experiments

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
"""Clips that start at different frames of a video of 24, by their length."""
_EXAMPLES = {"clevrtex": 40_000}
VIDEOS = 9749
"""Training videos of MOVi-E; an epoch of the other video data sets is taken to be as long."""


def steps(dataset: str, epochs: int, batch_size: int, num_frames: int = 1) -> int:
    """Steps of so many of the authors' epochs, in which a video gives a clip from every frame that can start one. Clips
    that do not fill a batch are left out.

    Args:
        num_frames: of a clip; 1 for images.
    """
    examples = _EXAMPLES.get(dataset) or VIDEOS * _CLIPS[num_frames]
    return epochs * (examples // batch_size)


def data(dataset: str, num_frames: int, keys: tuple[str, ...] = ("video", "segmentations")) -> DataConfig:
    """Frames of 128x128: whole frames of videos, the middle of images."""
    found = DataConfig(dataset=dataset, keys=keys, resolution=128, num_frames=num_frames)
    if dataset == "clevrtex":
        return replace(found, crop=(24, 64, 192, 192), max_instances=11)
    return replace(found, windows="anywhere", renumber=True)


def evaluation(dataset: str, batch_size: int) -> EvalConfig:
    """Evaluation on whole videos, or on single images: of `validation` in training, of `test` afterwards, as in the
    authors' scripts. MOVi-Solid and MOVi-Tex have no masks for validation: `test` is watched."""
    if dataset == "clevrtex":
        return EvalConfig(num_frames=1, slice_size=1, batch_size=batch_size, test_split="test")
    split = "validation" if dataset in ("movi_d", "movi_e") else "test"
    return EvalConfig(split=split, num_frames=24, slice_size=6, batch_size=batch_size, test_split="test")


def experiment(
    system: str,
    dataset: str,
    model: ModelConfig,
    *,
    image_epochs: int,
    learning_rate: float = 1e-4,
    decoder_learning_rate: float | None = None,
    num_saves: int = 10,
) -> Recipe:
    """Recipe `SYSTEM_DATASET`: clips of 3 frames in batches of 32 for 30 of the authors' epochs, images in batches of
    64; 5 % of the steps are warm-up, then a cosine falls to zero.

    Args:
        image_epochs: the authors' epochs on images.
        num_saves: checkpoints between evaluations, which are one epoch apart, on images five.
    """
    images = dataset == "clevrtex"
    epochs, batch_size, num_frames = (image_epochs, 64, 1) if images else (30, 32, 3)
    num_steps = steps(dataset, epochs, batch_size, num_frames)
    eval_every = (5 if images else 1) * num_steps // epochs
    return Recipe(
        f"{system}_{dataset}",
        model,
        data(dataset, num_frames),
        OptimConfig(
            learning_rate=learning_rate,
            decoder_learning_rate=decoder_learning_rate,
            warmup_steps=0.05 * num_steps,
            num_steps=num_steps,
            max_grad_norm=1.0 if images else 0.05,
        ),
        TrainConfig(
            batch_size=batch_size,
            log_every=100,
            eval_every=eval_every,
            checkpoint_every=eval_every // num_saves,
        ),
        evaluation(dataset, batch_size=64 if images else 4),
    )


# ----------------------------------------------------------------------------------------------- demonstrations


def demo_slots() -> SlotsConfig:
    """Few and narrow slots of small frames, for `torchslots demo`; all sizes are chosen here.

    There is no norm between the convolutions: with so few channels it removes the colours that separate objects.
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
    """The middle of generated videos of 64x64 at 32x32, where textured objects are a third larger."""
    return DataConfig(dataset="sim_c", keys=keys, resolution=32, crop=(8, 8, 48, 48), num_frames=num_frames)


def demo_experiment(name: str, model: ModelConfig, num_steps: int) -> Recipe:
    """Training for `torchslots demo`: a lower rate for slots than for the decoder, and single frames in the first 60 %
    of the steps, since slots learn to find objects sooner than to follow them."""
    return Recipe(
        name,
        model,
        demo_data(),
        OptimConfig(
            learning_rate=5e-4,
            decoder_learning_rate=1e-3,
            warmup_steps=0.02 * num_steps,
            num_steps=num_steps,
            max_grad_norm=1.0,
        ),
        TrainConfig(
            batch_size=16,
            num_workers=0,
            log_every=50,
            eval_every=num_steps // 4,
            checkpoint_every=500,
            keep=1,
            short_clip=1,
            short_steps=6 * num_steps // 10,
        ),
        EvalConfig(slice_size=24, batch_size=8),
    )
