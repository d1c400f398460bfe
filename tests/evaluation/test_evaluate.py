"""Evaluation: known answers from predictors whose answers are known, and what must not change the figures."""

import json
import socket
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

import tiny_models
from forked import forkserver
from torchslots.data.transforms import mask_boxes
from torchslots.evaluation.baselines import BoxCopy, fill_boxes
from torchslots.evaluation.evaluate import box_copy_baseline, evaluate
from torchslots.evaluation.report import EvalReport, compare
from torchslots.io.errors import UserError
from torchslots.metrics.scores import DEFINITIONS, LABELS
from torchslots.metrics.segmentation import contingency, fg_ari, miou
from torchslots.models.model import conditioning
from torchslots.models.slots.seeding import sample_noise
from torchslots.models.types import Batch, Pose, Prediction, State
from torchslots.recipes.config import EvalConfig

_CONFIG = EvalConfig(num_frames=7, slice_size=3)


class Oracle(nn.Module):
    """Predicts the truth, each pixel moved by `shift` columns; counts its slices and sees that the state
    comes back.

    The first `shuffle` slot ids are permuted, and `switch_at` exchanges two slots from that frame on.
    """

    def __init__(self, num_slots: int = 4, shift: int = 0, order=None, switch_at: int | None = None) -> None:
        super().__init__()
        self.num_slots, self.shift, self.switch_at = num_slots, shift, switch_at
        self.order = torch.arange(num_slots) if order is None else torch.tensor(order)
        self.lengths: list[int] = []
        self.recon_requests: list[bool] = []

    def predict(self, batch, state=None, slot_recon=False, recon=True, attn=True) -> Prediction:
        assert not self.training
        video = batch["video"]
        frame = 0 if state is None else int(state.memory)
        self.lengths.append(video.shape[1])
        self.recon_requests.append(slot_recon)
        ids = self.order[batch["truth"].long().roll(self.shift, -1)]
        for t in range(video.shape[1]):
            if self.switch_at is not None and frame + t >= self.switch_at:
                ids[:, t] = torch.where(ids[:, t] == 1, 2, torch.where(ids[:, t] == 2, 1, ids[:, t]))
        masks = nn.functional.one_hot(ids, self.num_slots).movedim(-1, 2).float()
        slots = torch.zeros(*video.shape[:2], self.num_slots, 1)
        own = {"video": video[:, :, None].expand(-1, -1, self.num_slots, -1, -1, -1)} if slot_recon else None
        recon = {"video": video, "depth": video[:, :, :1]}
        return Prediction(
            ids,
            masks,
            slots,
            masks.flatten(3),
            recon,
            own,
            State(slots[:, -1], memory=frame + video.shape[1]),
        )

    def loss(self, batch):
        return {"recon": batch["video"].mean(), "negative": -batch["video"].mean()}


def _batch(first: int, size: int, num_frames: int = 7, num_objects: int = 3) -> dict:
    """Videos of square objects that move right by one pixel a frame, each video with its own layout."""
    truth = torch.zeros(size, num_frames, 12, 16, dtype=torch.int32)
    rng = np.random.default_rng(first)
    for video in truth:
        for i in range(num_objects):
            top, left = rng.integers(0, 8), rng.integers(0, 6)
            for t, frame in enumerate(video):
                frame[top : top + 4, left + t : left + t + 4] = i + 1
    video = torch.rand(size, num_frames, 3, 12, 16, generator=torch.Generator().manual_seed(first))
    mask = torch.ones_like(truth, dtype=torch.bool)
    names = [f"video {first + i}" for i in range(size)]
    return {"video": video, "segmentations": truth, "truth": truth, "padding_mask": mask, "name": names}


def test_a_perfect_model_scores_one_and_knows_it_was_asked_in_slices():
    model = Oracle(order=[2, 0, 3, 1]).train()
    report = evaluate(model, [_batch(0, 2), _batch(2, 1)], _CONFIG, num_plots=0)
    assert set(report.metrics) | {"fg_ari_objects_only"} == set(DEFINITIONS) == set(LABELS)
    assert all(value == pytest.approx(1) for value in report.metrics.values())
    assert report.num_videos == 3 and report.notes == []
    assert model.lengths == [3, 3, 1] * 2 and not any(model.recon_requests)
    assert model.training


