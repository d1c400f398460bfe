"""VideoSAUR, SlotContrast and the DINOSAUR of their code: recordings of small random transformers.

Frames are recorded normalised, so our own normalisation is left out. Images are clips of one frame.
"""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fidelity import features
from fidelity.cases import Case, Row, Rows, System, absolute, integers
from fidelity.loading import Loaded, load
from fidelity.training import loss_of, train
from torchslots.convert import systems
from torchslots.convert.layouts import Arrays
from torchslots.io.errors import UserError
from torchslots.metrics.functional import fg_ari, fg_miou, mbo
from torchslots.models.decoders.features import FeatureDecoder, next_frame_similarity
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch, Clip
from torchslots.recipes.config import OptimConfig

_NEAR = {
    "backbone_features": features.FEATURE,
    "backbone_keys": features.FEATURE,
    "features": features.FEATURE,
    "slots": features.FEATURE,
    "slots_predicted": features.FEATURE,
    "reconstruction": features.FEATURE,
    "eval_grid_reconstruction": features.FEATURE,
    "attn": features.SHARE,
    "masks": features.SHARE,
    "masks_image_first": features.SHARE,
    "eval_grid_masks": features.SHARE,
    "target_timesim": features.SHARE,
    "eval_grid": 0.0,
}
"""Largest differences."""
_SCORE = 1e-12
_SCORES_OF = {"VideoARI": fg_ari, "ImageARI": fg_ari, "VideoIoU": mbo, "ImageIoU": mbo}
_TERMS = {
    "loss_featrec": "features",
    "loss_mse": "features",
    "loss_timesim": "similarity",
    "loss_ss": "contrast",
}
"""The original's names of losses, and ours."""


# --------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """Everything that is recorded."""
    found: dict[str, Row] = {}
    for name, recorded in case.outputs.items():
        if name in _NEAR:
            found[name] = absolute(recorded, _NEAR[name])
        elif name.startswith("loss_"):
            found[name] = Row(recorded, features.LOSS)
        elif name.startswith("segmentation_"):
            found[name] = integers(recorded, _margin(case, name), features.CLOSE)
        else:
            found[name] = absolute(recorded, _SCORE)
    return {**found, **features.gradient_rows(case), **_training_rows(case)}


def _margin(case: Case, name: str) -> np.ndarray:
    """By how much the best slot leads, from the recorded masks."""
    masks = case.outputs["masks" if name == "segmentation_decoder" else "attn"]
    best = _resized(torch.from_numpy(masks), _grid(case), _label_size(case)).topk(2, dim=-3).values
    return (best.select(-3, 0) - best.select(-3, 1)).numpy()


def _training_rows(case: Case) -> Rows:
    rates = [[rate] for rate in case.config["train"]["lr"]]
    first, trained = (case.folder / f"{name}.ckpt" for name in ("checkpoint", "trained"))
    return features.training_rows(case, rates, first, trained, _drifting(systems.TORCH.read(first).params))


