"""Autoregressive decoder: a frame's codes are predicted one by one from its slots (STEVE, Singh et al. 2022)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.io.progress import progress
from torchslots.models.decoders.base import Decoder, RoundTrip, attention_masks
from torchslots.models.decoders.code_transformer import Advance, Choose, CodeTransformer, most_likely, sampled
from torchslots.models.decoders.sampling import SamplingOptions
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.losses import mean_cross_entropy, mean_squared_error, sum_squared_error
from torchslots.models.tokenizers.dvae import DVAE, gumbel_softmax
from torchslots.models.types import Batch, Clip, Decoded

LONG = 16_384
"""Decoding more codes than this shows a progress bar."""
Images = Float[Tensor, "n 3 H W"]


class Target(NamedTuple):
    """The codes to predict, and the losses of a tokenizer that is trained with the slots."""

    codes: Int[Tensor, "n l"]
    losses: dict[str, Tensor]


TargetCodes = Callable[[DVAE, Images, Batch], Target]


@torch.no_grad()
def most_likely_codes(tokenizer: DVAE, images: Images, batch: Batch) -> Target:
    """The most likely codes of a finished tokenizer: SlotDiffusion's STEVE."""
    return Target(tokenizer.codes(images), {})


def sampled_codes(tokenizer: DVAE, images: Images, batch: Batch) -> Target:
    """Sampled codes of a tokenizer that learns in the same steps, and its own loss: STEVE's original.

    The loss is squared error summed over an image decoded from a soft sample, whose temperature follows
    `batch["step"]`; the codes are a second, hard sample without gradient. `batch["exponential"]`, two tensors of unit
    exponential noise in the shape of the scores, replaces the noise of torch's generator.
    """
    scores, temperature = tokenizer.logits(images), tokenizer.temperature(batch.get("step"))
    soft, hard = batch.get("exponential", (None, None))
    decoded = tokenizer.decode(gumbel_softmax(scores, temperature, soft, hard=tokenizer.hard))
    codes = gumbel_softmax(scores.detach(), temperature, hard).argmax(1).flatten(1)
    return Target(codes, {"tokenizer": sum_squared_error(decoded, images)})


