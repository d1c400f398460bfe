"""CPU seconds of writing a picture's codes with and without what was written being kept, as one JSON object.

    python benchmarks/steve_generation.py --threads 1

STEVE's transformer at its published size and 1,024 codes for a frame of 128x128, with fresh weights. `plain` runs the
whole prefix again for every code, as the originals do, with scores at all of its places; `kept` is what this library
does. Both write the same codes, which is checked. Times are of the process, which is steadier on a shared machine; on
CUDA, of the clock.
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
    pictures: int = 1,
    device: str | None = None,
    samples: int = 3,
    threads: int | None = None,
) -> None:
    """Time both ways and print one JSON object.

    Args:
        recipe: Name in `torchslots recipes`, of the family steve.
        pictures: Written at once.
        device: None: CUDA where there is one.
        samples: Timed runs of the kept way, after one that is not; the plain way runs once.
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
    slots = torch.randn(pictures, config.slots.num_slots, config.slots.slot_size, device=place)
    print(json.dumps({**compare(writer, slots, samples), "machine": machine(place)}, indent=2))


def compare(writer: CodeTransformer, slots: Tensor, samples: int) -> dict[str, Any]:
    """Seconds of both ways, and whether they wrote the same."""
    codes: dict[str, Tensor] = {}

    def kept() -> None:
        codes["kept"] = writer.write(slots)

    def plain() -> None:
        codes["plain"] = write_plain(writer, slots)

    what = "wall" if slots.device.type == "cuda" else "cpu"
    repeat(kept, 1, 1, slots.device)
    fast = min(getattr(repeat(kept, samples, 1, slots.device), what))
    slow = min(getattr(repeat(plain, 1, 1, slots.device), what))
    return {
        "codes": writer.length,
        "pictures": len(slots),
        "clock": what,
        "plain_seconds": slow,
        "kept_seconds": fast,
        "ratio": slow / fast,
        "same_codes": float((codes["kept"] == codes["plain"]).float().mean()),
    }


@torch.no_grad()
def write_plain(writer: CodeTransformer, slots: Tensor) -> Tensor:
    """The likeliest codes, each from a pass over all before it."""
    codes = slots.new_zeros(len(slots), 0, dtype=torch.long)
    for _ in range(writer.length):
        scores = writer(torch.cat([codes, codes.new_zeros(len(codes), 1)], 1), slots)
        codes = torch.cat([codes, scores[:, -1:].argmax(-1)], 1)
    return codes


if __name__ == "__main__":
    tyro.cli(main)
