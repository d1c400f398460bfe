"""Slots as the condition of a latent diffusion model (SlotDiffusion, Wu et al., NeurIPS 2023, section 3.2)."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from torchslots.models.decoders.base import Decoder, RoundTrip, attention_masks
from torchslots.models.decoders.sampling import SamplingOptions
from torchslots.models.diffusion.samplers import Estimator, NamedSampler, Sampler, estimator, sample
from torchslots.models.diffusion.schedule import Diffusion, PredictionType
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.slots.seeding import sample_rows
from torchslots.models.tokenizers.vqvae import VQVAE
from torchslots.models.types import Batch, Clip, Decoded


class DiffusionDecoder(Decoder):
    """A U-Net learns to remove noise from the latents of a frame, conditioned on its slots by cross-attention.

    Masks are the attention of the last round, enlarged to the frame.

    Args:
        unet: (noised latents [n, C, h, w], timesteps [n], slots [n, K, D]) to the quantity of `prediction_type`.
        tokenizer: frames to latents and back; frozen here, and never in training mode.
        diffusion: the schedule of noise.
        prediction_type: what the U-Net predicts: noise, latent or velocity.
        sampler: from noise to a latent, see `models/diffusion/samplers.py`.
        grid: height and width of the encoder's token map.
        resolution: height and width of the frames.
        latent_shape: channels, height and width of a latent.
        latent_scale: latents are divided by it before noise is added.
        snap: move every estimate of the sampler to the codebook's nearest vectors.
        seed: of the noise that sampling starts from: the same slots give the same frames.
        one_noise: start all frames from the same noise, so that equal slots give equal frames in every slice of a
            video; False: each from noise of its own.
    """

    targets = ("video",)
    method = "samples by diffusion"
    sampling_options = frozenset({"sampler", "steps", "snap", "one_noise", "seed"})

    def __init__(
        self,
        unet: nn.Module,
        tokenizer: VQVAE,
        diffusion: Diffusion,
        prediction_type: PredictionType,
        sampler: NamedSampler,
        *,
        grid: tuple[int, int],
        resolution: tuple[int, int],
        latent_shape: tuple[int, int, int],
        latent_scale: float = 1.0,
        snap: bool = True,
        seed: int = 0,
        one_noise: bool = True,
    ):
        super().__init__()
        self.unet, self.diffusion, self.prediction_type = unet, diffusion, prediction_type
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.sampler, self.snap, self.latent_scale = sampler, snap, latent_scale
        self.grid, self.resolution, self.latent_shape = grid, resolution, latent_shape
        self.seed, self.one_noise = seed, one_noise

    def train(self, mode: bool = True) -> "DiffusionDecoder":
        """The tokenizer stays as it is at evaluation."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def latents(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "n C h w"]:
        """Latents of all frames of a video in [0, 1], before they are quantised; sampling ends at such latents."""
        return self.tokenizer.encode(to_signed(video.flatten(0, 1))) / self.latent_scale

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """Squared error of the prediction at one random step of every frame (Ho et al. 2020, equation 14).

        `batch["timesteps"]` [B*T] and `batch["latent_noise"]` [B*T, C, h, w] replace the sampled steps and noise.
        """
        latents = self.latents(batch["video"])
        timesteps, noise = self._timesteps_and_noise(latents, batch)
        noised = self.diffusion.noised(latents, noise, timesteps)
        predicted = self.unet(noised, timesteps, clip.slots.flatten(0, 1))
        target = self.prediction_type.target(latents, noise, *self.diffusion.shares(timesteps))
        return {"denoise": F.mse_loss(predicted.float(), target.float())}

    def _timesteps_and_noise(self, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Steps are sampled first, then noise in row-major order, whatever the latents' layout in memory."""
        timesteps, noise = batch.get("timesteps"), batch.get("latent_noise")
        source = batch.get("generator")
        if timesteps is None:
            sample = partial(torch.randint, 0, self.diffusion.num_steps)
            timesteps = sample_rows(source, (len(latents),), latents.device, sample)
        if noise is None:
            sample = partial(torch.randn, dtype=latents.dtype)
            noise = sample_rows(source, tuple(latents.shape), latents.device, sample)
        return timesteps, noise

    def frozen_tokenizer(self) -> VQVAE:
        """See `Decoder`."""
        return self.tokenizer

    def round_trip(self) -> RoundTrip:
        """See `Decoder`."""
        return lambda frames: from_signed(self.tokenizer.reconstruct(to_signed(frames)))

    def _set_sampling(self, options: SamplingOptions) -> None:
        self.sampler = self.sampler.changed(options.sampler, options.steps)
        self.snap = self.snap if options.snap is None else options.snap
        self.one_noise = self.one_noise if options.one_noise is None else options.one_noise
        self.seed = self.seed if options.seed is None else options.seed

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Masks, and frames unless `recon` is False; single slots have no images."""
        masks, logits = attention_masks(clip.attn, self.grid, self.resolution)
        if not recon:
            return Decoded({}, masks, logits)
        images = from_signed(self.generate(clip.slots.flatten(0, 1)))
        return Decoded({"video": images.unflatten(0, clip.slots.shape[:2])}, masks, logits)

    @torch.no_grad()
    def generate(
        self,
        slots: Float[Tensor, "n K D"],
        noise: Float[Tensor, "n C h w"] | None = None,
        sampler: Sampler | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Frames in [-1, 1], each from its slots.

        Args:
            noise: where to start; None: sampled from the decoder's seed.
            sampler: in place of the decoder's own.
        """
        return self.tokenizer.decode(self.sample_latents(slots, noise, sampler) * self.latent_scale)

    @torch.no_grad()
    def sample_latents(
        self,
        slots: Float[Tensor, "n K D"],
        noise: Float[Tensor, "n C h w"] | None = None,
        sampler: Sampler | None = None,
    ) -> Float[Tensor, "n C h w"]:
        """The latents that `generate` decodes, before they are quantised."""
        sample_noise = self._seeded(slots)
        start = sample_noise(slots.new_zeros(len(slots), *self.latent_shape)) if noise is None else noise
        return sample(
            (sampler or self.sampler)(self.estimator(slots), start, self.diffusion, sample_noise), start
        )

    def estimator(self, slots: Float[Tensor, "n K D"]) -> Estimator:
        """The U-Net's estimate of noised latents, given `slots`."""
        return estimator(
            lambda noised, timesteps: self.unet(noised, timesteps, slots),
            self.prediction_type,
            self._nearest if self.snap else None,
        )

    def _nearest(self, latents: Float[Tensor, "n C h w"]) -> Float[Tensor, "n C h w"]:
        """Latents moved to the codebook's nearest vectors."""
        return self.tokenizer.quantize(latents * self.latent_scale).latent / self.latent_scale

    def _seeded(self, slots: Tensor) -> Callable[[Tensor], Tensor]:
        """Noise like a given tensor, the same on every device."""
        generator = torch.Generator().manual_seed(self.seed)

        def sample_noise(like: Tensor) -> Tensor:
            count = 1 if self.one_noise else len(like)
            noise = torch.randn(count, *like.shape[1:], generator=generator)
            return noise.to(slots).expand_as(like)

        return sample_noise
