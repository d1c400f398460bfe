"""`torchslots convert` and `torchslots verify`: checkpoints and recordings of the original programs."""

from pathlib import Path
from typing import Annotated

import tyro

from torchslots.commands.line import Words, parse
from torchslots.errors import UserError


def convert(words: Words) -> int:
    """`torchslots convert CHECKPOINT --out DIR`."""
    from torchslots.convert.convert import convert

    print(parse(convert, words, "convert"))
    return 0


def verify(words: Words) -> int:
    """`torchslots verify DIR...`; 1 where a check fails."""
    from torchslots.convert import golden

    def verify(
        folders: tyro.conf.Positional[tuple[Path, ...]],
        /,
        as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ) -> int:
        """Run our models on recorded inputs of the original programs and compare every recorded tensor.

        Args:
            folders: Recorded cases: config.json, inputs.npz, outputs.npz and a checkpoint in the original's format.
            as_json: Print JSON in place of tables.
        """
        if not folders:
            raise UserError("name at least one folder with a recorded case.")
        results = golden.verify(list(folders))
        if as_json:
            print(golden.results_json(results))
        else:
            golden.print_results(results)
        return 0 if all(result.passed for result in results) else 1

    return parse(verify, words, "verify")
