"""Slot Attention's recorded cases: our forward pass, losses, gradients and training steps beside the original's."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    Case,
    Check,
    compare,
    compare_absolute,
    compare_integers,
    compare_zero,
)
from torchslots.convert.convert import adam_state
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import slot_attention as slot_attention_tf
from torchslots.convert.originals import slot_attention_layout
from torchslots.convert.originals.slot_attention import NETWORK, SlotAttentionCheckpoint
from torchslots.metrics.set_prediction import average_precision
from torchslots.models.decoders.broadcast import BroadcastDecoder
from torchslots.models.decoders.set_prediction import SetPredictionDecoder, assign, pairwise_cost
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder
from torchslots.models.types import Batch, State
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.slot_attention import SlotAttentionConfig
from torchslots.training import optim

_ZERO_GRADIENTS = ("slot_attention/norm_slots/beta",)
"""Shifts that a softmax over slots cancels."""


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case."""
    checkpoint, config, model = load(case)
    batch = to_batch(case.inputs)
    with torch.no_grad():
        ours = _forward(model, batch)
    gradients = _loss_and_gradients(model, batch, config)
    for name, recorded in case.outputs.items():
        if name.startswith("grad_norm/"):
            yield _gradient_check(name, recorded, gradients)
        elif name == "loss":
            yield compare(name, gradients["loss"], recorded, LOSS_TOLERANCE)
        elif name == "assignment":
            yield compare_integers(name, ours[name], recorded, None)
        elif name == "ap":
            yield compare_absolute(name, ours[name], recorded, LOSS_TOLERANCE)
        elif name in ours:
            yield compare(name, ours[name], recorded, OUTPUT_TOLERANCE)
        else:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    yield from _other_checkpoints(case, checkpoint)
    yield from _trajectory_checks(case, checkpoint)


def load(case: Case) -> tuple[SlotAttentionCheckpoint, SlotAttentionConfig, ObjectCentricModel]:
    """The case's checkpoint, and its model with the case's weights."""
    checkpoint = slot_attention_tf.read(case.folder / "checkpoint")
    config = slot_attention_tf.config_from_reference(case.config, checkpoint)
    model = slot_attention_tf.model_of(checkpoint, config)
    return checkpoint, config, model.double() if case.double else model


def moments(
    checkpoint: SlotAttentionCheckpoint, config: SlotAttentionConfig, model: ObjectCentricModel
) -> dict[str, Tensor]:
    """What the original's Adam remembers, for ours."""
    parts = [
        slot_attention_layout.to_ours(config, arrays, str(checkpoint.path)) if arrays else {}
        for arrays in (checkpoint.first_moments, checkpoint.second_moments)
    ]
    return adam_state(model, parts[0], parts[1], checkpoint.step)


def to_batch(inputs: Arrays) -> Batch:
    """Recorded pictures in [-1, 1], channels last, as a batch of clips of one frame."""
    video = torch.from_numpy(inputs["image"]).movedim(-1, 1)[:, None]
    batch: Batch = {"video": from_signed(video).contiguous(), "noise": torch.from_numpy(inputs["slot_noise"])}
    if "target" in inputs:
        batch["properties"] = torch.from_numpy(inputs["target"])[:, None]
    return batch


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _forward(model: ObjectCentricModel, batch: Batch) -> Arrays:
    """Every activation that the recordings name, in the original's layout."""
    encoder = model.slot_encoder
    features = cast(FrameEncoder, encoder.encoder).backbone(batch["video"][:, 0])
    tokens = encoder.tokens(batch["video"])[:, 0]
    start: State = encoder.initializer(conditioning(batch))
    return {
        "slots_init": _array(start.slots),
        "encoder_cnn_mean_std": np.array([_array(features).mean(), _array(features).std()]),
        "encoder_out": _array(tokens),
        **_rounds(model, start, tokens),
        **(_pictures if isinstance(model.decoder, BroadcastDecoder) else _sets)(model, batch),
    }


def _rounds(model: ObjectCentricModel, start: State, tokens: Tensor) -> Arrays:
    """Each round's attention, what the recurrent unit made of it, and the slots behind the perceptron."""
    corrector, slots = cast(SlotAttention, model.slot_encoder.corrector), start.slots
    inputs = corrector.project(tokens)
    found: dict[str, list[np.ndarray]] = {"attn_iter": [], "gru_iter": [], "slots_iter": []}
    for _ in range(corrector.num_iterations):
        gathered, attn = corrector.attend(slots, inputs)
        found["gru_iter"].append(_array(corrector.gru(gathered, slots)))
        slots = corrector.update(slots, gathered)
        found["attn_iter"].append(_array(attn[:, 0].transpose(1, 2)))
        found["slots_iter"].append(_array(slots))
    return {name: np.stack(values) for name, values in found.items()}


def _pictures(model: ObjectCentricModel, batch: Batch) -> Arrays:
    clip = model.encode(batch)
    decoded = model.decoder.decode(clip, slot_recon=True)
    each = (decoded.slot_recon or {})["video"]
    return {
        "slots": _array(clip.slots[:, 0]),
        "recon_combined": _array(to_signed(decoded.recon["video"])[:, 0].movedim(1, -1)),
        "recons": _array(to_signed(each)[:, 0].movedim(2, -1)),
        "masks": _array(decoded.masks[:, 0, ..., None]),
    }


