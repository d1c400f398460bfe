"""SAVi as SlotDiffusion's authors wrote it in PyTorch and compared it with theirs (Wu et al., NeurIPS 2023).

It is another model than the one of `recipes/savi.py`, which is SAVi's authors' own: learned slots without hints, two
rounds of slot attention with a perceptron, a transformer of two layers between frames, images in place of flow, and
an error that is averaged, not summed.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.layers.position import PositionEmbedding, soft_grid
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.layers.weight_init import start_as_torch
from torchslots.models.losses import mean_squared_error
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    NormName,
    SlotsConfig,
    build_slot_encoder,
    data,
    evaluation,
    steps,
    torch_cnn,
)
from torchslots.recipes.sweep import sweep


@dataclass(frozen=True)
class SaviPytorchDecoderConfig:
    """The decoder: slots tiled over a grid, transposed convolutions with ReLU behind each that double it until it is as
    large as the frame, and a linear map to colours and mask score."""

    grid: tuple[int, int] = (8, 8)
    """Cells over which a slot is tiled."""
    channels: tuple[int, ...] = (64, 64, 64, 64)
    kernel: int = 5
    """Odd."""
    norm: NormName = "none"
    chunk: int | None = None
    """Images, one for each slot and frame, painted at once; fewer need less memory. None: all."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, slower."""


@dataclass(frozen=True)
class SaviPytorchConfig(ModelConfig):
    """The numbers of the model."""

    family: ClassVar[str] = "savi_pytorch"
    slots: SlotsConfig = field(default_factory=SlotsConfig)
    decoder: SaviPytorchDecoderConfig = field(default_factory=SaviPytorchDecoderConfig)

    def __post_init__(self) -> None:
        strides = self.strides()
        drawn = tuple(cells * 2 ** strides.count(2) for cells in self.decoder.grid)
        if drawn != tuple(self.resolution):
            raise UserError(
                f"A decoder of grid {self.decoder.grid} and {len(strides)} layers that double it draws {drawn}, but "
                f"the frames are {tuple(self.resolution)}. Change decoder.grid or decoder.channels."
            )

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.slots.resolution

    def strides(self) -> tuple[int, ...]:
        """Of the decoder's layers: 2 until the image has the frame's size, then 1."""
        size, found = tuple(self.decoder.grid), []
        for _ in self.decoder.channels:
            found.append(1 if size == tuple(self.resolution) else 2)
            size = tuple(cells * found[-1] for cells in size)
        return tuple(found)


def build(config: SaviPytorchConfig) -> ObjectCentricModel:
    """The slot encoder that SlotDiffusion has too, and a decoder that paints each slot."""
    return ObjectCentricModel(build_slot_encoder(config.slots), _decoder(config), config)


def _decoder(config: SaviPytorchConfig) -> BroadcastDecoder:
    numbers = config.decoder
    decoder = BroadcastDecoder(
        PositionEmbedding(numbers.grid, config.slots.slot_size, grid=soft_grid),
        torch_cnn(
            config.slots.slot_size,
            numbers.channels,
            config.strides(),
            kernel=numbers.kernel,
            norm=numbers.norm,
            transposed=[True] * len(numbers.channels),
        ),
        grid=numbers.grid,
        features=numbers.channels[-1],
        targets={"video": 3},
        error=mean_squared_error,
        to_native=to_signed,
        from_native=from_signed,
        chunk=numbers.chunk,
        recompute=numbers.recompute,
    )
    start_as_torch(decoder)
    return decoder


def _recipe(dataset: str) -> Recipe:
    """Clips of 3 frames in batches of 32 for 30 epochs; images in batches of 64 for 200 epochs."""
    images = dataset == "clevrtex"
    epochs, batch_size, num_frames = (200, 64, 1) if images else (30, 32, 3)
    num_steps = steps(dataset, epochs, batch_size, num_frames)
    learning_rate = 4e-4 if images else 1e-4
    decoder = (
        SaviPytorchDecoderConfig(channels=(128, 128, 128, 128)) if images else SaviPytorchDecoderConfig()
    )
    eval_every = (5 if images else 1) * num_steps // epochs
    return Recipe(
        f"savi_pytorch_{dataset}",
        SaviPytorchConfig(SLOTS[dataset], decoder),
        data(dataset, num_frames),
        OptimConfig(
            learning_rate=learning_rate,
            min_learning_rate=learning_rate / 100,
            warmup_steps=0.025 * num_steps,
            num_steps=num_steps,
            max_grad_norm=None if images else 0.05,
        ),
        TrainConfig(
            batch_size=batch_size, log_every=100, eval_every=eval_every, checkpoint_every=eval_every // 4
        ),
        evaluation(dataset, batch_size=64 if images else 8),
    )


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