def _drifting(names: Collection[str]) -> features.Drifting:
    """Shifts that a softmax cancels: of keys, and of scores.

    Args:
        names: of all arrays.
    """
    scores = max((name for name in names if _SCORES.fullmatch(name)), key=_layer, default=None)

    def found(name: str, array: np.ndarray) -> np.ndarray:
        loose = np.zeros(array.shape, bool)
        if name.endswith("self_attn.qkv.bias"):
            third = len(array) // 3
            loose[third : 2 * third] = True
        elif name.endswith("self_attn.kv.bias"):
            loose[: len(array) // 2] = True
        elif name.endswith("norm_k.bias"):
            loose[:] = True
        elif name == scores:
            loose[-1] = True
        return loose

    return found


_SCORES = re.compile(r"decoder(?:\.module)?\.mlp\.layers\.(\d+)\.bias")


def _layer(name: str) -> int:
    return int(name.split(".")[-2])


# ------------------------------------------------------------------------------------------------------- ours


class Run(NamedTuple):
    """A case's model on its inputs."""

    loaded: Loaded
    batch: Batch
    clip: Clip

    @property
    def model(self) -> ObjectCentricModel:
        return self.loaded.model

    @property
    def decoder(self) -> FeatureDecoder:
        decoder = self.model.decoder
        assert isinstance(decoder, FeatureDecoder)
        return decoder


def ours(case: Case) -> Arrays:
    """Every recorded tensor."""
    loaded = _load(case)
    batch = to_batch(case)
    with torch.no_grad():
        run = Run(loaded, batch, loaded.model.encode(batch))
        found = {**_forward(case, run), **_losses(case, run), **_masks(case, run), **_other_grid(case, run)}
    arrays = {name: value.numpy() for name, value in found.items()}
    arrays |= _scores(case, arrays["segmentation_decoder"])
    if "image" in case.inputs:
        arrays = {name: value[:, 0] if name in _PER_FRAME else value for name, value in arrays.items()}
    return {**arrays, **features.gradients(case, run.loaded, run.batch), **_training(case, run)}


_PER_FRAME = {
    "backbone_features",
    "backbone_keys",
    "features",
    "slots",
    "slots_predicted",
    "attn",
    "reconstruction",
    "masks",
    "segmentation_decoder",
    "segmentation_attn",
    "eval_grid_reconstruction",
    "eval_grid_masks",
}


def _load(case: Case) -> Loaded:
    """The model; its backbone also gives keys where they are recorded."""
    loaded = load(case, "checkpoint.ckpt")
    encoder = loaded.model.slot_encoder.encoder
    encoder.normalize = nn.Identity()
    encoder.backbone.keys = encoder.backbone.keys or "backbone_keys" in case.outputs
    return loaded


def to_batch(case: Case, noise: np.ndarray | None = None) -> Batch:
    """Recorded frames as clips, and the noise of the initial slots."""
    video = torch.from_numpy(
        case.inputs["video"] if "video" in case.inputs else case.inputs["image"][:, None]
    )
    noise = case.inputs.get("noise") if noise is None else noise
    return {"video": video} if noise is None else {"video": video, "noise": torch.from_numpy(noise)}


def _forward(case: Case, run: Run) -> dict[str, Tensor]:
    clip, rendered = run.clip, run.decoder.render(run.clip)
    assert clip.features is not None and rendered.output is not None
    found = {
        "backbone_features": clip.features.tokens,
        "features": run.model.slot_encoder.tokens(run.batch["video"]),
        "slots": clip.slots,
        "slots_predicted": clip.predicted,
        "attn": clip.attn,
        "reconstruction": rendered.output.unflatten(0, clip.slots.shape[:2]),
        "masks": rendered.masks.unflatten(0, clip.slots.shape[:2]),
    }
    if clip.features.keys is not None:
        found["backbone_keys"] = clip.features.keys
        if "target_timesim" in case.outputs:
            losses = run.loaded.config.losses
            target = next_frame_similarity(
                clip.features.keys, losses.similarity_temperature, losses.similarity_threshold
            )
            found["target_timesim"] = target.flatten(1, 2)
    return found


def _losses(case: Case, run: Run) -> dict[str, Tensor]:
    """Each loss without its weight, and their sum."""
    explained, losses = run.decoder.explained(run.clip, run.batch), run.decoder.losses
    found = {
        name: losses[_TERMS[name]].loss(explained)
        for name in case.outputs
        if name.startswith("loss_") and _TERMS.get(name) in losses
    }
    return found | {"loss_total": loss_of(run.model, run.batch)}


def _masks(case: Case, run: Run) -> dict[str, Tensor]:
    """Masks at the image's size, and segmentations at the labels'."""
    masks = run.decoder.decode(run.clip, recon=False).masks
    attn = run.clip.attn.unflatten(-1, masks.shape[-2:])
    height, width = run.batch["video"].shape[-2:]
    size = _label_size(case)
    return {
        "masks_image_first": F.interpolate(masks[0, :1], (height, width), mode="bilinear"),
        "segmentation_decoder": _at(masks, size).argmax(-3),
        "segmentation_attn": _at(attn, size).argmax(-3),
    }


def _grid(case: Case) -> tuple[int, int]:
    patch = case.config["vit"]["patch_size"]
    rows, columns = (side // patch for side in case.config["image_size"])
    return rows, columns


def _label_size(case: Case) -> tuple[int, int]:
    rows, columns = case.inputs["segmentations"].shape[-2:]
    return rows, columns


def _resized(masks: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return _at(masks.unflatten(-1, grid), size)


def _at(masks: Tensor, size: tuple[int, int]) -> Tensor:
    flat = masks.flatten(0, -4)
    return F.interpolate(flat, size, mode="bilinear").unflatten(0, masks.shape[:-3])


def _scores(case: Case, segmentation: np.ndarray) -> Arrays:
    """Metrics of the decoder's masks; where two of them are as good as equal, of the recorded choice."""
    labels = case.inputs["segmentations"]
    recorded = case.outputs["segmentation_decoder"].astype(int)
    equal = _margin(case, "segmentation_decoder") <= features.CLOSE
    if "image" in case.inputs:
        labels, recorded, equal = labels[:, None], recorded[:, None], equal[:, None]
    chosen = np.where(equal, recorded, segmentation)
    return {
        f"metric_{name}": score(kind, labels, chosen) for name, kind in case.config["val_metrics"].items()
    }


def score(kind: dict[str, Any], labels: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
    """Of one of the original's metrics, over videos or over images."""
    covered = labels.any(2)
    ids = np.where(covered, labels.argmax(2) + (not kind.get("ignore_background", False)), 0)
    if kind["name"].startswith("Image"):
        ids, segmentation, covered = (
            array.reshape(-1, 1, *array.shape[2:]) for array in (ids, segmentation, covered)
        )
    seen = covered.any((1, 2, 3))
    measure = _SCORES_OF[kind["name"]]
    if kind["name"].endswith("IoU") and kind.get("matching", "overlap") != "overlap":
        if kind["matching"] != "hungarian":
            raise UserError(f"No way to compare matching {kind['matching']} here.")
        measure = fg_miou
    return np.array(measure(ids[seen], segmentation[seen]))


def _other_grid(case: Case, run: Run) -> dict[str, Tensor]:
    """The same slots decoded on a grid of another size."""
    if "eval_grid" not in case.outputs:
        return {}
    side = int(case.outputs["eval_grid"])
    other = run.decoder.render(run.clip._replace(grid=(side, side)))
    assert other.output is not None
    return {
        "eval_grid": torch.tensor(side),
        "eval_grid_reconstruction": other.output.unflatten(0, run.clip.slots.shape[:2]),
        "eval_grid_masks": other.masks.unflatten(0, run.clip.slots.shape[:2]),
    }


def _training(case: Case, run: Run) -> Arrays:
    """Five steps of our trainer; the model is trained on."""
    noise = case.inputs.get("train_noise")
    steps = len(case.config["train"]["loss"])
    batches = [to_batch(case, None if noise is None else noise[step]) for step in range(steps)]
    done = train(run.loaded, settings(case), batches)
    return features.trained_arrays(run.loaded, done, _drifting(run.loaded.read.params))


def settings(case: Case) -> OptimConfig:
    """The trainer's settings as the case's configuration has them."""
    theirs = case.config["optimizer"]
    schedule = theirs["lr_scheduler"]
    return OptimConfig(
        learning_rate=theirs["lr"],
        warmup_steps=schedule["warmup_steps"],
        schedule="exponential_after_warmup",
        decay_steps=schedule["decay_steps"] - schedule["warmup_steps"],
        max_grad_norm=case.config["gradient_clip_val"],
    )


SYSTEM = System(rows, ours)
