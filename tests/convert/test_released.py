"""The table of published checkpoints: its rows are whole, its recipes exist, and its lists can be read."""

import json
import re

import pytest

import torchslots
from torchslots.cli import main
from torchslots.convert import systems
from torchslots.convert.locations import address, by_hand
from torchslots.convert.pretrained import recipe_of
from torchslots.convert.released import RELEASED
from torchslots.convert.shipped import SHIPPED
from torchslots.convert.sources import NOT_STATED, OnHub
from torchslots.data.catalog import DATASETS
from torchslots.recipes.tokenizers import VqvaeConfig


@pytest.mark.parametrize("name", RELEASED)
def test_every_row_has_a_recipe(name):
    row = RELEASED[name]
    recipe = recipe_of(row)
    assert recipe.data.dataset in DATASETS and (row.dataset is None or recipe.data.dataset == row.dataset)
    program = next(program for program in systems.PROGRAMS if isinstance(recipe.model, program.config))
    assert program.leaves(recipe.model)
    assert row.is_tokenizer == isinstance(recipe.model, VqvaeConfig)


@pytest.mark.parametrize("name", RELEASED)
def test_every_row_is_whole(name, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    row = RELEASED[name]
    facts = (row.system, row.data, row.figure, row.size, row.licence)
    assert all(facts) and re.search(r"20\d\d, arXiv:\d{4}\.\d{5}$", row.citation)
    assert row.figure == NOT_STATED or re.fullmatch(r"FG-ARI \d\d\.\d mBO \d\d\.\d", row.figure)
    assert address(row).startswith("https://") and "--file PATH" in by_hand(name, row)


def test_published_digests_are_those_in_the_file_names():
    digests = {
        name: row.source.sha256
        for name, row in RELEASED.items()
        if isinstance(row.source, OnHub) and row.source.sha256
    }
    assert digests == {
        "ftdinosaur_small_224": "fbc7a7c7",
        "ftdinosaur_small_518": "d23af290",
        "ftdinosaur_base_224": "b617dc95",
        "ftdinosaur_base_518": "15486674",
    }


def test_addresses_are_those_that_the_authors_print(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    hub = "https://huggingface.co"
    assert address(RELEASED["videosaur_ytvis_dinov2"]) == (
        f"{hub}/andriizadaianchuk/videosaur-ytvis-dinov2-518/resolve/main/videosaur_dinov2.ckpt"
    )
    assert (
        address(RELEASED["slotcontrast_ytvis"]) == f"{hub}/annamanasyan/slotcontrast/resolve/main/ytvis.ckpt"
    )
    assert "300k%2B10k-15486674.pth" in address(RELEASED["ftdinosaur_base_518"])
    assert address(RELEASED["slot_attention_set_prediction"]).endswith(
        "gresearch/slot-attention/set-prediction"
    )


def test_names_are_found_by_name_system_and_data():
    assert torchslots.list_pretrained() == list(RELEASED)
    assert torchslots.list_pretrained("FT-DINO") == [name for name in RELEASED if name.startswith("ftdino")]
    assert {"videosaur_ytvis", "slotcontrast_ytvis"} <= set(torchslots.list_pretrained("yt-vis"))
    assert torchslots.list_pretrained("nothing_like_it") == []


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["pretrained", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_table_fits_80_columns(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    header, *rows = lines(capsys, "list")
    assert header.split() == ["name", "data", "published", "here"]
    assert [row.split()[0] for row in rows] == [*SHIPPED, *RELEASED]
    assert max(map(len, [header, *rows])) <= 80
    (row,) = lines(capsys, "list", "slotcontrast_ytvis")[1:]
    assert row.split() == "slotcontrast_ytvis YT-VIS 2021 FG-ARI 38.0 mBO 33.7".split()
    assert main(["pretrained", "list", "nothing_like_it"]) == 2
    (text,) = lines(capsys, "list", "--json")
    found = json.loads(text)
    assert list(found) == [*SHIPPED, *RELEASED] and found["videosaur_ytvis"]["recipe"] == "videosaur_ytvis"


def test_info_prints_every_fact_and_the_line_that_loads(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "\n".join(lines(capsys, "info", "ftdinosaur_base_518"))
    for fact in ("FT-DINOSAUR", "COCO 2017", "100,118,529", "15486674...", "Apache-2.0", "arXiv:2408.09162"):
        assert fact in text
    assert 'load      torchslots.load_model("ftdinosaur_base_518")' in text
    assert 'torchslots.load_tokenizer("vqvae_movi_e")' in lines(capsys, "info", "vqvae_movi_e")[-1]
    assert json.loads(lines(capsys, "info", "videosaur_movi_c", "--json")[0])["sha256"] == "not stated"
    assert main(["pretrained", "info", "ftdinosaur_bas_518"]) == 2
    assert "Did you mean ftdinosaur_base_518" in capsys.readouterr().err


def test_wrong_lines_are_explained(capsys):
    assert main(["pretrained"]) == 2 and "info NAME" in capsys.readouterr().out
    assert main(["pretrained", "lst"]) == 2 and "Did you mean list?" in capsys.readouterr().err
    assert main(["pretrained", "get"]) == 2 and "or an archive with --file" in capsys.readouterr().err
