"""The script of `torchslots completion`, run by bash."""

import shutil
import subprocess
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
    assert complete("evaluate", "runs/") == set(), "bash completes file names"


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "fish"])
    assert stopped.value.code == 2
