"""The example of docs/add.md, as it is written there."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import torchslots
from torchslots.convert import systems
from torchslots.convert.convert import convert
from torchslots.io.errors import UserError
from torchslots.recipes.tokenizers import DvaeConfig, build_dvae

DOCS = Path(__file__).parents[2] / "docs" / "add.md"
CONFIG = DvaeConfig(vocabulary=12, channels=4)


def block(name: str) -> str:
    found = re.search(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the first block, with the row of the second in the table."""
    file = tmp_path / "toy.py"
    file.write_text(block("toy.py"))
    spec = importlib.util.spec_from_file_location("toy", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy", module)
    spec.loader.exec_module(module)
    row = eval(block("row"), {**vars(systems), "toy": module})
    monkeypatch.setattr(systems, "PROGRAMS", (*systems.PROGRAMS, row))
    return module


def test_a_program_in_one_file_and_one_row(toy: ModuleType, tmp_path: Path) -> None:
    weights = build_dvae(CONFIG).state_dict()
    torch.save({f"net.{name}": value for name, value in weights.items()}, tmp_path / "toy.pth")
    done = convert(tmp_path / "toy.pth", tmp_path / "by_shapes")
    assert done.config == CONFIG
    (tmp_path / "config.json").write_text('{"model": "toy", "width": 4, "codes": 12}')
    convert(tmp_path / "toy.pth", tmp_path / "by_config", config=tmp_path / "config.json")
    for folder in ("by_shapes", "by_config"):
        read = torchslots.load_tokenizer(tmp_path / folder).state_dict()
        assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_what_does_not_fit_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    torch.save({"net.encoder.0.0.weight": torch.ones(3)}, tmp_path / "toy.pth")
    with pytest.raises(
        UserError, match=r"toy\.pth: These are not the weights of a toy: .*encoder\.7\.weight"
    ):
        convert(tmp_path / "toy.pth", tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model": "toy", "width": 4}')
    with pytest.raises(UserError, match=r"no configuration of a toy: .*codes"):
        convert(tmp_path / "toy.pth", tmp_path / "out", config=tmp_path / "config.json")
