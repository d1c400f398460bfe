import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data.movi_files import copy_movi
from torchslots.data.catalog import DATASETS, Remote, RemoteFiles, entry, list_datasets, open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.inspect import inspect_dataset
from torchslots.io.errors import UserError

CONFIG = DataConfig(resolution=32, num_frames=4)


def test_every_entry_says_what_a_newcomer_must_know():
    for name, found in DATASETS.items():
        assert found.description and "\n" not in found.description, name
        assert found.licence and found.size, name
        assert "train" in found.splits, name
        if isinstance(found.remote, RemoteFiles):
            encrypted = name not in ("coco", "voc")  # whose servers have no certificate
            assert found.remote.address.startswith("https://" if encrypted else "http://"), name
            assert found.remote.files and len(found.remote.splits) <= len(found.remote.files), name
        elif found.remote is not None:
            assert found.remote.address.startswith("https://storage.googleapis.com/kubric-public/tfds/movi_")
            assert "{resolution}x{resolution}" in found.remote.prefix and found.remote.resolutions[0] == 128


def test_published_addresses():
    remote = DATASETS["movi_a"].remote
    assert isinstance(remote, Remote)
    assert remote.prefix.format(resolution=256) == "tfds/movi_a/256x256/1.0.0"
    assert "test" not in DATASETS["movi_b"].splits and "test" in DATASETS["movi_c"].splits


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match=r"no data set `movi-a`. Nearest: movi_a.*data list"):
        entry("movi-a")
    with pytest.raises(UserError, match=r"no data set `movie`. Nearest: movi_e"):
        open_dataset("movie", Path(), "train", CONFIG, True)


def test_a_missing_root_says_how_to_get_the_data(tmp_path):
    cases = {
        "movi_a": "torchslots data download movi_a",
        "sim_a": "torchslots data generate",
        "folder": "Check the path",
    }
    for name, remedy in cases.items():
        with pytest.raises(UserError, match=rf"nowhere does not exist.*{remedy}"):
            open_dataset(name, tmp_path / "nowhere", "train", CONFIG, True)


@pytest.mark.parametrize("train", [True, False])
def test_movi_opens_under_its_own_name_whatever_the_recipe_was_made_for(tmp_path, train):
    copy_movi("a", tmp_path)
    clips = open_dataset("movi_a", tmp_path, "train", replace(CONFIG, dataset="movi_e"), train)
    assert len(clips) == 4
    assert clips.sample(0, None)["video"].shape[1:] == (3, 32, 32)


def test_a_set_without_ignored_pixels_may_be_asked_for_them(tmp_path):
    copy_movi("a", tmp_path)
    asked = replace(CONFIG, keys=("video", "segmentations", "ignore"))
    sample = open_dataset("movi_a", tmp_path, "train", asked, False).sample(0, None)
    assert sorted(sample) == ["name", "padding_mask", "segmentations", "video"]


def test_a_split_that_is_not_there(tmp_path):
    copy_movi("a", tmp_path)
    with pytest.raises(UserError, match=r"no split `test`. It has: train, validation"):
        open_dataset("movi_a", tmp_path, "test", CONFIG, True)


class _Bare:
    """A source without what messages and `data inspect` ask."""

    def __len__(self):
        return 1

    def name(self, index):
        return "one"

    def open(self, index, keys):
        raise NotImplementedError


def test_what_is_no_source_is_said_where_it_is_opened(tmp_path, monkeypatch):
    row = replace(DATASETS["movi_a"], open=lambda root, split, config: _Bare(), find_splits=None)
    monkeypatch.setitem(DATASETS, "bare", row)
    said = r"`bare` opens as _Bare, .* it has no title, files, keys, num_objects\."
    with pytest.raises(UserError, match=said):
        open_dataset("bare", tmp_path, "train", CONFIG, train=True)
    with pytest.raises(UserError, match=said):
        inspect_dataset("bare", root=tmp_path)


def test_names_are_listed_by_a_word():
    assert list_datasets() == list(DATASETS)
    assert list_datasets("MOVi-E:") == ["movi_e"] and "clevrtex" in list_datasets("clevr")


def test_listing_needs_no_torch():
    code = "import sys, torchslots.data.catalog as c; c.list_datasets(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
