"""SAVi's recordings, and those of systems built on it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import (
    DEEP_GRADIENT_TOLERANCE,
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    Case,
    Row,
    Rows,
    System,
    absolute,
    constant,
    integers,
    read_arrays,
    to_array,
    zero_gradient,
)
from fidelity.loading import Loaded, load_made, named_weights
from fidelity.loading import load as load_checkpoint
from fidelity.training import gradients, norms, train
from torchslots.convert.layouts import Arrays
from torchslots.metrics.segmentation import ari, contingency, fg_ari
from torchslots.models.decoders.broadcast import segmentation_from_logits
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slices import carry_state, cut
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder
from torchslots.models.slots.predictors import TransformerPredictor
from torchslots.models.types import Batch, Clip, State
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.savi import ResNetConfig, SaviConfig

_NOT_COMPARED = ("outputs/segmentations_margin", "sliced/slice_size", "grad_sum/")
"""Margins and sizes; sums of gradients, which cancel, so that no part of them is a tolerance."""
_FINAL = "final_param_norm/"


class Kind(NamedTuple):
    """What differs between SAVi and systems built on it, as far as recordings show."""

    savi: Callable[[Any], SaviConfig]
    """SAVi's configuration in the system's."""
    predictor_attention: Callable[[ObjectCentricModel, Clip, State], Arrays]
    """The predictor's attention maps under the recordings' names, from a clip and the state before it."""
    between_slices: Callable[[State], State]
    """What the original's evaluation hands from one slice to the next."""


# -------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    found = {name: _row(case, name, recorded) for name, recorded in case.outputs.items()}
    known = {name: row for name, row in found.items() if not name.startswith(_NOT_COMPARED)}
    for folder in _trajectories(case):
        for name, recorded in read_arrays(folder / "trajectory.npz").items():
            if not is_zero_gradient(name) and (name.startswith(_FINAL) or name in ("loss", "learning_rate")):
                known[f"{folder.name}/{name}"] = Row(recorded)
    return known


def _row(case: Case, name: str, recorded: np.ndarray) -> Row:
    if name.startswith("grad"):
        return _gradient_row(case, name, recorded)
    if name.startswith("loss/"):
        return Row(recorded, LOSS_TOLERANCE)
    if name.startswith("metrics/"):
        return absolute(recorded)
    if name.endswith("segmentations"):
        return integers(recorded, case.outputs.get("outputs/segmentations_margin"))
    return Row(recorded)


def _gradient_row(case: Case, name: str, recorded: np.ndarray) -> Row:
    if name.startswith("grad_norm/") and name.endswith("pos_embedding"):
        return constant()
    vanished = float(recorded) == 0.0  # as of attention over a single frame
    if name.startswith("grad_norm/") and (is_zero_gradient(name) or vanished):
        return zero_gradient(float(case.outputs["grad_global_norm"]))
    deep = any("ResNet_0" in other for other in case.outputs if other.startswith("grad_norm/"))
    return Row(recorded, DEEP_GRADIENT_TOLERANCE if deep else GRADIENT_TOLERANCE)


def is_zero_gradient(name: str) -> bool:
    """Leaves whose gradient vanishes in exact arithmetic: shifts that a softmax cancels."""
    return name.endswith(("alpha_logits/bias", "key/bias", "SlotAttention_0/LayerNorm_0/bias"))


def _trajectories(case: Case) -> list[Path]:
    return sorted(case.folder.glob("trajectory_*"))


# ------------------------------------------------------------------------------------------------------ ours


def load(case: Case) -> Loaded:
    """The case's model with its weights, from the checkpoint or from the rule that the recording names."""
    if case.config.get("weights") != "recipe":
        return load_checkpoint(case, str(case.config.get("checkpoint", ".")))
    return load_made(case, named_weights(case.config["param_tree"], case.config["weights_seed"]))


def to_batch(inputs: Arrays) -> Batch:
    """Recorded channels-last arrays as a batch."""
    batch: Batch = {key: torch.from_numpy(inputs[key]) for key in ("boxes", "segmentations") if key in inputs}
    for key in ("video", "flow", "depth"):
        if key in inputs:
            batch[key] = torch.from_numpy(inputs[key]).movedim(-1, 2).contiguous()
    batch["padding_mask"] = torch.from_numpy(inputs["padding_mask"]).bool()
    return batch


def ours(case: Case, kind: Kind) -> Arrays:
    """Every recorded tensor of SAVi or of a system built on it."""
    loaded, batch = load(case), to_batch(case.inputs)
    with torch.no_grad():
        found = _forward(loaded.model, batch, kind.savi(loaded.config), kind)
        found |= _slices(loaded.model, batch, case.outputs, kind.between_slices)
        found |= _losses(loaded.model, batch)
    found |= _metrics(case, batch) | gradients(loaded, batch)
    whole = found["grad_global_norm"]
    found["grad_global_norm_clipped"] = whole * np.minimum(0.05 / (whole + 1e-6), 1.0)
    found |= {name: np.zeros(()) for name in case.outputs if name.endswith("pos_embedding")}
    for folder in _trajectories(case):
        steps = _trajectory(case, folder)
        found |= {f"{folder.name}/{name}": value for name, value in steps.items()}
    return found


def _forward(model: ObjectCentricModel, batch: Batch, savi: SaviConfig, kind: Kind) -> Arrays:
    """Every activation that the recordings name, in the original's layout."""
    start: State = model.slot_encoder.initializer(conditioning(batch))
    clip = model.encode(batch)
    tokens = model.slot_encoder.tokens(batch["video"])
    return {
        "init_slots": to_array(start.slots),
        "states": to_array(clip.slots),
        "states_pred": to_array(clip.predicted),
        "encoder_out": to_array(tokens),
        "encoder_out_last_frame": to_array(tokens[:, -1:]),
        **_images(model, clip, savi),
        **_attention(model, clip, start, tokens),
        **kind.predictor_attention(model, clip, start),
        **_backbone(model, batch, savi),
    }


