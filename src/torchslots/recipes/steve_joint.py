"""STEVE as its authors train it: tokenizer, slots and transformer together.

Singh, Wu and Ahn, Simple Unsupervised Object-Centric Learning for Complex and Naturalistic Videos (NeurIPS 2022).
Unlike SlotDiffusion's version (`recipes/steve.py`), codes are sampled, both losses are sums over an image, images are
in [0, 1], slots start from one learned normal distribution, each round of slot attention but the last has a perceptron,
the predictor is a block such as the decoder's, and the gradient is clipped by its largest entry. Fresh weights are
those of this library's layers, the transformer's those of the authors.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from torchslots.models.decoders.autoregressive import AutoregressiveDecoder, sampled_codes
from torchslots.models.decoders.code_transformer import CodeTransformer
from torchslots.models.layers.blocks import TORCH_NORM_EPS, PreNormBlock, layer_norm, mlp
from torchslots.models.layers.position import PositionEmbedding, cell_grid
from torchslots.models.losses import sum_cross_entropy
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention, eps_on_weights
from torchslots.models.slots.encoder import FrameEncoder, SlotEncoder
from torchslots.models.slots.initializers import Gaussian
from torchslots.models.slots.predictors import ModulePredictor
from torchslots.models.tokenizers.dvae import ConvBlock
from torchslots.recipes.config import ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.sizes import reduced, require_heads
from torchslots.recipes.slotdiffusion_encoder import VIDEOS, data, evaluation
from torchslots.recipes.steve import CodeTransformerConfig, build_code_transformer
from torchslots.recipes.sweep import sweep
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae


@dataclass(frozen=True)
class SteveJointConfig(ModelConfig):
    """Configuration of STEVE, its tokenizer's included."""

    family: ClassVar[str] = "steve_joint"
    tokenizer: DvaeConfig = field(default_factory=lambda: DvaeConfig(temperature_steps=30_000.0, norm=False))
    """Trained together with slots and transformer; its resolution is that of the frames."""
    transformer: CodeTransformerConfig = field(
        default_factory=lambda: CodeTransformerConfig(xavier_start=True)
    )
    channels: tuple[int, ...] = (64, 64, 64)
    """Channels of the encoder's 5x5 convolutions, each with ReLU, in front of one more to `token_size`; the first has
    stride 2, except for frames of 64 rows."""
    token_size: int = 192
    num_slots: int = 15
    """No weight depends on it: evaluation may use another."""
    slot_size: int = 192
    num_iterations: int = 2
    """Rounds of slot attention in each frame."""
    mlp_size: int = 192
    """Hidden width of slot attention's perceptron."""
    predictor_layers: int = 1
    predictor_heads: int = 4
    predictor_mlp: int = 768
    recompute: bool = False
    """Recompute activations of the encoder in the backward pass: less memory, slower."""

    def __post_init__(self) -> None:
        require_heads("slot_size", self.slot_size, self.predictor_heads)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.tokenizer.resolution

    @property
    def stride(self) -> int:
        """Stride of the encoder's first convolution, the only one with a stride."""
        return 1 if self.resolution[0] == 64 else 2

    def token_grid(self) -> tuple[int, int]:
        """Height and width of the encoder's token map."""
        return reduced(self.resolution, self.stride)


def build(config: SteveJointConfig) -> ObjectCentricModel:
    """STEVE with fresh weights, all of which are trained."""
    transformer = build_code_transformer(
        config.transformer, config.slot_size, config.tokenizer, slot_bias=False
    )
    start_code(transformer)
    decoder = AutoregressiveDecoder(
        build_dvae(config.tokenizer),
        transformer,
        code_grid=config.tokenizer.grid,
        grid=config.token_grid(),
        resolution=config.resolution,
        target_codes=sampled_codes,
        frozen=False,
        error=sum_cross_entropy,
        to_native=nn.Identity(),
        from_native=nn.Identity(),
        chunk=config.transformer.chunk,
    )
    return ObjectCentricModel(_slot_encoder(config), decoder, config)


@torch.no_grad()
def start_code(transformer: CodeTransformer) -> None:
    """Start what stands before the first code as the authors do their vector for it, Xavier-uniform, in place of a row
    of the embedding's normal numbers."""
    start = transformer.embedding.weight[-1:]
    start.copy_(nn.init.xavier_uniform_(torch.empty(1, *start.shape))[0])


