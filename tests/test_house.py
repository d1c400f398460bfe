"""The house rules that a machine can hold: who may import whom, how fast the door opens, what names are not used."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchslots"

ORDER = [
    {
        "errors",
        "allocation",
        "shapes",
        "losses",
        "progress",
        "nn",
        "video",
        "draw",
        "hints",
        "framing",
        "tracks",
        "draw_marks",
        "data",
        "metrics",
        "properties",
    },
    {"slots", "latents", "draw_poses", "draw_properties"},
    {"decoders", "model", "counts", "editing", "composition", "rollout"},
    {"training"},
    {"recipes"},
    {"hub", "parts", "convert", "sim"},
    {"bench", "inputs", "inference", "edit", "generation", "demo"},
    {"commands"},
    {"cli", "__main__"},
]
"""A part may import parts of its own row and of the rows above."""


def imports(file: Path) -> set[str]:
    """Parts of the package that a file imports when it is itself imported."""
    tree = ast.parse(file.read_text())
    checked = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    names = set()
    for node in checked:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("torchslots"):
            inner = node.module.split(".")[1:]
            names |= {inner[0]} if inner else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("torchslots.")}
    return names - {"__version__"}


def row(part: str) -> int:
    found = [index for index, parts in enumerate(ORDER) if part in parts]
    assert found, f"say in ORDER where `{part}` belongs"
    return found[0]


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_nobody_imports_to_the_right(file: Path) -> None:
    part = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for name in imports(file) - {part}:
        assert row(name) <= row(part), f"{file} imports {name}"


def test_papers_are_known_to_recipes_and_convert_alone() -> None:
    for file in SOURCE.rglob("*.py"):
        if file.relative_to(SOURCE).parts[0] in ("recipes", "convert", "__init__.py"):
            continue
        assert not {"convert"} & (imports(file) - {"commands"}), file


def test_no_rooms_for_everything() -> None:
    names = {file.stem for file in SOURCE.rglob("*.py")}
    assert not names & {"utils", "helpers", "misc", "common"}


def test_the_overview_answers_at_once_without_torch() -> None:
    code = (
        "import sys, torchslots.cli as c; c.main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5  # 0.5 s on a quiet machine: benchmarks/start.py measures
    assert done.stderr.strip() == "False" and "torchslots demo" in done.stdout


def test_a_reader_that_goes_early_gets_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "torchslots", "--help"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, torchslots; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )
