"""The tables of the catalog: what is listed, and what demonstrations name."""

import pytest

from torchslots.recipes import catalog
from torchslots.recipes.demos import DEFAULT_DEMO, DEFAULT_RECIPE, DEMOS


def test_every_recipe_has_its_name_and_says_what_it_is() -> None:
    for name, make in catalog.RECIPES.items():
        assert make().name == name == make.__name__
        assert make.__doc__ and make.__doc__.strip().endswith((".", ")"))
    assert set(catalog.PUBLISHED) < set(catalog.RECIPES) and len(catalog.RECIPES) == 107


def test_demonstrations_are_recipes() -> None:
    assert DEFAULT_RECIPE in catalog.RECIPES and DEFAULT_DEMO in DEMOS
    for demo in DEMOS.values():
        assert demo.recipe in catalog.RECIPES and demo.recipe.endswith(("_demo", "_sim_small"))
        assert demo.tokenizer is None or demo.tokenizer in catalog.RECIPES
        assert (demo.kind == "generation") == (demo.tokenizer is not None) == bool(demo.decoder)


def test_rows_of_the_table() -> None:
    rows = {row.name: row for row in catalog.summaries("savi_small")}
    assert set(rows) == {"savi_small", "statm_savi_small"}
    small = rows["savi_small"]
    assert small[:6] == ("savi_small", "SAVi", "movi_a", (64, 64), 6, 24)
    assert small.million_weights == pytest.approx(0.895268) and small.published == "FG-ARI 92.1"
    assert rows["statm_savi_small"].num_slots == 11
    assert catalog.summaries("VQVAE_DEMO")[0].num_slots is None
    assert not catalog.summaries("no such word")
    plus = {row.name: row.system for row in catalog.summaries("SAVi++")}
    assert plus == {"savi_plus_plus": "SAVi++", "statm_savi_plus_plus": "STATM-SAVi++"}
