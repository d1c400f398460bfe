"""`benchmarks/all.py`: what fails is noted and loses nothing."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

_FILE = Path(__file__).parents[3] / "benchmarks" / "all.py"


@pytest.fixture
def everything() -> ModuleType:
    spec = spec_from_file_location("benchmarks_all", _FILE)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _breaks(threads: list[str]) -> dict[str, float]:
    line = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    subprocess.run(line, check=True, capture_output=True, text=True)
    return {}


def test_a_section_that_fails_loses_no_other(
    everything: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"good": lambda threads: {"threads": threads}, "bad": _breaks, "last": lambda threads: {}}
    monkeypatch.setattr(everything, "SECTIONS", found)
    out = tmp_path / "results.json"
    out.write_text('{"older": 1}')
    with pytest.raises(SystemExit, match="bad failed"):
        everything.main(out, ("good", "bad", "last"), 1)
    report = json.loads(out.read_text())
    assert list(report) == ["older", "good", "bad", "last"]
    assert "no such thing" in report["bad"]["failed"] and report["good"]["threads"] == ["--threads", "1"]
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_unknown_sections_are_refused(everything: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no section nothing"):
        everything.main(tmp_path / "results.json", ("nothing",))
    assert set(everything.USUAL) == set(everything.SECTIONS) - {"compiled"}
