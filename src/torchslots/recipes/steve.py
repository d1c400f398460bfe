"""STEVE (Singh, Wu and Ahn, NeurIPS 2022) as SlotDiffusion's authors train it.

A discrete VAE is trained first (recipes `dvae_*`), then slots and a transformer that predicts its codes from them, with
the VAE frozen. Sizes are those of the authors' PyTorch configurations. The original, which trains all of it together,
is `recipes/steve_joint.py`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.code_transformer import CodeTransformer
from torchslots.models.layers.transformer import CausalDecoder
from torchslots.models.layers.weight_init import start_as_torch
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import Recipe
from torchslots.recipes.sizes import require_heads, require_same_size
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    SlotsModelConfig,
    build_slot_encoder,
    demo_experiment,
    demo_slots,
    experiment,
)
from torchslots.recipes.sweep import sweep
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae, dvae_demo


@dataclass(frozen=True)
class CodeTransformerConfig:
    """Configuration of the transformer that decodes slots to codes."""

    size: int = 192
    num_layers: int = 8
    num_heads: int = 4
    mlp_size: int = 768
    dropout: float = 0.1
    """Dropout of inputs, of attention weights and of each residual branch."""
    chunk: int = 24
    """Images decoded at once; fewer need less memory."""
    xavier_start: bool = False
    """Start the projection of slots and the scores of codes as STEVE's authors do, Xavier-uniform and without bias; as
    torch starts linear layers otherwise, as in SlotDiffusion's code."""
    token_dropout: float = 0.0
    """Share of the earlier codes hidden from the transformer, which then depends more on the slots; 0 in the papers."""

    def __post_init__(self) -> None:
        require_heads("size", self.size, self.num_heads)


@dataclass(frozen=True)
class SteveConfig(SlotsModelConfig):
    """Configuration of SlotDiffusion's STEVE, its finished tokenizer's included."""

    family: ClassVar[str] = "steve"
    tokenizer: DvaeConfig = field(default_factory=DvaeConfig)
    transformer: CodeTransformerConfig = field(default_factory=CodeTransformerConfig)
    image_temperature: float | None = None
    """Temperature of codes sampled softly, whose image is compared with the frame, too (0.1 in the authors' code);
    None: compare codes alone."""
    image_weight: float = 1.0
    """Weight of the image's loss beside that of the codes; more for short trainings, in which codes alone teach slots
    little about colours, since many codes look alike."""

    def __post_init__(self) -> None:
        require_same_size(self.slots.resolution, self.tokenizer.resolution)


def build(config: SteveConfig) -> ObjectCentricModel:
    """SlotDiffusion's slot encoder and an autoregressive decoder, with fresh weights; those of a trained tokenizer are
    to replace its tokenizer's."""
    decoder = AutoregressiveDecoder(
        build_dvae(config.tokenizer),
        build_code_transformer(config.transformer, config.slots.slot_size, config.tokenizer),
        code_grid=config.tokenizer.grid,
        grid=config.slots.token_grid(),
        resolution=config.resolution,
        image_temperature=config.image_temperature,
        image_weight=config.image_weight,
        chunk=config.transformer.chunk,
    )
    return ObjectCentricModel(build_slot_encoder(config.slots), decoder, config)


def build_code_transformer(
    config: CodeTransformerConfig, slot_size: int, tokenizer: DvaeConfig, slot_bias: bool = True
) -> CodeTransformer:
    """The transformer that decodes slots to a tokenizer's codes, with fresh weights."""
    rows, columns = tokenizer.grid
    transformer = CodeTransformer(
        CausalDecoder(
            config.size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            mlp_size=config.mlp_size,
            dropout=config.dropout,
        ),
        slot_size=slot_size,
        size=config.size,
        num_codes=tokenizer.vocabulary,
        length=rows * columns,
        dropout=config.dropout,
        slot_bias=slot_bias,
        token_dropout=config.token_dropout,
    )
    if not config.xavier_start:
        start_as_torch(transformer.project)
        start_as_torch(transformer.head)
    return transformer


def _recipe(dataset: str) -> Recipe:
    model = SteveConfig(SLOTS[dataset])
    return experiment("steve", dataset, model, image_epochs=200, decoder_learning_rate=3e-4)


RECIPES = sweep(
    "steve",
    _recipe,
    {
        "movi_d": """SlotDiffusion's STEVE on MOVi-D, behind `dvae_movi_d`: ResNet-18, 15 learned slots, 8 layers, clips
        of 3 frames at 128x128, batches of 32, learning rates 1e-4 and 3e-4 (transformer) for 30 of the authors' epochs
        (11,462,531 weights, 681,923 of them frozen).""",
        "movi_e": "SlotDiffusion's STEVE on MOVi-E, behind `dvae_movi_e`: as on MOVi-D.",
        "movi_solid": """SlotDiffusion's STEVE on MOVi-Solid, behind `dvae_movi_solid`: four plain convolutions, 12
        learned slots, otherwise as on MOVi-D (8,960,899 weights). It validates on the test videos, since those for
        validation have no masks.""",
        "movi_tex": "SlotDiffusion's STEVE on MOVi-Tex, behind `dvae_movi_tex`: as on MOVi-Solid.",
        "clevrtex": """STEVE for images (SLATE, Singh, Deng and Ahn, ICLR 2022) as SlotDiffusion's authors train it on
        CLEVRTex, behind `dvae_clevrtex`: ResNet-18, 11 learned slots, 3 rounds, batches of 64 for 200 of the authors'
        epochs.""",
    },
)


def steve_demo() -> Recipe:
    """STEVE on generated videos at 32x32, behind `dvae_demo`, for `torchslots demo`: minutes on two cores; all sizes
    are chosen here. Single frames come before clips of three."""
    tokenizer = dvae_demo().model
    assert isinstance(tokenizer, DvaeConfig)
    model = SteveConfig(
        demo_slots(),
        tokenizer,
        CodeTransformerConfig(
            size=96, num_layers=3, mlp_size=384, dropout=0.0, xavier_start=True, token_dropout=0.8
        ),
        image_temperature=1.0,
        image_weight=50.0,
    )
    return demo_experiment("steve_demo", model, num_steps=7000)
