"""Prediction on files: geometry there and back, slices, hints, names, faults."""

import json
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tiny_models import tiny
from torchslots.inference import predict as inference
from torchslots.inference.inputs import InputsFailed, batches
from torchslots.inference.outputs import decode_mask
from torchslots.inference.predict import PredictOptions, predict, predict_frames
from torchslots.inference.view import FirstFrameHint, View, box_hint, mask_hint
from torchslots.io import video
from torchslots.io.errors import UserError
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Prediction, State
from torchslots.recipes.savi import CnnConfig, DecoderConfig, SaviConfig, build

BLACK, RED, GREEN = 0, 1, 2


@dataclass(frozen=True)
class PainterConfig:
    resolution: tuple[int, int] = (32, 32)


class Painter(ObjectCentricModel):
    """Slots by colour: 0 red, 1 what is left, 2 green. Counts frames in its state; notes what it is given."""

    def __init__(self, resolution=(32, 32), conditioned=False):
        nn.Module.__init__(self)
        self.config = PainterConfig(resolution)
        self.weight = nn.Parameter(torch.zeros(()))
        self.slot_encoder = nn.Module()
        self.slot_encoder.initializer = nn.Identity()
        self.order = [1, 0, 2] if not conditioned else [0, 1, 2]
        self.given = []

    def predict(self, batch, state=None, slot_recon=False, recon=True, attn=True):
        clip = batch["video"]
        self.given.append((batch, state))
        red, green = clip[:, :, 0] > 0.5, clip[:, :, 1] > 0.5
        ids = torch.where(red, 1, torch.where(green, 2, 0))
        masks = nn.functional.one_hot(torch.tensor(self.order)[ids], 3).movedim(-1, 2).float()
        seen = 0 if state is None else int(state.slots)
        numbers = seen + torch.arange(clip.shape[1], dtype=torch.float32)
        slots = numbers[None, :, None, None].expand(1, -1, 3, 4) + torch.tensor(self.order)[:, None]
        recon = {"depth": torch.full((1, clip.shape[1], 3, 1, *clip.shape[-2:]), 0.5)} if slot_recon else None
        after = State(torch.tensor(seen + clip.shape[1]))
        return Prediction(masks.argmax(2), masks, slots, masks.flatten(3), {}, recon, after)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_results_that_are_not_finite_stop_with_the_inputs_name(tmp_path, kind):
    """Nothing is left of the input's folder; in memory there is no name to say."""
    model = tiny("learned")
    nn.init.constant_(next(model.decoder.parameters()), float("nan"))
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    film = tmp_path / ("dog.png" if kind == "image" else "dog.mp4")
    video.write_png(film, frames[0]) if kind == "image" else video.write_video(film, frames, 10)
    with pytest.raises(UserError, match=rf"are not finite for {film}"):
        predict(model, film, tmp_path / "out")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    with pytest.raises(UserError, match="are not finite for these frames"):
        predict_frames(model, frames)


def scene(num_frames=5, height=64, width=64, left=0) -> tuple[np.ndarray, np.ndarray]:
    """A red square that walks to the right and a green one that stays: frames and ids."""
    ids = np.zeros((num_frames, height, width), np.uint8)
    for t in range(num_frames):
        ids[t, 10:26, left + 4 + 4 * t : left + 20 + 4 * t] = RED
        ids[t, 40:56, left + 8 : left + 24] = GREEN
    colours = np.array([[20, 20, 20], [230, 20, 20], [20, 230, 20]], np.uint8)
    return colours[ids], ids


def tiny_savi(**changes) -> ObjectCentricModel:
    torch.manual_seed(0)
    config = SaviConfig(
        resolution=(16, 16),
        encoder=CnnConfig((8,), (1,)),
        slot_size=16,
        qkv_size=16,
        predictor_qkv=16,
        predictor_mlp=16,
        initializer_hidden=16,
        decoder=DecoderConfig(grid=(8, 8), channels=(8,), strides=(2,)),
    )
    return build(replace(config, **changes)).eval()


def told(folder: Path) -> dict:
    return json.loads((folder / "tracks.json").read_text())


# --------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("height", "width", "left"), [(64, 64, 0), (64, 128, 32), (200, 64, 0)])
def test_masks_come_back_where_the_objects_are(height, width, left):
    frames, ids = scene(height=height, width=width, left=left)
    if height == 200:
        frames, ids = np.roll(frames, 68, axis=1), np.roll(ids, 68, axis=1)
    found = predict_frames(Painter(), frames).segmentation
    assert (found == ids).mean() > 0.99
    for number in (RED, GREEN):
        assert ((found == number) & (ids == number)).sum() / ((found == number) | (ids == number)).sum() > 0.9


