"""`edit` on files: numbers in images, what is decoded after an edit, two inputs with each other, faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_models import TINY
from torchslots.cli.edit import edit as edit_command
from torchslots.inference.edit import Edited, EditOptions, changes_of, edit
from torchslots.inference.inputs import InputsFailed
from torchslots.io import video
from torchslots.io.draw import number_slots
from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.model import ObjectCentricModel
from torchslots.models.weights import save_pretrained
from torchslots.recipes import isa, savi, slot_attention
from torchslots.recipes.savi import CnnConfig

SIDE, K = 16, 4


def isa_model(invariance: isa.Literal["translation", "rotation"] = "rotation") -> ObjectCentricModel:
    torch.manual_seed(0)
    config = isa.IsaConfig(
        resolution=(SIDE, SIDE),
        encoder=CnnConfig((6,), (1,)),
        invariance=invariance,
        num_slots=K,
        slot_size=8,
        decoder=isa.PixelDecoderConfig(grid=(SIDE, SIDE), channels=(16, 12)),
    )
    model = isa.build(config)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return in_range(model.eval())


@torch.no_grad()
def in_range(model: ObjectCentricModel) -> ObjectCentricModel:
    """The model with its colours brought to 0.5 and a deviation of 0.15, so that pictures show differences."""
    batch = {"video": torch.rand(4, 1, 3, SIDE, SIDE), "generator": torch.Generator().manual_seed(0)}
    assert isinstance(model.decoder, BroadcastDecoder)
    colours, head = model.predict(batch, slot_recon=True).slot_recon, model.decoder.heads["video"]
    assert colours is not None and isinstance(head, torch.nn.Linear)
    mean, spread = colours["video"].mean(), colours["video"].std()
    head.weight.mul_(0.15 / spread)
    head.bias.copy_((head.bias - mean) * 0.15 / spread + 0.5)
    return model


def savi_model(*targets: str) -> ObjectCentricModel:
    torch.manual_seed(0)
    return savi.build(replace(TINY, targets=targets, conditioning="learned")).eval()


def picture(seed: int = 0, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def one(tmp_path) -> Path:
    video.write_png(tmp_path / "one.png", picture())
    return tmp_path / "one.png"


@pytest.fixture
def other(tmp_path) -> Path:
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    square[2:7, 3:8] = 255, 40, 90
    video.write_png(tmp_path / "other.png", square)
    return tmp_path / "other.png"


@pytest.fixture
def film(tmp_path) -> Path:
    frames = np.stack([picture(seed, 64, 96) for seed in range(8)])
    video.write_video(tmp_path / "film.mp4", frames, 10.0)
    return tmp_path / "film.mp4"


def after(done: Edited) -> np.ndarray:
    """The last of three tiles, without labels and gaps."""
    assert done.edited is not None
    sheet = video.read_image(done.edited).astype(int)
    cell = (sheet.shape[1] - 4) // 3
    return sheet[22:-4, 4 + 2 * cell : -4]


def before(done: Edited) -> np.ndarray:
    assert done.edited is not None
    sheet = video.read_image(done.edited).astype(int)
    cell = (sheet.shape[1] - 4) // 3
    return sheet[22:-4, 4 + cell : 2 * cell]


def test_without_an_edit_slots_are_numbered_and_nothing_else_is_written(one, tmp_path):
    (done,) = edit(isa_model(), [one], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "one").iterdir()] == ["slots.png"]
    assert done.edited is None and "Slots 0 to 3" in done.note and "Shown: frames" in done.note
    assert video.read_image(done.slots).shape[0] >= 192


@pytest.mark.parametrize(
    "options",
    [
        EditOptions(remove=(0,)),
        EditOptions(keep=(1, 2)),
        EditOptions(move=((0, 0.5, -0.5), (1, 0.0, 1.0))),
        EditOptions(resize=((0, 3.0),)),
        EditOptions(turn=((0, 90.0),)),
    ],
    ids=["remove", "keep", "move", "resize", "turn"],
)
def test_an_edited_image_is_decoded_anew_beside_the_one_before(one, tmp_path, options):
    (plain,) = edit(isa_model(), [one], tmp_path / "plain", EditOptions(move=((0, 0.0, 0.0),)))
    assert np.array_equal(before(plain), after(plain))
    (done,) = edit(isa_model(), [one], tmp_path / "out", options)
    assert np.array_equal(before(done), before(plain))
    assert np.abs(after(done) - before(done)).max() > 1


def test_keeping_one_is_removing_the_others(one, tmp_path):
    (kept,) = edit(isa_model(), [one], tmp_path / "kept", EditOptions(keep=(2,)))
    (rest,) = edit(isa_model(), [one], tmp_path / "rest", EditOptions(remove=(0, 1, 3)))
    assert np.array_equal(after(kept), after(rest))


def test_all_slots_exchanged_decode_to_the_other_input(one, other, tmp_path):
    pairs = tuple((slot, slot) for slot in range(K))
    first, second = edit(isa_model(), [one, other], tmp_path / "out", EditOptions(swap=pairs))
    assert np.abs(after(first) - before(second)).max() <= 1
    assert np.abs(after(second) - before(first)).max() <= 1
    assert np.abs(after(first) - before(first)).max() > 5


def test_films_are_edited_slice_by_slice(film, tmp_path):
    (done,) = edit(savi_model("flow"), [film], tmp_path / "out", EditOptions(remove=(1,)))
    assert done.edited is not None and done.edited == tmp_path / "out" / "film" / "edited.mp4"
    assert video.frame_count(done.edited) == video.frame_count(done.slots) == 8
    assert "optical flow" in done.note and "no frames" in done.note


def test_frames_are_preferred_and_other_targets_shown_on_request(film, tmp_path):
    model = savi_model("flow", "video", "depth")
    (done,) = edit(model, [film], tmp_path / "a", EditOptions(keep=(0, 1)))
    assert "Shown: frames" in done.note
    (done,) = edit(model, [film], tmp_path / "b", EditOptions(keep=(0, 1), target="depth"))
    assert "depth" in done.note
    with pytest.raises(UserError, match="does not reconstruct `flow`"):
        edit(savi_model("video"), [film], tmp_path / "c", EditOptions(target="flow"))


def test_numbers_are_those_of_the_regions():
    ids = np.zeros((64, 64), int)
    ids[:, 32:] = 7
    blank = np.full((64, 64, 3), 90, np.uint8)
    marked = (number_slots(blank, ids) != 90).any(-1)
    assert marked[20:44, 5:27].any() and marked[20:44, 37:59].any()
    assert not marked[:, 30:34].any()
    thin = np.eye(64, dtype=int)
    assert (number_slots(blank, thin) != 90).any()


def test_edits_of_one_slot_come_before_what_takes_slots_out(one, tmp_path):
    both = EditOptions(move=((3, 0.5, 0.0),), remove=(0,))
    model = isa_model()
    batch = {"video": torch.rand(1, 1, 3, SIDE, SIDE), "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        clip = model.encode(batch)
    edited = changes_of(both)(clip)
    assert edited.pose is not None and clip.pose is not None
    moved = edited.pose.position[:, :, -1] - clip.pose.position[:, :, 3]
    assert torch.allclose(moved, torch.tensor([0.5, 0.0]), atol=1e-6) and edited.slots.shape[2] == K - 1


def test_the_command_draws_and_says_what(one, tmp_path, capsys):
    model = isa_model()
    save_pretrained(model, model.config, tmp_path / "model")
    words = [str(tmp_path / "model"), str(one), "--out", str(tmp_path / "out")]
    assert edit_command([*words, "--move", "1", "0.5", "-0.25", "--remove", "0", "2"]) == 0
    said = capsys.readouterr().out
    assert "edited.png" in said and "slots.png" in said and "Slots 0 to 3" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (EditOptions(move=((9, 0.0, 0.0),)), "There is no slot 9"),
        (EditOptions(remove=(0, 1, 2, 3)), "left to decode"),
        (EditOptions(resize=((0, -1.0),)), "positive factor"),
        (EditOptions(swap=((0, 0),)), "between two inputs, got 1"),
    ],
)
def test_edits_that_cannot_be_are_refused_and_leave_no_file(one, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        edit(isa_model(), [one], tmp_path / "out", options)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "edited" in path.name]


def test_systems_whose_slots_cannot_move_name_one_whose_can(one, tmp_path):
    with pytest.raises(UserError, match="Invariant Slot Attention"):
        edit(savi_model("video"), [one], tmp_path / "out", EditOptions(move=((0, 0.1, 0.1),)))
    with pytest.raises(UserError, match="no rotation"):
        edit(isa_model("translation"), [one], tmp_path / "out", EditOptions(turn=((0, 30.0),)))


def test_a_model_of_properties_reconstructs_nothing(one, tmp_path):
    numbers = slot_attention.SlotAttentionConfig(
        resolution=(SIDE, SIDE), channels=(8,), strides=(2,), decoder=slot_attention.SetPredictionConfig()
    )
    with pytest.raises(UserError, match="reconstructs nothing"):
        edit(slot_attention.build(numbers).eval(), [one], tmp_path / "out", EditOptions(remove=(0,)))


def test_inputs_of_other_lengths_cannot_exchange(one, film, tmp_path):
    with pytest.raises(UserError, match=r"one\.png has 1 frame and .*film\.mp4 8"):
        edit(isa_model(), [one, film], tmp_path / "out", EditOptions(swap=((0, 1),)))


def test_a_missing_input_does_not_stop_others_but_an_exchange(one, tmp_path):
    with pytest.raises(InputsFailed, match="nowhere does not exist") as caught:
        edit(isa_model(), [tmp_path / "nowhere", one], tmp_path / "out")
    assert [done.slots for done in caught.value.done] == [tmp_path / "out" / "one" / "slots.png"]
    with pytest.raises(UserError, match="nowhere does not exist"):
        edit(isa_model(), [tmp_path / "nowhere", one], tmp_path / "two", EditOptions(swap=((0, 1),)))
    assert not (tmp_path / "two").exists()


def test_missing_inputs_and_hints_for_models_that_take_none_are_named(one, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        edit(isa_model(), [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "boxes.json").write_text("[[0, 0, 1, 1]]")
    with pytest.raises(UserError, match="without hints"):
        edit(isa_model(), [one], tmp_path / "out", EditOptions(boxes=tmp_path / "boxes.json"))


def test_contradictions_are_refused():
    with pytest.raises(UserError, match="either slots to remove or slots to keep"):
        EditOptions(remove=(0,), keep=(1,))
    with pytest.raises(UserError, match="num_slots should be more than 0"):
        EditOptions(num_slots=0)


def test_one_bad_input_does_not_stop_the_others(tmp_path, capsys):
    model = savi_model("video")
    save_pretrained(model, model.config, tmp_path / "model")
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for seed, file in enumerate(files):
        video.write_png(file, picture(seed, *TINY.resolution))
    files[1].write_bytes(b"no image")
    words = [str(tmp_path / "model"), *map(str, files), "--out", str(tmp_path / "out")]
    with pytest.raises(InputsFailed, match=r"(?s)1 of 3 inputs failed:.*b\.png.*\n2 of 3") as caught:
        edit_command(words)
    assert caught.value.exit_code == 1
    said = capsys.readouterr().out
    for name in "ac":
        assert (tmp_path / "out" / name / "slots.png").is_file() and f"out/{name}/slots.png" in said


def test_values_that_are_not_finite_stop_an_edit_with_the_inputs_name(one, tmp_path):
    for part in ("slot_encoder", "decoder"):
        model = savi_model("video")
        with torch.no_grad():
            for weight in getattr(model, part).parameters():
                weight.mul_(1e30)
        with pytest.raises(UserError, match=rf"are not finite for .*{one.name}"):
            edit(model, one, tmp_path / "out", remove=1)