def test_sliced_equals_whole_equals_one_by_one():
    model = Oracle(shift=2)
    whole = evaluate(model, [_batch(0, 3)], EvalConfig(num_frames=7, slice_size=7), num_plots=0)
    sliced = evaluate(model, [_batch(0, 3)], EvalConfig(num_frames=7, slice_size=2), num_plots=0)
    rows = [{k: v[i : i + 1] for k, v in _batch(0, 3).items()} for i in range(3)]
    single = evaluate(model, rows, _CONFIG, num_plots=0)
    assert 0 < whole.metrics["fg_ari"] < 0.99
    for other in (sliced, single):
        assert other.metrics == pytest.approx(whole.metrics)
        assert other.curves["fg_ari"] == pytest.approx(whole.curves["fg_ari"])


def test_figures_equal_the_metrics_on_whole_videos():
    batch = _batch(0, 3)
    report = evaluate(Oracle(shift=2), [batch], _CONFIG, num_plots=0)
    tables = contingency(batch["truth"], batch["truth"].roll(2, -1), 4)
    assert report.metrics["fg_ari"] == pytest.approx(fg_ari(tables.sum(1)).mean().item())
    assert report.metrics["fg_ari_no_first"] == pytest.approx(fg_ari(tables[:, 1:].sum(1)).mean().item())
    assert report.metrics["fg_ari_frame"] == pytest.approx(fg_ari(tables).mean().item())
    assert report.metrics["fg_ari_frame_no_first"] == pytest.approx(fg_ari(tables[:, 1:]).mean().item())
    assert report.curves["fg_ari"] == pytest.approx(fg_ari(tables).mean(0).tolist())
    assert report.metrics["miou"] == pytest.approx(miou(tables.sum(1)).mean().item())


def test_a_slot_that_changes_its_object_costs_the_video_not_the_frames():
    report = evaluate(Oracle(switch_at=4), [_batch(0, 2)], _CONFIG, num_plots=0)
    assert report.metrics["fg_ari_frame"] == pytest.approx(1)
    assert report.metrics["fg_ari"] < 0.9


def test_padded_frames_do_not_count():
    batch, short = _batch(0, 2), _batch(0, 2)
    batch["padding_mask"][:, 5:] = False
    cut = {key: value[:, :5] if isinstance(value, torch.Tensor) else value for key, value in short.items()}
    padded = evaluate(Oracle(shift=2), [batch], _CONFIG, num_plots=0)
    assert padded.metrics == pytest.approx(evaluate(Oracle(shift=2), [cut], _CONFIG, num_plots=0).metrics)
    assert len(padded.curves["fg_ari"]) == 5
    batch["padding_mask"][:, 1] = False
    hole = json.loads(evaluate(Oracle(), [batch], _CONFIG, num_plots=0).to_json())["curves"]["fg_ari"]
    assert hole[1] is None and len(hole) == 5


def test_frames_past_the_limit_are_left_out():
    assert evaluate(Oracle(), [_batch(0, 1, num_frames=9)], _CONFIG, num_plots=0).curves[
        "ari"
    ] == pytest.approx([1] * 7)


def test_data_without_masks_have_a_sentence_instead_of_figures():
    batch = _batch(0, 2)
    del batch["segmentations"]
    report = evaluate(Oracle(), [batch], _CONFIG, num_plots=1, with_loss=True)
    assert set(report.metrics) == {"loss_recon", "loss_negative"} and report.curves == {}
    assert report.metrics["loss_recon"] == pytest.approx(batch["video"].mean().item())
    assert report.metrics["loss_negative"] == pytest.approx(-report.metrics["loss_recon"])
    assert len(report.notes) == 1 and "no masks" in report.notes[0]
    assert report.panels[0].truth is None and report.panels[0].panel().shape[0] == 7


def test_more_objects_than_slots_is_said():
    report = evaluate(Oracle(num_slots=6), [_batch(0, 2, num_objects=5)], _CONFIG, num_plots=0)
    assert report.notes == []
    crowded = Oracle(num_slots=3, order=[0, 1, 2, 2, 2, 2])
    [note] = evaluate(crowded, [_batch(0, 2, num_objects=5), _batch(2, 1, 7, 2)], _CONFIG, num_plots=0).notes
    assert "2 of 3 videos" in note and "3 slots" in note


def test_videos_without_objects_count_one_and_are_said():
    report = evaluate(Oracle(), [_batch(0, 1), _batch(1, 1, num_objects=0)], _CONFIG, num_plots=0)
    assert report.metrics["fg_ari"] == pytest.approx(1) and report.metrics["mbo"] == pytest.approx(1)
    assert "1 of 2 videos show no object" in report.notes[0]


def test_images_have_no_figures_without_the_first_frame():
    report = evaluate(Oracle(), [_batch(0, 2, num_frames=1)], _CONFIG, num_plots=1)
    assert "fg_ari_no_first" not in report.metrics and "fg_ari_frame_no_first" not in report.metrics
    assert report.metrics["fg_ari"] == pytest.approx(1)


