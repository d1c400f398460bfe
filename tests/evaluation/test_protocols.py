"""Published conventions in an evaluation: what is left out, what counts, at which size, and what stops it."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tiny_models
import torchslots
from data.movi_files import copy_movi
from data.published import extract_published
from torchslots.data.batch import collate
from torchslots.data.catalog import DATASETS, open_dataset
from torchslots.data.config import DataConfig
from torchslots.evaluation.evaluate import evaluate
from torchslots.evaluation.report import LABELS, EvalReport
from torchslots.io.errors import UserError
from torchslots.io.run_log import read_log
from torchslots.metrics import fg_ari, jf, mbo
from torchslots.metrics.labels import segmentation_at
from torchslots.models.types import Batch, Prediction, State
from torchslots.recipes import protocols, savi
from torchslots.recipes.config import EvalConfig, Recipe, to_json

_CONFIG = EvalConfig(num_frames=4, slice_size=3)


class Fixed(nn.Module):
    """Gives the soft masks that the batch brings; `spoil` makes one value of the video of that name NaN."""

    def __init__(self, spoil: str = "", field: str = "slots") -> None:
        super().__init__()
        self.spoil, self.field = spoil, field

    def predict(self, batch: Batch, state: State | None = None, **decoding: bool) -> Prediction:
        masks: Tensor = batch["masks"].clone()
        slots = torch.zeros(*masks.shape[:3], 1)
        recon = {"video": batch["video"].clone()}
        if self.spoil in batch["name"]:
            row = batch["name"].index(self.spoil)
            {"slots": slots, "masks": masks, "recon": recon["video"]}[self.field][row, -1].view(-1)[0] = (
                float("nan")
            )
        return Prediction(masks.argmax(2), masks, slots, masks.flatten(3), recon, None, State(slots[:, -1]))


def _batch(size: int = 3, num_slots: int = 4, labels: tuple[int, int] = (8, 12), seed: int = 0) -> Batch:
    """Soft masks of 8 x 12 pixels, and labels of objects 3, 40 and 7 of any size."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(size, 4, num_slots, 8, 12, generator=generator).softmax(2)
    blocks = torch.randint(0, 4, (size, 4, labels[0] // 4, labels[1] // 4), generator=generator)
    ids = torch.tensor([0, 3, 40, 7], dtype=torch.int32)[
        blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    ]
    return {
        "video": torch.rand(size, 4, 3, 8, 12, generator=generator),
        "masks": masks,
        "segmentations": ids,
        "padding_mask": torch.ones(size, 4, 8, 12, dtype=torch.bool),
        "name": [f"video {row}" for row in range(size)],
    }


def _report(batch: Batch, model: nn.Module | None = None, **changes) -> EvalReport:
    return evaluate(model or Fixed(), [batch], replace(_CONFIG, **changes), num_plots=1)


def test_ignored_pixels_count_in_no_figure() -> None:
    batch = _batch()
    ignore = torch.zeros_like(batch["segmentations"], dtype=torch.bool)
    ignore[..., 3:7] = True
    cut = {
        key: torch.cat([value[..., :3], value[..., 7:]], -1) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    found, expected = _report({**batch, "ignore": ignore}), _report(cut)
    assert found.metrics == pytest.approx(expected.metrics) and found.curves == expected.curves
    assert found.metrics["mbo"] != _report(batch).metrics["mbo"]
    slots = batch["masks"].argmax(2)
    assert found.metrics["fg_ari"] == pytest.approx(fg_ari(batch["segmentations"], slots, ignore))


def test_labels_may_have_a_size_of_their_own() -> None:
    """Masks grow before the largest is taken; padding is that of the frames."""
    batch = _batch(labels=(20, 32))
    batch["padding_mask"][0, 2:] = False
    report = _report(batch)
    slots = segmentation_at(batch["masks"], (20, 32))
    ids = batch["segmentations"]
    alone = [fg_ari(ids[0, :2], slots[0, :2]), fg_ari(ids[1], slots[1]), fg_ari(ids[2], slots[2])]
    assert report.metrics["fg_ari"] == pytest.approx(sum(alone) / 3)
    assert report.metrics["mbo"] == pytest.approx(
        (mbo(ids[0, :2], slots[0, :2]) + 2 * mbo(ids[1:], slots[1:])) / 3
    )
    assert report.panels[0].panel(tile=16).shape[0] == 4


def test_classes_have_figures_of_their_own() -> None:
    """Overlaps are ignored among objects, not among classes; void among both."""
    batch = _batch(1)
    ids, slots = batch["segmentations"], batch["masks"].argmax(2)
    classes = (ids > 3).int() * 18 + (ids == 3).int() * 2
    ignore = torch.zeros_like(ids, dtype=torch.bool)
    ignore[..., :4] = True
    classes[..., :2] = 0
    report = _report({**batch, "classes": classes, "ignore": ignore})
    assert report.metrics["class_mbo"] == pytest.approx(mbo(classes, slots, ignore & (classes == 0)))
    assert report.metrics["mbo"] == pytest.approx(mbo(ids, slots, ignore))
    names = {"class_mbo", "class_fg_miou", "class_mbo_frame", "class_fg_miou_frame"}
    assert names <= set(report.definitions) and names < set(LABELS)
    assert not names & set(_report(batch).metrics)


def test_videos_without_labels_are_left_out_where_the_protocol_says_so() -> None:
    batch = _batch()
    batch["segmentations"][1] = 0
    slots = batch["masks"].argmax(2)
    rest = fg_ari(batch["segmentations"][[0, 2]], slots[[0, 2]])
    published = _report(batch, protocol="videosaur", num_background=0)
    assert published.metrics["fg_ari"] == pytest.approx(rest)
    assert published.metrics["j_and_f"] == pytest.approx(
        jf(batch["segmentations"][[0, 2]], slots[[0, 2]], boundaries="exact")
    )
    assert (
        "ari" not in published.metrics
        and "videos without labels are left out" in published.definitions["fg_ari"]
    )
    assert published.notes == ["1 of 3 videos show no object; the figures leave them out."]
    for other in ({"protocol": "videosaur"}, {"protocol": "dinosaur", "num_background": 0}, {}):
        assert _report(batch, **other).metrics["fg_ari"] == pytest.approx((2 * rest + 1) / 3)


def test_protocols_report_the_figures_that_their_tables_print(capsys: pytest.CaptureFixture[str]) -> None:
    batch = _batch()
    batch["classes"] = (batch["segmentations"] > 3).int()
    for name, published in protocols.PROTOCOLS.items():
        report = _report(batch, protocol=name, num_background=1 if name == "savi" else 0)
        assert set(published.tables) <= set(report.metrics) <= set(LABELS), name
        assert set(report.definitions) == set(report.metrics) and report.settings["protocol"] == name
        assert json.loads(report.to_json())["settings"]["protocol"] == name
        report.print_table()
        assert f"Protocol `{name}`: " in capsys.readouterr().out


def test_the_default_protocol_is_that_of_older_versions() -> None:
    assert EvalConfig().protocol == "savi"
    assert set(_report(_batch()).metrics) == set(_report(_batch(), protocol="savi").metrics)
    assert not any("corloc" in name or name == "j_and_f" for name in _report(_batch()).metrics)


def test_unknown_protocols_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no protocol `slotcontrst`. Did you mean slotcontrast"):
        _report(_batch(), protocol="slotcontrst")
    with pytest.raises(UserError, match="There are: savi, videosaur"):
        protocols.find("zzz")


def test_labels_are_read_as_a_protocol_wants_them() -> None:
    data = DataConfig(dataset="coco", keys=("video", "segmentations"))
    for name, expected in (("savi", "ignore"), ("ftdinosaur", "uncovered"), ("slotcontrast", "uncovered")):
        found = protocols.evaluation_data(data, EvalConfig(num_frames=7, protocol=name))
        assert (found.crowds, found.num_frames) == (expected, 7)
        assert ("classes" in found.keys) == (name == "ftdinosaur")
    own = protocols.evaluation_data(replace(data, crowds="objects"), EvalConfig(protocol="dinosaur"))
    assert (own.crowds, own.overlaps, own.void) == ("objects", "ignore", "uncovered")
    movi = replace(data, dataset="movi_a")
    assert "classes" not in protocols.evaluation_data(movi, EvalConfig(protocol="dinosaur")).keys
    video = replace(data, keys=("video",))
    assert protocols.evaluation_data(video, EvalConfig(protocol="dinosaur")).keys == ("video",)


def test_data_sets_say_what_their_background_is() -> None:
    assert DATASETS["prepared"].num_background is None and DATASETS["movi_e"].num_background == 1
    zero = {name for name, found in DATASETS.items() if found.num_background == 0}
    assert zero == {"coco", "voc", "youtube_vis_2021", "youtube_vis_2019", "davis_2017"}
    assert DATASETS["objects_room"].num_background == 4


def test_objects_without_a_hint_are_said_and_judged() -> None:
    """The hint has four boxes; objects 5 and 9 of one video start no slot. A model without hints has no such note."""
    batch = {**tiny_models.batch(3), "name": ["a", "b"]}
    batch["segmentations"][0, 0, :2] = 5
    batch["segmentations"][0, 0, 2:4], batch["segmentations"][0, 2, 0] = 9, 11
    config = EvalConfig(num_frames=3, slice_size=2)
    hinted, found = tiny_models.tiny("boxes"), []
    report = evaluate(hinted, [batch], config, num_plots=0)
    [note] = [note for note in report.notes if "start no slot" in note]
    assert note.startswith(
        "2 objects in the first frames of 1 video start no slot: the model has 4 for objects"
    )
    with torch.no_grad():
        slots = hinted.predict(batch).segmentation
    assert report.metrics["fg_ari"] == pytest.approx(fg_ari(batch["segmentations"], slots), abs=1e-6)
    found = evaluate(tiny_models.tiny("learned"), [batch], config, num_plots=0).notes
    assert not [note for note in found if "start no slot" in note]


@pytest.mark.parametrize("field", ["slots", "masks", "recon"])
def test_values_that_are_not_finite_stop_an_evaluation_with_the_videos_name(field: str) -> None:
    with pytest.raises(UserError, match=rf"{field}.* are not finite for video 1: "):
        _report(_batch(), Fixed("video 1", field))


def test_a_tokenizer_that_reconstructs_nothing_finite_stops_too() -> None:
    tokenizer = torchslots.create_model("vqvae_demo")
    nn.init.constant_(next(tokenizer.parameters()), float("nan"))
    video = torch.rand(1, 1, 3, 32, 32)
    with pytest.raises(UserError, match=r"recon of `video` are not finite for a\.png"):
        evaluate(tokenizer, [{"video": video, "name": ["a.png"]}], EvalConfig(num_frames=1), num_plots=0)


def test_photographs_are_evaluated_by_protocol(tmp_path) -> None:
    """COCO as published: figures equal those of the metrics on the same labels and masks at the labels' size."""
    root = extract_published("coco", tmp_path / "data")
    decoder = replace(tiny_models.TINY.decoder, grid=(4, 4))
    config = replace(tiny_models.TINY, resolution=(16, 16), decoder=decoder, conditioning="learned")
    data = DataConfig("coco", ("video", "segmentations"), resolution=16, eval_crop="square", label_size=40)
    settings = EvalConfig(
        "validation", num_frames=1, slice_size=1, num_videos=1, num_background=0, protocol="dinosaur"
    )
    model, run = savi.build(config).eval(), tmp_path / "run"
    model.save_pretrained(run / "model")
    (run / "recipe.json").write_text(to_json(Recipe("photos", config, data, evaluation=settings)))
    how = {"num_workers": 0, "num_plots": 1, "num_videos": 0}
    report = torchslots.evaluate(run, root, out=tmp_path / "out", **how)
    assert isinstance(report, EvalReport) and report.settings["protocol"] == "dinosaur"
    labels = replace(data, keys=("video", "segmentations", "classes"), num_frames=1, crowds="uncovered")
    dataset = open_dataset("coco", root, "validation", labels, False)
    objects, classes = [], []
    for index in range(len(dataset)):
        batch = collate([dataset.sample(index, None)])
        ids, ignore = batch["segmentations"], batch["ignore"]
        slots = segmentation_at(model.predict(batch).masks, (40, 40))
        objects.append(mbo(ids, slots, ignore))
        classes.append(mbo(batch["classes"], slots, ignore & (batch["classes"] == 0)))
    assert report.num_videos == len(dataset) > 2
    for name, values in (("mbo_frame", objects), ("class_mbo_frame", classes)):
        assert report.metrics[name] == pytest.approx(float(torch.tensor(values).nanmean()), abs=1e-6)
    assert {"corloc_frame", "recall_frame", "fg_ari_frame"} <= set(report.metrics)
    other = torchslots.evaluate(run, root, protocol="vs_dinosaur", **how)
    assert isinstance(other, EvalReport) and "class_mbo_frame" not in other.metrics
    first = torchslots.evaluate(run, root, num_workers=0, num_plots=0)
    assert isinstance(first, EvalReport) and first.num_videos == 1
    movi = torchslots.evaluate(
        model,
        copy_movi("a", tmp_path / "movi"),
        data="movi_a",
        split="train",
        num_workers=0,
        protocol="davis",
    )
    assert isinstance(movi, EvalReport) and movi.settings["num_background"] == 1 and "j_and_f" in movi.metrics


def test_training_on_photographs_watches_fg_ari_of_the_protocol(tmp_path) -> None:
    """The periodic evaluation is that of `evaluate`, and its best FG-ARI is the run's."""
    root, run = extract_published("coco", tmp_path / "data"), tmp_path / "run"
    changes = {
        "model.resolution": (16, 16),
        "model.decoder.grid": (4, 4),
        "model.conditioning": "learned",
        "model.num_slots": 3,
        "model.targets": ("video",),
        "data.keys": ("video", "segmentations"),
        "data.train_split": "validation",
        "data.resolution": 16,
        "data.crop": None,
        "data.train_crop": "square",
        "data.eval_crop": "square",
        "data.num_frames": 1,
        "data.label_size": 24,
        "train.batch_size": 2,
        "train.short_clip": None,
        "train.precision": "fp32",
        "train.eval_every": 1,
        "optim.num_steps": 2,
        "evaluation.num_frames": 1,
        "evaluation.num_background": 0,
        "evaluation.protocol": "ftdinosaur",
    }
    result = torchslots.train("savi_demo", root, run, dataset="coco", num_plots=1, **changes)
    watched = [record["eval/fg_ari"] for record in read_log(run) if "eval/fg_ari" in record]
    assert len(watched) == 2 and result.best == pytest.approx(max(watched)) and "ari" not in result.metrics
    report = torchslots.evaluate(run, root, num_workers=0, num_plots=0)
    assert isinstance(report, EvalReport) and "class_mbo_frame" in report.metrics
    for name in ("fg_ari", "fg_ari_several_frame", "class_mbo_frame"):
        assert result.metrics[name] == pytest.approx(report.metrics[name])
    with pytest.raises(UserError, match="no protocol `oclf`"):
        torchslots.train(
            "savi_demo",
            root,
            tmp_path / "other",
            dataset="coco",
            **(changes | {"evaluation.protocol": "oclf"}),
        )
