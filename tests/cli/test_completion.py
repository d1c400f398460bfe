"""The scripts of `torchslots completion`, run by bash and zsh."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from torchslots.cli import COMMANDS, main
from torchslots.recipes import catalog

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_torchslots
printf '%s\\n' "${COMPREPLY[@]}"
complete -p torchslots >&2
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_commands_recipes_data_sets_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "torchslots"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> set[str]:
        asked = ["bash", "-c", ASK, "bash", str(script), "torchslots", *words]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert "-F _torchslots torchslots" in done.stderr, "bash knows what completes the command"
        return set(done.stdout.split())

    assert complete("") == set(COMMANDS)
    assert complete("ev") == {"evaluate"}
    assert complete("train", "") == set(catalog.RECIPES)
    assert complete("train", "slots_v") == {"slots_video"}
    assert complete("data", "in") == {"inspect"}
    assert complete("data", "inspect", "movi_a") == {"movi_a"}
    assert "movi_solid" in complete("train", "savi_small", "--data", "movi_s")
    assert complete("demo", "--system", "st") == {"statm", "steve"}
    assert complete("predict", "savi_si") == complete("pretrained", "info", "savi_si") == {"savi_sim"}
    assert complete("train", "savi_small", "--init", "slots_si") == {"slots_sim"}
    assert complete("evaluate", str(tmp_path.parent / tmp_path.name[:-1])) >= {str(tmp_path)}, "runs, too"
    assert complete("predict", "slots_sim", "fi") == set(), "bash completes file names"


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "fish"])
    assert stopped.value.code == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_tab_completes_in_zsh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an interactive shell, with the line that the documentation writes to ~/.zshrc."""
    assert main(["completion", "zsh"]) == 0
    (tmp_path / ".torchslots.zsh").write_text(capsys.readouterr().out)
    (tmp_path / ".zshrc").write_text("PS1='> '\nsource ~/.torchslots.zsh\n")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "film.mp4").touch()
    shell, terminal = pty.openpty()
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "dumb", "LANG": "C.UTF-8"}
    zsh = subprocess.Popen(
        ["zsh", "-i"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=home,
        cwd=tmp_path,
        start_new_session=True,
    )

    def typed(keys: str, wanted: str) -> None:
        os.write(shell, keys.encode())
        said, end = "", time.monotonic() + 20
        while wanted not in said and time.monotonic() < end:
            if select.select([shell], [], [], 0.1)[0]:
                said += os.read(shell, 1 << 16).decode(errors="replace")
        assert wanted in said, said
        os.write(shell, b"\x15")

    try:
        typed("", "> ")
        typed("torchslots ev\t", "torchslots evaluate ")
        typed("torchslots train slots_v\t", "slots_video ")
        typed("torchslots predict savi_si\t", "savi_sim ")
        typed("torchslots evaluate run\t", "runs/")
        typed("torchslots predict slots_sim fi\t", "film.mp4")
    finally:
        zsh.kill()
        zsh.wait()
        os.close(shell)
        os.close(terminal)
