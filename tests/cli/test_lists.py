"""Lists of recipes and data sets, flags of earlier versions, commands that moved."""

import json

import pytest

from torchslots.cli import main, table
from torchslots.cli.options import _renamed  # pyright: ignore[reportPrivateUsage]
from torchslots.data.catalog import DATASETS
from torchslots.recipes import catalog
from torchslots.recipes.summary import summaries


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(list(words)) == 0
    return capsys.readouterr().out.splitlines()


def test_recipes_are_a_table(capsys):
    header, *rows = lines(capsys, "recipes", "savi_large")
    assert header.split()[:3] == ["name", "system", "data"]
    assert rows[0].split() == ["savi_large", "SAVi", "movi_a", "128", "6", "24", "22.3", "FG-ARI", "95.1"]
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
    name, about = lines(capsys, "recipes", "savi_medium", "--long")
    assert name == "savi_medium" and about.strip().startswith("SAVi-M on MOVi-A")
    (text,) = lines(capsys, "recipes", "savi_medium", "--json")
    found = json.loads(text)["savi_medium"]
    assert found["weights"] == 1_132_420 and found["published"] == "FG-ARI 93.4"
    assert found["optim"]["num_steps"] == 100_000 and found["model"]["num_slots"] == 24


def test_weights_and_slots_are_those_of_the_models():
    found = {row.name: row for row in summaries("movi")}
    model = catalog.build(catalog.recipe("savi_small").model)
    assert found["savi_small"].weights == sum(weights.numel() for weights in model.parameters())
    assert found["slotdiffusion_movi_d"].weights == 152_339_233
    assert found["vqvae_movi_d"].slots is None and found["slotdiffusion_movi_d"].slots == 15


def test_data_sets_are_a_table(capsys):
    header, *rows = lines(capsys, "data", "list")
    assert header.split() == ["name", "what", "size", "licence", "splits"]
    assert [row.split()[0] for row in rows] == list(DATASETS)
    assert len(lines(capsys, "data", "list", "clevrtex")) == 2
    long = "\n".join(lines(capsys, "data", "list", "movi_a", "--long"))
    assert "storage.googleapis.com" in long and "states no licence for the files" in long
    (text,) = lines(capsys, "data", "list", "movi_a", "--json")
    assert json.loads(text)["movi_a"]["splits"] == ["train", "validation"]
    assert main(["data", "list", "nothing_like_it"]) == 2


def test_tables_fit_a_terminal_and_keep_names_whole(capsys, monkeypatch):
    monkeypatch.setattr(table.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    for words in (["recipes"], ["data", "list"]):
        _, *rows = lines(capsys, *words)
        assert max(map(len, rows)) <= 110
        known = catalog.RECIPES if words == ["recipes"] else DATASETS
        assert [row.split()[0] for row in rows] == list(known)


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
