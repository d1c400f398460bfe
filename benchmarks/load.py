"""Time the load of a saved model in a fresh process, beside torch's own import.

The model is that of a recipe with random weights, saved as `torchslots pretrained get` saves a converted checkpoint.
Prints one JSON object: seconds of processor and of the clock, medians and minima over --repeat processes: `torch` of
its import, `first` and `again` of two loads, the first with the imports of torchslots and all that it needs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import tyro

import torchslots

_CODE = """
import json, resource, sys, time

def now():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()

times = [now()]
import torch
times.append(now())
for _ in range(2):
    import torchslots
    torchslots.load_model(sys.argv[1])
    times.append(now())
print(json.dumps([[b - a for a, b in zip(*pair)] for pair in zip(times, times[1:])]))
"""


def main(recipe: str = "slotcontrast_ytvis", repeat: int = 5) -> None:
    """Measure and print.

    Args:
        recipe: Whose model is loaded.
        repeat: Processes for each figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        torchslots.create_model(recipe).save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size
        found = [_times(folder) for _ in range(repeat)]
    figures = {
        name: {
            what: {"median": statistics.median(values), "min": min(values)}
            for j, what in enumerate(("cpu", "wall"))
            for values in [[round(times[i][j], 3) for times in found]]
        }
        for i, name in enumerate(("torch", "first", "again"))
    }
    print(
        json.dumps(
            {
                "seconds": figures,
                "recipe": recipe,
                "megabytes": round(size / 1e6),
                "repeat": repeat,
                "torch": torch.__version__,
            }
        )
    )


def _times(folder: str) -> list[list[float]]:
    """Seconds of processor and clock of torch's import and of two loads, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _CODE, folder], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(main)
