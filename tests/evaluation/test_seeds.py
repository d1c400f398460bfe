"""Mean and standard error over run folders, and what is said of folders that are none."""

import json
import math
from pathlib import Path

import pytest

from torchslots.evaluation.seeds import learning_curves, report
from torchslots.io.errors import UserError
from torchslots.recipes.config import ModelConfig, Recipe, TrainConfig, to_json


def _run(folder: Path, fg_ari: float | None, seed: int = 0, name: str = "savi_small", **settings) -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(to_json(Recipe(name, ModelConfig(), train=TrainConfig(seed=seed))))
    log = [
        {"step": 1, "train/recon": 2.0},
        {"step": 5, "train/recon": 1.0, "eval/fg_ari": 0.25},
        {"step": 6, "x": None},
    ]
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps(record) for record in log) + '\n{"step": 7, "tr'
    )
    if fg_ari is not None:
        metrics = {"fg_ari": fg_ari, "loss_recon": 1 - fg_ari, "ari": None}
        (folder / "eval.json").write_text(json.dumps({"metrics": metrics, "settings": settings}))
    return folder


def test_mean_and_standard_error_over_seeds(tmp_path):
    values = (0.5, 0.7, 0.9)
    runs = [_run(tmp_path / str(i), value, seed=i) for i, value in enumerate(values)]
    other = _run(tmp_path / "other", 0.3, name="savi_medium")
    first, second = report([*runs, other, runs[0]]).groups
    assert (first.recipe, second.recipe) == ("savi_small", "savi_medium")
    assert first.runs == [str(run) for run in runs] and first.notes == []
    fg_ari, loss = first.figures
    assert (fg_ari.name, fg_ari.n, fg_ari.best) == ("fg_ari", 3, 0.9)
    assert fg_ari.mean == pytest.approx(0.7) and fg_ari.standard_error == pytest.approx(0.2 / math.sqrt(3))
    assert loss.best == pytest.approx(0.1)
    assert second.figures[0].standard_error is None


def test_the_last_logged_evaluation_stands_in(tmp_path):
    [group] = report([_run(tmp_path / "a", None)]).groups
    assert [(figure.name, figure.mean) for figure in group.figures] == [("fg_ari", 0.25)]


def test_an_evaluation_beside_the_weights_is_found_and_stands_for_its_run(tmp_path):
    run = _run(tmp_path / "a", 0.5)
    (run / "eval").mkdir()
    (run / "eval.json").rename(run / "eval/eval.json")
    for folders in ([run], [run / "eval"], [run, run / "eval"]):
        [group] = report(folders).groups
        assert group.runs == [str(run)] and group.figures[0].mean == 0.5


def test_runs_that_are_not_repetitions_are_said(tmp_path):
    runs = [_run(tmp_path / "a", 0.5, num_frames=24), _run(tmp_path / "b", 0.6, num_frames=6)]
    notes = " ".join(report(runs).groups[0].notes)
    assert "same seed" in notes and "evaluation: num_frames" in notes


def test_report_prints_a_table_or_json(tmp_path, capsys):
    runs = [_run(tmp_path / "a", 0.5), _run(tmp_path / "b", 0.7, seed=1)]
    report(runs).print_table()
    printed = capsys.readouterr().out
    assert "savi_small: 2 runs" in printed and "60.0 %" in printed and "10.0 %" in printed
    assert json.loads(report(runs).to_json())[0]["figures"][0]["mean"] == pytest.approx(0.6)


def test_learning_curves_hold_what_was_logged(tmp_path):
    series = learning_curves(_run(tmp_path / "a", None), ["train/recon", "eval/fg_ari", "absent", "x"])
    assert series == {"train/recon": ([1, 5], [2.0, 1.0]), "eval/fg_ari": ([5], [0.25])}


def test_faults_name_the_file_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match="No run folders"):
        report([])
    with pytest.raises(UserError, match=r"none/recipe\.json"):
        report([tmp_path / "none"])
    run = _run(tmp_path / "a", 0.5)
    for text, message in (("{", "damaged"), ("[]", "JSON object"), ("{}", "no `metrics`")):
        (run / "eval.json").write_text(text)
        with pytest.raises(UserError, match=message):
            report([run])
    (run / "eval.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="damaged"):
        report([run])
    (run / "eval.json").unlink()
    (run / "metrics.jsonl").write_text("garbage\n")
    with pytest.raises(UserError, match="no evaluation"):
        report([run])
    (run / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match="no `name`"):
        report([run])
