"""Tokenizers of images, trained before the slots: SlotDiffusion's VQ-VAE and STEVE's discrete VAE.

Sizes are those of the authors' video configurations (`vqvae_movie_params-res128`, `dvae_movie_params-res128`), the same
on every data set: single frames of 128x128, batch 64, Adam at 1e-3 with 5 % warm-up from 1e-5 and a cosine back to
1e-5, no clipping. Training takes 50 epochs of video, 50 * floor(9,749 * 24 / 64) = 182,750 steps, or 100 epochs of
CLEVRTex, 100 * floor(40,000 / 64) = 62,500 steps.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.io.errors import UserError
from torchslots.models.losses import mean_colour_error
from torchslots.models.tokenizers import autoencoder as pyramid
from torchslots.models.tokenizers.base import ImageLoss
from torchslots.models.tokenizers.dvae import (
    DVAE,
    PATCH,
    cosine_temperature,
    part_scores,
    patch_decoder,
    patch_encoder,
)
from torchslots.models.tokenizers.vqvae import VQVAE, Codebook
from torchslots.recipes.config import EvalConfig, ModelConfig, OptimConfig, Recipe, TrainConfig
from torchslots.recipes.slotdiffusion_encoder import data, demo_data, evaluation, steps
from torchslots.recipes.sweep import sweep

BATCH_SIZE = 64


@dataclass(frozen=True)
class VqvaeConfig(ModelConfig):
    """Configuration of a VQ-VAE."""

    family: ClassVar[str] = "vqvae"
    resolution: tuple[int, int] = (128, 128)
    """Height and width of the images; each level but the last halves both."""
    channels: int = 64
    """Width of the first convolution."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Width of each level, as a multiple of `channels`."""
    num_blocks: int = 2
    """Residual blocks of each level of the encoder; the decoder has one more."""
    attention_levels: tuple[int, ...] = ()
    """Levels with attention, counted from full size; the middle block always has it."""
    num_groups: int = 32
    """Groups of the group norms; divides every width."""
    dropout: float = 0.0
    """Dropout inside residual blocks."""
    latent_channels: int = 3
    """Channels between encoder and codes, and between codes and decoder."""
    num_codes: int = 4096
    """Vectors of the codebook."""
    code_size: int = 3
    """Size of a vector: channels of the latent."""
    codebook_weight: float = 0.25
    """Weight of the loss that moves codes towards latents; that of latents towards codes has weight 1."""
    codebook_spread: float | None = None
    """Largest absolute entry of codes at the start; None: 1 / num_codes, as in the original."""
    patch_channels: int | None = None
    """Width of networks on single patches of 4x4 pixels, those of the discrete VAE without norms, for short trainings;
    they replace the pyramid, which the fields from `channels` to `dropout` describe. None: the pyramid."""
    perceptual: bool = True
    """Train with LPIPS and the absolute error of pixels; otherwise with the squared error alone."""
    perceptual_dropout: float = 0.0
    """Dropout inside LPIPS in training: 0.5 in the authors' program, by a slip (see docs/fidelity.md)."""
    colour_weight: float = 1.0
    """Weight of colour beside brightness in the squared error, without LPIPS; more than 1 for short trainings, which
    otherwise learn brightness alone."""

    def __post_init__(self) -> None:
        factor = self.factor
        if self.patch_channels is not None:
            _require_patches(self.resolution)
            return
        if any(side % factor for side in self.resolution):
            raise UserError(
                f"{len(self.multipliers)} levels halve an image {len(self.multipliers) - 1} times: both sides should "
                f"be multiples of {factor}, got {list(self.resolution)}."
            )
        widths = [self.channels * multiplier for multiplier in (1, *self.multipliers)]
        if any(width % self.num_groups for width in widths):
            raise UserError(f"num_groups {self.num_groups} should divide every width, which are {widths}.")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latent."""
        height, width = self.resolution
        return self.code_size, height // self.factor, width // self.factor

    @property
    def factor(self) -> int:
        """Pixels of a code's side."""
        return PATCH if self.patch_channels is not None else 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class DvaeConfig(ModelConfig):
    """Configuration of a discrete VAE."""

    family: ClassVar[str] = "dvae"
    resolution: tuple[int, int] = (128, 128)
    """Height and width of the images; a token stands for 4x4 pixels."""
    vocabulary: int = 4096
    """Number of different tokens."""
    channels: int = 64
    """Width of all convolutions."""
    temperature_start: float = 1.0
    """Temperature of the soft choice of tokens in the first step."""
    temperature_end: float = 0.1
    """Temperature from `temperature_steps` on."""
    temperature_steps: float = 0.15 * 182_750
    """Steps in which the temperature falls, along half a cosine; by default 15 % of the training."""
    hard: bool = False
    """Choose a single token in training, too, with the gradient of the soft choice."""
    norm: bool = True
    """Group norm behind each convolution in place of its bias; biases alone in STEVE's original."""
    score_factor: float | None = None
    """Factor by which fresh scores of tokens differ more from place to place (`models.tokenizers.dvae.part_scores`),
    for short trainings; None: as in the original."""
    colour_weight: float = 1.0
    """Weight of colour beside brightness in the squared error; more than 1 for short trainings, which otherwise learn
    brightness alone."""

    def __post_init__(self) -> None:
        _require_patches(self.resolution)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.resolution[0] // PATCH, self.resolution[1] // PATCH


