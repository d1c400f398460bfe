"""Signals to a whole group of processes, and loading processes that are killed."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import Forked
from torchslots.cli import main
from torchslots.io.errors import UserError, note
from torchslots.io.run_log import read_log
from torchslots.training import checkpoint

PROGRAM = Path(__file__).with_name("tiny_run.py")


def _begin(run: Path) -> Forked:
    """A training with two loading processes, in a group of its own; returns after a few steps."""
    arguments = [{"steps": 10**5, "workers": 2, "sleep": 0.002, "run": str(run), "checkpoint_every": 10**6}]
    process = Forked(PROGRAM, [json.dumps(arguments)], own_group=True)
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


def _loaders(process: Forked) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _end(process: Forked) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    assert out, (process.returncode, err)
    ((code, message),) = json.loads(out)
    return code, message, err


def _to_the_group(process: Forked) -> None:
    os.killpg(process.pid, signal.SIGTERM)


def _loaders_first(process: Forked) -> None:
    """Both at once: the training, which stands still meanwhile, finds its loaders dead and the signal come."""
    loaders = _loaders(process)
    os.kill(process.pid, signal.SIGSTOP)
    for loader in loaders:
        os.kill(loader, signal.SIGKILL)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)


def _one_loader(process: Forked) -> None:
    os.kill(_loaders(process)[0], signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("attack", "code", "says"),
    [
        (_to_the_group, 143, "Stopped by SIGTERM after step"),
        (_loaders_first, 143, "Stopped by SIGTERM after step"),
        (_one_loader, 2, "A data loading process died .*lower the number of workers"),
    ],
    ids=["group", "loaders killed too", "one loader killed"],
)
def test_a_run_ends_with_a_checkpoint(
    tmp_path: Path, attack: Callable[[Forked], None], code: int, says: str
) -> None:
    process = _begin(tmp_path / "run")
    loaders = _loaders(process)
    assert len(loaders) >= 2
    attack(process)
    found, message, err = _end(process)
    assert found == code and re.search(says, message), (message, err)
    assert "Traceback" not in err
    (step,) = checkpoint.list_steps(tmp_path / "run")
    assert step >= read_log(tmp_path / "run")[-1]["step"] > 5
    assert not [loader for loader in loaders if Path(f"/proc/{loader}").exists()]


@pytest.mark.parametrize(
    ("rank", "process", "said"), [("0", None, 1), ("1", None, 0), ("1", 1, 1)], ids=["first", "other", "own"]
)
def test_an_error_of_all_processes_is_printed_once(
    rank: str,
    process: int | None,
    said: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = UserError("the message")
    error.process = process

    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torchslots.cli.recipes.recipes", fail)
    assert main(["recipes"]) == 2
    text = capsys.readouterr().err
    assert text.count("the message") == said
    assert (", process 1:" in text) == (process == 1)


def test_wrong_flags_are_explained_by_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit):
            main(["recipes", "--nothing"])
        texts.append("".join(capsys.readouterr()))
    assert "--nothing" in texts[0] and not texts[1]


@pytest.mark.parametrize("command", [("train", "savi_demo"), ("evaluate",)])
def test_torchrun_takes_no_flag_for_its_own(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.distributed.run import get_args_parser

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", capsys.readouterr().out))
    assert len(flags) > 20
    own = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    mistaken = {flag for flag in flags if any(one.startswith(flag) for one in own)}
    assert mistaken <= {"--run", "--monitor", "--help"}
    parsed = get_args_parser().parse_args(
        ["--nproc-per-node", "2", "-m", "torchslots", "train", "--run-dir", "r"]
    )
    assert parsed.training_script_args == ["train", "--run-dir", "r"]


def test_notes_that_all_processes_would_print_are_printed_by_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        note(f"of all, by {rank}")
        note(f"of a file, by {rank}", everywhere=True)
        texts.append(capsys.readouterr().err)
    assert texts == ["Note: of all, by 0\nNote: of a file, by 0\n", "Note: of a file, by 1\n"]
