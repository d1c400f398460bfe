"""Videos composed of the slots of many: what is decoded, what it is compared with, what is written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.small_sets import Means, Videos, painter
from tiny_models import TINY, tiny
from torchslots.inference.compose import ComposeOptions, Composition, compose_videos, save
from torchslots.inference.generation import decode_frames
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.metrics.reconstruction import SetDistances
from torchslots.models.clips import plain_clip, random_plan
from torchslots.models.layers.ranges import to_bytes
from torchslots.models.types import Batch
from torchslots.recipes import savi
from torchslots.recipes.config import EvalConfig
from training.two_steps import SIDE

SETTINGS = EvalConfig(num_frames=3, slice_size=2, batch_size=2)


def written(folder: Path) -> dict[str, np.ndarray]:
    """All pictures below a folder."""
    return {str(file.relative_to(folder)): video.read_image(file) for file in folder.rglob("*.png")}


@torch.no_grad()
def slots(model, videos: Videos) -> torch.Tensor:
    return torch.cat(
        [model.encode({"video": videos.sample(i, None)["video"][None]}).slots for i in range(len(videos))]
    )


@pytest.mark.parametrize("name", ["steve", "slotdiffusion"])
def test_all_slots_are_exchanged_and_decoded(name, tmp_path):
    model, videos = painter(name), Videos()
    report = compose_videos(
        model, videos, SETTINGS, ComposeOptions(seed=1, num_plots=2, write_videos=tmp_path)
    )
    files, plan, own = written(tmp_path), random_plan(5, 3, 1), slots(model, videos)
    assert len(files) == 2 * 5 * 3 and report.num_videos == 5 and report.metrics == {}
    for number in range(5):
        mixed = torch.stack([own[plan[number, slot], :, slot] for slot in range(3)], 1)[None]
        expected = decode_frames(model, plain_clip(mixed))[0]
        real = to_bytes(videos.sample(number, None)["video"])
        for time in range(3):
            made = files[f"comp_vids/{number}/{time:05d}.png"].astype(int)
            assert np.abs(made - expected[time].permute(1, 2, 0).numpy()).max() <= 1
            assert np.array_equal(
                files[f"gt_vids/{number}/{time:05d}.png"], real[time].permute(1, 2, 0).numpy()
            )
    labels = report.panels[1]
    assert isinstance(labels, Composition) and labels.labels == [
        f"slot {k}: video {plan[1, k]}" for k in range(3)
    ]


def test_batches_change_nothing_but_the_published_shift(tmp_path):
    model = painter("steve")
    for size in (1, 5):
        settings = replace(SETTINGS, batch_size=size)
        options = ComposeOptions(num_plots=0, write_videos=tmp_path / f"chance{size}")
        compose_videos(model, Videos(), settings, options)
        shift = replace(options, reference_shift=True, write_videos=tmp_path / f"shift{size}")
        compose_videos(model, Videos(), settings, shift)
    one, five = written(tmp_path / "chance1"), written(tmp_path / "chance5")
    assert one.keys() == five.keys() and all(np.array_equal(one[file], five[file]) for file in one)
    one, five = written(tmp_path / "shift1"), written(tmp_path / "shift5")
    assert not all(np.array_equal(one[file], five[file]) for file in one)
    plain = decode_frames(
        model, plain_clip(slots(model, Videos()))
    )  # with batches of one nothing is exchanged
    for number in range(5):
        made = np.stack([one[f"comp_vids/{number}/{time:05d}.png"] for time in range(3)])
        assert np.array_equal(made, plain[number].permute(0, 2, 3, 1).numpy())


def test_sets_are_compared(tmp_path):
    model, videos = painter("steve"), Videos(6, frames=11)
    settings = replace(SETTINGS, num_frames=11)
    networks = {"fid": Means(), "fvd": Means()}
    options = ComposeOptions(num_plots=0, write_videos=tmp_path, published_order=True)
    report = compose_videos(model, videos, settings, options, networks=networks)
    by_hand = SetDistances(networks, published_order=True)
    files = written(tmp_path)
    assert "comp_vids/0/10.png" in files and "gt_vids/5/0.png" in files
    for number in range(6):
        for name, real in (("gt_vids", True), ("comp_vids", False)):
            frames = np.stack([files[f"{name}/{number}/{time}.png"] for time in range(11)])
            by_hand.add(torch.from_numpy(frames).permute(0, 3, 1, 2), f"video {number}", real=real)
    figures, definitions, notes = by_hand.compute()
    assert report.metrics == pytest.approx(figures) and report.metrics["fid"] > 0
    assert notes == report.notes and "shorter than its clips" in notes[0]  # 11 frames: no clip of 16
    assert report.definitions == definitions


def test_a_composition_is_as_long_as_its_shortest_source(tmp_path):
    videos, plan = Videos(lengths={0: 1, 1: 2}), random_plan(5, 3, 0)
    report = compose_videos(painter("steve"), videos, SETTINGS, ComposeOptions(write_videos=tmp_path))
    lengths = np.array([1, 2, 3, 3, 3])
    for number in range(5):
        assert len(list((tmp_path / "comp_vids" / str(number)).iterdir())) == lengths[plan[number]].min()
        assert len(list((tmp_path / "gt_vids" / str(number)).iterdir())) == lengths[number]
    assert [len(drawn.panel()) for drawn in report.panels] == lengths[plan[:4]].min(1).tolist()


def test_films_show_compositions_beside_their_sources(tmp_path):
    report = compose_videos(painter("steve"), Videos(), SETTINGS, ComposeOptions(num_plots=2))
    files = save(report, tmp_path)
    assert [file.name for file in files] == [
        "compose.json",
        *("composed_0.mp4", "composed_0.gif", "composed_1.mp4", "composed_1.gif"),
    ]
    told = json.loads(files[0].read_text())
    assert told["num_videos"] == 5 and told["settings"]["num_slots"] == 3
    panel = report.panels[0].panel(64)
    assert panel.shape[0] == 3 and panel.shape[2] > 4 * 64  # the composition and three sources in a row


def test_slots_that_start_from_boxes_are_exchanged_too(tmp_path):
    torch.manual_seed(0)
    config = replace(
        TINY, resolution=(SIDE, SIDE), targets=("video",), decoder=replace(TINY.decoder, grid=(4, 4))
    )

    class Boxed(Videos):
        def sample(self, index: int, rng: np.random.Generator | None) -> Batch:
            corner = np.random.default_rng(index).random((1, 2, 2), np.float32) / 2
            boxes = np.concatenate([corner, corner + 0.4], -1).repeat(self.frames, 0)
            return {**super().sample(index, rng), "boxes": torch.from_numpy(boxes)}

    report = compose_videos(
        savi.build(config).eval(), Boxed(), SETTINGS, ComposeOptions(write_videos=tmp_path)
    )
    assert report.settings["num_slots"] == 3 and len(written(tmp_path)) == 2 * 5 * 3


def test_models_that_decode_no_frames_are_refused():
    with pytest.raises(UserError, match="decodes flow, not frames"):
        compose_videos(tiny("learned"), Videos(), SETTINGS)
    with pytest.raises(UserError, match="no examples"):
        compose_videos(painter("steve"), Videos(0), SETTINGS)
    with pytest.raises(UserError, match="chunk should be at least 1"):
        ComposeOptions(chunk=0)


@pytest.mark.parametrize("part", ["slot_encoder", "decoder"])
def test_values_that_are_not_finite_stop_a_composition_with_the_videos_name(part):
    model = savi.build(
        replace(
            TINY,
            targets=("video",),
            conditioning="learned",
            resolution=(SIDE, SIDE),
            decoder=replace(TINY.decoder, grid=(4, 4)),
        )
    ).eval()
    with torch.no_grad():
        for weight in getattr(model, part).parameters():
            weight.mul_(1e30)
    with pytest.raises(UserError, match=r"are not finite for (video|composition) \d"):
        compose_videos(model, Videos(), SETTINGS)


def test_compositions_of_an_earlier_larger_result_do_not_stay(tmp_path):
    model = painter("slotdiffusion")
    save(compose_videos(model, Videos(3), SETTINGS, ComposeOptions(num_plots=3)), tmp_path)
    assert (tmp_path / "composed_2.mp4").is_file()
    still = replace(SETTINGS, num_frames=1)
    save(compose_videos(model, Videos(3), still, ComposeOptions(num_plots=1)), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["compose.json", "composed_0.png"]