def _require_patches(resolution: tuple[int, int]) -> None:
    if any(side % PATCH for side in resolution):
        raise UserError(
            f"A token stands for {PATCH}x{PATCH} pixels: both sides should be multiples of {PATCH}, got "
            f"{list(resolution)}."
        )


def build_vqvae(config: VqvaeConfig) -> VQVAE:
    """A VQ-VAE with fresh weights."""
    encoder, decoder = _networks(config)
    return VQVAE(
        encoder,
        decoder,
        to_code=nn.Conv2d(config.latent_channels, config.code_size, 1),
        from_code=nn.Conv2d(config.code_size, config.latent_channels, 1),
        codebook=Codebook(config.num_codes, config.code_size, config.codebook_weight, config.codebook_spread),
        perceptual=PerceptualDistance(config.perceptual_dropout) if config.perceptual else None,
        error=_error(config.colour_weight),
        config=config,
    )


def _networks(config: VqvaeConfig) -> tuple[nn.Module, nn.Module]:
    """Networks from images to `latent_channels`, and back."""
    if config.patch_channels is not None:
        patches = config.latent_channels, config.patch_channels
        return patch_encoder(*patches, norm=False), patch_decoder(*patches, norm=False)
    encoder, decoder = (
        make(
            latent_channels=config.latent_channels,
            channels=config.channels,
            multipliers=config.multipliers,
            num_blocks=config.num_blocks,
            attention_levels=config.attention_levels,
            num_groups=config.num_groups,
            dropout=config.dropout,
        )
        for make in (pyramid.encoder, pyramid.decoder)
    )
    return encoder, decoder


def build_dvae(config: DvaeConfig) -> DVAE:
    """A discrete VAE with fresh weights."""
    temperature = partial(
        cosine_temperature,
        start=config.temperature_start,
        end=config.temperature_end,
        num_steps=config.temperature_steps,
    )
    encoder = patch_encoder(config.vocabulary, config.channels, config.norm)
    return DVAE(
        encoder if config.score_factor is None else part_scores(encoder, config.score_factor),
        patch_decoder(config.vocabulary, config.channels, config.norm),
        vocabulary=config.vocabulary,
        temperature=temperature,
        hard=config.hard,
        error=_error(config.colour_weight),
        config=config,
    )


def _error(colour_weight: float) -> ImageLoss:
    return F.mse_loss if colour_weight == 1 else partial(mean_colour_error, weight=colour_weight)


class PerceptualDistance:
    """LPIPS on VGG16 between images in [-1, 1]; its public weights are read at the first call.

    Building, loading and saving a model need no such weights. Training without them ends before its first update, with
    an error that says where they are to be found.

    Args:
        dropout: applied where gradients are computed.
        trained: with the public weights; otherwise with random ones, as fast, for measuring time and memory.
    """

    def __init__(self, dropout: float = 0.0, trained: bool = True) -> None:
        self._dropout, self._trained = dropout, trained
        self._networks: dict[torch.device, nn.Module] = {}

    def __call__(self, true: Tensor, decoded: Tensor) -> Tensor:
        if true.device not in self._networks:
            from torchslots.metrics.lpips import load_lpips, untrained_lpips

            make = load_lpips if self._trained else untrained_lpips
            self._networks[true.device] = make("vgg", dropout=self._dropout).to(true.device)
        return self._networks[true.device].train(decoded.requires_grad)(true, decoded)