def _images(model: ObjectCentricModel, clip: Clip, savi: SaviConfig) -> Arrays:
    decoded = model.decoder.decode(clip, slot_recon=True)
    first = decoded.logits[:, 0].flatten(0, 1)[:, None, ..., None]
    found = {"alphas": to_array(decoded.masks[..., None]), "alpha_logits_raw_first_frame": to_array(first)}
    late = savi.decoder.fusion == "late"
    for name, image in decoded.recon.items():
        found[f"outputs/{name}"] = to_array(image.movedim(2, -1))
        slots = (decoded.slot_recon or {})[name][:, :1] if late else image[:, :1]
        found[f"decoder/{name}_slots_first_frame"] = to_array(slots.movedim(-3, -1))
    found["outputs/segmentations"] = to_array(segmentation_from_logits(decoded.logits)[..., None])
    return found


def _attention(model: ObjectCentricModel, clip: Clip, start: State, tokens: Tensor) -> Arrays:
    """Attention maps, by running all frames' rounds again at once from the slots that each frame began with."""
    corrector = cast(SlotAttention, model.slot_encoder.corrector)
    lead = clip.slots.shape[:2]
    slots = torch.cat([start.slots[:, None], clip.predicted[:, :-1]], 1).flatten(0, 1)
    inputs = corrector.project(tokens.flatten(0, 1))
    found = {}
    for i in range(corrector.num_iterations):
        gathered, attn = corrector.attend(slots, inputs)
        slots = corrector.update(slots, gathered)
        found[f"corrector_attn/it{i}"] = to_array(attn.unflatten(0, lead))
    return found


def _interaction(model: ObjectCentricModel, clip: Clip, start: State) -> Arrays:
    attention = cast(TransformerPredictor, model.slot_encoder.predictor).block.attention
    return {"predictor_attn/0": to_array(attention.weights(clip.slots, attention.project(clip.slots)))}


def _backbone(model: ObjectCentricModel, batch: Batch, savi: SaviConfig) -> Arrays:
    features = cast(FrameEncoder, model.slot_encoder.encoder).backbone(batch["video"][:, 0])
    name = f"encoder/{'ResNet' if isinstance(savi.encoder, ResNetConfig) else 'CNN'}_0_first_frame"
    maps = to_array(features.movedim(1, -1))
    return {name: maps[:, None], f"{name}_last_8ch": maps[..., -8:]}


def _slices(
    model: ObjectCentricModel, batch: Batch, recorded: Arrays, between: Callable[[State], State]
) -> Arrays:
    """The clip again in slices, each from the state that the one before left."""
    if "sliced/slice_size" not in recorded:
        return {}
    pieces = cut(batch, int(recorded["sliced/slice_size"]))
    parts = [
        (clip.slots, clip.predicted, model.decode(clip).segmentation[..., None])
        for _, clip in carry_state(model.encode, pieces, between=between)
    ]
    names = ("sliced/states", "sliced/states_pred", "sliced/outputs/segmentations")
    return {name: to_array(torch.cat(values, 1)) for name, values in zip(names, zip(*parts))}


def _metrics(case: Case, batch: Batch) -> Arrays:
    """Scores of whole videos, computed from the recorded maps: they hang on how the original broke ties.

    The reference knows as many object ids as it has rows of boxes, and background.
    """
    if not any(name.startswith("metrics/") for name in case.outputs):
        return {}
    predicted = torch.from_numpy(case.outputs["outputs/segmentations"][..., 0].astype(np.int64))
    num_slots, num_objects = case.outputs["states"].shape[2], batch["boxes"].shape[2] + 1
    tables = contingency(
        batch["segmentations"], predicted, num_slots, num_objects, batch["padding_mask"]
    ).sum(1)
    return {"metrics/ari": to_array(ari(tables)), "metrics/ari_nobg": to_array(fg_ari(tables))}


def _losses(model: ObjectCentricModel, batch: Batch) -> Arrays:
    losses = model.loss(batch)
    found = {"loss/total": to_array(torch.stack(list(losses.values())).sum())}
    for name, value in losses.items():
        found[f"loss/{name}_value"], found[f"loss/{name}_weight"] = to_array(value), np.ones((), np.float32)
    return found


def _trajectory(case: Case, folder: Path) -> Arrays:
    """The original trainer's steps on the case's own batch: loss and learning rate of each, weights after the last."""
    settings = json.loads((folder / "trajectory.json").read_text())
    config = OptimConfig(
        learning_rate=settings["learning_rate"],
        warmup_steps=settings["warmup_steps"],
        num_steps=settings["num_train_steps"],
        max_grad_norm=settings["max_grad_norm"],
        clip_epsilon=0.0,
    )
    loaded = load(case)
    num_steps = len(read_arrays(folder / "trajectory.npz")["loss"])
    steps = train(loaded, config, [to_batch(case.inputs)] * num_steps)
    trained = loaded.to_theirs(dict(loaded.model.state_dict()))
    return {"loss": steps.losses, "learning_rate": steps.rates[:, 0], **norms(trained, _FINAL)}


def _same(value: Any) -> Any:
    return value


SAVI = Kind(savi=_same, predictor_attention=_interaction, between_slices=_same)
SYSTEM = System(rows, partial(ours, kind=SAVI))
