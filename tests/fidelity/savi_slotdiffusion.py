"""Recordings of SlotDiffusion's PyTorch SAVi: our outputs, loss, gradients and training steps beside the original's."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fidelity import training as torch_training
from fidelity.cases import LOSS_TOLERANCE, OUTPUT_TOLERANCE, Case, Check, compare
from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, WeightMap
from torchslots.convert.originals import savi_slotdiffusion as savi_pytorch_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.models.layers.ranges import from_signed, to_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes.savi_slotdiffusion import build


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case, its gradients and its training."""
    model, leaves = load(case)
    batch = to_batch(case.inputs)
    with torch.no_grad():
        ours = forward(model, batch) | _in_two(model, batch, case.outputs)
    for name, recorded in case.outputs.items():
        if name.endswith("_loss"):
            yield compare(name, ours[name], recorded, LOSS_TOLERANCE)
        elif name in ours:
            yield compare(name, ours[name], recorded, OUTPUT_TOLERANCE)
        else:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    theirs = partial(layouts.to_theirs, leaves)
    yield from torch_training.gradient_checks(case, model, batch, theirs)
    yield from torch_training.training_checks(
        case, model, lambda _: batch, theirs, drifting=[_last_bias(leaves)]
    )


def _last_bias(leaves: list[WeightMap]) -> str:
    """Bias of colours and mask score: a shift of all slots' scores changes nothing."""
    return next(leaf.path for leaf in leaves if leaf.name == "decoder.mask_head.bias")


def load(case: Case) -> tuple[ObjectCentricModel, list[WeightMap]]:
    """The case's model with its weights, without dropout, and the names of its weights."""
    config = savi_pytorch_torch.from_reference(case.config["config"])
    model, leaves = build(config).eval(), savi_pytorch_torch.leaves(config)
    read = torch_checkpoint.read(case.folder / "model.pth")
    model.load_state_dict(layouts.to_ours(leaves, read.params, str(read.path)))
    return model, leaves


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
        "img_recon_loss": _loss(model, batch),
    }
    return {name: value.numpy() for name, value in found.items()}


def _loss(model: ObjectCentricModel, batch: Batch) -> Tensor:
    (loss,) = model.loss(batch).values()
    return loss


def _in_two(model: ObjectCentricModel, batch: Batch, recorded: Arrays) -> Arrays:
    """Slots of a clip that is cut where the recording's was, the state handed on."""
    if "slots_split_at" not in recorded:
        return {}
    cut, video = int(recorded["slots_split_at"]), batch["video"]
    first = model.encode({"video": video[:, :cut]})
    second = model.encode({"video": video[:, cut:]}, first.state)
    return {
        "slots_split": torch.cat([first.slots, second.slots], 1).numpy(),
        "slots_split_at": np.asarray(first.slots.shape[1]),
    }
