"""Options in Python take what people pass: text, paths, arrays, lists, numbers of numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_models import tiny
from torchslots.inference.compose import ComposeOptions
from torchslots.inference.concepts import ConceptOptions
from torchslots.inference.edit import EditOptions
from torchslots.inference.evaluate import EvaluateOptions
from torchslots.inference.generation import SamplingOptions
from torchslots.inference.inputs import jobs_of
from torchslots.inference.predict import PredictOptions, predict_frames
from torchslots.io.errors import UserError
from torchslots.recipes.config import with_changes
from torchslots.training.feature_job import FeatureOptions
from torchslots.training.resume import TrainOptions

ROWS = [[0.1, 0.2, 0.4, 0.5], [0.5, 0.5, 0.9, 0.75]]


@pytest.mark.parametrize(
    ("kind", "name", "given", "kept"),
    [
        (PredictOptions, "boxes", "b.json", Path("b.json")),
        (PredictOptions, "masks", Path("m.png"), Path("m.png")),
        (PredictOptions, "save", "overlay", ("overlay",)),
        (PredictOptions, "save", ["overlay", "masks"], ("overlay", "masks")),
        (PredictOptions, "save", {"tracks"}, ("tracks",)),
        (PredictOptions, "num_slots", np.int64(5), 5),
        (PredictOptions, "fps", 24, 24),
        (PredictOptions, "fps", np.float32(12), 12.0),
        (PredictOptions, "backbone", Path("vit"), "vit"),
        (PredictOptions, "sampling", {"steps": np.int32(3)}, SamplingOptions(steps=3)),
        (EditOptions, "remove", 2, (2,)),
        (EditOptions, "remove", np.array([2, 5]), (2, 5)),
        (EditOptions, "keep", torch.tensor([1]), (1,)),
        (EditOptions, "move", (3, 0.5, -0.2), ((3, 0.5, -0.2),)),
        (EditOptions, "move", [[3, 0.5, -0.2], [1, 0, 1]], ((3, 0.5, -0.2), (1, 0, 1))),
        (EditOptions, "resize", [(3, 1.5)], ((3, 1.5),)),
        (EditOptions, "swap", np.array([[1, 4]]), ((1, 4),)),
        (EvaluateOptions, "write_videos", "frames", Path("frames")),
        (EvaluateOptions, "weights", {"i3d": Path("i3d.pt")}, ("i3d=i3d.pt",)),
        (EvaluateOptions, "weights", "i3d=i3d.pt", ("i3d=i3d.pt",)),
        (EvaluateOptions, "num_videos", np.int16(3), 3),
        (ComposeOptions, "write_videos", "frames", Path("frames")),
        (ConceptOptions, "num_concepts", np.int64(7), 7),
        (TrainOptions, "tokenizer", Path("runs/vqvae"), "runs/vqvae"),
    ],
)
def test_they_take_what_people_pass(kind, name, given, kept):
    found = getattr(kind(**{name: given}), name)
    assert found == kept and type(found) is type(kept)
    assert getattr(with_changes(kind(), **{name: given}), name) == kept


@pytest.mark.parametrize(
    ("kind", "name", "given", "message"),
    [
        (PredictOptions, "num_slots", "five", "`num_slots` should be int, got 'five'"),
        (PredictOptions, "num_slots", True, "`num_slots` should be int, got True"),
        (PredictOptions, "boxes", 3, "`boxes` should be a path or an array, got 3"),
        (PredictOptions, "boxes", [[0, 1], [2]], "`boxes` should be a path or an array"),
        (PredictOptions, "save", 3, "`save` should be str, got 3"),
        (PredictOptions, "save", None, "`save` should be several values"),
        (PredictOptions, "sampling", {"step": 3}, "`sampling` has no field `step`. It has: sampler, steps"),
        (PredictOptions, "sampling", 3, "`sampling` should be SamplingOptions, got 3"),
        (EditOptions, "move", (3, 0.5), "`move` should be 3 values"),
        (EditOptions, "move", (3.5, 0.5, 1), "`move` should be int, got 3.5"),
        (EvaluateOptions, "precision", "fp8", "`precision` should be one of fp32, bf16, fp16, got 'fp8'"),
        (EvaluateOptions, "recon", "yes", "`recon` should be bool, got 'yes'"),
        (TrainOptions, "tokenizer", 3, "`tokenizer` should be str, got 3"),
        (FeatureOptions, "features", 3, "`features` should be str, got 3"),
        (SamplingOptions, "steps", "many", "`steps` should be int, got 'many'"),
    ],
)
def test_what_is_none_of_this_gets_one_message(kind, name, given, message):
    with pytest.raises(UserError) as error:
        kind(**{name: given})
    assert message in str(error.value)


def test_hints_as_arrays_are_those_of_a_file(tmp_path):
    clip, file = tmp_path / "clip.mp4", tmp_path / "b.json"
    clip.touch()
    file.write_text(json.dumps(ROWS))
    (of_file,) = jobs_of(clip, tmp_path / "out", PredictOptions(boxes=str(file)), each=False)
    for rows in (ROWS, np.array(ROWS), torch.tensor(ROWS), tuple(map(tuple, ROWS))):
        options = PredictOptions(boxes=rows)
        (job,) = jobs_of(clip, tmp_path / "out", options, each=False)
        np.testing.assert_allclose(job.hint.boxes, of_file.hint.boxes)
    ids = np.zeros((4, 6), np.uint8)
    ids[1:3, 2:4] = 7
    (job,) = jobs_of(clip, tmp_path / "out", PredictOptions(masks=ids), each=False)
    np.testing.assert_array_equal(job.hint.ids, ids // 7)
    with pytest.raises(UserError, match="One hint is given for 2 inputs"):
        jobs_of([clip, file], tmp_path / "out", PredictOptions(boxes=ROWS), each=False)


def test_a_resolution_beyond_any_models_is_refused():
    assert PredictOptions(resolution=8192).resolution == 8192
    with pytest.raises(UserError, match=r"resolution 3,000,000 is more .* give at most 8,192 pixels"):
        PredictOptions(resolution=3_000_000)


def test_arrays_that_are_no_label_map_are_refused(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.touch()
    sharp = np.zeros((24, 24), np.uint8)
    sharp[2:10, 2:20], sharp[12:20, 4:12] = 100, 200
    soft = np.asarray(Image.fromarray(sharp).resize((60, 60), Image.Resampling.BICUBIC))
    with pytest.raises(UserError, match=r"The mask holds .* smoothed.*--allow-odd-masks"):
        jobs_of(clip, tmp_path / "out", PredictOptions(masks=soft), each=False)
    with pytest.raises(UserError, match=r"The mask holds .* smoothed"):
        predict_frames(tiny(), np.zeros((1, 60, 60, 3), np.uint8), masks=soft)
    with pytest.raises(UserError, match=r"integer ids .* float64"):
        predict_frames(tiny(), np.zeros((1, 60, 60, 3), np.uint8), masks=soft / 255)
    odd = PredictOptions(masks=soft, allow_odd_masks=True)
    (job,) = jobs_of(clip, tmp_path / "out", odd, each=False)
    assert job.hint.ids is not None and job.hint.ids.max() > 2


def test_a_device_of_torch_is_taken():
    assert PredictOptions(device=torch.device("cpu")).device == "cpu"
    assert EvaluateOptions(device=torch.device("cuda", 1)).device == "cuda:1"
