"""Time `torchslots --help` in a fresh process, and the package's import compared with torch's own.

Prints one JSON object: medians and minima over --repeat processes, in seconds.
"""

import json
import platform
import statistics
import subprocess
import sys
import time

import tyro


def seconds(code: str, repeat: int) -> list[float]:
    """Wall time of fresh processes."""
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    return found


def main(repeat: int = 7) -> None:
    """Measure and print.

    Args:
        repeat: Processes for each figure.
    """
    cases = {
        "help": "import sys; from torchslots.cli import main; main(['--help'])",
        "python": "pass",
        "import_torch": "import torch",
        "import_torch_and_package": "import torch, torchslots",
    }
    times = {name: seconds(code, repeat) for name, code in cases.items()}
    figures = {
        name: {"median": statistics.median(all_of), "min": min(all_of)} for name, all_of in times.items()
    }
    print(
        json.dumps(
            {
                "seconds": figures,
                "repeat": repeat,
                "python": platform.python_version(),
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    tyro.cli(main)
