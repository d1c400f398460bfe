"""`torchslots convert` and `torchslots verify`: checkpoints and recordings of the original programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from torchslots.commands.line import Words, parse
from torchslots.errors import UserError

if TYPE_CHECKING:
    from torchslots.convert.float64 import Rounding


def convert(words: Words) -> int:
    """`torchslots convert CHECKPOINT --out DIR`."""
    from torchslots.convert.convert import convert

    print(parse(convert, words, "convert"))
    return 0


def verify(words: Words) -> int:
    """`torchslots verify DIR...`; 1 where a check fails."""
    from torchslots.convert import golden
    from torchslots.convert.float64 import beside_float64, print_rounding

    def verify(
        folders: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
        float64: bool = False,
    ) -> int:
        """Run our models on recorded inputs of the original programs and compare every recorded tensor.

        Args:
            folders: Recorded cases: config.json, inputs.npz, outputs.npz and a checkpoint in the original's format.
            as_json: Print JSON in place of tables.
            float64: Compute in float64 too, and say where a recording is further from that than a model may be from the
                recording. Verdicts stay those of float32.
        """
        if not folders:
            raise UserError("name at least one folder with a recorded case.")
        results = golden.verify(list(folders))
        beside = {result.folder: beside_float64(result) for result in results} if float64 else {}
        if as_json:
            told = json.loads(golden.results_json(results))
            print(json.dumps([one | _as_fields(beside.get(one["folder"])) for one in told], indent=2))
        else:
            golden.print_results(results)
            for folder, found in beside.items():
                print_rounding(folder, found)
        return 0 if all(result.passed for result in results) else 1

    return parse(verify, words, "verify")


def _as_fields(found: "list[Rounding] | None") -> dict[str, Any]:
    return {} if found is None else {"float64": [vars(one) for one in found]}
