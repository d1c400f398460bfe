"""Lines of commands: what each calls with what, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.movi_files import VERSION, copy_movi, shard
from tiny_models import TINY
from torchslots.cli import main
from torchslots.data.catalog import open_dataset
from torchslots.data.formats.tfrecord import RecordFile, write_records
from torchslots.evaluation.videos import whole_videos
from torchslots.io import video
from torchslots.models.weights import save_pretrained
from torchslots.recipes import savi
from torchslots.recipes.catalog import recipe
from torchslots.recipes.savi import DecoderConfig

SIDE = 32


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    decoder = DecoderConfig(grid=(8, 8), channels=(8, 6), strides=(2, 2))
    config = replace(TINY, resolution=(SIDE, SIDE), decoder=decoder, targets=("flow", "video"))
    return save_pretrained(savi.build(config), config, tmp_path / "model")


@pytest.fixture
def movi(tmp_path) -> Path:
    copy_movi("a", tmp_path / "data")
    return tmp_path / "data"


def evaluate(model: Path, movi: Path, out: Path, *more: str) -> int:
    words = ["evaluate", str(model), "--root", str(movi), "--data", "movi_a", "--split", "train"]
    return main([*words, "--num-workers", "0", "--out", str(out), *more])


def test_what_is_predicted_unseen_is_judged(model, movi, tmp_path, capsys):
    assert evaluate(model, movi, tmp_path / "out", "--observe", "3", "--rollout", "4") == 0
    said = capsys.readouterr().out
    assert "3 frames seen, 4 predicted" in said and "dB" in said and "last frame repeated" in said
    told = json.loads((tmp_path / "out" / "horizon.json").read_text())
    assert {"fg_ari", "psnr_flow", "psnr_video", "copy_fg_ari"} <= set(told["metrics"])
    assert all(len(curve) == 4 for curve in told["curves"].values())
    assert video.read_image(tmp_path / "out" / "horizon_fg_ari.png").shape[2] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--observe", "0"], "--observe of 1 or more"),
        (["--rollout", "4"], "--observe of 1 or more"),
        (["--observe", "2", "--rollout", "0"], "--rollout of 1 or more"),
        (["--observe", "500"], "Cannot observe 500 frames"),
    ],
)
def test_horizons_that_cannot_be_are_refused(model, movi, tmp_path, capsys, words, says):
    assert evaluate(model, movi, tmp_path / "out", *words) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_evaluations_are_told_what_to_forget_and_where_to_start(model, movi, tmp_path):
    more = [
        "--restart-memory",
        "--seed",
        "3",
        "--num-videos",
        "1",
        "--num-frames",
        "4",
        "--draw",
        "0",
        "--no-baseline",
    ]
    assert evaluate(model, movi, tmp_path / "out", *more) == 0
    settings = json.loads((tmp_path / "out" / "eval.json").read_text())["settings"]
    assert settings["restart_memory"] is True and settings["seed"] == 3 and settings["num_frames"] == 4


def test_a_published_evaluation_is_named(model, movi, tmp_path, capsys):
    line = ["--num-frames", "2", "--num-plots", "0", "--no-baseline"]
    assert evaluate(model, movi, tmp_path / "out", *line, "--protocol", "davis") == 0
    assert "Protocol `davis`: DAVIS' official program" in " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert told["settings"]["protocol"] == "davis" and 0 <= told["metrics"]["j_and_f"] <= 1
    assert evaluate(model, movi, tmp_path / "none", *line, "--protocol", "slotcontrst") == 2
    assert "no protocol `slotcontrst`. Did you mean slotcontrast?" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "none").exists()


def test_so_many_videos_or_all(clevr6, tmp_path, capsys):
    """The recipe's 320 are more than there are; 0 is the whole split."""
    counts = []
    for words in ([], ["--num-videos", "0"], ["--num-videos", "1"]):
        assert main([*clevr6, *words]) == 0
        told = json.loads((tmp_path / "out" / "eval.json").read_text())
        counts.append((told["settings"]["num_videos"], told["num_videos"]))
    assert counts == [(320, counts[1][1]), (None, counts[1][1]), (1, 1)] and counts[1][1] > 1
    assert main([*clevr6, "--num-videos", "-1"]) == 2
    assert "1 or more, or 0 for the whole split" in " ".join(capsys.readouterr().err.split())


