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


def test_runs_with_the_same_seed_are_said(tmp_path):
    [group] = report([_run(tmp_path / "a", 0.5), _run(tmp_path / "b", 0.6)]).groups
    assert "same seed" in group.notes[0] and group.differs == {}


def _recipe(run: Path, **changes) -> Path:
    """Write the run's recipe with other values, by dotted name; None: as if the field had not been there."""
    recipe = json.loads((run / "recipe.json").read_text())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        recipe[section].pop(key, None)
        recipe[section] |= {} if value is None else {key: value}
    (run / "recipe.json").write_text(json.dumps(recipe))
    return run


def test_runs_that_differ_in_more_than_their_seed_are_averaged_apart(tmp_path, capsys):
    """Two sizes of a model, in two ways of evaluation; workers and batches of evaluation change no figure."""
    runs = [_run(tmp_path / str(i), i / 10, seed=i) for i in range(6)]
    for run in runs[:4]:
        _recipe(run, model__num_slots=11, model__channels=[8, 6])
    for run in runs[4:]:
        _recipe(run, model__num_slots=7, model__channels=[8, 8])
    _recipe(runs[1], train__num_workers=9, train__compile=True)
    for run, settings in ((runs[2], {"num_frames": 6}), (runs[3], {"num_frames": 6, "batch_size": 1})):
        (run / "eval.json").write_text(json.dumps({"metrics": {"fg_ari": 1.0}, "settings": settings}))
    for run in (*runs[:2], *runs[4:]):
        metrics = json.loads((run / "eval.json").read_text())["metrics"]
        (run / "eval.json").write_text(json.dumps({"metrics": metrics, "settings": {"num_frames": 24}}))
    large, short, small = (table := report(runs)).groups
    assert [group.runs for group in (large, short, small)] == [
        [str(r) for r in runs[i : i + 2]] for i in (0, 2, 4)
    ]
    assert [group.figures[0].mean for group in (large, short, small)] == pytest.approx([0.05, 1.0, 0.45])
    names = {"model.num_slots", "model.channels", "evaluation.num_frames"}
    assert all(set(group.differs) == names for group in table.groups)
    assert short.differs["evaluation.num_frames"] == "6" and small.differs["model.num_slots"] == "7"
    assert not any(group.notes for group in table.groups)
    table.print_table()
    printed = capsys.readouterr().out
    assert printed.count("2 runs") == 3 and "model.channels = [8, 8]" in printed
    assert json.loads(table.to_json())[1]["differs"] == short.differs


def test_fields_that_an_older_version_did_not_write_have_their_defaults(tmp_path):
    old = _recipe(_run(tmp_path / "a", 0.5), evaluation__protocol=None, data__renumber=None)
    assert len(report([old, _run(tmp_path / "b", 0.6, seed=1)]).groups) == 1
    other = _recipe(_run(tmp_path / "c", 0.6, seed=2), data__renumber=True)
    assert [group.differs for group in report([old, other]).groups] == [
        {"data.renumber": "False"},
        {"data.renumber": "True"},
    ]


def test_what_training_logged_is_not_averaged_with_evaluations(tmp_path):
    judged, logged = _run(tmp_path / "a", 0.5, num_frames=24), _run(tmp_path / "b", None, seed=1)
    first, second = report([judged, logged]).groups
    assert first.differs["figures"] == "not there" and "training" in second.differs["figures"]


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
    empty = _run(tmp_path / "my run", None)
    (empty / "metrics.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"my run was not evaluated.* `torchslots evaluate '.*my run' --root DATA`"
    ):
        report([_run(tmp_path / "good", 0.5), empty])
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


def test_evaluations_on_other_data_are_averaged_apart(tmp_path):
    runs = [
        _run(tmp_path / "a", 0.5, dataset="movi_a"),
        _run(
            tmp_path / "b", 0.6, seed=1, num_frames=24
        ),  # an older version did not state the data: the recipe's
        _run(tmp_path / "c", 0.7, seed=2, dataset="movi_c"),
        _run(tmp_path / "d", 0.8, seed=3, dataset="movi_a", max_objects=3),
        _run(tmp_path / "e", 0.9, seed=4, dataset="movi_a", void_id=-1),
    ]
    groups = report(runs).groups
    assert [len(group.runs) for group in groups] == [2, 1, 1, 1]
    assert groups[1].differs["evaluation.dataset"] == "movi_c"
    assert groups[2].differs["evaluation.max_objects"] == "3"