def test_no_videos_is_a_user_error():
    with pytest.raises(UserError, match="no video"):
        evaluate(Oracle(), [], _CONFIG)


def test_training_mode_returns_after_an_error():
    def broken():
        yield _batch(0, 1)
        raise UserError("a shard is damaged")

    model = Oracle().train()
    with pytest.raises(UserError, match="damaged"):
        evaluate(model, broken(), _CONFIG)
    assert model.training


def test_panels_show_the_first_videos_in_bytes():
    model = Oracle(shift=1)
    batches = [_batch(0, 2), _batch(2, 2), _batch(4, 2)]
    report = evaluate(model, batches, _CONFIG, num_plots=3)
    assert [panel.name for panel in report.panels] == ["video 0", "video 1", "video 2"]
    assert model.recon_requests == [True] * 6 + [False] * 3
    drawn, batch = report.panels[2], batches[1]
    assert (drawn.video == (batch["video"][0] * 255).round().byte().movedim(1, -1).numpy()).all()
    assert (drawn.truth == batch["truth"][0].numpy()).all()
    assert (drawn.prediction == batch["truth"][0].roll(1, -1).numpy()).all()
    assert drawn.masks.dtype == np.uint8 and drawn.masks.shape == (7, 4, 12, 16)
    assert drawn.slot_recon is not None and set(drawn.recon) == {"reconstruction", "predicted depth"}
    assert drawn.panel(tile=24).dtype == np.uint8


def test_report_is_saved_as_json_pictures_and_curve(tmp_path, capsys):
    report = evaluate(Oracle(shift=1), [_batch(0, 1)], _CONFIG, num_plots=1)
    written = report.save(tmp_path / "new", gif=True, tile=24)
    assert [path.name for path in written] == [
        "eval.json",
        "fg_ari_per_frame.png",
        "video_0.mp4",
        "video_0.gif",
    ]
    assert all(path.stat().st_size > 100 for path in written)
    stored = json.loads((tmp_path / "new/eval.json").read_text())
    assert stored["metrics"] == report.metrics and stored["num_videos"] == 1
    assert set(stored["definitions"]) == set(stored["metrics"]) and stored["settings"]["num_slots"] == 4
    report.print_table()
    printed = capsys.readouterr().out
    assert "fg_ari" in printed and "1 video" in printed
    image = evaluate(Oracle(), [_batch(0, 1, num_frames=1)], _CONFIG, num_plots=1)
    assert [path.suffix for path in image.save(tmp_path)] == [".json", ".png"]


def test_panels_of_an_earlier_larger_result_do_not_stay(tmp_path):
    films = evaluate(Oracle(), [_batch(0, 2)], _CONFIG, num_plots=2)
    films.save(tmp_path / "eval", gif=True, tile=24)
    (tmp_path / "eval" / "video_9.mp4").touch()
    image = evaluate(Oracle(), [_batch(0, 1, num_frames=1)], _CONFIG, num_plots=1)
    image.save(tmp_path / "eval")
    left = sorted(file.name for file in (tmp_path / "eval").iterdir())
    assert left == ["eval.json", "video_0.png", "video_9.mp4"], "others' files stay"
    (tmp_path / "video_1.mp4").touch()
    image.save(tmp_path)
    assert (tmp_path / "video_1.mp4").is_file()


def test_compare_lists_every_figure_once():
    some = EvalReport({"fg_ari": 0.5, "loss_a": 2.0}, {}, 1, {}, [], {})
    other = EvalReport({"fg_ari": 0.25}, {}, 1, {}, [], {})
    header, rows = compare({"ours": some, "box copy": other})
    assert header == ["", "ours", "box copy"]
    assert rows == [["FG-ARI", "50.0 %", "25.0 %"], ["loss_a", "2", ""]]


def test_boxes_are_filled_smaller_over_larger():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 0.5], [0.25, 0.0, 0.75, 0.25], [0.0, 0.0, 0.0, 0.0]]])
    expected = [[1, 1, 0, 0], [2, 1, 0, 0], [2, 1, 0, 0], [1, 1, 0, 0]]
    assert fill_boxes(boxes, 4, 4)[0].tolist() == expected
    assert fill_boxes(boxes[:, [1, 0]], 4, 4)[0].tolist() == [
        [{0: 0, 1: 2, 2: 1}[i] for i in row] for row in expected
    ]


