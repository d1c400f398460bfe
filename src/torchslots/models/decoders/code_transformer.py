"""Codes of a picture written one by one, each from those before it and from the slots (Singh et al. 2022, STEVE)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torchslots.models.layers.init import dense
from torchslots.models.layers.transformer import CausalDecoder

Choose = Callable[[Float[Tensor, "n V"]], Int[Tensor, "n"]]
"""From the scores of every code to the code that is written."""
Advance = Callable[..., None]
"""Told how many codes of each picture are done."""


def most_likely(logits: Float[Tensor, "n V"]) -> Int[Tensor, "n"]:
    """The code of the highest score, the lowest of equals."""
    return logits.argmax(-1)


def sampled(temperature: float = 1.0, top_k: int | None = None, *, generator: torch.Generator) -> Choose:
    """Sample codes by their probability.

    Args:
        temperature: divides the scores; below 1 the likely become likelier.
        top_k: draw among so many of the likeliest; None: among all.
        generator: where the numbers come from; one on the CPU gives the same to every device.

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
    """A transformer that writes the codes of a picture row by row, looking at the picture's slots.

    Slots carry no position: in whatever order they come, the same is written.

    Args:
        decoder: transforms codes, seeing those before and all slots.
        slot_size: width of a slot.
        size: the decoder's width.
        num_codes: codes in the vocabulary.
        length: codes of a picture.
        dropout: of what enters the decoder, in training.
        slot_bias: bias of the projection of slots to the decoder's width.
        token_dropout: share of the earlier codes that the decoder does not see, so that it must ask the slots (Bowman
            et al. 2016, section 3.1, word dropout): sampled for each code in training, otherwise at the same places of
            every image; 0 in the papers.
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
        """The last row is what stands before the first code."""
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(length, size)))
        self.dropout = nn.Dropout(dropout)
        self.decoder = decoder
        self.head = nn.Linear(size, num_codes, bias=False)
        for layer in (self.project, self.head):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, codes: Int[Tensor, "n l"], slots: Float[Tensor, "n K D"]) -> Float[Tensor, "n l V"]:
        """Scores of each code where all before it are known; the last one is not looked at."""
        before = self._with_dropout(torch.cat([self._start(len(codes), codes.device), codes[:, :-1]], 1))
        entering = self.dropout(self.embedding(before) + self.position[: before.shape[1]])
        return self.head(self.decoder(entering, self.project(slots)))

    def _with_dropout(self, codes: Int[Tensor, "n l"]) -> Int[Tensor, "n l"]:
        """Some codes replaced by what stands before the first."""
        if not self.token_dropout:
            return codes
        if self.training:
            dropped = torch.rand(codes.shape, device=codes.device) < self.token_dropout
        else:
            dropped = self._dropped_places()[: codes.shape[1]].to(codes.device)
        return codes.masked_fill(dropped, self.num_codes)

    def _dropped_places(self) -> Bool[Tensor, "l"]:
        """For each place, whether the code before it is not told outside training; chosen once and for all, so that the
        same slots write the same codes."""
        return torch.rand(self.length, generator=torch.Generator().manual_seed(0)) < self.token_dropout

    def _start(self, number: int, device: torch.device) -> Int[Tensor, "n 1"]:
        return torch.full((number, 1), self.num_codes, device=device)

    @torch.no_grad()
    def write(
        self, slots: Float[Tensor, "n K D"], choose: Choose = most_likely, advance: Advance | None = None
    ) -> Int[Tensor, "n l"]:
        """Whole pictures of codes, from the slots alone.

        Keys and values of what was written are kept, so the work grows with the length and not with its square.
        """
        with one_thread(slots.device):
            return torch.cat(list(self._one_by_one(slots, choose, advance or _nobody)), 1)

    def _one_by_one(
        self, slots: Float[Tensor, "n K D"], choose: Choose, advance: Advance
    ) -> Iterator[Int[Tensor, "n 1"]]:
        past = self.decoder.start(self.project(slots), self.length)
        start = code = self._start(len(slots), slots.device)
        for place, dropped in enumerate(self._dropped_places().tolist()):
            entering = self.embedding(start if dropped else code) + self.position[place]
            scores = self.head(self.decoder.step(entering, past, place))
            code = choose(scores[:, 0])[:, None]
            yield code
            advance(1)


def _nobody(done: int) -> None:
    """For work that nobody watches."""


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU do the block's work with one of torch's threads; nothing changes elsewhere.

    For long rows of small steps: to share each of them costs more than to do it, and threads that wait for each other
    on a busy machine take twenty times as long as one alone.
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
