"""`make fidelity CASES="DIR..."` or, in `tests/`, `python -m fidelity DIR...`: recordings against our models."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from fidelity.cases import print_results, results_json, verify
from fidelity.float64 import Rounding, beside_float64, print_rounding
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
        float64: Compute in float64 too, and say where a recording is further from that than a model may be from the
            recording.
    """
    if not folders:
        raise UserError("name at least one folder with a recorded case.")
    results = verify(list(folders))
    beside = {result.folder: beside_float64(result) for result in results} if float64 else {}
    print_results(results)
    for folder, found in beside.items():
        print_rounding(folder, found)
    if json_file is not None:
        told = json.loads(results_json(results))
        rows = [one | _as_fields(beside.get(one["folder"])) for one in told]
        json_file.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(result.passed for result in results) else 1


def _as_fields(found: list[Rounding] | None) -> dict[str, Any]:
    return {} if found is None else {"float64": [vars(one) for one in found]}


def main(words: list[str] | None = None) -> int:
    """0: all checks passed, 1: some failed, 2: a folder holds no recorded case."""
    try:
        return tyro.cli(compare, args=words, prog="fidelity", config=(tyro.conf.AvoidSubcommands,))
    except UserError as error:
        print(f"fidelity: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
