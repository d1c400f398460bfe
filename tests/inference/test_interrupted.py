"""Evaluations and compositions that stop midway go on where they stopped, with equal figures."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchslots
from inference.small_sets import Means, Videos, painter
from tiny_models import TINY, batch, tiny
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.first_frames import FirstFrames
from torchslots.evaluation.frame_folders import Films
from torchslots.evaluation.kept import Kept
from torchslots.evaluation.observers import ReconstructionFigures
from torchslots.inference import compose as composing
from torchslots.inference.compose import ComposeOptions, compose_videos, kept_compositions
from torchslots.io import video
from torchslots.io.draw import PALETTE
from torchslots.io.errors import UserError
from torchslots.metrics.reconstruction import ReconstructionScores
from torchslots.recipes.config import EvalConfig
from torchslots.recipes.savi import DecoderConfig, build

CONFIG = EvalConfig(num_frames=6, slice_size=4)
COMPOSED = EvalConfig(num_frames=3, slice_size=2, batch_size=2)


def batches(number: int = 4) -> list[dict[str, Any]]:
    """Different batches of two videos with objects."""
    return [
        {
            **{key: value.roll(shift, -1) for key, value in batch(6).items() if key != "boxes"},
            "boxes": batch(6)["boxes"],
            "name": [f"video {shift}a", f"video {shift}b"],
        }
        for shift in range(number)
    ]


class Interrupted(Exception):
    """The process was stopped."""


class Layouts(ReconstructionFigures):
    """Notes how the reconstructions lie in memory, on which the last digit of a sum depends."""

    def __init__(self) -> None:
        super().__init__(ReconstructionScores())
        self.seen: list[tuple[int, ...]] = []

    def add(self, seen: Any, found: Any) -> None:
        self.seen.append(found.recon["video"].stride())
        super().add(seen, found)


def stopping(items: list[Any], after: int):
    yield from items[:after]
    raise Interrupted


@pytest.mark.parametrize("decoded", [False, True])
def test_an_evaluation_goes_on_with_equal_figures(tmp_path: Path, monkeypatch, decoded: bool) -> None:
    model = tiny("learned")
    ran: list[int] = []
    predict = model.predict

    def counted(part: Any, *arguments: Any, **options: Any) -> Any:
        ran.append(len(part["video"]))
        found = predict(part, *arguments, **options)
        squares = part["video"] ** 2
        laid_out_otherwise = (
            squares.movedim(2, -1).contiguous().movedim(-1, 2)
        )  # as channels-last layers leave it
        return found._replace(recon={"video": laid_out_otherwise}) if decoded else found

    monkeypatch.setattr(model, "predict", counted)

    def run(items: Any, kept: Kept | None) -> Any:
        extra = [layouts] if decoded else []
        return evaluate(model, items, CONFIG, num_plots=1, observers=extra, kept=kept)

    layouts = Layouts()
    whole, of_whole = run(batches(), None), [*layouts.seen]
    assert len(ran) == 8
    ran.clear()
    with pytest.raises(Interrupted):
        run(stopping(batches(), 3), Kept(tmp_path / "kept", "job"))
    assert len(ran) == 6
    ran.clear()
    kept, layouts = Kept(tmp_path / "kept", "job"), Layouts()
    again = run(batches(), kept)
    assert kept.resumes and len(ran) == 2
    assert layouts.seen == of_whole
    assert again == whole and again.metrics and ("mse" in again.metrics) == decoded
    for ours, theirs in zip(again.panels, whole.panels):
        assert np.array_equal(ours.panel(), theirs.panel())
    kept.remove()
    assert not list((tmp_path / "kept").iterdir())


def test_another_job_or_other_frames_are_evaluated_anew(tmp_path: Path) -> None:
    model, kept = tiny("learned"), Kept(tmp_path, "one")
    evaluate(model, batches(2), CONFIG, num_plots=0, kept=kept)
    assert len(list(tmp_path.rglob("*.kept"))) == 2
    changed = batches(2)
    changed[1]["video"] = 1 - changed[1]["video"]
    found = evaluate(model, changed, CONFIG, num_plots=0, kept=Kept(tmp_path, "one"))
    assert found == evaluate(model, changed, CONFIG, num_plots=0)
    assert len(list(tmp_path.rglob("*.kept"))) == 3
    changed[0]["segmentations"] = 3 - changed[0]["segmentations"]
    evaluate(model, changed, CONFIG, num_plots=0, kept=Kept(tmp_path, "one"))
    assert len(list(tmp_path.rglob("*.kept"))) == 4
    other = Kept(tmp_path, "two")
    assert not other.resumes and not list(tmp_path.iterdir())
    assert not Kept(tmp_path, "two").resumes


def test_a_file_that_is_not_whole_is_computed_again(tmp_path: Path) -> None:
    model = tiny("learned")
    whole = evaluate(model, batches(1), CONFIG, num_plots=0, kept=Kept(tmp_path, "job"))
    file = next(tmp_path.rglob("*.kept"))
    file.write_bytes(file.read_bytes()[:-7])
    assert evaluate(model, batches(1), CONFIG, num_plots=0, kept=Kept(tmp_path, "job")) == whole


def test_compositions_go_on_with_equal_figures(tmp_path: Path, monkeypatch) -> None:
    model, videos, networks = painter("slotdiffusion"), Videos(), {"fvd": Means(), "fid": Means()}
    options, decoded = ComposeOptions(seed=1, num_plots=1), []
    real = composing.decode_frames

    def run(folder: Path, stop: int | None = None) -> Any:
        decoded.clear()

        def counted(*arguments: Any) -> Any:
            if stop is not None and len(decoded) == stop:
                raise Interrupted
            decoded.append(1)
            return real(*arguments)

        monkeypatch.setattr(composing, "decode_frames", counted)
        kept = kept_compositions(model, folder, COMPOSED, options, 0)
        return compose_videos(model, videos, COMPOSED, options, networks=networks, kept=kept)

    whole = run(tmp_path / "whole")
    assert len(decoded) == 5 and whole.metrics
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", 3)
    again = run(tmp_path / "parts")
    assert len(decoded) == 2
    assert again.metrics == whole.metrics and again.settings == whole.settings
    assert np.array_equal(again.panels[0].panel(), whole.panels[0].panel())


def test_samples_of_one_source_are_not_kept(tmp_path: Path) -> None:
    model = painter("steve")
    options = ComposeOptions()
    assert kept_compositions(model, tmp_path, COMPOSED, options, 0) is not None
    sampled = ComposeOptions(sampling=type(options.sampling)(temperature=1.0))
    assert kept_compositions(model, tmp_path, COMPOSED, sampled, 0) is None


def test_several_lengths_in_one_pass_are_those_of_their_own() -> None:
    model, config = tiny("learned"), EvalConfig(num_frames=6, slice_size=2)
    lengths = (1, 3, 4, 6)
    observers = [FirstFrames(config, length) for length in lengths]
    report = evaluate(model, batches(), config, num_plots=0, observers=observers)
    for length in lengths:
        alone = evaluate(model, batches(), EvalConfig(num_frames=length, slice_size=2), num_plots=0)
        found = {
            name.removesuffix(f"_first_{length}"): value
            for name, value in report.metrics.items()
            if name.endswith(f"_first_{length}")
        }
        assert found == pytest.approx(alone.metrics, rel=1e-5, abs=1e-6) and found
    assert report.metrics["fg_ari_first_6"] == report.metrics["fg_ari"]
    assert report.metrics["fg_ari_first_1"] != report.metrics["fg_ari"]


def test_films_are_apart_and_have_their_own_frames(tmp_path: Path) -> None:
    model = painter("slotdiffusion")
    sizes = {1: 2}
    data = Videos(3, 3, sizes)
    items = [
        {
            "video": torch.stack([data.sample(index, None)["video"] for index in group]),
            "padding_mask": torch.stack([data.sample(index, None)["padding_mask"] for index in group]),
            "name": [data.name(index) for index in group],
        }
        for group in ((0, 1), (2,))
    ]
    report = evaluate(model, items, COMPOSED, num_plots=0, observers=[Films(tmp_path)])
    assert report.num_videos == 3
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{index}_{kind}.mp4" for index in range(3) for kind in ("gt", "recon")]
    for index in range(3):
        expected = items[index // 2]["video"][index % 2][: sizes.get(index, 3)]
        for kind in ("gt", "recon"):
            frames = video.read_frames(tmp_path / f"{index}_{kind}.mp4")
            assert len(frames) == len(expected)
            if kind == "gt":
                mean = frames.mean((1, 2)) / 255
                assert np.abs(mean - expected.mean((2, 3)).numpy()).max() < 0.05


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three clips of frames with masks of two objects."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    ids = np.zeros((16, 24), np.uint8)
    ids[2:8, 2:9], ids[9:15, 11:22] = 1, 2
    for name in "abc":
        for number in range(2):
            frame = rng.integers(0, 256, (16, 24, 3), np.uint8)
            video.write_png(root / "validation" / name / f"{number}.png", frame)
            video.write_palette_png(root / "masks" / "validation" / name / f"{number}.png", ids, PALETTE)
    return root


def test_evaluate_goes_on_and_leaves_nothing_behind(tmp_path: Path, films: Path, monkeypatch, capsys) -> None:
    torch.manual_seed(0)
    decoder = DecoderConfig(grid=(4, 4), channels=(8, 6), strides=(2, 2))
    model = build(replace(TINY, resolution=(16, 16), decoder=decoder, conditioning="learned")).eval()
    how = {"data": "folder", "split": "validation", "num_workers": 0, "batch_size": 1, "num_frames": 2}
    run = partial(torchslots.evaluate, model, films, num_plots=0, lengths=(1,), **how)
    whole = run(out=tmp_path / "whole")
    assert "fg_ari_first_1" in whole.metrics and not list((tmp_path / "whole").glob(".*"))
    predict, ran = model.predict, []

    def counted(*arguments: Any, **options: Any) -> Any:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(1)
        return predict(*arguments, **options)

    monkeypatch.setattr(model, "predict", counted)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "parts")
    ran.clear()
    ran.append(1)
    assert run(out=tmp_path / "parts") == whole and len(ran) == 2
    assert "Going on with the evaluation" in capsys.readouterr().err
    assert not list((tmp_path / "parts").glob(".*"))
    written = [(tmp_path / name / "eval.json").read_bytes() for name in ("whole", "parts")]
    assert written[0] == written[1]


def test_lengths_beyond_the_video_are_refused(films: Path) -> None:
    square = replace(TINY, resolution=(16, 16), decoder=replace(TINY.decoder, grid=(4, 4)))
    model = build(replace(square, conditioning="learned")).eval()
    with pytest.raises(UserError, match="from 1 to 2"):
        torchslots.evaluate(model, films, data="folder", num_frames=2, num_workers=0, lengths=(3,))
