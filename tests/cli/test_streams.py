"""Standard streams that are full, closed or gone."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torchslots import cli
from torchslots.cli.streams import Forgiving, standard_streams
from torchslots.io.progress import progress

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


@needs_full
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["data", "list"], ["data"]])
def test_a_full_output_is_one_message(words, monkeypatch, capsys) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "The output" in told and "No space left on device" in told


def test_a_pipe_without_a_reader_is_no_error_of_its_own(monkeypatch, capsys) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main(["--help"]) == 0
    assert capsys.readouterr().err == ""


def _raises(error: Exception) -> Callable[..., int]:
    def command(name: str, words: list[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize("closed", [False, True])
def test_a_broken_connection_is_no_pipe_without_a_reader(closed, monkeypatch, capfd) -> None:
    if closed:
        monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(cli, "_answer", _raises(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert cli.main(["data"]) == 2
    assert "cannot be used: Broken pipe" in capfd.readouterr().err


def test_an_error_of_reading_without_a_name_is_one_message(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "_answer", _raises(OSError(errno.EIO, "Input/output error")))
    assert cli.main(["data"]) == 2
    assert "cannot be used: Input/output error." in capsys.readouterr().err


def test_closed_streams_stop_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["--help"]) == 0
    assert cli.main(["nothing"]) == 2
    with standard_streams(), progress("Training", 3) as advance:
        advance(1, note="loss")
        print("lost", file=sys.stderr)
    assert sys.stdout is None and sys.stderr is None


@needs_full
def test_messages_that_cannot_be_written_are_dropped(monkeypatch) -> None:
    full = FULL.open("w", buffering=1)
    monkeypatch.setattr(sys, "stderr", full)
    assert cli.main(["nothing"]) == 2
    assert Forgiving(full).write("lost\n") == 5
    with contextlib.suppress(OSError):
        full.close()


def test_a_closed_descriptor_is_not_the_next_files(tmp_path: Path) -> None:
    """Else what libraries print to standard error would be written into that file."""
    kept = os.dup(2)
    try:
        os.close(2)
        with standard_streams(), (tmp_path / "weights").open("wb") as file:
            assert file.fileno() != 2 and os.fstat(2).st_rdev == Path(os.devnull).stat().st_rdev
    finally:
        os.dup2(kept, 2)
        os.close(kept)