def test_broken_weights_are_refused(model, movi, tmp_path, capsys):
    tensors = load_file(model / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, model / "model.safetensors")
    assert evaluate(model, movi, tmp_path / "out") == 2
    assert "weights that are not finite" in " ".join(capsys.readouterr().err.split())
    video.write_png(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    assert main(["predict", str(model), str(tmp_path / "a.png"), "--out", str(tmp_path / "seen")]) == 2
    assert not (tmp_path / "seen").exists()


def prepare(*words: object) -> int:
    return main(["data", "prepare", *map(str, words)])


def test_a_bad_film_among_good_ones_gives_status_1(tmp_path, capsys):
    config = replace(TINY, conditioning="learned")
    model = save_pretrained(savi.build(config), config, tmp_path / "model")
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    for name in "abcd":
        video.write_video(tmp_path / "usb" / f"{name}.mp4", frames)
    (tmp_path / "usb" / "._a.mp4").write_bytes(b"?")
    (tmp_path / "usb" / "list.pdf").write_bytes(b"?")
    (tmp_path / "usb" / "b.mp4").write_bytes(b"no film" * 99)
    words = ["predict", str(model), str(tmp_path / "usb"), "--out", str(tmp_path / "out"), "--save", "tracks"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert [line.rsplit("/")[-1] for line in said.out.splitlines()] == ["a", "c", "d"]
    assert "1 of 4 inputs failed" in said.err and "b.mp4 cannot be read as a video" in said.err
    assert "list.pdf (neither image nor video by its name)" in said.err and "._a" not in said.err
    video.write_video(tmp_path / "usb" / "b.mp4", frames)
    assert main(words) == 0
    assert "3 of 4 inputs were done" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "were done" not in capsys.readouterr().err
    assert main([*words, "--void-id", "None", "--allow-damaged", "--allow-odd-masks"]) == 0


def test_data_are_prepared_as_a_recipe_wants_them(movi, tmp_path):
    line = ["--root", movi, "--out", tmp_path / "out", "--splits", "train", "--config.resolution", SIDE]
    assert prepare("savi_small", *line) == 0
    made_for = json.loads((tmp_path / "out" / "train" / "meta.json").read_text())["made_for"]
    numbers = recipe("savi_small").data
    assert made_for["resolution"] == SIDE and made_for["max_instances"] == numbers.max_instances
    assert set(made_for["keys"]) == set(numbers.keys)


def test_without_a_word_about_splits_the_recipes_are_prepared(movi, tmp_path, capsys):
    assert prepare("savi_small", "--root", movi, "--out", tmp_path / "out") == 2
    assert (tmp_path / "out" / "train" / "meta.json").is_file()
    assert "shards of `validation` are missing" in capsys.readouterr().err


def test_evaluation_takes_what_was_prepared_for_a_recipe(movi, tmp_path):
    first = shard(movi / "movi_a" / VERSION)
    record = RecordFile(first).read(0)
    write_records(first.with_name("movi_a-validation.tfrecord-00000-of-00001"), [record])
    line = ["--root", movi, "--out", tmp_path / "out", "--config.dataset", "movi_a"]
    assert prepare("slotcontrast_movi_c", *line, "--config.resolution", SIDE) == 0
    numbers = recipe("slotcontrast_movi_c")
    data = replace(numbers.data, dataset="prepared", resolution=SIDE)
    assert len(whole_videos(data, numbers.evaluation, tmp_path / "out")) == 1
    assert len(open_dataset("prepared", tmp_path / "out", "train", data, True)) > 0


def test_numbers_of_another_recipe_are_other_data(movi, tmp_path, capsys):
    line = ["--root", movi, "--out", tmp_path / "out", "--splits", "train"]
    assert prepare("savi_small", *line) == 0
    assert prepare("savi_plus_plus", *line, "--config.dataset", "movi_a") == 2
    assert "was prepared with" in " ".join(capsys.readouterr().err.split())


def test_data_can_still_be_prepared_without_a_recipe(movi, tmp_path):
    line = ["--root", movi, "--out", tmp_path / "out", "--splits", "train", "--config.keys", "video"]
    assert prepare(*line) == 0
    assert json.loads((tmp_path / "out" / "train" / "meta.json").read_text())["made_for"]["keys"] == ["video"]


def test_an_unknown_recipe_is_answered_with_the_nearest(movi, tmp_path, capsys):
    assert prepare("savi_smal", "--root", movi, "--out", tmp_path / "out") == 2
    assert "savi_small" in capsys.readouterr().err


def test_pictures_are_generated(tmp_path, capsys):
    line = [
        "generate-images",
        "--out",
        str(tmp_path),
        "--kind",
        "tetrominoes",
        "--count",
        "101",
        "--workers",
        "1",
    ]
    assert main(["data", *line]) == 0
    assert "101 images" in capsys.readouterr().out and list((tmp_path / "tetrominoes").iterdir())


def test_films_are_predicted_beyond_their_end(tmp_path, capsys):
    torch.manual_seed(0)
    config = replace(TINY, conditioning="learned")
    folder = save_pretrained(savi.build(config), config, tmp_path / "model")
    video.write_video(tmp_path / "clip.mp4", torch.randint(0, 256, (4, 32, 48, 3)).byte().numpy(), 10)
    line = ["predict", str(folder), str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out")]
    assert main([*line, "--observe", "3", "--rollout", "5", "--save", "tracks"]) == 0
    told = json.loads((tmp_path / "out" / "clip" / "tracks.json").read_text())
    assert [entry["frame"] for entry in told["frames"] if entry.get("predicted")] == [3, 4, 5, 6, 7]
    assert main([*line, "--max-frames", "3"]) == 2
    assert "remembers no frames" in capsys.readouterr().err


@pytest.fixture
def clevr6(tmp_path, golden) -> list[str]:
    """A run of Slot Attention on the recorded CLEVR with masks, and the line that evaluates it."""
    from torchslots.recipes import slot_attention
    from torchslots.recipes.config import to_json

    small = slot_attention.SlotAttentionConfig(
        resolution=(16, 16),
        channels=(8,),
        strides=(1,),
        token_hidden=8,
        token_size=8,
        slot_size=8,
        mlp_size=12,
        num_slots=3,
        decoder=slot_attention.ImageDecoderConfig(grid=(4, 4), channels=(8, 8), strides=(2, 2)),
    )
    whole = recipe("slot_attention_clevr6")
    whole = replace(whole, model=small, data=replace(whole.data, resolution=16))
    torch.manual_seed(0)
    run = tmp_path / "clevr6"
    save_pretrained(slot_attention.build(small), small, run / "model")
    (run / "recipe.json").write_text(to_json(whole))
    line = ["evaluate", str(run), "--root", str(golden / "data_clevr_with_masks"), "--num-workers", "0"]
    return [*line, "--split", "train", "--draw", "0", "--out", str(tmp_path / "out")]


def test_slots_rounds_and_objects_are_chosen_when_judging(clevr6, tmp_path, capsys):
    assert main(clevr6) == 0
    told = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert told["settings"]["num_slots"] == 3
    assert main([*clevr6, "--num-slots", "6", "--num-iterations", "5", "--max-objects", "10"]) == 0
    other = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert other["settings"]["num_slots"] == 6 and other["settings"]["num_iterations"] == 5
    assert other["num_videos"] > told["num_videos"]
    assert main([*clevr6, "--num-slots", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_slots_that_hints_decide_are_not_chosen(model, movi, tmp_path, capsys):
    assert evaluate(model, movi, tmp_path / "out", "--num-slots", "3") == 2
    assert "hints of the first frame decide" in " ".join(capsys.readouterr().err.split())


def test_pictures_are_looked_at_in_more_rounds(clevr6, tmp_path):
    import numpy as np

    video.write_png(tmp_path / "one.png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    line = ["predict", clevr6[1], str(tmp_path / "one.png"), "--save", "slots", "--out"]
    more = ["--num-slots", "5", "--num-iterations", "6"]
    for name, words in {"few": [], "many": more, "again": more}.items():
        assert main([*line, str(tmp_path / name), *words]) == 0
    few, many, again = (
        np.load(tmp_path / name / "one" / "slots.npz")["slots"] for name in ("few", "many", "again")
    )
    assert few.shape[1] == 3 and many.shape[1] == 5 and np.array_equal(many, again)
    rounds = [*line, str(tmp_path / "rounds"), "--num-iterations", "6"]
    assert main(rounds) == 0
    assert not np.allclose(np.load(tmp_path / "rounds" / "one" / "slots.npz")["slots"], few)
    edit = ["edit", clevr6[1], str(tmp_path / "one.png"), "--out", str(tmp_path / "edit"), *more]
    assert main([*edit, "--keep", "4"]) == 0