def without_public_weights(model: nn.Module) -> None:
    """Let a VQ-VAE's perceptual distance have random weights, to measure its training where no file is at hand."""
    if isinstance(model, VQVAE) and model.perceptual is not None:
        model.perceptual = PerceptualDistance(model.config.perceptual_dropout, trained=False)


def vqvae_demo() -> Recipe:
    """VQ-VAE on generated videos at 32x32, for `torchslots demo`: minutes on two cores; all sizes are chosen here.
    Latents of 8x8 have four channels, the loss is the squared error alone, and networks have no norms, which would
    remove the colour of an image as a whole."""
    model = VqvaeConfig(
        resolution=(32, 32),
        patch_channels=64,
        latent_channels=4,
        code_size=4,
        num_codes=1024,
        codebook_spread=0.3,
        colour_weight=10.0,
        perceptual=False,
    )
    return _demo("vqvae_demo", model, 3000, 2e-3)


def dvae_demo() -> Recipe:
    """Discrete VAE on generated videos at 32x32, for `torchslots demo`: 8x8 tokens of 512, minutes on two cores; all
    sizes are chosen here. Scores start far apart and the temperature falls from 2, since with the published start few
    tokens are in use after so few steps. There are no norms, which would remove the colour of an image as a whole."""
    num_steps = 3000
    model = DvaeConfig(
        resolution=(32, 32),
        vocabulary=512,
        temperature_start=2.0,
        temperature_steps=0.6 * num_steps,
        norm=False,
        score_factor=30.0,
        colour_weight=4.0,
    )
    return _demo("dvae_demo", model, num_steps, 2e-3)


def _demo(name: str, model: ModelConfig, num_steps: int, learning_rate: float) -> Recipe:
    """Single frames in batches of 16."""
    return Recipe(
        name,
        model,
        demo_data(num_frames=1, keys=("video",)),
        _optim(learning_rate, num_steps),
        TrainConfig(
            batch_size=16, num_workers=0, log_every=50, eval_every=1000, checkpoint_every=1000, keep=1
        ),
        EvalConfig(slice_size=24, batch_size=8),
    )


def _optim(learning_rate: float, num_steps: int) -> OptimConfig:
    return OptimConfig(
        learning_rate=learning_rate,
        min_learning_rate=1e-5,
        warmup_steps=0.05 * num_steps,
        num_steps=num_steps,
        max_grad_norm=None,
    )


_TITLES = {
    "movi_d": "MOVi-D",
    "movi_e": "MOVi-E",
    "movi_solid": "MOVi-Solid",
    "movi_tex": "MOVi-Tex",
    "clevrtex": "CLEVRTex",
}


def _num_steps(dataset: str) -> int:
    return steps(dataset, 100 if dataset == "clevrtex" else 50, BATCH_SIZE)


def _vqvae(dataset: str) -> Recipe:
    """In half precision, as the authors' command line has it."""
    found = _recipe(f"vqvae_{dataset}", VqvaeConfig(), dataset)
    return replace(found, train=replace(found.train, precision="fp16"))


def _dvae(dataset: str) -> Recipe:
    model = DvaeConfig(temperature_steps=0.15 * _num_steps(dataset))
    return _recipe(f"dvae_{dataset}", model, dataset)


def _recipe(name: str, model: ModelConfig, dataset: str) -> Recipe:
    """The authors' schedule, evaluated every two epochs and saved twice per epoch."""
    num_steps, epoch = _num_steps(dataset), steps(dataset, 1, BATCH_SIZE)
    train = TrainConfig(
        batch_size=BATCH_SIZE, num_workers=8, eval_every=2 * epoch, checkpoint_every=epoch // 2, keep=3
    )
    return Recipe(
        name, model, data(dataset, 1, keys=("video",)), _optim(1e-3, num_steps), train, evaluation(dataset, 8)
    )


def _about(what: str) -> dict[str, str]:
    """The docstring of each data set's recipe."""
    return {
        dataset: f"{what} on {title} at 128x128: {_num_steps(dataset):,} steps, batch {BATCH_SIZE}."
        for dataset, title in _TITLES.items()
    }


RECIPES = sweep("vqvae", _vqvae, _about("SlotDiffusion's VQ-VAE (13,857,886 weights)")) | sweep(
    "dvae", _dvae, _about("STEVE's discrete VAE as SlotDiffusion trains it first (681,923 weights)")
)
