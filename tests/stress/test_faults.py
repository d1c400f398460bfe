import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stress.commands import Command, Inputs, commands, prepared_inputs
from stress.disk import KILLED, Fault, forked
from stress.homes import homeless
from stress.kills import KINDS, Tally, strike, table
from stress.paths import strange
from stress.ranks import kill_ranks
from stress.soak import growth, soak
from stress.writers import two_writers
from torchslots.cli import main
from torchslots.io import files
from torchslots.io.files import atomic_folder, write_file
from torchslots.training.resume import note_change

ALL = (
    "train",
    "train on",
    "data generate",
    "data generate-images",
    "data prepare",
    "data prepare --features",
    "convert",
    "convert over",
    "evaluate --recon",
    "evaluate over",
    "predict",
    "predict over",
    "pretrained get",
    "export",
    "slots",
    "compose",
    "concepts",
    "report",
)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    with prepared_inputs(tmp_path_factory.mktemp("inputs")) as found:
        yield found


def named(given: Inputs, name: str) -> Command:
    import_module("stress.warm")
    return next(command for command in commands(given) if command.name == name)


def all_whole(name: str, tally: Tally) -> None:
    other = {kind: number for kind, number in tally.counts.items() if kind != "whole" and number}
    assert not other, "\n".join([table({name: tally}), *tally.reports])
    assert tally.counts["whole"]


def test_every_command_is_listed(given: Inputs) -> None:
    assert tuple(command.name for command in commands(given)) == ALL


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_killed_commands_end_as_if_they_were_not(given: Inputs, tmp_path: Path, name: str) -> None:
    all_whole(name, strike(named(given, name), tmp_path, None, 4, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("name", ALL)
def test_a_disk_that_fails_is_one_message(given: Inputs, tmp_path: Path, name: str, code: int) -> None:
    all_whole(name, strike(named(given, name), tmp_path, code, 2, seed=2))


@pytest.mark.slow
def test_a_process_that_goes_on_holds_no_more(given: Inputs, tmp_path: Path) -> None:
    more = growth(soak(given, tmp_path, 20, least=4))
    assert more.memory < 30 and more[1:] == (0, 0, 0), more


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "predict", "pretrained get"])
def test_commands_need_no_home(given: Inputs, tmp_path: Path, name: str) -> None:
    all_whole(name, homeless(named(given, name), tmp_path, None, 0))


@pytest.mark.slow
def test_strange_paths_change_nothing(given: Inputs, tmp_path: Path) -> None:
    import_module("stress.warm")
    for name, tally in strange(given, "", tmp_path, 2, seed=3).items():
        all_whole(name, tally)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_two_at_once_are_as_one(given: Inputs, tmp_path: Path, name: str) -> None:
    all_whole(name, two_writers(named(given, name), tmp_path, 3, seed=4))


@pytest.mark.slow
def test_a_killed_process_changes_no_loss(given: Inputs, tmp_path: Path) -> None:
    for name, tally in kill_ranks(given.data, tmp_path / "ranks", (1, 4), 1, seed=5).items():
        all_whole(name, tally)


# The tool itself


def _write_two(folder: Path) -> int:
    write_file(folder / "a", b"1" * 1000)
    write_file(folder / "b", b"2")
    return 0


def test_operations_are_counted_and_kill(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    whole = forked(lambda: _write_two(work), work)
    assert whole.status == 0 and [line.split()[0] for line in whole.operations].count("rename") == 2
    for at in range(1, len(whole.operations) + 1):
        shutil.rmtree(work)
        work.mkdir()
        assert forked(lambda: _write_two(work), work, Fault(at)).status == KILLED
        assert (work / "b").exists() <= (work / "a").exists()
        assert forked(lambda: _write_two(work), work).status == 0
        assert {path.name for path in work.iterdir()} == {"a", "b"}


def test_errors_of_the_disk_are_injected(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    full = forked(lambda: _write_two(work), work, Fault(1, errno.ENOSPC))
    assert full.status == 1 and "UserError" in full.text and "No space left" in full.text
    assert not list(work.iterdir())
    assert forked(lambda: _write_two(work), work, space=100).status == 1 and not list(work.iterdir())


def test_a_folder_killed_while_it_was_replaced_is_there_again(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    def replace(text: str) -> int:
        with atomic_folder(work / "kept") as part:
            (part / "a").write_text(text)
        return 0

    assert forked(lambda: replace("old"), work).status == 0
    operations = forked(lambda: replace("old"), work).operations
    renames = [number for number, line in enumerate(operations, 1) if line.startswith("rename")]
    for at in range(renames[0], len(operations) + 1):
        assert forked(lambda: replace("new"), work, Fault(at)).status == KILLED
        files.sweep(work)
        assert [path.name for path in work.iterdir()] == ["kept"]
        assert (work / "kept" / "a").read_text() in ("old", "new")
        assert forked(lambda: replace("old"), work).status == 0


def test_what_a_living_process_writes_is_not_removed(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "kept") as part:
        part.touch()
        left = part.with_name(".kept.ffffff.1.00000000.part")  # another machine's
        left.touch()
        files.remove_partial(tmp_path, "kept")
        assert part.exists() and not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_weights_that_are_being_written_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    model = torch.nn.Linear(2, 2)

    def write(tensors: object, file: Path, metadata: object) -> None:
        (file.parent / ".tmpAbC123").touch()  # as safetensors names what it has not finished
        os._exit(KILLED)

    def save() -> int:
        with files.atomic_file(work / "model.safetensors") as part:
            files.write_tensors(model.state_dict(), part)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", write)
        assert forked(save, work).status == KILLED
    assert any(path.name.startswith(".tmp") for path in work.rglob("*"))
    assert forked(save, work).status == 0
    assert [path.name for path in work.iterdir()] == ["model.safetensors"]
    assert load_file(work / "model.safetensors").keys() == model.state_dict().keys()


def test_commands_print_names_that_are_no_text(tmp_path: Path) -> None:
    work, missing = tmp_path / "work", os.fsdecode(b"a\xff")
    work.mkdir()

    def printed() -> int:
        status = main(["--version"])
        print(missing)
        return status

    ended = forked(printed, work)
    assert ended.status == 0 and ended.text.splitlines()[1] == "a\\udcff"


def test_leftovers_of_earlier_versions_go_once_they_are_old(tmp_path: Path) -> None:
    left = [".model.safetensors.999999999.tmp", ".aside_frames", ".overlay.999999999.part.mp4"]
    mine = [f".model.safetensors.{os.getpid()}.tmp", ".keep", "overlay.1.part.mp4", ".net.tmp"]
    for name in (*left, *mine):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*left, *mine}  # they may be another machine's
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(mine)


def test_the_table_counts(given: Inputs) -> None:
    tally = Tally(7, Counter(whole=5, lost=2), [])
    head, row = table({"train": tally}).splitlines()
    assert head.split() == ["command", "operations", *KINDS] and row.split()[:4] == ["train", "7", "5", "2"]


def test_a_change_of_settings_is_noted_once(tmp_path: Path) -> None:
    for _ in range(2):
        note_change(tmp_path, 3, "train.keep was 1, now 2")
    note_change(tmp_path, 4, "train.keep was 2, now 1")
    lines = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
