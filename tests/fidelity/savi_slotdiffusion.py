"""Recordings of SlotDiffusion's PyTorch SAVi: outputs, loss, gradients and training steps."""

import numpy as np
import torch

from fidelity.cases import LOSS_TOLERANCE, Case, Row, Rows, System
from fidelity.loading import Loaded, load
from fidelity.training import loss_of, num_steps, torch_rows, torch_training
from torchslots.convert.layouts import Arrays
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.models.weights import shapes


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    loaded = load(case)
    found = {
        name: Row(recorded, LOSS_TOLERANCE if name.endswith("_loss") else Row.tolerance)
        for name, recorded in case.outputs.items()
    }
    return {**found, **torch_rows(case, shapes(loaded.read.params), drifting=[_last_bias(loaded)])}


def _last_bias(loaded: Loaded) -> str:
    """Bias of colours and mask score: a shift of all slots' scores changes nothing."""
    return next(leaf.path for leaf in loaded.leaves if leaf.name == "decoder.mask_head.bias")


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded, batch = load(case), to_batch(case.inputs)
    with torch.no_grad():
        found = forward(loaded.model, batch) | _in_two(loaded.model, batch, case.outputs)
    return found | torch_training(case, loaded, batch, [batch] * num_steps(case))


def to_batch(inputs: Arrays) -> Batch:
    """Recorded frames in [-1, 1] as a batch."""
    return {"video": from_signed(torch.from_numpy(inputs["img"]))}


def forward(model: ObjectCentricModel, batch: Batch) -> Arrays:
    """Every output that the recordings name; the tokens are those of the first frame."""
    clip = model.encode(batch)
    decoded = model.decoder.decode(clip, slot_recon=True)
    each = to_signed((decoded.slot_recon or {})["video"])
    found = {
        "encoder_out": model.slot_encoder.tokens(batch["video"][:, :1])[:, 0],
        "slots": clip.slots,
        "pred_slots_seq": clip.predicted,
        "masks": decoded.masks[:, :, :, None],
        "recon_img": to_signed(decoded.recon["video"]),
        "recons": each,
        "recons_first": each[:, 0],
        "img_recon_loss": loss_of(model, batch),
    }
    return {name: value.numpy() for name, value in found.items()}


def _in_two(model: ObjectCentricModel, batch: Batch, recorded: Arrays) -> Arrays:
    """Slots of a clip that is cut where the recording's was, the state handed on."""
    if "slots_split_at" not in recorded:
        return {}
    place, video = int(recorded["slots_split_at"]), batch["video"]
    first = model.encode({"video": video[:, :place]})
    second = model.encode({"video": video[:, place:]}, first.state)
    return {
        "slots_split": torch.cat([first.slots, second.slots], 1).numpy(),
        "slots_split_at": np.asarray(first.slots.shape[1]),
    }


SYSTEM = System(rows, ours)
