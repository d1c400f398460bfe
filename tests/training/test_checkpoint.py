import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.training import checkpoint
from torchslots.training.checkpoint import RunState
from training.tiny_run import tiny_recipe


def _tensors(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)}


def _save(run: Path, step: int, keep: int = 9, **state: Any) -> Path:
    return checkpoint.save(run, RunState(step=step, **state), _tensors(step), {"m": torch.ones(step)}, keep)


def _latest(run: Path) -> tuple[int | None, list[str]]:
    told: list[str] = []
    found = checkpoint.latest(run, told.append)
    return (None if found is None else found.state.step), told


def _nothing_aside(run: Path) -> bool:
    return not [path for path in run.rglob("*") if path.name.startswith(".")]


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    state = RunState(4, 0.5, 2, 4, {"fg_ari": 0.5, "ari": None}, {"scale": 2.0}, True)
    tied = torch.arange(6.0).reshape(2, 3).T
    checkpoint.save(tmp_path, state, {"a": tied, "b": tied}, {"m/a": torch.tensor(3)}, 2)
    found = checkpoint.latest(tmp_path, print)
    assert found is not None and found.state == state
    assert torch.equal(found.model["a"], tied) and torch.equal(found.model["b"], tied)
    assert found.training["m/a"].item() == 3


def test_last_and_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 7):
        _save(tmp_path, step, keep=2, best_step=2 if step >= 2 else None)
    assert checkpoint.list_steps(tmp_path) == [2, 5, 6]


def test_a_step_saved_again_replaces_the_one_before_and_later_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    checkpoint.save(tmp_path, RunState(2), _tensors(7), {}, 1)
    assert checkpoint.list_steps(tmp_path) == [2]
    found = checkpoint.latest(tmp_path, print)
    assert found is not None and found.model["count"].item() == 7 and _nothing_aside(tmp_path)


