"""SAVi in SlotDiffusion's PyTorch code, a baseline of that paper (Wu et al., NeurIPS 2023).

It differs from the authors' own SAVi (`recipes/savi.py`): learned slots without hints, two rounds of slot attention
with a perceptron, a transformer of two layers between frames, images as target in place of flow, and the mean of the
squared error, not its sum.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.layers.position import PositionEmbedding, soft_grid
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.layers.weight_init import start_as_torch
from torchslots.models.losses import mean_squared_error
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import DataConfig, EvalConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.sizes import decoded_size, require_decoded
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    CnnEncoderConfig,
    NormName,
    SlotsConfig,
    SlotsModelConfig,
    TransformerPredictorConfig,
    build_slot_encoder,
    evaluation,
    experiment,
    torch_cnn,
)
from torchslots.recipes.sweep import sweep


@dataclass(frozen=True)
class SaviPytorchDecoderConfig:
    """Spatial broadcast decoder: transposed convolutions, ReLU behind each, that double the grid up to the frame's
    size, and a linear map to colours and mask score."""

    grid: tuple[int, int] = (8, 8)
    """Cells over which a slot is tiled."""
    channels: tuple[int, ...] = (64, 64, 64, 64)
    kernel: int = 5
    """Odd."""
    norm: NormName = "none"
    chunk: int | None = None
    """Images decoded at once, of which each slot of a frame has one; fewer need less memory. None: all."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, slower."""


@dataclass(frozen=True)
class SaviPytorchConfig(SlotsModelConfig):
    """Configuration of SlotDiffusion's SAVi."""

    family: ClassVar[str] = "savi_pytorch"
    decoder: SaviPytorchDecoderConfig = field(default_factory=SaviPytorchDecoderConfig)

    def __post_init__(self) -> None:
        size = decoded_size(self.decoder.grid, self.strides())
        require_decoded(size, self.resolution, "decoder.grid or decoder.channels")

    def strides(self) -> tuple[int, ...]:
        """Strides of the decoder's layers: 2 up to the frame's size, then 1."""
        size, found = tuple(self.decoder.grid), []
        for _ in self.decoder.channels:
            found.append(1 if size == tuple(self.resolution) else 2)
            size = tuple(cells * found[-1] for cells in size)
        return tuple(found)


def build(config: SaviPytorchConfig) -> ObjectCentricModel:
    """SlotDiffusion's slot encoder and a broadcast decoder, with fresh weights."""
    return ObjectCentricModel(build_slot_encoder(config.slots), _decoder(config), config)


def _decoder(config: SaviPytorchConfig) -> BroadcastDecoder:
    given, slot_size = config.decoder, config.slots.slot_size
    transposed = [True] * len(given.channels)
    layers = partial(torch_cnn, kernel=given.kernel, norm=given.norm, transposed=transposed)
    decoder = BroadcastDecoder(
        PositionEmbedding(given.grid, slot_size, grid=soft_grid),
        layers(slot_size, given.channels, config.strides()),
        grid=given.grid,
        features=given.channels[-1],
        targets={"video": 3},
        error=mean_squared_error,
        to_native=to_signed,
        from_native=from_signed,
        chunk=given.chunk,
        recompute=given.recompute,
    )
    start_as_torch(decoder)
    return decoder


def _recipe(dataset: str) -> Recipe:
    """Clips of 3 frames in batches of 32 for 30 epochs; images in batches of 64 for 200 epochs."""
    images = dataset == "clevrtex"
    learning_rate, channels = (4e-4, 128) if images else (1e-4, 64)
    model = SaviPytorchConfig(SLOTS[dataset], SaviPytorchDecoderConfig(channels=(channels,) * 4))
    found = experiment(
        "savi_pytorch", dataset, model, image_epochs=200, learning_rate=learning_rate, num_saves=4
    )
    optim = replace(
        found.optim,
        min_learning_rate=learning_rate / 100,
        warmup_steps=0.025 * found.optim.num_steps,
        max_grad_norm=None if images else 0.05,
    )
    return replace(found, optim=optim, evaluation=evaluation(dataset, 64 if images else 8))


RECIPES = sweep(
    "savi_pytorch",
    _recipe,
    {
        "movi_d": """SlotDiffusion's SAVi on MOVi-D: ResNet-18, 15 learned slots, clips of 3 frames at 128x128, batches
        of 32, learning rate 1e-4 for 30 of the authors' epochs (4,853,892 weights).""",
        "movi_e": "SlotDiffusion's SAVi on MOVi-E: as on MOVi-D.",
        "movi_solid": """SlotDiffusion's SAVi on MOVi-Solid: four plain convolutions, 12 learned slots, otherwise as on
        MOVi-D (2,352,260 weights). It validates on the test videos, since those for validation have no masks.""",
        "movi_tex": "SlotDiffusion's SAVi on MOVi-Tex: as on MOVi-Solid.",
        "clevrtex": """SlotDiffusion's SAVi for images, a Slot Attention with learned slots, on CLEVRTex: ResNet-18, 11
        slots, 3 rounds, 128 channels in the decoder, batches of 64, learning rate 4e-4 without clipping for 200 of the
        authors' epochs.""",
    },
)


def slots_video() -> Recipe:
    """Objects in your own videos and images, without labels: the slot encoder and decoder of SlotDiffusion's SAVi at
    64x64, 7 learned slots, colours as target; all sizes are chosen here, see docs/own-videos.md (519,876 weights).

    What finds objects without a hint: kernels that preserve the variance of their input, so that a token says what it
    shows and not only where it is; four rounds of slot attention in a video's first frame, in which slots divide it
    among each other, and two in the next; single frames in the first third of the steps, since slots learn to find
    objects sooner than to follow them. A clip that is shorter than the recipe's is played forward and backward.
    """
    slots = SlotsConfig(
        resolution=(64, 64),
        encoder=CnnEncoderConfig(channels=(32, 32, 32, 32), stride=2, spread_start=True),
        token_size=96,
        num_slots=7,
        slot_size=96,
        num_iterations=2,
        first_iterations=4,
        mlp_size=192,
        predictor=TransformerPredictorConfig(num_layers=1, mlp_size=192, dropout=0.0),
    )
    return Recipe(
        "slots_video",
        SaviPytorchConfig(slots, SaviPytorchDecoderConfig(channels=(64, 32, 32))),
        DataConfig(
            dataset="folder", keys=("video",), resolution=64, num_frames=6, windows="back_and_forth", flip=0.5
        ),
        OptimConfig(learning_rate=4e-4, warmup_steps=1000, num_steps=30_000, max_grad_norm=1.0),
        TrainConfig(batch_size=8, eval_every=1000, checkpoint_every=1000, short_clip=1, short_steps=10_000),
        EvalConfig(keys=("video", "segmentations"), num_frames=24, slice_size=6, num_videos=32),
    )
