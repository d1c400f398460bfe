"""Transformer that decodes the codes of an image one by one, from the codes before and the slots (STEVE)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torchslots.models.layers.init import dense
from torchslots.models.layers.transformer import CausalDecoder

Choose = Callable[[Float[Tensor, "n V"]], Int[Tensor, "n"]]
"""Scores of every code to one code."""
Advance = Callable[..., None]
"""Called with the number of codes of each image that are done."""


def most_likely(logits: Float[Tensor, "n V"]) -> Int[Tensor, "n"]:
    """The code of the highest score, the lowest among equals."""
    return logits.argmax(-1)


def sampled(temperature: float = 1.0, top_k: int | None = None, *, generator: torch.Generator) -> Choose:
    """Sample codes by their probability.

    Args:
        temperature: divides the scores; below 1 the likely become likelier.
        top_k: sample among the `top_k` most likely; None: among all.
        generator: source of randomness; on the CPU it gives the same on every device.

    Raises:
        ValueError: a temperature or a count that is not positive.
    """
    if temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"Sampling needs a temperature over 0 and a top_k of at least 1, got {temperature} and {top_k}. "
            "Leave it out for the most likely codes."
        )
    return partial(_sample, temperature=temperature, top_k=top_k, generator=generator)


def _sample(
    logits: Float[Tensor, "n V"], temperature: float, top_k: int | None, generator: torch.Generator
) -> Int[Tensor, "n"]:
    scores, codes = logits.float().topk(min(top_k or logits.shape[-1], logits.shape[-1]))
    chances = (scores / temperature).softmax(-1).to(generator.device)
    place = torch.multinomial(chances, 1, generator=generator).to(codes.device)
    return codes.gather(-1, place)[:, 0]


class CodeTransformer(nn.Module):
    """Decodes the codes of an image row by row, attending to its slots (Singh et al. 2022, STEVE).

    Slots have no position embedding: their order has no effect.

    Args:
        decoder: transforms codes; each sees those before it and all slots.
        slot_size: width of a slot.
        size: the decoder's width.
        num_codes: codes in the vocabulary.
        length: codes of an image.
        dropout: of the decoder's input, in training.
        slot_bias: bias of the projection of slots to the decoder's width.
        token_dropout: share of the earlier codes that are hidden from the decoder, so that it depends on the slots
            (Bowman et al. 2016, section 3.1, word dropout): sampled for each code in training, otherwise at the same
            places of every image; 0 in the papers.
    """

    def __init__(
        self,
        decoder: CausalDecoder,
        *,
        slot_size: int,
        size: int,
        num_codes: int,
        length: int,
        dropout: float = 0.0,
        slot_bias: bool = True,
        token_dropout: float = 0.0,
    ):
        super().__init__()
        self.num_codes, self.length, self.token_dropout = num_codes, length, token_dropout
        self.project = dense(slot_size, size, slot_bias)
        self.embedding = nn.Embedding(num_codes + 1, size)
        """The last row is the start token."""
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(length, size)))
        self.dropout = nn.Dropout(dropout)
        self.decoder = decoder
        self.head = nn.Linear(size, num_codes, bias=False)
        for layer in (self.project, self.head):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, codes: Int[Tensor, "n l"], slots: Float[Tensor, "n K D"]) -> Float[Tensor, "n l V"]:
        """Scores of each code given those before it; the last code is not used."""
        before = self._with_dropout(torch.cat([self._start(len(codes), codes.device), codes[:, :-1]], 1))
        entering = self.dropout(self.embedding(before) + self.position[: before.shape[1]])
        return self.head(self.decoder(entering, self.project(slots)))

    def _with_dropout(self, codes: Int[Tensor, "n l"]) -> Int[Tensor, "n l"]:
        """Some codes replaced by the start token."""
        if not self.token_dropout:
            return codes
        if self.training:
            dropped = torch.rand(codes.shape, device=codes.device) < self.token_dropout
        else:
            dropped = self._dropped_places()[: codes.shape[1]].to(codes.device)
        return codes.masked_fill(dropped, self.num_codes)

    def _dropped_places(self) -> Bool[Tensor, "l"]:
        """Whether the code before each place is dropped outside training; the same in every call."""
        return torch.rand(self.length, generator=torch.Generator().manual_seed(0)) < self.token_dropout

    def _start(self, number: int, device: torch.device) -> Int[Tensor, "n 1"]:
        return torch.full((number, 1), self.num_codes, device=device)

    @torch.no_grad()
    def generate(
        self, slots: Float[Tensor, "n K D"], choose: Choose = most_likely, advance: Advance | None = None
    ) -> Int[Tensor, "n l"]:
        """All codes of each image, from the slots alone, with cached keys and values."""
        with one_thread(slots.device):
            return torch.cat(list(self._one_by_one(slots, choose, advance)), 1)

    def _one_by_one(
        self, slots: Float[Tensor, "n K D"], choose: Choose, advance: Advance | None
    ) -> Iterator[Int[Tensor, "n 1"]]:
        caches = self.decoder.start(self.project(slots), self.length)
        start = code = self._start(len(slots), slots.device)
        for place, dropped in enumerate(self._dropped_places().tolist()):
            entering = self.embedding(start if dropped else code) + self.position[place]
            scores = self.head(self.decoder.step(entering, caches, place))
            code = choose(scores[:, 0])[:, None]
            yield code
            if advance is not None:
                advance(1)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU run the block with one of torch's threads; on other devices as usual.

    For many small steps: sharing one costs more than computing it, and on a busy machine threads that wait for each
    other take twenty times as long as one alone.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