def _slot_encoder(config: SteveJointConfig) -> SlotEncoder:
    return SlotEncoder(
        encoder=_frame_encoder(config),
        initializer=Gaussian(config.num_slots, config.slot_size),
        corrector=SlotAttention(
            config.token_size,
            config.slot_size,
            num_iterations=config.num_iterations,
            mlp_size=config.mlp_size if config.num_iterations > 1 else None,
            normalizer=eps_on_weights(1e-8),
            norm_eps=TORCH_NORM_EPS,
            full_bias=True,
            mlp_in_last=False,
        ),
        predictor=ModulePredictor(_predictor(config)),
        recompute=config.recompute,
    )


def _frame_encoder(config: SteveJointConfig) -> FrameEncoder:
    sizes, size = [3, *config.channels], config.token_size
    blocks: list[nn.Module] = [
        ConvBlock(wide, narrow, 5, config.stride if index == 0 else 1, padding=2, norm=False)
        for index, (wide, narrow) in enumerate(zip(sizes, sizes[1:]))
    ]
    return FrameEncoder(
        nn.Sequential(*blocks, nn.Conv2d(sizes[-1], size, 5, padding=2)),
        PositionEmbedding(config.token_grid(), size, grid=cell_grid, stored=False),
        mlp(size, [size], size, pre_norm=True, norm_eps=TORCH_NORM_EPS),
    )


def _predictor(config: SteveJointConfig) -> nn.Module:
    blocks: list[nn.Module] = [
        PreNormBlock(
            config.slot_size,
            num_heads=config.predictor_heads,
            qkv_size=config.slot_size,
            mlp_size=config.predictor_mlp,
            norm_eps=TORCH_NORM_EPS,
            bias=False,
            residual_from_norm=index == 0,
        )
        for index in range(config.predictor_layers)
    ]
    return nn.Sequential(*blocks, layer_norm(config.slot_size, TORCH_NORM_EPS))


_BATCH_SIZE = 24
_EPOCHS = 500
_EPOCH = VIDEOS * 70 // 100 * 8 // _BATCH_SIZE
"""Steps of an epoch: of each training video 8 clips that lie end to end."""


def _recipe(dataset: str) -> Recipe:
    """Trained on the first 70 % of the training videos, watched on the next 15 %, of which the lowest loss is the
    best."""
    return Recipe(
        f"steve_joint_{dataset}",
        SteveJointConfig(),
        replace(data(dataset, num_frames=3), windows="end_to_end", train_split="train[:70%]"),
        OptimConfig(
            learning_rate=1e-4,
            decoder_learning_rate=3e-4,
            tokenizer_learning_rate=3e-4,
            warmup_steps=30_000,
            num_steps=_EPOCHS * _EPOCH,
            max_grad_norm=0.05,
            clip_norm="inf",
            schedule="exponential",
            decay_rate=0.5,
            decay_steps=250_000,
        ),
        TrainConfig(
            batch_size=_BATCH_SIZE,
            log_every=100,
            eval_every=_EPOCH,
            checkpoint_every=1000,
            best_metric="loss",
        ),
        replace(evaluation(dataset, batch_size=4), split="train[70%:85%]"),
    )


RECIPES = sweep(
    "steve_joint",
    _recipe,
    {
        "movi_d": "STEVE of its authors on MOVi-D: as on MOVi-E.",
        "movi_e": """STEVE of its authors on MOVi-E: 15 slots, 8 layers, clips of 3 frames at 128x128, batches of 24,
        learning rates 1e-4 (slots) and 3e-4 (transformer) behind 30k steps of warm-up, halved every 250k, 3e-4
        throughout for the tokenizer, whose temperature falls from 1 to 0.1 in 30k steps.

        It trains for 500 epochs, 1.14 million steps, on the first 70 % of the training videos, and keeps the model of
        the lowest loss on the next 15 %. The authors' `--steps 200000` ends no training: it keeps a second copy of the
        best model until then (`--optim.num-steps 200000` stops there).""",
        "movi_solid": "STEVE of its authors on MOVi-Solid: as on MOVi-E; an epoch is taken to be as long.",
        "movi_tex": "STEVE of its authors on MOVi-Tex: as on MOVi-Solid.",
    },
)
