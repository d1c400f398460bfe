"""SlotDiffusion: slots, decoded to images by a latent diffusion model.

Wu et al., SlotDiffusion: Object-Centric Generative Modeling with Diffusion Models (NeurIPS 2023). Sizes are those of
the authors' configurations (`savi_ldm_*_params-res128`). A VQ-VAE is trained first (`recipes/tokenizers.py`), then
slots and U-Net on its frozen latents.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast, get_args

from torchslots.io.errors import UserError
from torchslots.models.decoders.diffusion import DiffusionDecoder
from torchslots.models.diffusion.samplers import NamedSampler, SamplerName
from torchslots.models.diffusion.schedule import (
    PREDICT_LATENT,
    PREDICT_NOISE,
    PREDICT_VELOCITY,
    BetaSchedule,
    Diffusion,
    beta_schedule,
)
from torchslots.models.layers.unet import ConditionedUNet
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes.config import Recipe
from torchslots.recipes.sizes import require_same_size
from torchslots.recipes.slotdiffusion_encoder import (
    SLOTS,
    SlotsModelConfig,
    build_slot_encoder,
    demo_experiment,
    demo_slots,
    experiment,
)
from torchslots.recipes.sweep import sweep
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae, vqvae_demo

_PREDICTION_TYPES = {"noise": PREDICT_NOISE, "latent": PREDICT_LATENT, "velocity": PREDICT_VELOCITY}


@dataclass(frozen=True)
class UNetConfig:
    """Configuration of the U-Net."""

    channels: tuple[int, ...] = (128, 256, 384, 512)
    """Width of each level, multiples of `norm_groups`; every level but the last halves the latent's sides."""
    attention: tuple[bool, ...] = (False, True, True, True)
    """For each level, whether its pixels attend to each other and to slots; those of the middle block always do."""
    blocks_per_level: int = 2
    """Residual blocks of each level on the way down; one more on the way up."""
    head_size: int = 32
    """Width of an attention head; divides every width."""
    transformer_layers: int = 1
    dropout: float = 0.1
    """Dropout in residual blocks alone."""
    norm_groups: int = 32
    """Groups of every group norm; fewer for narrow levels, where groups of one or two channels remove colours."""


@dataclass(frozen=True)
class DiffusionConfig:
    """Configuration of the noise schedule and of what the U-Net predicts."""

    num_steps: int = 1000
    schedule: BetaSchedule = "linear"
    """Course of the added variances: `linear` in their square roots, `sqrt_linear` in themselves, `cosine`, `sqrt`."""
    start: float = 0.0015
    """First variance."""
    end: float = 0.0195
    """Last variance."""
    cosine_shift: float = 0.008
    prediction_type: Literal["noise", "latent", "velocity"] = "noise"
    latent_scale: float = 1.0
    """Divides latents; 1 in all of the authors' configurations, though they measured 1.24."""

    def __post_init__(self) -> None:
        known = {"schedule": get_args(BetaSchedule), "prediction_type": tuple(_PREDICTION_TYPES)}
        for name, values in known.items():
            if (value := vars(self)[name]) not in values:
                raise UserError(f"{name} should be one of {', '.join(values)}, got {value!r}.")


@dataclass(frozen=True)
class SamplingConfig:
    """How frames are sampled."""

    sampler: SamplerName = "dpm_solver"
    num_steps: int = 20
    """Evaluations of the U-Net; `ddpm` always makes all steps of the schedule."""
    snap: bool = True
    """Replace every estimated latent by the codebook's nearest vectors."""
    one_noise: bool = True
    """All frames start from the same noise."""
    seed: int = 0
    """Seed of the noise."""
    show: bool = False
    """Show a progress bar."""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> NamedSampler:
        """The sampler with its number of steps."""
        return NamedSampler(self.sampler, self.num_steps, self.show)