def test_what_the_model_does_not_see_is_background():
    frames, _ = scene(num_frames=1, width=128, left=32)
    frames[:, :, :32] = 230, 20, 20
    found = predict_frames(Painter(), frames).segmentation
    assert not found[:, :, :32].any()
    assert found[:, :, 32:96].any()


def test_the_view_follows_the_shape_of_the_model():
    assert View(64, 128, (32, 32)).crop == (0, 32, 64, 96)
    assert View(64, 128, (32, 64)).crop == (0, 0, 64, 128)
    assert View(100, 100, (32, 64)).crop == (25, 0, 75, 100)


def test_half_size_is_the_mean_of_four_as_in_training():
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    small = View(64, 64, (32, 32)).shrink(frame)[0, 0].permute(1, 2, 0)
    mean = frame[0].reshape(32, 2, 32, 2, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(small.numpy(), mean, atol=1e-6)


def test_boxes_and_masks_are_moved_into_the_view():
    view = View(64, 128, (32, 32))
    batch = view.conditioning(box_hint([[0.25, 0.5, 0.5, 0.9], [0, 0, 0, 0]]))
    np.testing.assert_allclose(batch["boxes"][0, 0], [[0.25, 0.5, 0.5, 1.0], [0, 0, 0, 0]])
    batch = view.conditioning(box_hint([[16, 64, 32, 80]], in_pixels=True))
    np.testing.assert_allclose(batch["boxes"][0, 0], [[0.25, 0.5, 0.5, 0.75]])
    ids = np.zeros((64, 128), int)
    ids[16:32, 64:80] = 9
    batch = view.conditioning(mask_hint(ids))
    np.testing.assert_allclose(batch["boxes"][0, 0], [[0.25, 0.5, 0.5, 0.75]])
    wanted = torch.zeros(32, 32, dtype=torch.int32)
    wanted[8:16, 16:24] = 1
    assert torch.equal(batch["segmentations"][0, 0], wanted)


def test_hints_outside_the_view_or_of_another_size_are_refused():
    view = View(64, 128, (32, 32))
    with pytest.raises(UserError, match="object 1 is outside the part that the model sees"):
        view.conditioning(box_hint([[0, 0.4, 1, 0.6], [0.1, 0, 0.9, 0.2]]))
    with pytest.raises(UserError, match="32x32 pixels, the first frame 128x64"):
        view.conditioning(mask_hint(np.eye(32, dtype=int)))


# ----------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("slice_size", [1, 2, 5])
def test_a_video_in_slices_is_the_whole_video(slice_size):
    model = tiny_savi()
    frames = np.random.default_rng(0).integers(0, 256, (5, 20, 16, 3), dtype=np.uint8)
    boxes = [[0.2, 0.1, 0.6, 0.5], [0.4, 0.5, 0.8, 0.9]]
    whole = predict_frames(model, frames, boxes=boxes, options=PredictOptions(slice_size=24))
    parts = predict_frames(model, frames, boxes=boxes, options=PredictOptions(slice_size=slice_size))
    np.testing.assert_allclose(parts.slots, whole.slots, atol=1e-5)
    np.testing.assert_allclose(parts.masks, whole.masks, atol=1e-5)
    assert whole.slots.shape == (5, 3, 16)
    assert whole.segmentation.shape == (5, 20, 16)


def test_the_hint_goes_in_once_and_the_state_from_then_on():
    model = Painter(conditioned=True)
    predict_frames(model, scene()[0], boxes=[[0, 0, 1, 1]], options=PredictOptions(slice_size=2))
    assert [None if state is None else int(state.slots) for _, state in model.given] == [None, 2, 4]
    assert model.given[0][0]["boxes"].shape == (1, 1, 1, 4)


def test_background_comes_first_without_a_hint_and_slots_keep_their_place_with_one():
    frames, ids = scene()
    free = predict_frames(Painter(), frames, options=PredictOptions(slice_size=2))
    assert free.slots[:, :, 0].tolist() == [[t, t + 1, t + 2] for t in range(5)]
    assert free.masks.shape == (5, 3, 32, 32)
    hinted = predict_frames(Painter(conditioned=True), frames, boxes=[[0, 0, 1, 1]])
    assert (hinted.segmentation == ids).mean() > 0.99


def test_random_slots_are_sampled_from_the_seed():
    model = tiny_savi(conditioning="gaussian", num_slots=4)
    frames = scene(num_frames=2)[0]
    first, again, other = (
        predict_frames(model, frames, options=PredictOptions(seed=s)).slots for s in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert predict_frames(model, frames, options=PredictOptions(num_slots=6)).slots.shape[1] == 6


def test_a_mask_conditioned_model_gets_one_slot_for_each_object():
    ids = np.zeros((64, 64), int)
    ids[4:20, 4:20], ids[30:50, 30:50] = 3, 8
    model = tiny_savi(conditioning="masks", num_slots=24)
    assert predict_frames(model, scene(num_frames=2)[0], masks=ids).slots.shape[1] == 3
    with pytest.raises(UserError, match="starts from masks"):
        predict_frames(model, scene(num_frames=2)[0], boxes=[[0, 0, 1, 1]])


def test_memory_does_not_grow_with_the_video():
    held: list[weakref.ref] = []
    most = 0

    def chunks():
        nonlocal most
        for _ in range(50):
            chunk = scene(num_frames=2)[0]
            held.append(weakref.ref(chunk))
            most = max(most, sum(chunk() is not None for chunk in held))
            yield chunk

    model = tiny_savi(
        conditioning="learned",
        num_slots=3,
        resolution=(32, 32),
        decoder=DecoderConfig((8, 8), (8, 8), (2, 2)),
    )
    hint, options = FirstFrameHint(), PredictOptions()
    view, parts = batches(model, chunks(), hint, options)
    for _ in inference._slices(model, parts, view, hint, options):
        pass
    assert most <= 3


# ------------------------------------------------------------------------------------------------------ files


@pytest.fixture
def clip(tmp_path):
    frames, ids = scene()
    video.write_video(tmp_path / "clip.mp4", frames, 10.0)
    return tmp_path / "clip.mp4", frames, ids


def test_a_film_becomes_a_folder_of_results(clip, tmp_path):
    file, frames, ids = clip
    (folder,) = predict(Painter(), [file], tmp_path / "out", PredictOptions(slice_size=2))
    assert sorted(path.name for path in folder.iterdir()) == [
        "masks",
        "overlay.mp4",
        "slots.mp4",
        "slots.npz",
        "tracks.json",
    ]
    about = told(folder)
    assert (about["source"], about["fps"], about["size"], about["seen"]) == (
        "clip.mp4",
        10,
        [64, 64],
        [0, 0, 1, 1],
    )
    for t, frame in enumerate(about["frames"]):
        mask = np.asarray(Image.open(folder / "masks" / f"{t:05d}.png"))
        assert (mask == ids[t]).mean() > 0.98
        red = next(entry for entry in frame["objects"] if entry["slot"] == RED)
        np.testing.assert_allclose(
            red["box"], [10 / 64, (4 + 4 * t) / 64, 26 / 64, (20 + 4 * t) / 64], atol=0.04
        )
        assert decode_mask(red["mask"]).sum() == red["area"]
    shown = video.read_frames(folder / "overlay.mp4").astype(int)
    assert shown.shape == frames.shape
    assert np.abs(shown[:, 30:38, 40:] - frames[:, 30:38, 40:]).mean() < 8  # background keeps its colours
    assert np.abs(shown[:, 44:52, 12:20] - frames[:, 44:52, 12:20]).mean() > 25  # objects are tinted
    assert np.load(folder / "slots.npz")["slots"].shape == (5, 3, 4)


def test_large_frames_are_written_at_the_longest_side_asked_for(tmp_path):
    video.write_video(tmp_path / "clip.mp4", np.repeat(np.repeat(scene(2, 64, 128)[0], 2, 1), 2, 2), 10.0)
    (folder,) = predict(Painter(), [tmp_path / "clip.mp4"], tmp_path / "out", PredictOptions(max_side=64))
    assert video.read_frames(folder / "overlay.mp4").shape == (2, 32, 64, 3)
    assert told(folder)["size"] == [32, 64]
    assert told(folder)["frame_size"] == [128, 256]
    assert told(folder)["seen"] == [0, 0.25, 1, 0.75]


def test_a_picture_gives_pictures(tmp_path):
    frames, _ = scene(num_frames=1)
    Image.fromarray(frames[0]).save(tmp_path / "one.png")
    (folder,) = predict(Painter(), [tmp_path / "one.png"], tmp_path / "out", PredictOptions(slot_views=True))
    assert sorted(path.name for path in folder.iterdir()) == [
        "masks",
        "overlay.png",
        "slots.npz",
        "slots.png",
        "tracks.json",
    ]
    assert video.read_image(folder / "overlay.png").shape == (64, 64, 3)
    assert told(folder)["fps"] is None


def test_a_gif_a_folder_of_frames_and_a_folder_of_films(clip, tmp_path):
    file, frames, _ = clip
    (tmp_path / "frames").mkdir()
    (tmp_path / "films").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    video.write_gif(tmp_path / "films" / "a.gif", frames[:3], 10.0)
    (tmp_path / "films" / "b.mp4").write_bytes(file.read_bytes())
    (tmp_path / "films" / "notes.txt").write_text("not a film")
    made = predict(
        Painter(),
        [tmp_path / "frames", tmp_path / "films"],
        tmp_path / "out",
        PredictOptions(save=("tracks",)),
    )
    assert [(path.name, len(told(path)["frames"])) for path in made] == [("frames", 5), ("a", 3), ("b", 5)]
    assert told(made[0])["fps"] == 12
    single = predict(
        Painter(), [tmp_path / "frames"], tmp_path / "each", PredictOptions(save=("tracks",), each=True)
    )
    assert [(path.name, len(told(path)["frames"])) for path in single] == [(str(i), 1) for i in range(5)]


def test_inputs_of_one_name_do_not_overwrite_each_other(clip, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip.mp4").write_bytes(clip[0].read_bytes())
    made = predict(
        Painter(),
        [clip[0], tmp_path / "other" / "clip.mp4"],
        tmp_path / "out",
        PredictOptions(save=("slots",)),
    )
    assert [path.name for path in made] == ["clip", "clip_2"]


def test_hints_for_several_inputs_come_from_a_folder(clip, tmp_path):
    frames = tmp_path / "more.mp4"
    frames.write_bytes(clip[0].read_bytes())
    (tmp_path / "boxes").mkdir()
    for name, boxes in {"clip": [[0, 0, 1, 1]], "more": [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]}.items():
        (tmp_path / "boxes" / f"{name}.json").write_text(json.dumps(boxes))
    options = PredictOptions(boxes=tmp_path / "boxes", save=("slots",))
    made = predict(tiny_savi(), [clip[0], frames], tmp_path / "out", options)
    assert [np.load(path / "slots.npz")["slots"].shape[1] for path in made] == [2, 3]
    with pytest.raises(UserError, match=r"is one hint for 2 inputs"):
        predict(
            tiny_savi(),
            [clip[0], frames],
            tmp_path / "out",
            replace(options, boxes=tmp_path / "boxes" / "clip.json"),
        )


def test_a_saved_model_is_loaded_by_name(clip, tmp_path):
    tiny_savi(conditioning="learned", num_slots=3).save_pretrained(tmp_path / "saved")
    (folder,) = predict(tmp_path / "saved", [clip[0]], tmp_path / "out", PredictOptions(save=("slots",)))
    assert np.load(folder / "slots.npz")["slots"].shape == (5, 3, 16)


# ----------------------------------------------------------------------------------------------------- faults


def test_a_box_model_without_boxes_says_how_to_give_them(clip, tmp_path):
    with pytest.raises(UserError, match=r"--boxes or --masks.*unconditional"):
        predict(tiny_savi(), [clip[0]], tmp_path / "out")


def test_hints_that_contradict_each_other_or_the_model_are_refused(clip, tmp_path):
    (tmp_path / "b.json").write_text("[[0, 0, 1, 1]]")
    both = PredictOptions(boxes=tmp_path / "b.json", masks=tmp_path / "m.png")
    with pytest.raises(UserError, match="either boxes or masks"):
        predict(tiny_savi(), [clip[0]], tmp_path / "out", both)
    with pytest.raises(UserError, match="either boxes or masks"):
        predict_frames(tiny_savi(), clip[1], boxes=[[0, 0, 1, 1]], masks=clip[2][0])
    with pytest.raises(UserError, match="finds objects without hints"):
        predict_frames(tiny_savi(conditioning="learned"), clip[1], boxes=[[0, 0, 1, 1]])
    with pytest.raises(UserError, match="decides the number of slots"):
        predict_frames(tiny_savi(), clip[1], boxes=[[0, 0, 1, 1]], options=PredictOptions(num_slots=3))


def test_frames_of_the_wrong_kind_are_refused():
    for frames in (np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match=r"uint8 \[T, H, W, 3\]"):
            predict_frames(Painter(), frames)


def test_a_bad_input_does_not_stop_the_others(clip, tmp_path):
    (tmp_path / "zero.mp4").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"(?s)1 of 3 inputs failed.*zero\.mp4 is empty.*\n2 of 3 .* are finished"
    ):
        predict(Painter(), [clip[0], tmp_path / "zero.mp4", clip[0]], tmp_path / "out")
    for name in ("clip", "clip_2"):
        assert len(told(tmp_path / "out" / name)["frames"]) == 5


@pytest.mark.parametrize("name", ["cut.mp4", "noise.mp4", "noise.png", "cut.gif", "notes.txt"])
def test_unreadable_inputs_are_named(clip, tmp_path, name):
    video.write_gif(tmp_path / "cut.gif", clip[1], 10.0)
    good = {"cut.mp4": clip[0].read_bytes(), "cut.gif": (tmp_path / "cut.gif").read_bytes()}.get(name)
    (tmp_path / name).write_bytes(
        np.random.default_rng(0).bytes(500) if good is None else good[: len(good) // 3]
    )
    with pytest.raises(UserError, match=name):
        predict(Painter(), [tmp_path / name], tmp_path / "out", PredictOptions(slice_size=2))
    assert not list((tmp_path / "out").rglob("*.part*"))


def test_a_missing_or_empty_input_does_not_stop_others_nor_change_their_names(tmp_path):
    for name in ("there", "empty"):
        (tmp_path / name).mkdir()
    video.write_png(tmp_path / "there" / "one.png", np.zeros((32, 32, 3), np.uint8))
    inputs = [tmp_path / "gone" / "one.png", tmp_path / "empty", tmp_path / "there" / "one.png"]
    with pytest.raises(InputsFailed) as caught:
        predict(Painter(), inputs, tmp_path / "out")
    assert [message.split(". ")[0].split("/")[-1] for message in caught.value.failed] == [
        "one.png does not exist",
        "There is no input",
    ]
    assert caught.value.done == [tmp_path / "out" / "one_2"] and "1 of 3 inputs are finished" in str(
        caught.value
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".done", "one_2"]
    with pytest.raises(UserError, match="for 3 inputs"):
        predict(Painter(), inputs, tmp_path / "out", boxes=np.array([[0, 0, 1, 1]]))
    with pytest.raises(InputsFailed, match="No input is finished"):
        predict(Painter(), inputs[:2], tmp_path / "out")


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        predict(Painter(), [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        predict(Painter(), [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UserError, match="no input"):
        predict(Painter(), [], tmp_path / "out")
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no input"):
        predict(Painter(), [tmp_path / "empty"], tmp_path / "out", PredictOptions(each=True))


def test_results_never_go_into_their_own_input(tmp_path):
    (tmp_path / "data" / "clip").mkdir(parents=True)
    Image.fromarray(scene(1)[0][0]).save(tmp_path / "data" / "clip" / "0.png")
    with pytest.raises(UserError, match="which contains it"):
        predict(Painter(), [tmp_path / "data" / "clip"], tmp_path / "data")


def test_an_output_folder_that_cannot_be_made_is_named(clip, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken.* cannot be written"):
        predict(Painter(), [clip[0]], tmp_path / "taken")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"save": ("overlay", "film")}, "Cannot save film"),
        ({"save": ()}, "Cannot save nothing"),
        ({"slice_size": 0}, "slice_size should be more than 0"),
        ({"fps": float("nan")}, "fps should be more than 0"),
        ({"max_side": -3}, "max_side should be more than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        PredictOptions(**settings)


def test_one_file_is_an_input_and_arrays_are_hints(tmp_path):
    model = tiny("learned")
    image = tmp_path / "one.png"
    video.write_png(image, np.full((16, 24, 3), 99, np.uint8))
    assert [folder.name for folder in predict(model, str(image), tmp_path / "out")] == ["one"]
    with pytest.raises(UserError, match=r"finds objects without hints: leave boxes and masks out"):
        predict(model, image, tmp_path / "out", boxes=[[0.1, 0.2, 0.4, 0.5]])
