"""`torchslots bench`: figures of a step, and curves of growth."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from torchslots.cli import main
from torchslots.cli.bench import memory
from torchslots.cli.bench.floor import Products, beside_floor
from torchslots.cli.bench.growth import GrowthOptions, exponent, grow, save
from torchslots.cli.bench.sizes import random_batch, scale
from torchslots.cli.bench.step import AllDistinct, BenchOptions, bench
from torchslots.io.errors import UserError
from torchslots.recipes import catalog
from torchslots.training.step import TrainStep

_SMALL = [
    "--batch",
    "1",
    "--frames",
    "2",
    "--slots",
    "3",
    "--resolution",
    "16",
    "--steps",
    "1",
    "--threads",
    "1",
]


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "savi_small", "--json", "--tensors", *_SMALL]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seconds_per_step"]["min"] > 0 and report["inference_seconds"]["min"] > 0
    assert 0 < report["tensor_bytes"] < report["peak_memory_bytes"]
    assert report["settings"]["slots"] == 3 and report["settings"]["resolution"] == 16


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "savi_small", "--no-inference", *_SMALL]) == 0
    assert "training step" in capsys.readouterr().out


def test_copies_are_counted_as_asked() -> None:
    options = BenchOptions(batch=2, frames=1, slots=6, resolution=16, objects=(2, 3), steps=1, flops=True)
    found = {
        on: bench("savi_small", BenchOptions(**{**options.__dict__, "distinct": on})) for on in (True, False)
    }
    assert found[True]["flops_per_step"] < 0.8 * found[False]["flops_per_step"]


def test_painting_all_gives_the_same_loss() -> None:
    recipe = scale(catalog.recipe("savi_small"), 2, 2, 6, 16, False)
    model, batch = catalog.build(recipe.model), random_batch(recipe, 2, 2, [2, 3])
    one, other = model.loss(batch)["recon_flow"], AllDistinct(model).loss(batch)["recon_flow"]
    assert torch.allclose(one, other, rtol=1e-5)


def fake(settings: dict[str, int]) -> dict[str, object]:
    cost = (
        settings["batch"] * settings["frames"] ** 2 * settings["slots"] ** 0.5 * settings["resolution"] ** 2
    )
    seconds = {"min": float(cost)}
    memory = {"tensor_bytes": cost, "machine": {"device": "cpu"}}
    return {"seconds_per_step": seconds, "cpu_seconds_per_step": seconds, **memory}


def test_growth_is_judged(tmp_path: Path) -> None:
    curves = {curve.axis: curve for curve in grow(GrowthOptions(), fake)}
    powers = {axis: round(curve.time_exponent, 3) for axis, curve in curves.items()}
    assert powers == {"batch": 1, "frames": 2, "slots": 0.5, "resolution": 1}
    assert (
        "more than linear" in curves["frames"].verdict() and "linear or better" in curves["slots"].verdict()
    )
    written = save(list(curves.values()), "fake", tmp_path)
    assert all(file.stat().st_size for file in written)
    assert json.loads((tmp_path / "growth.json").read_text())["curves"][1]["axis"] == "frames"


def test_pictures_have_no_curve_over_frames() -> None:
    assert [curve.axis for curve in grow(GrowthOptions(), fake, True)] == ["batch", "slots", "resolution"]


def test_a_curve_needs_two_points() -> None:
    with pytest.raises(UserError, match="two different"):
        grow(GrowthOptions(grow_slots=(4, 4)), fake)
    assert exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)


def test_the_floor_is_the_products_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "savi_demo", "--no-inference", "--floor", *_SMALL]) == 0
    assert "its products alone" in capsys.readouterr().out


def test_products_of_forward_and_backward_are_replayed_in_their_shapes() -> None:
    layer = torch.nn.Conv2d(3, 5, 3)
    with Products() as products:
        (layer(torch.rand(2, 3, 8, 8)).flatten(1) @ torch.rand(180, 4)).sum().backward()
    assert products.counts() == {"convolution": 1, "mm": 2, "convolution_backward": 1}
    with Products() as again, torch.no_grad():
        products.replay()()
    assert again.counts() == products.counts()
    assert [repr(args) for _, args, _ in again.calls] == [repr(args) for _, args, _ in products.calls]


def test_frames_that_are_no_squares() -> None:
    batch = random_batch(catalog.recipe("isa_waymo_open_transl"), 1, 1)
    assert batch["video"].shape == (1, 1, 3, 128, 192) and batch["segmentations"].shape == (1, 1, 128, 192)


def test_a_model_with_a_teacher_is_measured_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = catalog.recipe("ftdinosaur_small_224")
    model: Any = recipe.model
    backbone = replace(model.backbone, size=12, depth=1, num_heads=2, grid_size=2)
    decoder = replace(model.decoder, hidden=(8,))
    small = replace(
        model, resolution=(28, 28), backbone=backbone, decoder=decoder, slot_size=8, token_hidden=8
    )
    monkeypatch.setattr(catalog, "recipe", lambda name: replace(recipe, model=small))
    report = bench("ftdinosaur_small_224", BenchOptions(batch=1, steps=1, threads=1, resolution=28))
    assert report["seconds_per_step"]["min"] > 0 and report["inference_seconds"]["min"] > 0


@pytest.mark.parametrize("name", ["vqvae_movi_d", "dvae_demo"])
def test_tokenizers_are_measured_without_public_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = catalog.recipe(name)
    vqvae = {"channels": 8, "multipliers": (1, 1), "attention_levels": (1,), "num_groups": 4}
    small = replace(recipe.model, resolution=(16, 16), **(vqvae if name == "vqvae_movi_d" else {}))
    monkeypatch.setattr(catalog, "recipe", lambda name: replace(recipe, model=small))
    monkeypatch.setenv("TORCHSLOTS_FEATURES", "/nowhere")
    report = bench(name, BenchOptions(batch=2, steps=1, threads=1, resolution=16, floor=name == "dvae_demo"))
    assert report["seconds_per_step"]["min"] > 0 and report["inference_seconds"]["min"] > 0


def test_what_a_step_does_besides_its_products_is_named() -> None:
    layer = torch.nn.Linear(4, 4)
    numbers = torch.rand(300_000, 4)
    report = beside_floor(lambda: layer(numbers).cumsum(0).exp(), 1, torch.device("cpu"))
    beside = report["beside"]
    assert {"cumsum", "exp"} <= beside.keys() and not {"addmm", "mm"} & beside.keys()
    assert 0 < sum(beside.values()) < 1 < report["cpu_ratio"]


@pytest.mark.parametrize(("clips", "refused"), [(1, False), (8, False), (9, True)])
def test_a_step_without_memory_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, clips: int, refused: bool
) -> None:
    recipe = catalog.recipe("savi_demo")
    scaled = scale(recipe, clips, 2, 3, 16, recompute=False)
    step = TrainStep(catalog.build(scaled.model), scaled.optim, scaled.train, "cpu")
    clip = random_batch(scaled, 1, 2)
    monkeypatch.setattr(memory, "rise", lambda work: 1000 - sum(v.nbytes for v in clip.values()))
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 850}.__getitem__)
    with pytest.raises(UserError, match=r"--batch 4\b") if refused else nullcontext():
        memory.require_memory(step, clip, clips)


@pytest.mark.parametrize(
    "name", ["steve_demo", "slotdiffusion_demo", "dvae_demo", "savi_sim", "videosaur_demo"]
)
def test_models_without_a_decoder_of_their_own_are_scaled(name: str) -> None:
    scaled = scale(catalog.recipe(name), 3, None, None, None, recompute=False)
    assert scaled.train.batch_size == 3 and len(random_batch(scaled, 2, 1)["video"]) == 2


def test_a_compiled_step_has_no_floor() -> None:
    with pytest.raises(UserError, match="--floor"):
        bench("savi_demo", BenchOptions(floor=True, compile=True))
