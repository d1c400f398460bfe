"""Invariant Slot Attention.

Biza, van Steenkiste, Sajjadi, Elsayed, Mahendran, Kipf, Invariant Slot Attention: Object Discovery with Slot-Centric
Reference Frames (ICML 2023). Sizes are those of the released configurations.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

from torch import nn

from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.layers.blocks import mlp
from torchslots.models.layers.conv import cnn
from torchslots.models.layers.init import dense
from torchslots.models.layers.position import PositionEmbedding
from torchslots.models.layers.reference_frames import AppendGrid, GridEncoder, RelativePosition
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots import invariant
from torchslots.models.slots.attention import Corrector, SlotAttention
from torchslots.models.slots.encoder import FrameEncoder, SlotEncoder
from torchslots.models.slots.initializers import Learned
from torchslots.models.slots.invariant import InvariantSlotAttention
from torchslots.models.slots.poses import LearnedPoses, SampledPoses, WithPoses
from torchslots.models.slots.predictors import IdentityPredictor
from torchslots.recipes.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.savi import CnnConfig, ResNetConfig, backbone
from torchslots.recipes.sizes import decoded_size, reduced, require_decoded
from torchslots.recipes.slot_attention import demo_train, image_data
from torchslots.recipes.sweep import sweep

_POSE_SIZE = {"translation": 2, "scale": 4, "rotation": 9}
"""Values of a slot's pose, by invariance: position; and scale; and rotation matrix and angle."""

_WIDE = (64, 64, 64, 64)
_STRIDED = CnnConfig(_WIDE, (2, 2, 2, 1))


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Spatial broadcast decoder at full resolution: a perceptron on each pixel, ReLU behind every layer.

    It is built of 1x1 convolutions, which were 1.6 times as fast as matrix products (AMD EPYC, torch 2.13).
    """

    grid: tuple[int, int] = (35, 35)
    """Cells over which a slot is tiled: the image's pixels."""
    channels: tuple[int, ...] = (256, 256, 256, 256, 256, 256)
    chunk: int | None = None
    """Images decoded at once, of which each slot of a frame has one; fewer need less memory. None: all."""

    def image_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.grid


@dataclass(frozen=True)
class CnnDecoderConfig:
    """Spatial broadcast decoder: 5x5 convolutions, ReLU behind each, stride 2 transposed."""

    grid: tuple[int, int] = (16, 16)
    """Cells over which a slot is tiled."""
    channels: tuple[int, ...] = (64, 64, 64, 64, 64)
    strides: tuple[int, ...] = (2, 2, 2, 1, 1)
    chunk: int | None = None
    """Images decoded at once, of which each slot of a frame has one; fewer need less memory. None: all."""

    def image_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return decoded_size(self.grid, self.strides)


@dataclass(frozen=True)
class IsaConfig(ModelConfig):
    """Configuration of Invariant Slot Attention, or of its baseline."""

    family: ClassVar[str] = "isa"
    resolution: tuple[int, int] = (128, 128)
    """Height and width of the frames."""
    encoder: CnnConfig | ResNetConfig = _STRIDED
    """Convolutions with ReLU between them and none behind the last, or a ResNet."""
    invariance: Literal["none", "translation", "scale", "rotation"] = "scale"
    """What slots' poses hold: nothing (the baseline); positions; also scales; also rotations."""
    grid: Literal["appended", "missing_as_released"] = "appended"
    """Where coordinates of tokens come from: a grid appended to them, or, by a slip of some released configurations,
    the encoder's last two learned channels, beside position embeddings that break the invariance."""
    num_slots: int = 11
    slot_size: int = 64
    qkv_size: int = 64
    num_iterations: int = 3
    """Rounds of slot attention; one more fits the poses."""
    slot_hidden: int = 128
    """Hidden width of slot attention's perceptron."""
    grid_hidden: int = 128
    """Hidden width of the grid encoder, a perceptron over tokens and their coordinates relative to a slot."""
    position_hidden: int = 128
    """Hidden width of the perceptron behind the encoder's position embeddings, where it has them."""
    initial_pose: Literal["sampled", "learned"] = "sampled"
    """Where the poses of slots start."""
    scale_sampling: Literal["independent", "correlated"] = "independent"
    """Sampled scales: independent of sampled positions, or a function of them, as released without rotation."""
    scale_factor: float = 5.0
    """Divides coordinates relative to a slot, besides its scale."""
    relative_values: bool = True
    """Values, too, hold coordinates relative to the slot; otherwise keys alone."""
    append_pose: bool = False
    """Add a map of its pose to each slot before each update, which ends the invariance."""
    rotation_limit: Literal[45, 90] = 45
    """Degrees by which a pose may be turned either way."""
    detach: tuple[invariant.Part, ...] = ()
    """Parts of poses through which no gradient passes."""
    temperature: float = 1.0
    """Divides attention logits."""
    centered: bool = False
    """Poses start in the middle of the image."""
    fixed_scale: float | None = None
    """Scale of all poses at the start; None: the sampled or learned one."""
    decoder: PixelDecoderConfig | CnnDecoderConfig = CnnDecoderConfig()
    recompute: bool = False
    """Recompute activations of encoder and decoder in the backward pass: less memory, slower."""

    def __post_init__(self) -> None:
        require_decoded(self.decoder.image_size(), self.resolution)


