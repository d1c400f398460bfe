"""Invariant Slot Attention's recordings: rounds, images, gradients and steps."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import (
    Case,
    Row,
    Rows,
    System,
    constant,
    integers,
    read_trajectory,
    to_array,
    zero_gradient,
)
from fidelity.loading import Loaded, check_digests, load_made, streamed_weights
from fidelity.loading import load as load_checkpoint
from fidelity.training import gradients, train
from torchslots.convert.layouts import Arrays
from torchslots.models.decoders.broadcast import segmentation_from_logits
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.invariant import InvariantSlotAttention, statistics
from torchslots.models.types import Batch, Pose, State
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.isa import IsaConfig

GRADIENT_TOLERANCE = 1e-2
"""Relative, of each weight's gradient norm; the eigenvectors behind rotations amplify rounding."""
GRADIENT_FLOOR = 1e-4
"""Of the whole gradient's norm, on top."""
FINAL_TOLERANCE = 1e-2
"""Of weights after a few steps of Adam, which makes full steps of gradients that are rounding noise: starting from
weights changed by 3e-7, the recorded five steps end up to 5e-3 apart."""
_FIGURES = {"loss": Row.tolerance, "lr": Row.tolerance, "grad_global_norm": GRADIENT_TOLERANCE}


# -------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    found = {name: _row(case, name, recorded) for name, recorded in case.outputs.items()}
    found["init_state"] = Row(case.inputs["init_state"])
    return found | trajectory_rows(case)


def _row(case: Case, name: str, recorded: np.ndarray) -> Row:
    if name == "segmentations":
        return integers(recorded, _margin(case.outputs))
    if name == "grad_global_norm":
        return Row(recorded, GRADIENT_TOLERANCE)
    if not name.startswith("grad_norm/"):
        return Row(recorded)
    whole = float(case.outputs["grad_global_norm"])
    if name.endswith("pos_embedding"):
        return constant()
    if is_zero_gradient(name):
        return zero_gradient(whole)
    return Row(recorded, GRADIENT_TOLERANCE, GRADIENT_FLOOR * whole)


def _margin(outputs: Arrays) -> np.ndarray:
    """By how much the original's winner leads: in mask scores, or in logarithms of masks where those are recorded."""
    scores = outputs["mask_logits"] if "mask_logits" in outputs else np.log(outputs["masks"] + 1e-30)
    best = np.sort(scores, axis=2)
    return best[:, :, -1] - best[:, :, -2]


def is_zero_gradient(path: str) -> bool:
    """Weights whose gradient vanishes in exact arithmetic: shifts that a softmax cancels."""
    return path.endswith(("alphas/bias", "/SlotAttention_0/LayerNorm_0/bias"))


def trajectory_rows(case: Case) -> dict[str, Row]:
    """Figures of each step, and weights after the last."""
    found = {}
    for name, recorded in read_trajectory(case).items():
        _, _, what = name.partition("/")
        if what in _FIGURES:
            found[f"trajectory/{name}"] = Row(recorded, _FIGURES[what])
        elif what.startswith("final/") and not is_zero_gradient(what):
            found[f"trajectory/{name}"] = Row(recorded, FINAL_TOLERANCE)
    return found


# ------------------------------------------------------------------------------------------------------ ours


def load(case: Case) -> Loaded:
    """The case's model with its weights, from the checkpoint or from the rule that the recording describes."""
    if (case.folder / "checkpoint").is_dir():
        return load_checkpoint(case, "checkpoint")
    weights = streamed_weights(case.config["params"], case.config["seed"])
    check_digests(weights, case.config.get("sha256", {}), case.folder)
    return load_made(case, weights)


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded = load(case)
    model, batch = loaded.model, to_batch(loaded.config, case.inputs, case.inputs["init_state"])
    with torch.no_grad():
        found = _forward(model, batch) | _rounds(model, batch)
    constants = {name: np.zeros(()) for name in case.outputs if name.startswith("grad_norm/")}
    return {**found, **constants, **gradients(loaded, batch), **trajectory(case)}


def to_batch(config: IsaConfig, inputs: Arrays, state: np.ndarray) -> Batch:
    """Recorded channels-last images as a batch, with the poses of a recorded initial state where they are random."""
    batch: Batch = {"video": torch.from_numpy(inputs["video"]).movedim(-1, 2).contiguous()}
    pose = _recorded_pose(config, state)
    return batch if pose is None else {**batch, "pose": pose}


def _recorded_pose(config: IsaConfig, state: np.ndarray) -> Pose | None:
    if config.invariance == "none" or config.initial_pose == "learned":
        return None
    poses = torch.from_numpy(state[..., config.slot_size :].copy())
    return Pose(
        poses[..., :2],
        None if config.invariance == "translation" else poses[..., 2:4],
        poses[..., 4:].unflatten(-1, (2, 2)) if config.invariance == "rotation" else None,
    )


