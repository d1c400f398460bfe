"""Time the decoding of an image's codes with and without a cache of keys and values; prints one JSON object.

    python benchmarks/steve_generation.py --threads 1

STEVE's transformer has its published size, 1,024 codes for a frame of 128x128, and fresh weights. `plain` runs the
whole prefix again for every code, as the originals do, with scores at all of its places; `cached` is what this library
does. `same_codes` is the share of codes that both decode alike. Times on the CPU are CPU seconds, which are steadier on
a shared machine; on CUDA they are wall seconds.
"""

import json
from typing import Any

import torch
import tyro
from torch import Tensor

from torchslots.models.decoders.code_transformer import CodeTransformer
from torchslots.recipes import catalog
from torchslots.recipes.steve import SteveConfig, build_code_transformer
from torchslots.training.accelerator import seed_step
from train_step import machine, repeat


def main(
    recipe: str = "steve_movi_e",
    images: int = 1,
    device: str | None = None,
    samples: int = 3,
    threads: int | None = None,
) -> None:
    """Time both ways and print one JSON object.

    Args:
        recipe: Name in `torchslots recipes`, of the family steve.
        images: Images decoded at once.
        device: None: CUDA where there is one.
        samples: Timed runs with the cache, after one warm-up; the plain way runs once.
        threads: CPU threads; None: torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    seed_step(0)
    config = catalog.recipe(recipe).model
    assert isinstance(config, SteveConfig)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    writer = (
        build_code_transformer(config.transformer, config.slots.slot_size, config.tokenizer).eval().to(place)
    )
    slots = torch.randn(images, config.slots.num_slots, config.slots.slot_size, device=place)
    print(json.dumps({**compare(writer, slots, samples), "machine": machine(place)}, indent=2))


def compare(writer: CodeTransformer, slots: Tensor, samples: int) -> dict[str, Any]:
    """Seconds of both ways, and the share of equal codes."""
    codes: dict[str, Tensor] = {}

    def cached() -> None:
        codes["cached"] = writer.generate(slots)

    def plain() -> None:
        codes["plain"] = decode_plain(writer, slots)

    what = "wall" if slots.device.type == "cuda" else "cpu"
    repeat(cached, 1, 1, slots.device)
    fast = min(getattr(repeat(cached, samples, 1, slots.device), what))
    slow = min(getattr(repeat(plain, 1, 1, slots.device), what))
    return {
        "codes": writer.length,
        "images": len(slots),
        "clock": what,
        "plain_seconds": slow,
        "cached_seconds": fast,
        "ratio": slow / fast,
        "same_codes": float((codes["cached"] == codes["plain"]).float().mean()),
    }


@torch.no_grad()
def decode_plain(writer: CodeTransformer, slots: Tensor) -> Tensor:
    """The most likely codes, each from a pass over all codes before it."""
    codes = slots.new_zeros(len(slots), 0, dtype=torch.long)
    for _ in range(writer.length):
        scores = writer(torch.cat([codes, codes.new_zeros(len(codes), 1)], 1), slots)
        codes = torch.cat([codes, scores[:, -1:].argmax(-1)], 1)
    return codes


if __name__ == "__main__":
    tyro.cli(main)