def _sets(model: ObjectCentricModel, batch: Batch) -> Arrays:
    clip = model.encode(batch)
    assert isinstance(model.decoder, SetPredictionDecoder)
    predicted, true = model.decoder(clip.slots)[:, 0], batch["properties"][:, 0]
    cost = pairwise_cost(predicted, true)
    return {
        "slots": _array(clip.slots[:, 0]),
        "predictions": _array(predicted),
        "pairwise_cost": _array(cost),
        "assignment": _array(assign(cost).transpose(0, 1)),
        "ap": average_precision(_array(predicted), _array(true)),
    }


def _loss_and_gradients(model: ObjectCentricModel, batch: Batch, config: SlotAttentionConfig) -> Arrays:
    """The loss, and gradients under the original's names."""
    (loss,) = model.loss(batch).values()
    loss.backward()
    tensors = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(tensors.values()))
    model.zero_grad()
    theirs = slot_attention_layout.to_theirs(config, tensors)
    norms = {f"grad_norm/{NETWORK}{path}": _norm(value) for path, value in theirs.items()}
    return {"loss": _array(loss), "grad_global_norm": _array(norm), **norms}


def _norm(array: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(array.astype(np.float64)))


def _gradient_check(name: str, recorded: np.ndarray, ours: Arrays) -> Check:
    if name not in ours:
        return Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "the model has no such weight")
    if name.endswith(_ZERO_GRADIENTS):
        return compare_zero(name, float(ours[name]), float(ours["grad_global_norm"]))
    return compare(name, ours[name], recorded, GRADIENT_TOLERANCE)


def _other_checkpoints(case: Case, checkpoint: SlotAttentionCheckpoint) -> Iterator[Check]:
    """Further checkpoints of the case hold the same weights in the layouts of other versions of Keras."""
    for folder in sorted(case.folder.glob("checkpoint_*")):
        other = slot_attention_tf.read(folder)
        same = set(other.params) == set(checkpoint.params)
        for path, array in checkpoint.params.items() if same else ():
            same = same and bool(np.array_equal(array, other.params[path]))
        yield Check(f"{folder.name}/weights", (len(other.params),), 0.0, 0.0, 0.0, same, other.layout)


# ------------------------------------------------------------------------------------------ training steps


def _trajectory_checks(case: Case, checkpoint: SlotAttentionCheckpoint) -> Iterator[Check]:
    """The original trainer's steps on the case's own batch, from nothing and from the checkpoint's moments."""
    file = case.folder / "trajectory.npz"
    if case.double or not file.is_file():
        return
    recorded, numbers = dict(np.load(file)), case.config["trajectory"]
    schedule = OptimConfig(
        learning_rate=numbers["base_learning_rate"],
        warmup_steps=numbers["warmup_steps"],
        max_grad_norm=None,
        schedule="exponential",
        decay_rate=numbers["decay_rate"],
        decay_steps=numbers["decay_steps"],
        epsilon_hat=True,
    )
    for mode in numbers["modes"]:
        part = {
            name.removeprefix(f"{mode}/"): value
            for name, value in recorded.items()
            if name.startswith(f"{mode}/")
        }
        yield from _steps(case, schedule, part, mode, checkpoint if mode == "resume" else None)


def _steps(
    case: Case,
    schedule: OptimConfig,
    recorded: Arrays,
    mode: str,
    resumed: SlotAttentionCheckpoint | None,
) -> Iterator[Check]:
    _, config, model = load(case)
    batch, optimizer = to_batch(case.inputs), optim.adam(model)
    done = 0
    if resumed is not None:
        optim.load_optimizer(model, optimizer, moments(resumed, config, model), str(resumed.path))
        done = resumed.step or 0
    found: dict[str, list[float]] = {"loss": [], "lr": [], "grad_global_norm": []}
    for index, noise in enumerate(recorded["slot_noise"]):
        found["lr"].append(optim.prepare_update(optimizer, schedule, done + index))
        (loss,) = model.loss({**batch, "noise": torch.from_numpy(noise)}).values()
        loss.backward()
        found["loss"].append(loss.item())
        norm = optim.clip_gradients(model.parameters(), schedule.max_grad_norm)
        found["grad_global_norm"].append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    tolerances = {"loss": OUTPUT_TOLERANCE, "lr": LOSS_TOLERANCE, "grad_global_norm": GRADIENT_TOLERANCE}
    for name, tolerance in tolerances.items():
        yield compare(f"{mode}/{name}", np.array(found[name]), recorded[name], tolerance)
    yield from _final_checks(model, config, recorded, mode)


def _final_checks(
    model: ObjectCentricModel, config: SlotAttentionConfig, recorded: Arrays, mode: str
) -> Iterator[Check]:
    """Weights after the last step, but for those whose gradient is rounding alone."""
    ours = slot_attention_layout.to_theirs(config, dict(model.state_dict()))
    for name, value in recorded.items():
        path = name.removeprefix(f"final/{NETWORK}")
        if not name.startswith("final/") or path.endswith(_ZERO_GRADIENTS):
            continue
        mine = ours[path]
        if isinstance(model.decoder, BroadcastDecoder) and path == _last_bias(config):
            mine, value = mine[:-1], value[:-1]
        yield compare(f"{mode}/{name}", mine, value, OUTPUT_TOLERANCE)


def _last_bias(config: SlotAttentionConfig) -> str:
    """Bias of colours and mask score; a shift of all scores changes nothing."""
    layers = len(getattr(config.decoder, "channels", ()))
    return f"decoder_cnn/layer_with_weights-{layers}/bias"