class AutoregressiveDecoder(Decoder):
    """A tokenizer of frames, and a transformer that decodes its codes from slots.

    It cannot decode one slot by itself. Masks are the attention of each slot.

    Args:
        tokenizer: frames to codes and back.
        writer: slots to codes; its weights are saved under this name.
        code_grid: rows and columns of a frame's codes.
        grid: height and width of the slot encoder's token map.
        resolution: height and width of the frames.
        target_codes: which codes a frame has: `most_likely_codes` or `sampled_codes`.
        frozen: the tokenizer is not trained and stays in evaluation mode.
        error: loss of the scores [n, l, V] against the true codes [n, l].
        image_temperature: also compare the frame decoded from a soft sample of this temperature; None: codes alone.
        image_weight: weight of that frame's error.
        to_native, from_native: from [0, 1] to the tokenizer's range, and back.
        chunk: frames decoded at once; fewer need less memory.
        choose: from scores to a code: `most_likely`, or `sampled(...)` for other frames each time.

    Raises:
        UserError: tokenizer and writer differ in the number of codes or in their vocabulary.
    """

    targets = ("video",)
    method = "decodes codes one by one"
    sampling_options = frozenset({"temperature", "top_k", "seed"})

    def __init__(
        self,
        tokenizer: DVAE,
        writer: CodeTransformer,
        *,
        code_grid: tuple[int, int],
        grid: tuple[int, int],
        resolution: tuple[int, int],
        target_codes: TargetCodes = most_likely_codes,
        frozen: bool = True,
        error: Callable[[Tensor, Tensor], Tensor] = mean_cross_entropy,
        image_temperature: float | None = None,
        image_weight: float = 1.0,
        to_native: Callable[[Tensor], Tensor] = to_signed,
        from_native: Callable[[Tensor], Tensor] = from_signed,
        chunk: int = 24,
        choose: Choose = most_likely,
    ):
        super().__init__()
        _check(tokenizer, writer, code_grid)
        self.tokenizer, self.writer = tokenizer.requires_grad_(not frozen), writer
        self.code_grid, self.grid, self.resolution = code_grid, grid, resolution
        self.target_codes, self.frozen, self.error = target_codes, frozen, error
        self.image_temperature, self.image_weight = image_temperature, image_weight
        self.chunk, self.choose = chunk, choose
        self.to_native, self.from_native = to_native, from_native
        self.train(self.training)

    def train(self, mode: bool = True) -> "AutoregressiveDecoder":
        """Set training mode; a frozen tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.train(mode and not self.frozen)
        return self

    def loss(self, clip: Clip, batch: Batch) -> dict[str, Tensor]:
        """`tokens`: cross entropy of the frames' codes; `image` with `image_temperature`; the losses of the target.

        `batch["exponential"]`, unit exponential noise in the shape of the scores, replaces the noise of `image`.
        """
        images = self.to_native(batch["video"].flatten(0, 1))
        target = self.target_codes(self.tokenizer, images, batch)
        scores = self.writer(target.codes, clip.slots.flatten(0, 1))
        losses = {"tokens": self.error(scores, target.codes)}
        if self.image_temperature is not None:
            decoded = self.soft_images(scores, self.image_temperature, batch)
            losses["image"] = self.image_weight * mean_squared_error(decoded, images)
        return losses | target.losses

    def frozen_tokenizer(self) -> DVAE | None:
        """See `Decoder`."""
        return self.tokenizer if self.frozen else None

    def round_trip(self) -> RoundTrip:
        """See `Decoder`."""
        return lambda frames: self.from_native(self.tokenizer.reconstruct(self.to_native(frames)))

    def _set_sampling(self, options: SamplingOptions) -> None:
        if options.temperature is not None:
            generator = torch.Generator().manual_seed(options.seed or 0)
            self.choose = sampled(options.temperature, options.top_k, generator=generator)
        elif options.given():
            raise UserError(
                f"`{next(iter(options.given()))}` needs codes that are sampled: give a temperature too, such as 1."
            )

    def soft_images(
        self, scores: Float[Tensor, "n l V"], temperature: float, batch: Batch
    ) -> Float[Tensor, "n 3 H W"]:
        """Frames decoded from a soft sample of scored codes, in the tokenizer's range.

        `batch["exponential"]`, unit exponential noise in the shape of the scores, replaces that of torch's generator.
        """
        maps = scores.transpose(1, 2).unflatten(2, self.code_grid)
        return self.tokenizer.decode(gumbel_softmax(maps, temperature, batch.get("exponential")))

    @torch.no_grad()
    def generate_codes(
        self, slots: Float[Tensor, "n K D"], choose: Choose | None = None
    ) -> Int[Tensor, "n l"]:
        """Codes of frames from their slots, `chunk` frames at once."""
        choose, parts = choose or self.choose, slots.split(self.chunk)
        with _bar(len(slots) * self.writer.length, len(parts) * self.writer.length) as advance:
            return torch.cat([self.writer.generate(part, choose, advance) for part in parts])

    @torch.no_grad()
    def decode_codes(self, codes: Int[Tensor, "n l"]) -> Float[Tensor, "n 3 H W"]:
        """Frames of codes, in the tokenizer's range."""
        parts = [self.tokenizer.decode_codes(part, self.code_grid) for part in codes.split(self.chunk)]
        return torch.cat(parts)

    def generate(
        self, slots: Float[Tensor, "n K D"], choose: Choose | None = None
    ) -> Float[Tensor, "n 3 H W"]:
        """Frames from their slots, in the tokenizer's range.

        Args:
            choose: replaces the decoder's own.
        """
        return self.decode_codes(self.generate_codes(slots, choose))

    def decode(self, clip: Clip, slot_recon: bool = False, recon: bool = True) -> Decoded:
        """Frames, not clamped, and each slot's attention as a mask; single slots have no images."""
        masks, logits = attention_masks(clip.attn, self.grid, self.resolution)
        if not recon:
            return Decoded(recon={}, masks=masks, logits=logits)
        images = self.from_native(self.generate(clip.slots.flatten(0, 1)))
        return Decoded({"video": images.unflatten(0, clip.slots.shape[:2])}, masks, logits)


@contextmanager
def _bar(num_codes: int, num_steps: int) -> Iterator[Advance | None]:
    """A progress bar for more than `LONG` codes; None for fewer."""
    if num_codes <= LONG:
        yield None
        return
    with progress("Decoding codes", num_steps, "steps") as advance:
        yield advance


def _check(tokenizer: DVAE, writer: CodeTransformer, code_grid: tuple[int, int]) -> None:
    if tokenizer.vocabulary != writer.num_codes:
        raise UserError(
            f"The tokenizer has {tokenizer.vocabulary} codes, the transformer predicts {writer.num_codes}. Give the "
            "tokenizer that the model was trained with, or train the model with this one."
        )
    if math.prod(code_grid) != writer.length:
        raise UserError(
            f"The transformer predicts {writer.length} codes, a frame has {code_grid[0]} rows of {code_grid[1]}. Build "
            "both for the same resolution."
        )
