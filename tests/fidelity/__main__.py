"""Compare our models with recordings: `make fidelity CASES="DIR..."` or, in `tests/`, `python -m fidelity DIR...`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from fidelity.report import as_json, print_results
from fidelity.systems import verify
from torchslots.io.errors import UserError


def compare(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    /,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    float64: bool = False,
) -> int:
    """Run our models on recorded inputs of the original programs and compare every recorded tensor.

    Args:
        folders: Recorded cases: config.json, inputs.npz, outputs.npz and a checkpoint in the original's format.
        json_file: Also write the results to this file, as JSON.
        float64: Compute everything in float64 too, and list where a recording is further from that than a model may be
            from the recording; by default only values beyond their tolerance are computed in float64.
    """
    if not folders:
        raise UserError("name at least one folder with a recorded case.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"{json_file.parent} is no folder. Make it, or name another file behind --json.")
    results = verify(list(folders), float64=float64)
    print_results(results, float64=float64)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(results), indent=2) + "\n")
    return 0 if all(result.passed for result in results) else 1


def main(words: list[str] | None = None) -> int:
    """0: nothing failed, 1: something did, 2: a folder holds no recorded case."""
    try:
        return tyro.cli(compare, args=words, prog="fidelity", config=(tyro.conf.AvoidSubcommands,))
    except UserError as error:
        print(f"fidelity: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
