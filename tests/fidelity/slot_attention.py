"""Slot Attention's recordings: forward pass, losses, gradients and training steps of both tasks."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    Case,
    Row,
    Rows,
    System,
    absolute,
    holds,
    integers,
    read_trajectory,
    to_array,
    zero_gradient,
)
from fidelity.loading import Loaded
from fidelity.loading import load as load_checkpoint
from fidelity.training import gradients, train
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import slot_attention as slot_attention_tf
from torchslots.convert.originals.slot_attention import NETWORK
from torchslots.metrics.set_prediction import average_precision
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.decoders.set_prediction import SetPredictionDecoder, assign, pairwise_cost
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder
from torchslots.models.types import Batch, State
from torchslots.recipes.config import OptimConfig

_ZERO_GRADIENTS = ("slot_attention/norm_slots/beta",)
"""Shifts that a softmax over slots cancels."""
_FIGURES = {"loss": Row.tolerance, "lr": LOSS_TOLERANCE, "grad_global_norm": GRADIENT_TOLERANCE}


# -------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    found = {name: _row(case, name, recorded) for name, recorded in case.outputs.items()}
    for folder in _other_checkpoints(case):
        found[f"{folder}/weights"] = holds("the same in the layout of another version of Keras")
    last = last_bias(case)
    for name, recorded in read_trajectory(case).items():
        what = name.partition("/")[2]
        if what in _FIGURES:
            found[name] = Row(recorded, _FIGURES[what])
        elif what.startswith("final/") and not name.endswith(_ZERO_GRADIENTS):
            # Of colours and mask score; a shift of all scores changes nothing.
            found[name] = Row(recorded[:-1] if name.endswith(last) else recorded)
    return found


def _row(case: Case, name: str, recorded: np.ndarray) -> Row:
    if name.startswith("grad_norm/"):
        if name.endswith(_ZERO_GRADIENTS):
            squares = [value**2 for key, value in case.outputs.items() if key.startswith("grad_norm/")]
            return zero_gradient(float(np.sqrt(sum(squares))))
        return Row(recorded, GRADIENT_TOLERANCE)
    if name == "assignment":
        return integers(recorded)
    if name == "ap":
        return absolute(recorded)
    return Row(recorded, LOSS_TOLERANCE if name == "loss" else Row.tolerance)


def _other_checkpoints(case: Case) -> list[str]:
    return sorted(folder.name for folder in case.folder.glob("checkpoint_*"))


def last_bias(case: Case) -> tuple[str, ...]:
    """The end of the name of the decoder's last bias; none where there is no such decoder."""
    layers = {name.rpartition("/")[0] for name in case.outputs if "/decoder_cnn/" in name}
    return (f"decoder_cnn/layer_with_weights-{len(layers) - 1}/bias",) if layers else ()


# ------------------------------------------------------------------------------------------------------ ours


def load(case: Case) -> Loaded:
    """The case's checkpoint, and its model with the case's weights."""
    return load_checkpoint(case, "checkpoint")


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded, batch = load(case), to_batch(case.inputs)
    with torch.no_grad():
        found = _forward(loaded.model, batch)
    return {
        **found,
        **gradients(loaded, batch, f"grad_norm/{NETWORK}"),
        **{f"{name}/weights": np.array(_same(case, loaded, name)) for name in _other_checkpoints(case)},
        **_steps(case),
    }


def to_batch(inputs: Arrays) -> Batch:
    """Recorded images in [-1, 1], channels last, as a batch of clips of one frame."""
    video = torch.from_numpy(inputs["image"]).movedim(-1, 1)[:, None]
    batch: Batch = {"video": from_signed(video).contiguous(), "noise": torch.from_numpy(inputs["slot_noise"])}
    if "target" in inputs:
        batch["properties"] = torch.from_numpy(inputs["target"])[:, None]
    return batch


