"""Every demonstration, whole, on a handful of examples and a few steps."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from torchslots.cli import demo as package
from torchslots.cli.demo import KINDS, demo, generative
from torchslots.cli.demo.plan import UNTRAINED
from torchslots.data.prepare import prepare
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.tokenizers.dvae import DVAE
from torchslots.recipes import catalog
from torchslots.recipes.config import Recipe
from torchslots.recipes.demos import DEMOS
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig
from torchslots.training.stops import Interrupted

PICTURES = {"isa": 8, "slot-attention": 8, "set-prediction": 20}


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators make so few examples sooner than they start processes."""
    monkeypatch.setattr("torchslots.sim.generate_images.count_cores", lambda: 1)
    monkeypatch.setattr("torchslots.sim.generate_videos.count_cores", lambda: 1)
    monkeypatch.setattr(
        "torchslots.data.prepare.prepare", lambda clips, out, num_workers: prepare(clips, out)
    )


def carry_out(system: str, out: Path, examples: int, steps: int = 2) -> dict[str, Any]:
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
def test_pictures_from_nothing_to_a_page(system: str, pictures: set[str], tmp_path: Path) -> None:
    metrics = carry_out(system, tmp_path, PICTURES[system])
    check_page(tmp_path, pictures)
    name = DEMOS[system].name
    assert list(metrics["reports"]) == [name, UNTRAINED]
    assert metrics["examples"] == PICTURES[system] and metrics["steps"] == 2
    assert metrics["reports"][name]["num_videos"] == 2
    assert KINDS[DEMOS[system].kind].monitor in metrics["reports"][UNTRAINED]["metrics"]
    assert list(metrics["seconds"]) == ["Generating images", "Training", "Evaluating", "Plotting"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "more"),
    [("savi", set()), ("statm", {"rollout.mp4", "horizon_fg_ari.png"})],
)
def test_videos_from_nothing_to_a_page(system: str, more: set[str], tmp_path: Path) -> None:
    metrics = carry_out(system, tmp_path, 8, steps=1)
    check_page(
        tmp_path, {"video_0.mp4", "video_0.gif", "fg_ari_per_frame.png", "loss.png", "fg_ari.png"} | more
    )
    assert list(metrics["reports"]) == [DEMOS[system].name, "boxes copied", UNTRAINED]
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
    assert set(DEMOS) == {
        "savi",
        "slot-attention",
        "set-prediction",
        "isa",
        "statm",
        "steve",
        "slotdiffusion",
    }
    assert package.demo is demo


def test_a_system_that_is_not_there() -> None:
    with pytest.raises(UserError, match="slot-attention"):
        demo(Path("nowhere"), system="slot_attention")


def test_recipes_of_demonstrations_are_named() -> None:
    for kind in DEMOS.values():
        for name in filter(None, (kind.recipe, kind.tokenizer)):
            assert catalog.recipe(name).name == name


