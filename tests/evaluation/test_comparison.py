"""Models side by side in every format, and what is refused."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from torchslots.cli import main
from torchslots.io import video
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json, with_changes


def run(folder: Path, seed: int, fg_ari: float, mse: float, **changes: object) -> Path:
    """A run's folder with its evaluation and one plotted video."""
    recipe = with_changes(catalog.recipe("savi_small"), **{"train.seed": seed, **changes})
    (folder / "eval").mkdir(parents=True)
    (folder / "recipe.json").write_text(to_json(recipe))
    metrics = {"mse": mse, "fg_ari": fg_ari}
    (folder / "eval" / "eval.json").write_text(
        json.dumps({"metrics": metrics, "settings": {"split": "validation"}})
    )
    frames = np.full((2, 16, 16, 3), 50 * seed, np.uint8)
    video.write_video(folder / "eval" / "video_0.mp4", frames)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    made = [run(tmp_path / f"a{seed}", seed, 0.5 + 0.1 * seed, 9.0 + seed) for seed in (1, 2)]
    wide = run(tmp_path / "wide", 3, 0.9, 20.0, **{"model.slot_size": 256})
    return [str(folder) for folder in (*made, wide)]


def written(runs: list[str], file: Path, *more: str) -> str:
    assert main(["report", *runs, "--out", str(file), *more]) == 0
    return file.read_text()


def test_markdown_has_a_column_for_each_configuration(runs, tmp_path):
    lines = written(runs, tmp_path / "table.md").splitlines()
    assert lines[0] == "|  | savi_small (slot_size 128) | savi_small (slot_size 256) |"
    assert lines[2] == "| runs | 2 | 1 |"
    assert lines[3] == "| FG-ARI | 65.0 % ± 5.0 % | **90.0 %** |", "the main figure first"
    assert re.fullmatch(r"\| MSE.* \| \*\*10.5 ± 0.5\*\* \| 20 \|", lines[4], re.I), (
        "of errors the lowest is best"
    )


def test_csv_has_the_numbers(runs, tmp_path):
    rows = list(csv.DictReader(written(runs, tmp_path / "t.txt", "--format", "csv").splitlines()))
    found = {(row["settings"], row["figure"]): row for row in rows}
    row = found["model.slot_size=128", "fg_ari"]
    assert float(row["mean"]) == pytest.approx(0.65) and float(row["standard_error"]) == pytest.approx(0.05)
    assert float(found["model.slot_size=128", "mse"]["best"]) == 10.0
    assert found["model.slot_size=256", "mse"]["standard_error"] == ""


def test_latex_is_escaped(runs, tmp_path):
    text = written(runs, tmp_path / "t.tex")
    assert r"savi\_small (slot\_size 128)" in text and r"65.0 \% $\pm$ 5.0 \%" in text
    assert r"\textbf{90.0 \%} \\" in text and text.count("&") == 2 * 3


def test_the_page_has_the_films_of_each(runs, tmp_path):
    text = written(runs, tmp_path / "out" / "side.html")
    assert text.count("<video") == 2 and "savi_small (slot_size 256): video_0" in text
    assert "90.0 % *" in text and "model.slot_size" in text


def test_an_unknown_format_and_a_file_where_a_folder_is_needed(runs, tmp_path, capsys):
    assert main(["report", *runs, "--out", str(tmp_path / "t.docx")]) == 2
    assert "`docx` is no format of a report. " in capsys.readouterr().err
    (tmp_path / "taken").write_text("mine")
    for name in ("t.md", "t.html"):
        assert main(["report", *runs, "--out", str(tmp_path / "taken" / name)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert main(["report", *runs, "--format", "md"]) == 2
    assert (tmp_path / "taken").read_text() == "mine" and not (tmp_path / "t.docx").exists()
