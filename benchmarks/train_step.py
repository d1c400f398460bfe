"""Measure time and memory of a training step and of inference on random clips; prints one JSON object.

    python benchmarks/train_step.py savi_small --batch 2 --frames 6 --slots 11 --resolution 64 --precision fp32

The same as `torchslots bench`, without its table.
"""

import json
import sys

import tyro

from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.cli.bench.step import BenchOptions, bench, predict
from torchslots.cli.bench.timing import Times, machine, repeat
from torchslots.cli.memory import keep_freed_memory
from torchslots.io.errors import UserError

__all__ = ["Times", "machine", "predict", "random_batch", "repeat", "scale"]
_WITH_FLOPS = BenchOptions(flops=True)


def main(
    recipe: tyro.conf.Positional[str],
    options: tyro.conf.OmitArgPrefixes[BenchOptions] = _WITH_FLOPS,
    keep_memory: bool = True,
) -> None:
    """Time a recipe's training step and print one JSON object.

    Args:
        recipe: Name in `torchslots recipes`.
        options: Sizes and measurements.
        keep_memory: Keep freed memory for the next tensor, as `torchslots` does.
    """
    kept = keep_memory and keep_freed_memory()
    print(json.dumps(bench(recipe, options) | {"freed_memory_kept": kept}, indent=2))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"train_step.py: {error}")