@pytest.mark.parametrize("part", ["model.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "gone", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(tmp_path: Path, part: str, harm: str) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / part
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif harm == "gone":
        file.unlink()
    elif part == "state.json":
        file.write_text("[]")
    else:
        file.write_bytes(bytes(data))
    step, told = _latest(tmp_path)
    assert step == 1
    assert len(told) == 1 and str(file) in told[0] and "Skipping this" in told[0]


def test_a_folder_that_a_killed_process_left_is_no_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".aside_step_0000002_99").mkdir()
    assert _latest(tmp_path) == (1, [])
    checkpoint.claim(tmp_path / "new", tiny_recipe())
    (tmp_path / "recipe.json").write_bytes((tmp_path / "new" / "recipe.json").read_bytes())
    checkpoint.claim(tmp_path, tiny_recipe())
    assert _nothing_aside(tmp_path)


def test_nothing_readable_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    (_save(tmp_path, 3) / "state.json").unlink()
    with pytest.raises(UserError, match="None of the 1 checkpoints"):
        checkpoint.latest(tmp_path, lambda message: None)
    assert _latest(tmp_path / "elsewhere") == (None, [])


class _Harm:
    """Makes the folder `harmed` when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, kind: str) -> None:
    folder, harm = _save(tmp_path, 1), _Harm(tmp_path / "harmed")
    with (folder / "model.safetensors").open("wb") as file:
        if kind == "pickle":
            pickle.dump(harm, file)
        else:
            torch.save(harm, file)
    with pytest.raises(UserError, match=r"is a pickle.*refused"):
        checkpoint.read(folder)
    assert not (tmp_path / "harmed").exists()


def test_foreign_files_are_named(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    save_file({"other": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        checkpoint.read(folder)
    (folder / "model.safetensors").write_text("not tensors at all")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        checkpoint.read(folder)
    values = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(UserError, match="format 99 is not 1"):
        checkpoint.read(folder)


@pytest.mark.parametrize("flush", range(5))
def test_a_full_disk_leaves_the_earlier_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: int
) -> None:
    _save(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    calls, real = [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == flush + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    if flush < 4:  # three files and the folder that holds them: nothing has its final name yet
        with pytest.raises(
            UserError,
            match=r"step_0000002 cannot be written: No space left.*earlier checkpoints are untouched",
        ):
            _save(tmp_path, 2)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    else:
        with pytest.raises(UserError, match="No space left"):
            _save(tmp_path, 2)
        assert _latest(tmp_path) == (2, [])
    assert _nothing_aside(tmp_path)


def test_a_read_only_folder_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        _save(tmp_path / "run", 1)
    with pytest.raises(UserError, match=r"recipe\.json cannot be written: Read-only file system"):
        checkpoint.claim(tmp_path / "run", tiny_recipe())


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write_file(tmp_path / "file", b"before", durable=True)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="What was there before is untouched"):
        checkpoint.write_file(tmp_path / "file", b"after", durable=True)
    assert (tmp_path / "file").read_bytes() == b"before" and _nothing_aside(tmp_path)


def test_a_folder_belongs_to_its_recipe(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    checkpoint.claim(tmp_path, recipe)
    checkpoint.claim(
        tmp_path, replace(recipe, train=replace(recipe.train, log_every=7, keep=3, num_workers=1))
    )
    other = replace(recipe, train=replace(recipe.train, seed=1), model=replace(recipe.model, width=9))  # pyright: ignore
    with pytest.raises(UserError, match=r"model\.width was 8, now 9; train\.seed was 42, now 1\."):
        checkpoint.claim(tmp_path, other)


def test_a_folder_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    with pytest.raises(UserError, match=r"no recipe\.json"):
        checkpoint.claim(tmp_path, tiny_recipe())
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(UserError, match=r"recipe\.json is not JSON"):
        checkpoint.claim(tmp_path, tiny_recipe())


def test_a_recipe_from_before_a_setting_was_known_is_the_same(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    checkpoint.claim(tmp_path, recipe)
    file = tmp_path / "recipe.json"
    values = json.loads(file.read_text())
    for part, name in (("optim", "min_learning_rate"), ("optim", "clip_norm"), ("data", "train_split")):
        del values[part][name]
    values["train"]["compile"] = False
    file.write_text(json.dumps(values))
    checkpoint.claim(tmp_path, recipe)
    file.write_text(json.dumps(values))
    other = replace(recipe, optim=replace(recipe.optim, clip_norm="inf"))
    with pytest.raises(UserError, match=r"optim\.clip_norm was 'l2', now 'inf'"):
        checkpoint.claim(tmp_path, other)
    del values["optim"]["learning_rate"]
    file.write_text(json.dumps(values))
    assert "optim.learning_rate was 0.0002, now 0.05" in checkpoint.claim(tmp_path, recipe)


def test_a_flipped_bit_of_the_state_is_found_and_an_older_checkpoint_taken(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2, best=0.5, best_step=2) / "state.json"
    text, state = file.read_bytes(), checkpoint.read(file.parent).state
    passed_over = 0
    for place in range(0, 8 * len(text), 29):
        data = bytearray(text)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        found = checkpoint.latest(tmp_path, lambda message: None)
        assert found is not None and (found.state == state or found.state.step == 1), place
        passed_over += found.state.step == 1
    assert passed_over > 100


@pytest.mark.parametrize(
    "change", [{"state": 3}, {"state": {}}, {"stat": {"step": 2}}, {"files": []}, {"state": {"step": "2"}}]
)
def test_a_state_of_another_form_is_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / "state.json"
    values = json.loads(file.read_text()) | change
    del values["crc32c"]
    if "stat" in values:
        del values["state"]
    file.write_text(json.dumps(values))
    step, told = _latest(tmp_path)
    assert step == 1 and len(told) == 1 and "state.json" in told[0]


def test_a_checkpoint_of_an_older_version_has_no_checksum_of_its_state(tmp_path: Path) -> None:
    file = _save(tmp_path, 1) / "state.json"
    values = json.loads(file.read_text())
    del values["crc32c"]
    file.write_text(json.dumps(values))
    assert _latest(tmp_path) == (1, [])
