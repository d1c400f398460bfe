"""The house rules that a machine can hold: who may import whom, who knows a paper, how fast the door opens."""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchslots"
FILES = sorted(SOURCE.rglob("*.py"))

ROOMS = (
    "io",
    "models",
    "data",
    "metrics sim",
    "recipes",
    "hub evaluation",
    "training inference",
    "convert",
    "cli",
)
"""A room imports only rooms to its left; two that stand together do not import each other."""
INSIDE = {
    "models": (
        "types losses sketch",
        "weights",
        "layers",
        "backbones diffusion tokenizers",
        "slots",
        "decoders",
        "model",
        "slices",
        "clips edits adjust graphs",
    ),
    "data": (
        "config batch objects find parts",
        "formats",
        "transforms",
        "loader fitting",
        "clips array_cache",
        "sets",
        "catalog",
        "prepare feature_store inspect download dataset register",
    ),
}
"""The same within the two largest rooms."""
FRONT = {"__init__", "__main__", "_version"}
"""What stands before the rooms: the public names, the command, the version."""
PAPERS = re.compile(
    r"(?<![a-z])(savi|statm|steve|isa|slot_?diffusion|dinosaur|videosaur|slot_?contrast)(?![a-z])",
    re.I,
)
"""Names of published systems. `SlotAttention` and `InvariantSlotAttention` are not among them: they name layers too."""
WHO_KNOWS_PAPERS = ("recipes", "convert")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def module(file: Path) -> str:
    return ".".join(("torchslots", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


@cache
def imports(file: Path) -> frozenset[str]:
    """Modules of the package that a file imports anywhere: at the top, in functions, for the types alone."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inner = {name if name in MODULES else name.rpartition(".")[0] for name in found}
    return frozenset(inner & set(MODULES))


def row(part: str, order: tuple[str, ...]) -> int:
    found = [index for index, parts in enumerate(order) if part in parts.split()]
    assert found, f"say where `{part}` belongs"
    return found[0]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_to_its_left(file: Path) -> None:
    own = room(module(file))
    if own in FRONT:
        return
    for name in imports(file):
        other = room(name)
        if other == own or other == "_version":
            continue
        assert other not in FRONT, f"{file} imports {name}"
        assert row(other, ROOMS) < row(own, ROOMS), f"{file} imports {name}"


@pytest.mark.parametrize("large", INSIDE)
def test_order_within_the_large_rooms(large: str) -> None:
    order, inside = INSIDE[large], f"torchslots.{large}."
    for file in (SOURCE / large).rglob("*.py"):
        own = module(file).removeprefix(inside).split(".")[0]
        if module(file) == inside[:-1]:
            continue
        for name in imports(file):
            if name.startswith(inside) and (other := name.removeprefix(inside).split(".")[0]) != own:
                assert row(other, order) < row(own, order), f"{file} imports {name}"


def test_no_circle() -> None:
    """Walk the imports depth first; a module met again on its own path closes a circle."""
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(imports(MODULES[name])):
                if other != name:
                    walk(other, (*path, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


def test_twelve_rooms_at_most() -> None:
    entries = (
        {path.name.removesuffix(".py") for path in SOURCE.iterdir()} - FRONT - {"py.typed", "__pycache__"}
    )
    assert entries == set(" ".join(ROOMS).split())
    assert len(entries) <= 12


def names_in(file: Path) -> Iterator[str]:
    """Identifiers, imported modules, and strings that are names rather than prose."""
    for node in ast.walk(tree(file)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name
            case ast.Constant(value=str(text)) if " " not in text:
                yield text
            case ast.Import(names=aliases):
                yield from (name for alias in aliases for name in (alias.name, alias.asname or ""))
            case ast.ImportFrom(module=str(module_name), names=aliases):
                yield module_name
                yield from (name for alias in aliases for name in (alias.name, alias.asname or ""))


def test_papers_are_known_to_recipes_and_convert_alone() -> None:
    for file in FILES:
        if file.relative_to(SOURCE).parts[0] not in WHO_KNOWS_PAPERS:
            for name in (*file.relative_to(SOURCE).parts, *names_in(file)):
                words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_|\d", " ", name)
                found = PAPERS.search(name) or PAPERS.search(words) or PAPERS.search(words.replace(" ", "_"))
                assert not found, f"{file} knows the paper in `{name}`"


def test_no_rooms_for_everything() -> None:
    names = {path.stem for path in SOURCE.rglob("*")}
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
