"""STEVE (Singh, Wu and Ahn, NeurIPS 2022) as SlotDiffusion's authors train it: in two steps.

A discrete VAE first (recipes `dvae_*`), then slots and a transformer that writes its codes from them, with the VAE
frozen. Numbers are those of the authors' PyTorch configurations. The original, which trains all of it at once, is
`recipes/steve_joint.py`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torchslots.io.errors import UserError
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.code_transformer import CodeTransformer
from torchslots.models.layers.transformer import CausalDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    SlotsConfig,
    build_slot_encoder,
    data,
    demo_data,
    demo_optim,
    demo_slots,
    demo_training,
    evaluation,
    require_heads,
    steps,
)
from torchslots.recipes.sweep import sweep
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae, dvae_demo


@dataclass(frozen=True)
class CodeTransformerConfig:
    """The transformer that writes codes."""

    size: int = 192
    num_layers: int = 8
    num_heads: int = 4
    mlp_size: int = 768
    dropout: float = 0.1
    """Of what enters, of attention, and of what each branch adds."""
    chunk: int = 24
    """Images written at once; fewer need less memory."""
    token_dropout: float = 0.0
    """Share of the earlier codes that the transformer does not see, so that it must ask the slots; 0 in the papers."""

    def __post_init__(self) -> None:
        require_heads("size", self.size, self.num_heads)


@dataclass(frozen=True)
class SteveConfig(ModelConfig):
    """The numbers of the model, its finished tokenizer's included."""

    family: ClassVar[str] = "steve"
    slots: SlotsConfig = field(default_factory=SlotsConfig)
    tokenizer: DvaeConfig = field(default_factory=DvaeConfig)
    transformer: CodeTransformerConfig = field(default_factory=CodeTransformerConfig)
    image_temperature: float | None = None
    """Also compare the image behind a soft draw of the codes at this temperature (the authors' is 0.1); None: codes
    alone."""
    image_weight: float = 1.0
    """Weight of that comparison beside the codes'; more for short trainings, in which codes alone, of which many look
    alike, teach slots little of colours."""

    def __post_init__(self) -> None:
        require_same_size(self.slots.resolution, self.tokenizer.resolution)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.slots.resolution


def require_same_size(slots: tuple[int, int], tokenizer: tuple[int, int]) -> None:
    """Raises UserError where slots and tokenizer see frames of other sizes."""
    if tuple(slots) != tuple(tokenizer):
        raise UserError(
            f"The slots are built for frames of {tuple(slots)}, the tokenizer for {tuple(tokenizer)}. Give both the "
            "same resolution."
        )


def build(config: SteveConfig) -> ObjectCentricModel:
    """The slot encoder that SlotDiffusion has too, and a decoder that writes codes; the tokenizer's weights are fresh
    until they are loaded."""
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
    """The transformer for a tokenizer's codes, with fresh weights."""
    rows, columns = tokenizer.grid
    return CodeTransformer(
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


def _recipe(dataset: str) -> Recipe:
    """Clips of 3 frames in batches of 32 for 30 epochs; images in batches of 64 for 200 epochs."""
    images = dataset == "clevrtex"
    epochs, batch_size, num_frames = (200, 64, 1) if images else (30, 32, 3)
    num_steps = steps(dataset, epochs, batch_size, num_frames)
    eval_every = (5 if images else 1) * num_steps // epochs
    return Recipe(
        f"steve_{dataset}",
        SteveConfig(SLOTS[dataset]),
        data(dataset, num_frames),
        OptimConfig(
            learning_rate=1e-4,
            decoder_learning_rate=3e-4,
            warmup_steps=0.05 * num_steps,
            num_steps=num_steps,
            max_grad_norm=1.0 if images else 0.05,
        ),
        TrainConfig(
            batch_size=batch_size, log_every=100, eval_every=eval_every, checkpoint_every=eval_every // 10
        ),
        evaluation(dataset, batch_size=64 if images else 4),
    )


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
    """STEVE cut down to minutes on two cores, for `torchslots demo`, behind `dvae_demo`: generated videos at 32x32,
    single frames before clips of three; all sizes are ours."""
    tokenizer = dvae_demo().model
    assert isinstance(tokenizer, DvaeConfig)
    num_steps = 7000
    return Recipe(
        "steve_demo",
        SteveConfig(
            demo_slots(),
            tokenizer,
            CodeTransformerConfig(size=96, num_layers=3, mlp_size=384, dropout=0.0, token_dropout=0.8),
            image_temperature=1.0,
            image_weight=50.0,
        ),
        demo_data(),
        demo_optim(num_steps),
        demo_training(num_steps, batch_size=16),
        EvalConfig(slice_size=24, batch_size=8),
    )
