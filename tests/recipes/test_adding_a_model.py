"""docs/add.md, "Adding a model": the example runs as it is written."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from torchslots.hub import load_model
from torchslots.models.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json

PAGE = Path(__file__).parents[2] / "docs" / "add.md"


def blocks() -> list[str]:
    section = PAGE.read_text().partition("## Adding a model\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The file of the page as a module, with the rows of the page in the catalog."""
    file, rows = blocks()
    (tmp_path / "drift.py").write_text(file)
    spec = importlib.util.spec_from_file_location("drift", tmp_path / "drift.py")
    assert spec is not None and spec.loader is not None
    drift = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "drift", drift)
    spec.loader.exec_module(drift)
    for table in ("FAMILIES", "RECIPES"):
        monkeypatch.setattr(catalog, table, dict(getattr(catalog, table)))
    exec(rows, vars(catalog) | {"drift": drift})
    return drift


def test_the_example_is_built_trained_listed_and_loaded(example, tmp_path) -> None:
    recipe = catalog.recipe("drift_sim")
    (row,) = catalog.summaries("drift")
    assert (row.system, row.resolution, row.num_slots) == ("Drift", (32, 32), 4)
    model = catalog.build_seeded(recipe.model, 0)
    assert isinstance(model, ObjectCentricModel) and model.monitor == "fg_ari"
    video = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.stack(list(model.loss({"video": video}).values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    model.save_pretrained(tmp_path / "model")
    found = load_model(tmp_path / "model").predict({"video": video})
    assert torch.equal(found.masks, model.eval().predict({"video": video}).masks)
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    assert catalog.read_recipe(tmp_path / "recipe.json") == recipe
