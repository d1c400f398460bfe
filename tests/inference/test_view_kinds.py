"""Views of a frame: what the model sees, and that masks come back to the pixel at odd sizes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from tiny_models import tiny
from torchslots.inference.edit import edit
from torchslots.inference.outputs import decode_mask
from torchslots.inference.predict import PredictOptions, predict, predict_frames
from torchslots.inference.view import Patches, View, view_of, winners_at
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.models.backbones.vit import Normalize
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.types import Prediction, State
from torchslots.recipes import catalog
from torchslots.recipes.backbones import TINY_VIT, build_backbone

KINDS = ("crop", "squeeze", "whole")
SIDE, PATCH = 32, 4


@dataclass(frozen=True)
class FinderConfig:
    resolution: tuple[int, int] = (SIDE, SIDE)


class PatchFinder(ObjectCentricModel):
    """One slot for dark patches, one for those that are mostly red; masks at the grid of patches."""

    def __init__(self):
        nn.Module.__init__(self)
        self.config = FinderConfig()
        encoder = FeatureEncoder(
            Normalize(), build_backbone(replace(TINY_VIT, patch_size=PATCH)), nn.Identity()
        )
        self.slot_encoder = nn.Module()
        self.slot_encoder.encoder, self.slot_encoder.initializer = encoder, nn.Identity()
        self.seen: list[torch.Tensor] = []

    def predict(self, batch, state=None, slot_recon=False, recon=True, attn=True):
        clip = batch["video"]
        self.seen.append(clip)
        red = F.avg_pool2d(clip[0, :, :1], PATCH)[None]
        masks = torch.cat([1 - red, red], 2)
        slots = torch.zeros(1, clip.shape[1], 2, 3)
        return Prediction(masks.argmax(2), masks, slots, masks.flatten(3), {}, None, State(slots[:, -1]))


def model_of(recipe: str = "slotcontrast_demo") -> ObjectCentricModel:
    torch.manual_seed(0)
    built = catalog.build(catalog.recipe(recipe).model)
    assert isinstance(built, ObjectCentricModel)
    return built.eval()


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# --------------------------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize(
    ("frame", "side", "resolution"),
    [
        ((720, 1280), 336, (336, 588)),  # 24 x 42 patches
        ((1280, 720), 336, (588, 336)),
        ((720, 1280), 518, (518, 910)),  # 37 x 65
        ((479, 853), 518, (518, 910)),
        ((500, 500), 518, (518, 518)),
        ((480, 490), 336, (336, 336)),
    ],
)
def test_whole_frames_keep_their_shape_up_to_a_patch(frame, side, resolution):
    view = view_of(frame, (side, side), "whole", Patches(14))
    assert view.resolution == resolution
    assert view.crop == (0, 0, *frame)
    assert abs(resolution[0] / frame[0] - resolution[1] / frame[1]) * max(frame) < 14


def test_a_squeezed_view_is_all_of_the_frame_at_the_trained_size():
    frames = noise(2, 90, 160)
    view = view_of((90, 160), (32, 32), "squeeze")
    wanted = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    wanted = F.interpolate(wanted, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(view.shrink(frames)[0], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("antialias", [False, True])
def test_frames_for_patches_are_resized_as_in_training(antialias):
    """Bicubic, clamped; with antialiasing in torch's integer arithmetic, as the original does."""
    frames = noise(1, 48, 56)
    frames[:, 10:20, 10:20], frames[:, 20:30, 10:20] = 255, 0
    view = view_of((48, 56), (28, 42), "squeeze", Patches(14, antialias))
    pixels = torch.from_numpy(frames).movedim(-1, 1)
    if antialias:
        wanted = F.interpolate(pixels, (28, 42), mode="bicubic", antialias=True).float() / 255
    else:
        wanted = F.interpolate(pixels.float() / 255, (28, 42), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(view.shrink(frames)[0], wanted, atol=1e-6, rtol=0)


def test_models_of_one_size_see_the_middle_unless_asked_and_models_on_patches_everything():
    assert view_of((64, 128), (32, 32)) == View(64, 128, (32, 32), "crop")
    assert view_of((64, 128), (32, 32), None, Patches(4)).crop == (0, 0, 64, 128)
    assert view_of((64, 128), (32, 32), None, Patches(4)).resolution == (32, 32)
    finder = PatchFinder()
    predict_frames(finder, noise(1, 40, 80))
    predict_frames(finder, noise(1, 40, 80), view="whole")
    assert [tuple(clip.shape[-2:]) for clip in finder.seen] == [(32, 32), (32, 64)]


# ------------------------------------------------------------------------------------------------------ and back


@pytest.mark.parametrize(("grid", "size"), [((8, 8), (479, 853)), ((8, 14), (479, 853)), ((9, 5), (3, 211))])
def test_winners_are_those_of_enlarged_masks(grid, size):
    masks = torch.rand(3, 6, *grid, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert torch.equal(winners_at(masks, size), F.interpolate(masks, size, mode="bilinear").argmax(1).int())


def test_the_lowest_of_equal_slots_wins():
    masks = torch.tensor([0.2, 0.4, 0.4])[None, :, None, None].expand(1, 3, 2, 2)
    assert (winners_at(masks, (5, 7)) == 1).all()


def scene(kind: str, height: int, width: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A frame in which the patches of rows 2 to 4 and columns 1 to 3 of what is seen are red, and their rectangle in
    pixels, with edges between pixels rounded."""
    view = view_of((height, width), (SIDE, SIDE), kind, Patches(PATCH))
    top, left, bottom, right = view.crop
    rows, columns = view.resolution[0] // PATCH, view.resolution[1] // PATCH
    y, x = (bottom - top) / rows, (right - left) / columns
    edges = round(top + 2 * y), round(left + x), round(top + 5 * y), round(left + 4 * x)
    frame = np.full((1, height, width, 3), 20, np.uint8)
    frame[:, edges[0] : edges[2], edges[1] : edges[3]] = 230, 20, 20
    return frame, edges


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(479, 853), (853, 479), (101, 103)])
def test_overlay_masks_and_tracks_agree_with_the_frame_to_the_pixel(tmp_path, kind, height, width):
    """Between patches of masks 0 and 1 a bilinear edge lies in the middle, which is the edge of the patches."""
    frame, edges = scene(kind, height, width)
    video.write_png(tmp_path / "one.png", frame[0])
    (folder,) = predict(PatchFinder(), tmp_path / "one.png", tmp_path / "out", view=kind)
    mask = np.asarray(Image.open(folder / "masks" / "00000.png"))
    assert mask.shape == (height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    np.testing.assert_allclose(found, edges, atol=1)

    about = json.loads((folder / "tracks.json").read_text())
    (track,) = [entry for entry in about["frames"][0]["objects"] if entry["slot"] == 1]
    assert np.array_equal(decode_mask(track["mask"]), mask == 1)
    np.testing.assert_allclose(track["box"], np.array(found) / [height, width, height, width], atol=1e-5)
    assert about["view"] == kind

    shown = video.read_image(folder / "overlay.png")
    outside = mask == 0
    outside[:-1] &= mask[1:] == 0
    outside[:, :-1] &= mask[:, 1:] == 0
    assert np.array_equal(shown[outside], frame[0][outside])
    tinted = (shown != frame[0]).any(-1)
    assert tinted[mask == 1].all()


@pytest.mark.parametrize("kind", KINDS)
def test_predict_in_memory_agrees_with_files(tmp_path, kind):
    model, frames = model_of(), noise(1, 53, 97)
    video.write_png(tmp_path / "one.png", frames[0])
    (folder,) = predict(model, tmp_path / "one.png", tmp_path / "out", view=kind)
    found = predict_frames(model, frames, view=kind)
    assert np.array_equal(found.segmentation[0], np.asarray(Image.open(folder / "masks" / "00000.png")))
    grid = (8, 14) if kind == "whole" else (8, 8)
    assert found.masks.shape == (1, 6, *grid)
    size = (53, 97) if kind != "crop" else (53, 53)
    wanted = F.interpolate(torch.from_numpy(found.masks), size, mode="bilinear").argmax(1).numpy()
    left = (97 - size[1]) // 2
    assert np.array_equal(found.segmentation[:, :, left : left + size[1]], wanted)


# ---------------------------------------------------------------------------------------- models that decode features


def test_files_of_a_model_on_features_have_one_size_and_say_what_is_missing(tmp_path):
    """Predicted frames, too."""
    video.write_video(tmp_path / "a.mp4", noise(5, 54, 96), 10)
    options = PredictOptions(view="whole", observe=3, recon=True, slot_views=True, slice_size=2)
    (folder,) = predict(model_of(), tmp_path / "a.mp4", tmp_path / "out", options)
    assert sorted(file.name for file in folder.iterdir()) == [
        "masks",
        "overlay.mp4",
        "slots.mp4",
        "slots.npz",
        "tracks.json",
    ]
    assert video.read_frames(folder / "overlay.mp4").shape == (5, 54, 96, 3)
    assert len(video.read_frames(folder / "slots.mp4")) == 5
    (note,) = json.loads((folder / "tracks.json").read_text())["notes"]
    assert "no images" in note and "--slot-views and --recon" in note


def test_the_reconstruction_is_not_computed_for_masks(tmp_path):
    """Its layer is broken, and masks come out."""
    model = model_of()
    last = model.decoder.renderer.last
    with torch.no_grad():
        last.weight[:-1], last.bias[:-1] = torch.nan, torch.nan
    frames = noise(4, 40, 64)
    found = predict_frames(model, frames, observe=2, rollout=2)
    assert np.isfinite(found.masks).all()
    video.write_video(tmp_path / "a.mp4", frames, 10)
    predict(model, tmp_path / "a.mp4", tmp_path / "out", observe=2)


@pytest.mark.parametrize("kind", KINDS)
def test_edit_numbers_slots_and_refuses_edits(tmp_path, kind):
    model = model_of()
    video.write_png(tmp_path / "one.png", noise(1, 53, 97)[0])
    (done,) = edit(model, tmp_path / "one.png", tmp_path / "out", view=kind)
    assert "no images" in done.note and done.edited is None
    assert video.read_image(done.slots).std() > 10
    with pytest.raises(UserError, match="an edit has nothing to show"):
        edit(model, tmp_path / "one.png", tmp_path / "out", remove=(1,))


# -------------------------------------------------------------------------------------------------------- faults


def test_whole_frames_need_a_model_on_patches():
    with pytest.raises(UserError, match=r"built for frames of 16 x 24 and cannot see others.*--view squeeze"):
        predict_frames(tiny("learned"), noise(1, 32, 48), view="whole")
    assert predict_frames(tiny("learned"), noise(1, 32, 32), view="squeeze").segmentation.shape == (1, 32, 32)


def test_frames_that_are_far_too_long_are_refused():
    with pytest.raises(UserError, match=r"200x10 pixels is 20 times as long.*crop or squeeze"):
        predict_frames(model_of(), noise(1, 10, 200), view="whole")
    assert predict_frames(model_of(), noise(1, 10, 80), view="whole").masks.shape[-2:] == (8, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_sides_that_do_not_divide_into_patches_are_named(kind):
    with pytest.raises(UserError, match=r"30 .*do not divide into patches of 4 x 4"):
        predict_frames(model_of(), noise(1, 40, 64), view=kind, resolution=30)
    with pytest.raises(UserError, match=r"Frames of 2 x .* do not divide into patches of 4 x 4"):
        predict_frames(model_of(), noise(1, 40, 64), view=kind, resolution=2)


def test_models_on_features_take_no_hints():
    with pytest.raises(UserError, match="finds objects without hints"):
        predict_frames(model_of(), noise(1, 40, 64), boxes=[[0, 0, 1, 1]])


def test_an_unknown_view_is_named():
    with pytest.raises(UserError, match=r"crop, squeeze, whole, got 'stretch'"):
        PredictOptions(view="stretch")  # pyright: ignore


# -------------------------------------------------------------------------------------------------------- memory

_PEAKS = """
import resource, sys
import numpy as np, torch
from torchslots.inference.predict import predict
from torchslots.io import video
from torchslots.recipes import catalog

torch.manual_seed(0)
torch.set_num_threads(1)
model = catalog.build(catalog.recipe("slotcontrast_demo").model).eval()
slope = np.arange(128, dtype=np.uint8)[:, None, None] + np.arange(224, dtype=np.uint8)[:, None] // 3
for count in (60, 60, 240):
    frames = (slope + np.array([t, t // 2, 100], np.uint8) for t in range(count))
    video.write_video(f"{sys.argv[1]}/film.mp4", frames, 12)
    save = ("overlay", "masks", "slots", "tracks")
    predict(model, f"{sys.argv[1]}/film.mp4", f"{sys.argv[1]}/out", view="whole", save=save)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_the_same_for_60_and_for_240_frames(tmp_path):
    """180 frames of 128 x 224 are 15 MB, their ids 20 MB; the process may not grow by half of the frames."""
    one_heap = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # threads would each start one of their own
    words = [sys.executable, "-c", _PEAKS, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=one_heap)
    _, short, long = (int(line) for line in done.stdout.split())
    assert long - short < 7_500 * (1 if sys.platform != "darwin" else 1024)


@pytest.mark.parametrize("sharpness", [0.5, 6.0, 30.0])
def test_labels_are_those_of_comparing_every_pixel(sharpness: float):
    torch.manual_seed(0)
    coarse = torch.softmax(sharpness * torch.randn(2, 7, 4, 4), 1)
    masks = F.interpolate(coarse, (16, 17), mode="bilinear")
    masks[:, 2] = masks[:, 1] * (1 + 1e-7)
    large = F.interpolate(masks, (90, 121), mode="bilinear")
    best, expected = torch.zeros(2, 90, 121), torch.zeros(2, 90, 121, dtype=torch.int32)
    for slot, mask in enumerate(large.unbind(1)):
        expected[mask > best * (1 + 1e-5)] = slot
        best = torch.maximum(best, mask)
    assert torch.equal(winners_at(masks, (90, 121), 1e-5), expected)
    assert not (expected == 2).any()
