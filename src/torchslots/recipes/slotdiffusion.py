"""SlotDiffusion: slots as what a latent diffusion model draws.

Wu et al., SlotDiffusion: Object-Centric Generative Modeling with Diffusion Models (NeurIPS 2023). Numbers are those of
the authors' configurations (`savi_ldm_*_params-res128`). It is trained in two steps: a VQ-VAE first
(`recipes/tokenizers.py`), then slots and U-Net over its frozen latents.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

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
    steps,
)
from torchslots.recipes.tokenizers import VqvaeConfig, build_vqvae, vqvae_demo

_PREDICTION_TYPES = {"noise": PREDICT_NOISE, "latent": PREDICT_LATENT, "velocity": PREDICT_VELOCITY}
_SCHEDULES = ("linear", "sqrt_linear", "cosine", "sqrt")


@dataclass(frozen=True)
class UNetConfig:
    """The numbers of the U-Net."""

    channels: tuple[int, ...] = (128, 256, 384, 512)
    """Width of each level, multiples of `norm_groups`; every level but the last halves the latent's sides."""
    attention: tuple[bool, ...] = (False, True, True, True)
    """For each level, whether its pixels attend to each other and to slots; the middle always does."""
    blocks_per_level: int = 2
    """Residual blocks on the way down; one more on the way up."""
    head_size: int = 32
    """Width of an attention head; divides every width."""
    transformer_layers: int = 1
    dropout: float = 0.1
    """In residual blocks alone."""
    norm_groups: int = 32
    """Groups of every group norm; fewer for narrow levels, where groups of one or two channels forget colours."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The schedule of noise, and what is predicted."""

    num_steps: int = 1000
    schedule: BetaSchedule = "linear"
    """Shape of the variances added: `linear` in their square roots, `sqrt_linear` in themselves, `cosine`, `sqrt`."""
    start: float = 0.0015
    """First variance."""
    end: float = 0.0195
    """Last variance."""
    cosine_shift: float = 0.008
    prediction_type: Literal["noise", "latent", "velocity"] = "noise"
    latent_scale: float = 1.0
    """Latents are divided by it; 1 in all of the authors' configurations, though 1.24 is what they measured."""

    def __post_init__(self) -> None:
        if self.schedule not in _SCHEDULES:
            raise UserError(f"schedule should be one of {', '.join(_SCHEDULES)}, got {self.schedule!r}.")
        if self.prediction_type not in _PREDICTION_TYPES:
            raise UserError(
                f"prediction_type should be one of {', '.join(_PREDICTION_TYPES)}, got {self.prediction_type!r}."
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How frames are sampled."""

    sampler: SamplerName = "dpm_solver"
    num_steps: int = 20
    """Evaluations of the U-Net; `ddpm` makes all steps of the schedule whatever is said here."""
    snap: bool = True
    """Move every estimated latent to the codebook's nearest vectors."""
    one_noise: bool = True
    """All frames start from the same noise."""
    seed: int = 0
    """Of that noise."""
    show: bool = False
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> NamedSampler:
        """The sampler with its number of steps."""
        return NamedSampler(self.sampler, self.num_steps, self.show)


@dataclass(frozen=True)
class SlotDiffusionConfig(ModelConfig):
    """The numbers of the model."""

    family: ClassVar[str] = "slotdiffusion"
    slots: SlotsConfig = field(default_factory=SlotsConfig)
    tokenizer: VqvaeConfig = field(default_factory=VqvaeConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if tuple(self.slots.resolution) != tuple(self.tokenizer.resolution):
            raise UserError(
                f"Slots see frames of {tuple(self.slots.resolution)}, the image code frames of "
                f"{tuple(self.tokenizer.resolution)}. Make slots.resolution and tokenizer.resolution the same."
            )
        halvings = 2 ** (len(self.unet.channels) - 1)
        if any(side % halvings for side in self.tokenizer.latent_shape[1:]):
            raise UserError(
                f"A U-Net of {len(self.unet.channels)} levels needs latents with sides that are multiples of "
                f"{halvings}, got {self.tokenizer.latent_shape[1:]}. Take fewer levels or another resolution."
            )

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.slots.resolution


def build(config: SlotDiffusionConfig) -> ObjectCentricModel:
    """Fresh weights, those of the image code too, which are to be replaced by a trained one's."""
    return ObjectCentricModel(build_slot_encoder(config.slots), build_decoder(config), config)


def build_decoder(config: SlotDiffusionConfig) -> DiffusionDecoder:
    """The decoder alone, for slots of any encoder of the same width."""
    numbers, sampling = config.diffusion, config.sampling
    betas = beta_schedule(
        numbers.schedule, numbers.num_steps, numbers.start, numbers.end, numbers.cosine_shift
    )
    return DiffusionDecoder(
        build_unet(config),
        build_vqvae(replace(config.tokenizer, perceptual=False)),
        Diffusion(betas),
        _PREDICTION_TYPES[numbers.prediction_type],
        sampling.build(),
        grid=config.slots.token_grid(),
        resolution=config.resolution,
        latent_shape=config.tokenizer.latent_shape,
        latent_scale=numbers.latent_scale,
        snap=sampling.snap,
        seed=sampling.seed,
        one_noise=sampling.one_noise,
    )


def build_unet(config: SlotDiffusionConfig) -> ConditionedUNet:
    """The U-Net alone."""
    numbers = config.unet
    return ConditionedUNet(
        config.tokenizer.latent_shape[0],
        numbers.channels,
        numbers.attention,
        blocks_per_level=numbers.blocks_per_level,
        head_size=numbers.head_size,
        context_size=config.slots.slot_size,
        transformer_layers=numbers.transformer_layers,
        dropout=numbers.dropout,
        norm_groups=numbers.norm_groups,
    )


# ----------------------------------------------------------------------------------------------- recipes


def _recipe(dataset: str, num_steps: int, num_frames: int, batch_size: int, max_grad_norm: float) -> Recipe:
    """Rates of 1e-4 for slots and 2e-4 for the U-Net, 5 % warm-up, cosine to zero."""
    config = SlotDiffusionConfig(SLOTS[dataset])
    optim = OptimConfig(
        learning_rate=1e-4,
        decoder_learning_rate=2e-4,
        warmup_steps=0.05 * num_steps,
        num_steps=num_steps,
        max_grad_norm=max_grad_norm,
    )
    train = TrainConfig(batch_size=batch_size, log_every=100, eval_every=5000, checkpoint_every=1000)
    run_pass = evaluation(dataset, batch_size=4 if num_frames > 1 else 64)
    return Recipe(f"slotdiffusion_{dataset}", config, data(dataset, num_frames), optim, train, run_pass)


def _video(dataset: str) -> Recipe:
    """Clips of 3 frames, batches of 32, 30 epochs."""
    return _recipe(dataset, steps(dataset, 30, 32, num_frames=3), 3, 32, 0.05)


def slotdiffusion_movi_d() -> Recipe:
    """SlotDiffusion on MOVi-D: ResNet-18, 15 learned slots, clips of 3 frames at 128x128, batches of 32, 30 of the
    authors' epochs (152,339,233 weights, of which 138,481,347 are trained)."""
    return _video("movi_d")


def slotdiffusion_movi_e() -> Recipe:
    """SlotDiffusion on MOVi-E: as on MOVi-D."""
    return _video("movi_e")


def slotdiffusion_movi_solid() -> Recipe:
    """SlotDiffusion on MOVi-Solid: four plain convolutions, 12 learned slots, otherwise as on MOVi-D (149,837,601
    weights, of which 135,979,715 are trained). It validates on the test videos."""
    return _video("movi_solid")


def slotdiffusion_movi_tex() -> Recipe:
    """SlotDiffusion on MOVi-Tex: as on MOVi-Solid."""
    return _video("movi_tex")


def slotdiffusion_clevrtex() -> Recipe:
    """SlotDiffusion's model of images on CLEVRTex: ResNet-18, 11 slots, 3 rounds, batches of 64, clipped at 1.

    The authors' configuration trains for 400 epochs; one of them has since said that the paper's 100 are right
    (`--optim.num-steps 62500 --optim.warmup-steps 3125`).
    """
    return _recipe("clevrtex", steps("clevrtex", 400, 64), 1, 64, 1.0)


def slotdiffusion_demo() -> Recipe:
    """SlotDiffusion cut down to minutes on two cores, for `torchslots demo`: generated videos at 32x32, latents of 8x8
    that `vqvae_demo` learns, single frames before clips of three; all sizes are ours. The latent itself is predicted,
    not the noise, and most steps have hardly anything but noise: where slots are all there is to go by, they learn."""
    num_steps = 6000
    model = SlotDiffusionConfig(
        demo_slots(),
        cast(VqvaeConfig, vqvae_demo().model),
        UNetConfig((64, 96), (True, True), blocks_per_level=1, dropout=0.0, norm_groups=8),
        DiffusionConfig(end=0.06, prediction_type="latent", latent_scale=0.3),
    )
    return Recipe(
        "slotdiffusion_demo",
        model,
        demo_data(),
        demo_optim(num_steps),
        demo_training(num_steps, batch_size=16),
        EvalConfig(slice_size=24, batch_size=8),
    )


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        slotdiffusion_movi_d,
        slotdiffusion_movi_e,
        slotdiffusion_movi_solid,
        slotdiffusion_movi_tex,
        slotdiffusion_clevrtex,
        slotdiffusion_demo,
    )
}
