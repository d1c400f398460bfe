import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from data.movi_files import copy_movi, flip_byte, shard
from data.opened import movi_clips
from torchslots.data.batch import ClipDataset
from torchslots.data.config import DataConfig
from torchslots.data.formats.tfrecord import CorruptRecord
from torchslots.data.loader import eval_batches, train_batches
from torchslots.data.transforms import Sample
from torchslots.io.errors import UserError, first_line
from torchslots.models.types import Batch

CONFIG = DataConfig(dataset="movi_a", keys=("video", "segmentations"), resolution=32)


class Counted:
    """A data set whose samples say which example they are and what was drawn."""

    def __init__(self, size: int, corrupt: tuple[int, ...] = (), wrong: tuple[int, ...] = ()) -> None:
        self.size, self.corrupt, self.wrong = size, corrupt, wrong

    def __len__(self) -> int:
        return self.size

    def name(self, index: int) -> str:
        return str(index)

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        if index in self.corrupt:
            raise CorruptRecord(Path("shard"), index, "is made so")
        if index in self.wrong:
            raise UserError(f"example {index} is wrong")
        if index == -1 or rng is None:
            drawn = 0.0
        else:
            drawn = float(rng.random())
        video = torch.full((1, 3, 2, 2), drawn)
        return {"video": video, "padding_mask": torch.ones(1, 2, 2, dtype=torch.bool), "name": str(index)}


def _take(dataset: ClipDataset, steps: int, **options: int) -> list[Batch]:
    return list(islice(train_batches(dataset, **{"batch_size": 4, "seed": 3, **options}), steps))


def _seen(batches: list[Batch]) -> list[tuple[str, float]]:
    return [
        (name, video.mean().item()) for batch in batches for name, video in zip(batch["name"], batch["video"])
    ]