def build(config: IsaConfig) -> ObjectCentricModel:
    """SAVi's five parts on single frames, with fresh weights; slots of the baseline have no poses."""
    tokens, encoder = _encoder(config)
    slot_encoder = SlotEncoder(
        encoder=encoder,
        initializer=_initializer(config),
        corrector=_corrector(config, tokens),
        predictor=IdentityPredictor(),
        recompute=config.recompute,
    )
    return ObjectCentricModel(slot_encoder, _decoder(config), config)


def appends_grid(config: IsaConfig) -> bool:
    """Whether the encoder's tokens end in their coordinates; otherwise position embeddings are added to them."""
    return config.invariance != "none" and config.grid == "appended"


def _encoder(config: IsaConfig) -> tuple[int, FrameEncoder]:
    """Width of the tokens, and the encoder that makes them."""
    channels, network = backbone(config.encoder, activate_last=False)
    grid = reduced(config.resolution, config.encoder.reduction())
    if appends_grid(config):
        return channels + 2, FrameEncoder(network, AppendGrid(grid), nn.Identity())
    transform = mlp(channels, [config.position_hidden], channels, pre_norm=True)
    return channels, FrameEncoder(network, PositionEmbedding(grid, channels), transform)


def _initializer(config: IsaConfig) -> nn.Module:
    slots = Learned(config.num_slots, config.slot_size)
    if config.invariance == "none":
        return slots
    if config.initial_pose == "learned":
        return WithPoses(slots, LearnedPoses(config.num_slots, config.invariance))
    return WithPoses(slots, SampledPoses(config.invariance, scales=config.scale_sampling))


def _core(config: IsaConfig, input_size: int) -> SlotAttention:
    return SlotAttention(
        input_size,
        config.slot_size,
        qkv_size=config.qkv_size,
        num_iterations=config.num_iterations,
        mlp_size=config.slot_hidden,
    )


def _corrector(config: IsaConfig, tokens: int) -> Corrector:
    if config.invariance == "none":
        return _core(config, tokens)
    fit = {
        "translation": invariant.fit_translation,
        "scale": invariant.fit_translation_scale,
        "rotation": partial(invariant.fit_translation_rotation_scale, limit=config.rotation_limit),
    }[config.invariance]
    told = config.slot_size + _POSE_SIZE[config.invariance]
    return InvariantSlotAttention(
        _core(config, tokens - 2),
        GridEncoder(config.qkv_size, config.grid_hidden),
        invariant.detached(fit, config.detach) if config.detach else fit,
        start=partial(invariant.first_frame, centered=config.centered, fixed_scale=config.fixed_scale),
        scale_factor=config.scale_factor,
        relative_values=config.relative_values,
        temperature=config.temperature,
        tell=dense(told, config.slot_size) if config.append_pose else None,
    )


def _decoder(config: IsaConfig) -> BroadcastDecoder:
    decoder = config.decoder
    if isinstance(decoder, PixelDecoderConfig):
        network = cnn(config.slot_size, decoder.channels, [1] * len(decoder.channels), kernel=1)
    else:
        transposed = [stride > 1 for stride in decoder.strides]
        network = cnn(config.slot_size, decoder.channels, decoder.strides, transposed=transposed)
    if config.invariance == "none":
        position: nn.Module = PositionEmbedding(decoder.grid, config.slot_size)
    else:
        position = RelativePosition(decoder.grid, config.slot_size, scale_factor=config.scale_factor)
    return BroadcastDecoder(
        position,
        network,
        grid=decoder.grid,
        features=decoder.channels[-1],
        targets={"video": 3},
        chunk=decoder.chunk,
        recompute=config.recompute,
    )


@dataclass(frozen=True)
class _Setting:
    """One data set's part of the released configurations."""

    about: str
    model: IsaConfig
    data: DataConfig
    num_steps: int = 500_000
    warmup_steps: int = 10_000
    eval_every: int = 5000
    variants: tuple[str, ...] = ("baseline", "transl", "transl_scale", "transl_rot_scale")
    num_background: int = 1


