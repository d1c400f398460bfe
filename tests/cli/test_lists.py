"""Lists of recipes and data sets, flags of earlier versions, commands that moved."""

import json

import pytest

from torchslots.cli import main, table
from torchslots.cli.options import _renamed  # pyright: ignore[reportPrivateUsage]
from torchslots.data.catalog import DATASETS
from torchslots.recipes import catalog


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(list(words)) == 0
    return capsys.readouterr().out.splitlines()


def test_recipes_are_a_table(capsys):
    header, *rows = lines(capsys, "recipes", "savi_large")
    assert header.split()[:3] == ["name", "system", "data"]
    assert rows[0].split() == [
        "savi_large",
        "SAVi",
        "movi_a",
        "128x128",
        "6",
        "24",
        "boxes",
        "flow",
        "FG-ARI",
        "95.1",
    ]
    assert len(rows) == 1


def test_recipes_are_found_by_name_system_and_data(capsys):
    everything = lines(capsys, "recipes")
    assert [row.split()[0] for row in everything[1:]] == list(catalog.RECIPES)
    by_data = [row.split()[0] for row in lines(capsys, "recipes", "MOVI_E")[1:]]
    assert {"savi_plus_plus", "slotdiffusion_movi_e"} <= set(by_data) and "savi_small" not in by_data
    assert "isa_demo" in [row.split()[0] for row in lines(capsys, "recipes", "isa")[1:]]
    assert main(["recipes", "nothing_like_it"]) == 2
    assert "no recipe has `nothing_like_it`" in capsys.readouterr().err


def test_recipes_in_sentences_and_for_programs(capsys):
    name, about, facts = lines(capsys, "recipes", "savi_medium", "--long")
    assert name == "savi_medium" and about.strip().startswith("SAVi-M on MOVi-A")
    assert facts.strip().startswith("system: SAVi; data: movi_a; pixels: 128x128; frames: 6; slots: 24")
    (text,) = lines(capsys, "recipes", "savi_medium", "--json")
    found = json.loads(text)["savi_medium"]
    assert found["million_weights"] == 1.14074 and found["published"] == "FG-ARI 93.4"
    assert found["optim"]["num_steps"] == 100_000 and found["model"]["num_slots"] == 24


def test_weights_and_slots_are_those_of_the_models():
    found = {row.name: row for row in catalog.summaries("movi")}
    model = catalog.build(catalog.recipe("savi_small").model)
    assert (
        found["savi_small"].million_weights
        == sum(value.numel() for value in model.state_dict().values()) / 1e6
    )
    assert found["vqvae_movi_d"].num_slots is None and found["slotdiffusion_movi_d"].num_slots == 15


def test_data_sets_are_a_table(capsys):
    header, *rows = lines(capsys, "data", "list")
    assert header.split() == ["name", "what"]
    assert [row.split()[0] for row in rows] == list(DATASETS)
    assert len(lines(capsys, "data", "list", "clevrtex")) == 2
    long = "\n".join(lines(capsys, "data", "list", "movi_a", "--long"))
    assert "storage.googleapis.com" in long and "states no licence for the files" in long
    (text,) = lines(capsys, "data", "list", "movi_a", "--json")
    assert json.loads(text)["movi_a"]["splits"] == ["train", "validation"]
    assert main(["data", "list", "nothing_like_it"]) == 2


@pytest.mark.parametrize("columns", ["80", None])
def test_tables_fit_80_columns_and_cut_nothing(columns, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    recipes, datasets = lines(capsys, "recipes"), lines(capsys, "data", "list")
    assert max(map(len, recipes + datasets)) <= 80 and not any("…" in row for row in recipes + datasets)
    assert recipes[0].split() == ["name", "slots", "needs", "published"]
    assert [row.split()[0] for row in recipes[1:]] == list(catalog.RECIPES)
    published = {row.split()[0]: row for row in recipes[1:]}
    assert all(published[name].endswith(figure) for name, figure in catalog.PUBLISHED.items())
    for (name, found), row in zip(DATASETS.items(), datasets[1:], strict=True):
        assert row.split(maxsplit=1) == [name, found.description]


def test_a_wide_terminal_shows_every_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    header, first, *_ = lines(capsys, "recipes")
    assert header.split()[:3] == ["name", "system", "data"] and header.split()[6:8] == ["M", "weights"]
    assert first.split()[:3] == ["savi_small", "SAVi", "movi_a"]
    header, first, *_ = lines(capsys, "data", "list")
    assert header.split() == ["name", "what", "splits"] and first.endswith("  train validation")


def test_a_table_that_is_too_wide_loses_whole_columns_in_the_given_order(capsys, monkeypatch):
    header, rows = ("name", "a", "b"), [("row", "x" * 9, "y" * 5)]
    for columns, shown in ((22, "name a b"), (21, "name b"), (10, "name"), (2, "name")):
        monkeypatch.setenv("COLUMNS", str(columns))
        table.print_table(header, rows, optional=("a", "b"))
        assert capsys.readouterr().out.splitlines()[0].split() == shown.split()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--draw", "--num-plots"),
        ("--draw=3", "--num-plots=3"),
        ("--paint.steps", "--sampling.steps"),
        ("--paint.snap=False", "--sampling.snap=False"),
        ("--drawing", "--drawing"),
        ("draw", "draw"),
    ],
)
def test_flags_of_earlier_versions_are_understood(old, new):
    assert _renamed(old) == new


def test_verify_says_where_it_went(capsys):
    assert main(["verify", "recordings/savi"]) == 2
    said = capsys.readouterr().err
    assert "make fidelity" in said and said.count("\n") == 1
