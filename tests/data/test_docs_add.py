"""The data set of docs/add.md, run as it is written there."""

import __future__

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from torchslots.data import catalog
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.inspect import inspect_dataset
from torchslots.data.prepare import prepare
from torchslots.io.errors import UserError

SECTION = (
    (Path(__file__).parents[2] / "docs" / "add.md").read_text().split("## A data set")[1].split("\n## ")[0]
)
CONFIG = DataConfig(keys=("video", "segmentations", "boxes"), resolution=16, num_frames=4, max_instances=3)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two pieces of code in their places, and two videos."""
    file, row = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    module = ModuleType("torchslots.data.sets.shapes")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, "shapes.py", "exec"), module.__dict__)
    monkeypatch.setattr(catalog, "DATASETS", dict(catalog.DATASETS))
    as_there = __future__.annotations.compiler_flag
    exec(compile(row, "catalog.py", "exec", as_there), dict(vars(catalog)))
    for number in range(2):
        ids = np.zeros((8, 32, 32), np.uint8)
        for t in range(8):
            ids[t, 8:16, 2 * t : 2 * t + 8] = 1
        path = tmp_path / "shapes" / "train" / f"{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, video=np.stack([100 * ids] * 3, -1), segmentations=ids)
    return tmp_path


def test_it_opens_and_its_clips_have_boxes(root: Path):
    clips = catalog.open_dataset("shapes", root, "train", CONFIG, True)
    sample = clips.sample(1, np.random.default_rng(0))
    assert len(clips) == 2 and sample["name"] == "1.npz" and sample["video"].shape == (4, 3, 16, 16)
    ids, (top, left, bottom, right) = sample["segmentations"], sample["boxes"][0, 0]
    assert ids[0, int(top * 16) : int(bottom * 16), int(left * 16) : int(right * 16)].all()
    assert int(ids[0].sum()) == 16 and not sample["boxes"][:, 1:].any()


def test_it_is_inspected_and_prepared(root: Path):
    survey = inspect_dataset("shapes", root=root, out=root / "sheet.png", check=True)
    assert survey.splits["train"] == "one .npz for each video, 2 examples"
    assert "holds no shapes/validation" in survey.splits["validation"]
    assert survey.objects == {1: 2} and survey.num_checked == 2 and (root / "sheet.png").exists()
    direct = catalog.open_dataset("shapes", root, "train", replace(CONFIG, dataset="shapes"), True)
    assert prepare(direct, root / "out").num_videos == 2
    cached = catalog.open_dataset("prepared", root / "out", "train", direct.config, True)
    for key in CONFIG.keys:
        assert torch.equal(direct.sample(0, None)[key], cached.sample(0, None)[key])


def test_what_is_broken_or_missing_is_named(root: Path):
    (root / "shapes" / "train" / "1.npz").write_bytes(b"PK")
    clips = catalog.open_dataset("shapes", root, "train", CONFIG, True)
    with pytest.raises(CorruptRecord, match=r"1\.npz: record 1 cannot be read"):
        clips.sample(1, None)
    with pytest.raises(
        UserError, match=r"asks for `flow`, which Shapes lacks. It has: video, segmentations, boxes"
    ):
        catalog.open_dataset("shapes", root, "train", replace(CONFIG, keys=("flow",)), True)
