"""Every demonstration, whole, on a handful of examples and a few steps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from torchslots import demo as package
from torchslots.demo import SYSTEMS, SystemName, demo
from torchslots.demo.plan import UNTRAINED
from torchslots.errors import UserError
from torchslots.recipes import catalog
from torchslots.training.log import read_log

PICTURES = {"isa": 8, "slot-attention": 8, "set-prediction": 20}


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators make so few examples sooner than they start processes."""
    monkeypatch.setattr("torchslots.sim.images.count_cores", lambda: 1)
    monkeypatch.setattr("torchslots.sim.write.count_cores", lambda: 1)


def carry_out(system: SystemName, out: Path, examples: int, steps: int = 2) -> dict[str, Any]:
    page = demo(out, system=system, examples=examples, held_out=2, steps=steps)
    assert page == out / "index.html"
    return json.loads((out / "metrics.json").read_text())


def check_page(out: Path, pictures: set[str]) -> None:
    """All pictures are there, are on the page, and the page needs nothing else."""
    found = {path.name for path in (out / "pictures").iterdir()}
    assert pictures <= found
    text = (out / "index.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) >= len({name for name in pictures if not name.endswith(".gif")})
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r'(href|src)="(?!data:)', text)
    assert "What took how long" in text and "untrained" in text


@pytest.mark.parametrize(
    ("system", "pictures"),
    [
        ("slot-attention", {"image_0.png", "image_1.png", "loss.png", "fg_ari.png"}),
        ("isa", {"image_0.png", "moved.png", "loss.png", "fg_ari.png"}),
        ("set-prediction", {"properties_0.png", "average_precision.png", "loss.png", "ap_inf.png"}),
    ],
)
def test_pictures_from_nothing_to_a_page(system: SystemName, pictures: set[str], tmp_path: Path) -> None:
    metrics = carry_out(system, tmp_path, PICTURES[system])
    check_page(tmp_path, pictures)
    kind = SYSTEMS[system]
    assert list(metrics["reports"]) == [kind.name, UNTRAINED]
    assert metrics["examples"] == PICTURES[system] and metrics["steps"] == 2
    assert metrics["reports"][kind.name]["num_videos"] == 2
    assert kind.monitor in metrics["reports"][UNTRAINED]["metrics"]
    assert list(metrics["seconds"]) == ["Generating pictures", "Training", "Evaluating", "Drawing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "more"),
    [("savi", set()), ("statm", {"rollout.mp4", "horizon_fg_ari.png"})],
)
def test_videos_from_nothing_to_a_page(system: SystemName, more: set[str], tmp_path: Path) -> None:
    metrics = carry_out(system, tmp_path, 8, steps=1)
    check_page(
        tmp_path, {"video_0.mp4", "video_0.gif", "fg_ari_per_frame.png", "loss.png", "fg_ari.png"} | more
    )
    assert list(metrics["reports"]) == [SYSTEMS[system].name, "boxes copied", UNTRAINED]
    assert ("horizon" in metrics) == (system == "statm")


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    carry_out("isa", tmp_path, 8)
    written = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = carry_out("isa", tmp_path, 8)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == written
    assert again["steps"] == max(record["step"] for record in read_log(tmp_path / "run"))


def test_trained_and_judged_on_different_pictures(tmp_path: Path) -> None:
    demo(tmp_path, system="isa", examples=4, held_out=4, steps=1)
    files = sorted((tmp_path / "data").glob("*/tetrominoes/*.tfrecords"))
    assert len(files) == 2 and files[0].read_bytes() != files[1].read_bytes()


def test_without_a_system_it_is_savi() -> None:
    assert demo.__kwdefaults__ is not None and demo.__kwdefaults__["system"] == "savi"
    assert set(SYSTEMS) == {"savi", "slot-attention", "set-prediction", "isa", "statm"}
    assert package.demo is demo


def test_a_system_that_is_not_there() -> None:
    with pytest.raises(UserError, match="slot-attention"):
        demo(Path("nowhere"), system="slot_attention")  # pyright: ignore[reportArgumentType]


def test_recipes_of_demonstrations_are_named() -> None:
    for kind in SYSTEMS.values():
        assert catalog.recipe(kind.recipe).name == kind.recipe


def test_statm_follows_savi() -> None:
    savi, statm = catalog.recipe("savi_demo"), catalog.recipe("statm_demo")
    assert statm.optim == savi.optim and statm.data == savi.data and statm.train == savi.train
    assert statm.model.savi == savi.model  # pyright: ignore[reportAttributeAccessIssue]