def _forward(model: ObjectCentricModel, batch: Batch) -> Arrays:
    """Every activation that the recordings name, in the original's layout."""
    encoder = model.slot_encoder
    features = cast(FrameEncoder, encoder.encoder).backbone(batch["video"][:, 0])
    tokens = encoder.tokens(batch["video"])[:, 0]
    start: State = encoder.initializer(conditioning(batch))
    (loss,) = model.loss(batch).values()
    return {
        "slots_init": to_array(start.slots),
        "encoder_cnn_mean_std": np.array([to_array(features).mean(), to_array(features).std()]),
        "encoder_out": to_array(tokens),
        "loss": to_array(loss),
        **_rounds(model, start, tokens),
        **(_images if isinstance(model.decoder, BroadcastDecoder) else _sets)(model, batch),
    }


def _rounds(model: ObjectCentricModel, start: State, tokens: Tensor) -> Arrays:
    """Each round's attention, what the recurrent unit made of it, and the slots behind the perceptron."""
    corrector, slots = cast(SlotAttention, model.slot_encoder.corrector), start.slots
    inputs = corrector.project(tokens)
    found: dict[str, list[np.ndarray]] = {"attn_iter": [], "gru_iter": [], "slots_iter": []}
    for _ in range(corrector.num_iterations):
        gathered, attn = corrector.attend(slots, inputs)
        found["gru_iter"].append(to_array(corrector.gru(gathered, slots)))
        slots = corrector.update(slots, gathered)
        found["attn_iter"].append(to_array(attn[:, 0].transpose(1, 2)))
        found["slots_iter"].append(to_array(slots))
    return {name: np.stack(values) for name, values in found.items()}


def _images(model: ObjectCentricModel, batch: Batch) -> Arrays:
    clip = model.encode(batch)
    decoded = model.decoder.decode(clip, slot_recon=True)
    each = (decoded.slot_recon or {})["video"]
    return {
        "slots": to_array(clip.slots[:, 0]),
        "recon_combined": to_array(to_signed(decoded.recon["video"])[:, 0].movedim(1, -1)),
        "recons": to_array(to_signed(each)[:, 0].movedim(2, -1)),
        "masks": to_array(decoded.masks[:, 0, ..., None]),
    }


def _sets(model: ObjectCentricModel, batch: Batch) -> Arrays:
    clip = model.encode(batch)
    assert isinstance(model.decoder, SetPredictionDecoder)
    predicted, true = model.decoder(clip.slots)[:, 0], batch["properties"][:, 0]
    cost = pairwise_cost(predicted, true)
    return {
        "slots": to_array(clip.slots[:, 0]),
        "predictions": to_array(predicted),
        "pairwise_cost": to_array(cost),
        "assignment": to_array(assign(cost).transpose(0, 1)),
        "ap": average_precision(to_array(predicted), to_array(true)),
    }


def _same(case: Case, loaded: Loaded, folder: str) -> bool:
    """Whether a further checkpoint of the case holds the same weights."""
    other, params = slot_attention_tf.read(case.folder / folder).params, loaded.read.params
    return set(other) == set(params) and all(np.array_equal(params[path], other[path]) for path in params)


def _steps(case: Case) -> Arrays:
    """The original trainer's steps on the case's own batch, from nothing and from the checkpoint's moments."""
    recorded = case.arrays(read_trajectory(case))
    found: Arrays = {}
    for mode in case.config["trajectory"]["modes"] if recorded else ():
        loaded, batch = load(case), to_batch(case.inputs)
        noises = recorded[f"{mode}/slot_noise"]
        batches = ({**batch, "noise": torch.from_numpy(noise)} for noise in noises)
        steps = train(loaded, _schedule(case.config["trajectory"]), batches, resume=mode == "resume")
        trained = loaded.to_theirs(dict(loaded.model.state_dict()))
        found |= {
            f"{mode}/loss": steps.losses,
            f"{mode}/lr": steps.rates[:, 0],
            f"{mode}/grad_global_norm": steps.norms,
            **{
                f"{mode}/final/{NETWORK}{path}": value[:-1] if path in last_bias(case) else value
                for path, value in trained.items()
            },
        }
    return found


def _schedule(recorded: dict[str, Any]) -> OptimConfig:
    return OptimConfig(
        learning_rate=recorded["base_learning_rate"],
        warmup_steps=recorded["warmup_steps"],
        max_grad_norm=None,
        schedule="exponential",
        decay_rate=recorded["decay_rate"],
        decay_steps=recorded["decay_steps"],
        epsilon_hat=True,
    )


SYSTEM = System(rows, ours)
