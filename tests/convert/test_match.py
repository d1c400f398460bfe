"""Files of a repository are matched to published checkpoints by what their paths say."""

from torchslots.convert.match import match
from torchslots.convert.released import RELEASED
from torchslots.convert.sources import AmongHubFiles

ROWS = {name: row.source for name, row in RELEASED.items() if isinstance(row.source, AmongHubFiles)}


def test_sizes_data_sets_and_batch_sizes_are_told_apart():
    paths = {
        "STATM-SAVi (small)/MOVi-A/checkpoints-0/ckpt-101.flax": "statm_savi_small_movi_a",
        "small_movi_e/ckpt-21.flax": "statm_savi_small_movi_e",
        "STATM-SAVi++ (batch size 32)/movi_c/ckpt-101.flax": "statm_savi_plus_plus_movi_c",
        "savi++_bs64/MOViD/ckpt-32.flax": "statm_savi_movi_d",
        "environment1/statm_savi_plus_plus/movi-b/ckpt-101.flax": "statm_savi_plus_plus_movi_b",
        "Env2/STATM-SAVi++/MOVi_E/ckpt-101.flax.gz": "statm_savi_movi_e",
    }
    found = match(list(paths), ROWS)
    assert {path: name for name, path in found.found.items()} == paths and not found.unmatched


def test_the_newest_of_a_folder_is_taken_and_two_folders_are_not_told_apart():
    newest = match([f"small/movi_a/ckpt-{number}.flax" for number in (9, 101, 21)], ROWS)
    assert newest.found == {"statm_savi_small_movi_a": "small/movi_a/ckpt-101.flax"}
    two = ["small/movi_a/seed0/ckpt-1.flax", "small/movi_a/seed1/ckpt-1.flax"]
    assert match(two, ROWS).found == {}
    assert match(two, ROWS).unmatched == dict.fromkeys(two, "one of 2 that may be statm_savi_small_movi_a")


def test_what_could_not_be_matched_is_said_with_the_reason():
    reasons = {
        "small/ckpt-1.flax": "its path does not tell its data set",
        "movi_a/ckpt-1.flax": "its path does not tell its size, small or ++",
        "ckpt-1.flax": "its path does not tell its size, small or ++ and its data set",
        "savi++/movi_a/ckpt-1.flax": "it may be statm_savi_plus_plus_movi_a or statm_savi_movi_a",
        "small/movi_f/ckpt-1.flax": "no checkpoint of that description",
        "small_movi_a.zip": "no flax file",
    }
    beside = ["README.md", ".gitattributes", "a/checkpoint", "a/ckpt-1.index", "a/ckpt-1.data-00000-of-00001"]
    found = match([*reasons, *beside], ROWS)
    assert found.found == {} and found.unmatched == reasons