def _state(slots: Tensor, pose: Pose | None) -> np.ndarray:
    """Slots and poses side by side, as in the original."""
    return to_array(slots if pose is None else torch.cat([slots, statistics(pose)], -1))


def _forward(model: ObjectCentricModel, batch: Batch) -> Arrays:
    clip, start = model.encode(batch), model.slot_encoder.initializer(conditioning(batch))
    decoded = model.decoder.decode(clip, slot_recon=True)
    loss = to_array(torch.stack(list(model.loss(batch).values())).sum())
    return {
        "init_state": _state(start.slots, start.pose),
        "states": _state(clip.slots, clip.pose),
        "encoder_out": to_array(model.slot_encoder.tokens(batch["video"])),
        "recon": to_array(decoded.recon["video"].movedim(2, -1)),
        "recon_per_slot": to_array((decoded.slot_recon or {})["video"].movedim(3, -1)),
        "masks": to_array(decoded.masks[..., None]),
        "mask_logits": to_array(decoded.logits[..., None]),
        "segmentations": to_array(segmentation_from_logits(decoded.logits)[..., None]),
        "loss": loss,
        "loss_aux/recon_video_value": loss,
        "loss_aux/recon_video_weight": np.array(1.0, np.float32),
    }


def _rounds(model: ObjectCentricModel, batch: Batch) -> Arrays:
    """Every round on the first frame."""
    start, corrector = model.slot_encoder.initializer(conditioning(batch)), model.slot_encoder.corrector
    tokens = model.slot_encoder.tokens(batch["video"][:, :1])
    if isinstance(corrector, SlotAttention):
        return _plain_rounds(corrector, start, tokens)
    assert isinstance(corrector, InvariantSlotAttention)
    groups = list(corrector.rounds(start, corrector.project(tokens).frames()[0]))
    poses = [group.pose for group in groups if group.pose is not None]
    found = {
        "attn_rounds": [group.attn for group in groups],
        "slots_iter": [group.slots for group in groups[:-1]],
        "positions_rounds": [one.position for one in poses],
        "scales_rounds": [one.scale for one in poses if one.scale is not None],
        "rotm_rounds": [one.rotation for one in poses if one.rotation is not None],
    }
    return {name: to_array(torch.stack(values)) for name, values in found.items() if values}


def _plain_rounds(corrector: SlotAttention, start: State, tokens: Tensor) -> Arrays:
    inputs, slots = corrector.project(tokens).frames()[0], start.slots
    attentions, states = [], []
    for _ in range(corrector.num_iterations):
        gathered, attn = corrector.attend(slots, inputs)
        slots = corrector.update(slots, gathered)
        attentions.append(attn.squeeze(1))
        states.append(slots)
    return {"attn_rounds": to_array(torch.stack(attentions)), "slots_iter": to_array(torch.stack(states))}


def trajectory(case: Case, *, restore: bool = True) -> Arrays:
    """Steps of the original's optimiser on the case's images, from the start and going on from the checkpoint.

    Args:
        restore: whether the second puts back the checkpoint's moments; off only to see that it matters.
    """
    starts = {
        name.partition("/")[0]: value
        for name, value in case.arrays(read_trajectory(case)).items()
        if name.endswith("/init_state")
    }
    found: Arrays = {}
    for run, states in starts.items():
        loaded = load(case)
        batches = _batches(loaded.config, case.inputs, states)
        steps = train(loaded, _optim_config(case.reference), batches, resume=restore and run == "resume")
        trained = loaded.to_theirs(dict(loaded.model.state_dict()))
        found |= {
            f"trajectory/{run}/loss": steps.losses,
            f"trajectory/{run}/lr": steps.rates[:, 0],
            f"trajectory/{run}/grad_global_norm": steps.norms,
            **{f"trajectory/{run}/final/{path}": value for path, value in trained.items()},
        }
    return found


def _batches(config: IsaConfig, inputs: Arrays, states: np.ndarray) -> Iterator[Batch]:
    return (to_batch(config, inputs, state) for state in states)


def _optim_config(reference: dict) -> OptimConfig:
    rates = reference["lr_configs"]
    return OptimConfig(
        learning_rate=rates["base_learning_rate"],
        warmup_steps=rates["warmup_steps"],
        num_steps=rates["steps_per_cycle"],
        max_grad_norm=reference["optimizer_configs"]["grad_clip"]["clip_value"],
        clip_epsilon=0.0,
    )


SYSTEM = System(rows, ours)