_WITH_V2 = (*_Setting.variants, "transl_scale_v2")
_SETTINGS: dict[str, _Setting] = {
    "tetrominoes": _Setting(
        "Tetrominoes at 35x35, 20k steps",
        IsaConfig(
            resolution=(35, 35),
            num_slots=4,
            encoder=CnnConfig(_WIDE, (1, 1, 1, 1)),
            decoder=PixelDecoderConfig(),
        ),
        image_data("tetrominoes", 35, 4),
        num_steps=20_000,
        warmup_steps=5000,
        eval_every=1000,
        variants=("baseline", "transl"),
    ),
    "objects_room": _Setting(
        "Objects Room at 64x64, 500k steps",
        IsaConfig(
            resolution=(64, 64),
            encoder=CnnConfig(_WIDE, (2, 2, 1, 1)),
            decoder=CnnDecoderConfig(strides=(2, 2, 1, 1, 1)),
        ),
        image_data("objects_room", 64, 11),
        num_background=4,
    ),
    "clevr_with_masks": _Setting(
        "CLEVR with masks at 128x128, 500k steps",
        IsaConfig(),
        image_data("clevr_with_masks", 128, 11, crop=(29, 64, 192, 192)),
        variants=_WITH_V2,
    ),
    "multishapenet_easy": _Setting(
        "MultiShapeNet-Easy at 128x128, 500k steps",
        IsaConfig(),
        image_data("multishapenet_easy", 128, 11, crop=(0, 40, 240, 240)),
        variants=_WITH_V2,
    ),
    "clevrtex_cnn": _Setting(
        "CLEVRTex at 128x128, plain convolutions, 500k steps",
        IsaConfig(),
        image_data("clevrtex", 128, 11, crop=(24, 64, 192, 192)),
    ),
    "clevrtex_resnet": _Setting(
        "CLEVRTex at 128x128, ResNet-34, 500k steps",
        IsaConfig(encoder=ResNetConfig()),
        image_data("clevrtex", 128, 11, crop=(24, 64, 192, 192)),
        variants=_WITH_V2,
    ),
    "waymo_open": _Setting(
        "Waymo Open, front camera at 128x192, ResNet-34, 500k steps",
        IsaConfig(resolution=(128, 192), encoder=ResNetConfig(), decoder=CnnDecoderConfig(grid=(16, 24))),
        image_data("waymo_open", 128, 11),
        variants=_WITH_V2,
    ),
}

_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("slot attention without poses", {"invariance": "none"}),
    "transl": ("slots with positions", {"invariance": "translation"}),
    "transl_scale": ("slots with positions and scales", {}),
    "transl_rot_scale": ("slots with positions, rotations and scales", {"invariance": "rotation"}),
    "transl_scale_v2": (
        "slots with positions and scales, which enter keys and not values; not among the released configurations",
        {"relative_values": False},
    ),
}
"""Descriptions, and what differs from positions and scales."""


def _recipe(setting: str) -> Recipe:
    """The recipe of `DATASET_VARIANT`."""
    dataset, variant = _EXPERIMENTS[setting]
    found = _SETTINGS[dataset]
    return Recipe(
        f"isa_{setting}",
        replace(found.model, **_VARIANTS[variant][1]),
        found.data,
        OptimConfig(
            learning_rate=4e-4, warmup_steps=found.warmup_steps, num_steps=found.num_steps, clip_epsilon=0.0
        ),
        TrainConfig(eval_every=found.eval_every, checkpoint_every=found.eval_every),
        EvalConfig(num_frames=1, slice_size=1, batch_size=64, num_background=found.num_background),
    )


_EXPERIMENTS = {
    f"{dataset}_{variant}": (dataset, variant)
    for dataset, setting in _SETTINGS.items()
    for variant in setting.variants
}
RECIPES = sweep(
    "isa",
    _recipe,
    {
        name: f"ISA on {_SETTINGS[dataset].about}: {_VARIANTS[variant][0]}."
        for name, (dataset, variant) in _EXPERIMENTS.items()
    },
)
"""`isa_<data set>_<variant>`: every released configuration, with coordinates appended to the tokens. The four that end
with `_v2` are of an ablation, and have no counterpart in the release."""


def isa_demo() -> Recipe:
    """ISA with positions on Tetrominoes, few channels, for `torchslots demo`: minutes on two cores; all sizes are
    chosen here."""
    model = IsaConfig(
        resolution=(35, 35),
        encoder=CnnConfig((16, 32, 32), (2, 1, 1)),
        invariance="translation",
        num_slots=4,
        decoder=PixelDecoderConfig(channels=(64, 64, 64, 64)),
    )
    return replace(
        _recipe("tetrominoes_transl"),
        name="isa_demo",
        model=model,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100, num_steps=8000),
        train=demo_train(8),
    )