def test_each_epoch_is_a_permutation_of_its_own_and_none_is_dropped():
    names = [name for name, _ in _seen(_take(Counted(10), 15))]
    epochs = [names[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == [str(i) for i in range(10)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_order_and_draws_depend_on_the_seed_alone():
    first = _seen(_take(Counted(10), 8))
    assert _seen(_take(Counted(10), 8)) == first
    other = _seen(_take(Counted(10), 8, seed=4))
    assert [name for name, _ in other] != [name for name, _ in first]
    assert len({drawn for _, drawn in first}) == 32


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_together_see_what_one_process_sees(world_size: int):
    alone = _take(Counted(7), 9)
    ranks = [_take(Counted(7), 9, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        assert _seen([ranks[rank][step] for rank in range(world_size)]) == _seen([batch])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_equals_never_having_stopped(workers: int):
    alone = _seen(_take(Counted(7), 9))
    assert _seen(_take(Counted(7), 4, start_step=5, num_workers=workers)) == alone[20:]


def test_a_batch_may_be_larger_than_the_data_set():
    assert sorted(name for name, _ in _seen(_take(Counted(2), 1))) == ["0", "0", "1", "1"]


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_sees_each_video_once(workers: int):
    batches = [
        list(eval_batches(Counted(11), batch_size=2, rank=rank, world_size=3, num_workers=workers))
        for rank in range(3)
    ]
    assert [[len(batch["name"]) for batch in rank] for rank in batches] == [[2, 2], [2, 2], [2, 1]]
    assert sorted(int(name) for rank in batches for name, _ in _seen(rank)) == list(range(11))
    assert [name for name, _ in _seen(list(eval_batches(Counted(11), batch_size=4, limit=3)))] == [
        "0",
        "1",
        "2",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_examples_are_replaced_and_reported(workers: int):
    dataset, skipped = Counted(6, corrupt=(2, 4)), []
    batches = train_batches(
        dataset, batch_size=3, seed=0, num_workers=workers, skip_corrupt=True, on_skip=skipped.append
    )
    names = [name for name, _ in _seen(list(islice(batches, 4)))]
    assert len(names) == 12 and not {"2", "4"} & set(names)
    assert {error.record for error in skipped} == {2, 4} and len(skipped) >= 4
    again = train_batches(dataset, batch_size=3, seed=0, skip_corrupt=True, on_skip=lambda error: None)
    assert [name for name, _ in _seen(list(islice(again, 4)))] == names


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_examples_are_left_out_of_evaluation(workers: int, caplog: pytest.LogCaptureFixture):
    dataset = Counted(6, corrupt=(2, 3, 4))
    batches = list(eval_batches(dataset, batch_size=2, num_workers=workers, skip_corrupt=True))
    assert [batch["name"] for batch in batches] == [["0", "1"], ["5"]]
    assert [record.message for record in caplog.records if "record 3 is made so" in record.message]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_from_workers_as_they_were_raised(workers: int):
    with pytest.raises(CorruptRecord, match=r"^shard: record 2 is made so\. Download") as caught:
        list(eval_batches(Counted(6, corrupt=(2,)), batch_size=2, num_workers=workers))
    assert caught.value.record == 2
    with pytest.raises(UserError, match=r"^example 1 is wrong$"):
        list(eval_batches(Counted(6, wrong=(1,)), batch_size=2, num_workers=workers, skip_corrupt=True))


class Scaler:
    """Garbage that must be freed where it was made, as what joins threads."""

    def __init__(self, freed: Path) -> None:
        self.itself, self.freed, self.process = self, freed, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.process:
            self.freed.touch()


class Collecting(Counted):
    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        gc.collect()
        return super().sample(index, rng)


def test_a_worker_frees_nothing_of_its_parents(tmp_path: Path):
    """A worker that freed the scaler of a written film waited forever for threads that it did not have."""
    before = gc.get_freeze_count()
    gc.disable()
    try:
        Scaler(tmp_path / "freed")
        assert len(list(eval_batches(Collecting(4), batch_size=2, num_workers=1))) == 2
    finally:
        gc.enable()
    assert not (tmp_path / "freed").exists() and gc.get_freeze_count() == before


class Dying(Counted):
    """A data set that takes its process down, as the system does when memory runs out."""

    def sample(self, index: int, rng: np.random.Generator | None) -> Sample:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(index, rng)


def test_death_of_a_worker_is_a_clear_message(monkeypatch: pytest.MonkeyPatch):
    waits = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__"
    monkeypatch.setattr(waits, (0.1,))  # seconds between looks at the workers, 5 by default
    with pytest.raises(UserError, match="A data loading process died"):
        next(train_batches(Dying(4), batch_size=2, seed=0, num_workers=1))


@pytest.mark.parametrize(
    "broken",
    [
        EOFError(),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError(2, "No such file or directory"),
        pickle.UnpicklingError("pickle data was truncated"),
        multiprocessing.AuthenticationError("digest received was wrong"),
        RuntimeError("\nreceived 0 items of ancdata\n"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("dead", [True, False])
def test_a_death_in_the_middle_of_a_message(
    broken: Exception, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive(batches: object, timeout: float = 5) -> None:
        if dead:
            os.kill(batches._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        raise broken

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data", receive)
    monkeypatch.setattr("torchslots.data.loader._DEATH_SHOWS_IN", 10.0 if dead else 0.1)
    if not dead:
        with pytest.raises(type(broken)):
            next(train_batches(Counted(4), batch_size=2, seed=0, num_workers=1))
        return
    said = first_line(broken)
    with pytest.raises(UserError, match=f"A data loading process died .{re.escape(said)}.\\. Mostly memory"):
        next(train_batches(Counted(4), batch_size=2, seed=0, num_workers=1))


def test_nothing_but_corrupt_examples_ends_the_run():
    with pytest.raises(UserError, match="100 examples in a row are corrupt"):
        next(train_batches(Counted(2, corrupt=(0, 1)), batch_size=1, seed=0, skip_corrupt=True, on_skip=id))


def test_impossible_requests():
    with pytest.raises(UserError, match="4 clips does not divide among 3"):
        train_batches(Counted(5), batch_size=4, seed=0, world_size=3)
    with pytest.raises(UserError, match="holds no examples"):
        train_batches(Counted(0), batch_size=4, seed=0)
    with pytest.raises(UserError, match="holds no examples"):
        eval_batches(Counted(0), batch_size=4)


def test_movi_through_workers_equals_movi_without(tmp_path: Path):
    copy_movi("a", tmp_path)
    clips = movi_clips(tmp_path, "train", CONFIG)
    for one, other in zip(_take(clips, 3), _take(clips, 3, num_workers=2)):
        assert one["name"] == other["name"] and torch.equal(one["video"], other["video"])


def test_damage_in_a_shard_is_skipped_and_counted(tmp_path: Path):
    folder = copy_movi("a", tmp_path)
    flip_byte(shard(folder, index=0), 5000)
    second = shard(folder, index=1)
    second.write_bytes(second.read_bytes()[:-100])
    skipped: list[CorruptRecord] = []
    clips = movi_clips(tmp_path, "train", CONFIG, train=False)
    batches = list(eval_batches(clips, batch_size=4, skip_corrupt=True, on_skip=skipped.append))
    assert [(error.file.name[-14:], error.record) for error in skipped] == [
        ("00000-of-00002", 0),
        ("00001-of-00002", 1),
    ]
    assert [name[-17:] for name in batches[0]["name"]] == ["00000-of-00002__1", "00001-of-00002__0"]
    with pytest.raises(CorruptRecord, match="record 0 does not match its checksum"):
        list(eval_batches(clips, batch_size=4))


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began the tests in the background
sys.path.insert(0, sys.argv[1])
from data.test_loader import Counted
from torchslots.data.loader import train_batches
batches = train_batches(Counted(10), batch_size=2, seed=0, num_workers=2)
try:
    while True:
        next(batches)
        print("batch", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_reaches_the_parent_alone_and_ends_the_workers(tmp_path: Path):
    program = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None and program.stdout.readline() == "batch\n"
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert out.endswith("stopped\n") and err == "" and program.returncode == 0
    end = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(program.pid, 0)
            time.sleep(0.05)