@dataclass(frozen=True)
class SlotDiffusionConfig(SlotsModelConfig):
    """Configuration of SlotDiffusion, its finished tokenizer's included."""

    family: ClassVar[str] = "slotdiffusion"
    tokenizer: VqvaeConfig = field(default_factory=VqvaeConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require_same_size(self.slots.resolution, self.tokenizer.resolution)
        halvings = 2 ** (len(self.unet.channels) - 1)
        if any(side % halvings for side in self.tokenizer.latent_shape[1:]):
            raise UserError(
                f"A U-Net of {len(self.unet.channels)} levels needs latents with sides that are multiples of "
                f"{halvings}, got {self.tokenizer.latent_shape[1:]}. Take fewer levels or another resolution."
            )


def build(config: SlotDiffusionConfig) -> ObjectCentricModel:
    """SlotDiffusion with fresh weights; those of a trained tokenizer are to replace its tokenizer's."""
    return ObjectCentricModel(build_slot_encoder(config.slots), build_decoder(config), config)


def build_decoder(config: SlotDiffusionConfig) -> DiffusionDecoder:
    """The decoder alone, for slots of any encoder of the same width."""
    noise, sampling = config.diffusion, config.sampling
    betas = beta_schedule(noise.schedule, noise.num_steps, noise.start, noise.end, noise.cosine_shift)
    return DiffusionDecoder(
        build_unet(config),
        build_vqvae(replace(config.tokenizer, perceptual=False)),
        Diffusion(betas),
        _PREDICTION_TYPES[noise.prediction_type],
        sampling.build(),
        grid=config.slots.token_grid(),
        resolution=config.resolution,
        latent_shape=config.tokenizer.latent_shape,
        latent_scale=noise.latent_scale,
        snap=sampling.snap,
        seed=sampling.seed,
        one_noise=sampling.one_noise,
    )


def build_unet(config: SlotDiffusionConfig) -> ConditionedUNet:
    """The U-Net alone, with fresh weights."""
    unet = config.unet
    return ConditionedUNet(
        config.tokenizer.latent_shape[0],
        unet.channels,
        unet.attention,
        blocks_per_level=unet.blocks_per_level,
        head_size=unet.head_size,
        context_size=config.slots.slot_size,
        transformer_layers=unet.transformer_layers,
        dropout=unet.dropout,
        norm_groups=unet.norm_groups,
    )


# ----------------------------------------------------------------------------------------------- recipes


def _recipe(dataset: str) -> Recipe:
    """In half precision, as the authors' command line has it."""
    model = SlotDiffusionConfig(SLOTS[dataset])
    found = experiment("slotdiffusion", dataset, model, image_epochs=400, decoder_learning_rate=2e-4)
    train = replace(found.train, eval_every=5000, checkpoint_every=1000, precision="fp16")
    return replace(found, train=train)


RECIPES = sweep(
    "slotdiffusion",
    _recipe,
    {
        "movi_d": """SlotDiffusion on MOVi-D: ResNet-18, 15 learned slots, clips of 3 frames at 128x128, batches of 32,
        30 of the authors' epochs (152,339,233 weights, of which 138,481,347 are trained).""",
        "movi_e": "SlotDiffusion on MOVi-E: as on MOVi-D.",
        "movi_solid": """SlotDiffusion on MOVi-Solid: four plain convolutions, 12 learned slots, otherwise as on MOVi-D
        (149,837,601 weights, of which 135,979,715 are trained). It validates on the test videos.""",
        "movi_tex": "SlotDiffusion on MOVi-Tex: as on MOVi-Solid.",
        "clevrtex": """SlotDiffusion for images on CLEVRTex: ResNet-18, 11 slots, 3 rounds, batches of 64,
        clipped at 1.

        The authors' configuration trains for 400 epochs; one of them has since said that the paper's 100 are right
        (`--optim.num-steps 62500 --optim.warmup-steps 3125`).""",
    },
)


def slotdiffusion_demo() -> Recipe:
    """SlotDiffusion on generated videos at 32x32, for `torchslots demo`: minutes on two cores; all sizes are chosen
    here. Latents of 8x8 are those of `vqvae_demo`; single frames come before clips of three. The U-Net predicts the
    latent, not the noise, and most steps are nearly pure noise: there it needs the slots, and so they learn."""
    model = SlotDiffusionConfig(
        demo_slots(),
        cast(VqvaeConfig, vqvae_demo().model),
        UNetConfig((64, 96), (True, True), blocks_per_level=1, dropout=0.0, norm_groups=8),
        DiffusionConfig(end=0.06, prediction_type="latent", latent_scale=0.3),
    )
    return demo_experiment("slotdiffusion_demo", model, num_steps=6000)