def test_statm_follows_savi() -> None:
    savi, statm = catalog.recipe("savi_demo"), catalog.recipe("statm_demo")
    assert statm.optim == savi.optim and statm.data == savi.data and statm.train == savi.train
    assert statm.model.savi == savi.model  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes of what generates, judged on a few frames, and drawing in two steps."""
    for system in ("steve", "slotdiffusion"):
        kind = DEMOS[system]
        for name in filter(None, (kind.recipe, kind.tokenizer)):
            monkeypatch.setitem(catalog.RECIPES, name, partial(_shorter, catalog.RECIPES[name]))
    monkeypatch.setattr("torchslots.cli.demo.generative._AVERAGED", 4)


def _shorter(make: Callable[[], Recipe]) -> Recipe:
    recipe = make()
    model = recipe.model
    if isinstance(model, SlotDiffusionConfig):
        model = replace(model, sampling=replace(model.sampling, num_steps=2))
    evaluation = replace(recipe.evaluation, num_frames=4)
    train = replace(recipe.train, batch_size=2, num_workers=0)
    return replace(recipe, model=model, evaluation=evaluation, train=train)


GENERATED = {"video_0.mp4", "video_0.gif", "reconstructions.png", "edited.mp4", "edited.png", "loss.png"}


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("system", ["steve", pytest.param("slotdiffusion", marks=pytest.mark.slow)])
def test_generated_from_nothing_to_a_page(system: str, tmp_path: Path) -> None:
    metrics = carry_out(system, tmp_path, 8)
    check_page(tmp_path, GENERATED)
    kind = DEMOS[system]
    assert list(metrics["reports"]) == [kind.name, generative.MEAN, UNTRAINED]
    own, mean = (metrics["reports"][name]["metrics"] for name in (kind.name, generative.MEAN))
    assert {"fg_ari", "mbo", "psnr", "ssim", "psnr_ceiling"} <= set(own)
    assert "psnr" in mean and "fg_ari" not in mean
    assert list(metrics["seconds"])[:3] == ["Generating videos", "Training the tokenizer", "Training"]
    text = (tmp_path / "index.html").read_text()
    assert f"PSNR of {own['psnr']:.1f} dB" in text and f"has {mean['psnr']:.1f} dB" in text
    written = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("tokenizer", "run")]
    carry_out(system, tmp_path, 8)
    assert written == [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("tokenizer", "run")]


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_both_trainings_go_on_where_they_were_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first and then in the second training, the same command ends as one that nobody stopped."""
    carry_out("steve", tmp_path / "whole", 8, steps=10)
    for part in (DVAE, AutoregressiveDecoder):
        with monkeypatch.context() as patched, pytest.raises(Interrupted, match=r"after step [12] of"):
            patched.setattr(part, "loss", _stopping(part.loss))
            carry_out("steve", tmp_path / "stopped", 8, steps=10)
    carry_out("steve", tmp_path / "stopped", 8, steps=10)
    for run in ("tokenizer", "run"):
        whole, stopped = (
            (tmp_path / name / run / "model" / "model.safetensors") for name in ("whole", "stopped")
        )
        assert whole.read_bytes() == stopped.read_bytes()


def _stopping(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss, but the first time the process is asked to stop."""
    asked = []

    def call(*args: Any) -> Any:
        if not asked:
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*args)

    return call


def test_an_image_code_is_trained_in_proportion() -> None:
    kind = DEMOS["steve"]
    usual = catalog.recipe(kind.recipe).optim.num_steps
    for steps in (None, usual, 2 * usual, 1):
        code = package._tokenizer(kind, steps, seed=7)  # pyright: ignore[reportPrivateUsage]
        assert code is not None and code.train.seed == 7
        wanted = catalog.recipe("dvae_demo").optim.num_steps * (steps or usual) / usual
        assert code.optim.num_steps == max(1, round(wanted))
    assert package._tokenizer(DEMOS["isa"], None, 0) is None  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("words", "named"), [({"examples": 0}, "--examples"), ({"held_out": -1}, "--held-out")]
)
def test_no_examples_are_refused_before_any_is_made(
    tmp_path: Path, words: dict[str, int], named: str
) -> None:
    with pytest.raises(UserError, match=f"{named} is"):
        demo(tmp_path / "out", system="slot-attention", steps=1, **words)
    assert not (tmp_path / "out").exists()


def test_what_the_clock_ended_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = replace(DEMOS["savi"], seconds=1e-3)
    monkeypatch.setitem(DEMOS, "savi", timed)
    monkeypatch.setattr("torchslots.cli.demo.plan._BESIDE_STEPS", -1e5)  # as if a step took next to no time
    monkeypatch.setattr("torchslots.cli.demo.plan._TRIALS", 2)
    out = tmp_path / "out"
    demo(out, examples=2, held_out=2)
    said = capsys.readouterr()
    assert "The time is over: 1 of" in said.err and "Timing a step:" in said.out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 1 and "for 1 step" in (out / "index.html").read_text()
    demo(out, examples=2, held_out=2)
    assert "keeps its 1 step" in capsys.readouterr().err
    demo(out, examples=2, held_out=2, steps=2)
    assert json.loads((out / "metrics.json").read_text())["steps"] == 2
