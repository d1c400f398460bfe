"""The notebooks of examples/notebooks run from the first cell to the last, at tiny size."""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch

from torchslots.recipes import catalog

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.py"))
SIZES = {"NUM_VIDEOS": "4", "STEPS": "4", "WORLD_STEPS": "20"}


def run(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a notebook leaves, with other sizes, in a folder of its own."""
    monkeypatch.chdir(folder)
    for name in ("FAMILIES", "RECIPES"):
        monkeypatch.setattr(catalog, name, dict(getattr(catalog, name)))
    mpl.use("agg")
    text = notebook.read_text()
    for name, value in SIZES.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
    names: dict[str, Any] = {"__name__": f"notebook_{notebook.stem}"}
    exec(compile(text, str(notebook), "exec"), names)
    return names


def test_there_are_four_in_cells() -> None:
    assert len(NOTEBOOKS) == 4
    for notebook in NOTEBOOKS:
        cells = re.split(r"^# %%", notebook.read_text(), flags=re.M)
        assert cells[0] == "" and sum(cell.startswith(" [markdown]") for cell in cells) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [notebook.stem for notebook in NOTEBOOKS])
def test_they_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notebook,) = (each for each in NOTEBOOKS if each.stem == name)
    left = run(notebook, tmp_path, monkeypatch)
    if name == "first_look":
        assert left["found"].segmentation.shape == (12, 64, 64) and -1 <= left["fg_ari"] <= 1
    elif name == "own_model":
        assert left["found"].slots.shape == (1, 12, 6, 48) and left["result"].step == 4
    elif name == "slots_for_another_model":
        assert left["train_slots"].shape[:2] == (4, 12) and torch.isfinite(left["past"]).all()
        assert left["imagined"].masks.shape[1] == 7 and left["error"] != left["still"]
    else:
        assert (tmp_path / "runs" / "reading_results" / "paths.png").stat().st_size > 5000
        assert len(left["rows"]) >= 12 and left["slots"].shape[0] == 12