def test_boxes_around_masks_fill_to_the_same_boxes():
    ids = fill_boxes(torch.tensor([[[0.0, 0.25, 0.5, 0.5], [0.5, 0.75, 1.0, 1.0]]]), 8, 8)
    boxes = mask_boxes(ids, 2)
    assert boxes.tolist() == [[[0.0, 0.25, 0.5, 0.5], [0.5, 0.75, 1.0, 1.0]]]
    ids[ids == 1] = 0
    assert mask_boxes(ids, 2)[0, 0].tolist() == [0, 0, 0, 0]


def test_box_copy_is_right_on_the_first_frame_and_wrong_after_motion():
    batch = _batch(0, 2, num_objects=1)
    batch["segmentations"][:, :, :2] = 2
    report = box_copy_baseline([batch], _CONFIG)
    assert report.curves["fg_ari"][0] == pytest.approx(1)
    assert report.metrics["fg_ari"] < 0.9
    boxes = mask_boxes(batch["segmentations"].flatten(0, 1), 2).unflatten(0, (2, 7))
    assert box_copy_baseline([{**batch, "boxes": boxes}], _CONFIG).metrics == report.metrics


def test_box_copy_needs_a_hint():
    with pytest.raises(UserError, match="boxes"):
        BoxCopy().predict({"video": torch.zeros(1, 2, 3, 4, 4)})


def _evaluate_on_rank(rank: int, world_size: int, port: int, folder) -> None:
    warnings.simplefilter("error")
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    batches = [_batch(0, 3), _batch(3, 1, num_objects=0)] if rank == 0 else []
    report = evaluate(Oracle(shift=2), batches, _CONFIG, num_plots=1, with_loss=True)
    (folder / f"{rank}.json").write_text(report.to_json())
    assert len(report.panels) == (1 if rank == 0 else 0)
    torch.distributed.destroy_process_group()


def test_two_processes_report_what_one_does(tmp_path):
    """Also where one of them has no video at all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        forkserver().Process(target=_evaluate_on_rank, args=(rank, 2, port, tmp_path)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    batches = [_batch(0, 3), _batch(3, 1, num_objects=0)]
    alone = json.loads(evaluate(Oracle(shift=2), batches, _CONFIG, num_plots=0, with_loss=True).to_json())
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["metrics"] == pytest.approx(alone["metrics"]) and found["notes"] == alone["notes"]
        assert found["num_videos"] == 4


# ----------------------------------------------------------------------------------------------- random starts


class Starts(Oracle):
    """Notes what each slice says of random starts, and draws from it as models do."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: dict[str, list] = {}
        self.given: list[Batch] = []

    def predict(self, batch, state=None, slot_recon=False, recon=True, attn=True) -> Prediction:
        self.given.append(batch)
        if state is None:
            drawn = sample_noise(conditioning(batch), (len(batch["video"]), 4, 3))
            self.starts |= dict(zip(batch["name"], drawn.tolist()))
        return super().predict(batch, state, slot_recon)


def test_a_videos_draws_depend_on_its_name_and_the_seed_alone():
    whole, single, other = Starts(), Starts(), Starts()
    evaluate(whole, [_batch(0, 3)], _CONFIG, num_plots=0)
    evaluate(single, [_batch(2, 1), _batch(0, 1), _batch(1, 1)], _CONFIG, num_plots=0)
    evaluate(other, [_batch(0, 3)], replace(_CONFIG, seed=1), num_plots=0)
    assert whole.starts == single.starts and len(whole.starts) == 3
    assert whole.starts["video 0"] != whole.starts["video 1"] != other.starts["video 1"]


def test_draws_that_the_batch_brings_go_along_whole():
    noise, pose = torch.randn(2, 4, 3), Pose(torch.rand(2, 4, 2))
    model = Starts()
    evaluate(model, [{**_batch(0, 2), "noise": noise, "pose": pose, "num_slots": 4}], _CONFIG, num_plots=0)
    assert len(model.given) == 3
    for part in model.given:
        assert torch.equal(part["noise"], noise) and torch.equal(part["pose"].position, pose.position)
        assert conditioning(part).pose is part["pose"] and part["num_slots"] == 4


def test_random_models_are_evaluated_reproducibly():
    model = tiny_models.tiny("learned_gaussian")
    batches = [tiny_models.batch(4)]
    first, again = (
        evaluate(model, batches, EvalConfig(num_frames=4, slice_size=2), num_plots=0, with_loss=True)
        for _ in "ab"
    )
    assert first.metrics == again.metrics
    other = evaluate(
        model, batches, EvalConfig(num_frames=4, slice_size=2, seed=5), num_plots=0, with_loss=True
    )
    assert any(name.startswith("loss_") for name in first.metrics) and first.metrics != other.metrics
