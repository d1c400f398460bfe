"""Prediction with no input: after some observed frames the predictor goes on by itself."""

from functools import partial

import torch

from torchslots.errors import UserError
from torchslots.model import ObjectCentricModel
from torchslots.shapes import Batch, Clip, Prediction, State
from torchslots.slots.encoder import merge_poses


@torch.no_grad()
def rollout(
    model: ObjectCentricModel,
    batch: Batch,
    observe: int,
    horizon: int,
    state: State | None = None,
    slot_recon: bool = False,
) -> Prediction:
    """Segment `observe` frames, then predict and decode `horizon` more that the model is not shown.

    A predicted frame's slots take the place of corrected ones: the predictor goes on from them, and one with a memory
    remembers them. The attention of predicted frames is zero.

    Args:
        batch: as for `model.predict`; of `video` the first `observe` frames are used. May be empty where `observe` is
            0.
        observe: frames to look at; 0: none, go on from `state`.
        horizon: frames to predict.
        state: what a slice before returned, from `predict` or from here: long clips can be observed, and rolled on, in
            parts.
        slot_recon: also return each slot's own pictures.

    Returns:
        All frames, the observed ones first.

    Raises:
        UserError: more frames to observe than there are, nothing to go on from, or nothing to predict.
    """
    _check(batch, observe, horizon, state)
    parts: list[Clip] = []
    if observe:
        seen = {**batch, "video": batch["video"][:, :observe]}
        parts.append(model.encode(seen, state))
        state = parts[0].state
    assert state is not None
    parts.append(model.slot_encoder.roll_on(state, horizon))
    return model.explain(_joined(parts), slot_recon)


def _check(batch: Batch, observe: int, horizon: int, state: State | None) -> None:
    if horizon < 1 or observe < 0:
        raise UserError(
            f"Cannot observe {observe} frames and predict {horizon}: give 0 or more, and 1 or more."
        )
    if observe == 0 and state is None:
        raise UserError(
            "There is nothing to predict from: observe at least 1 frame, or go on from a state that "
            "another slice left."
        )
    if observe and batch["video"].shape[1] < observe:
        raise UserError(
            f"Cannot observe {observe} frames of a clip of {batch['video'].shape[1]}: observe fewer."
        )


def _joined(parts: list[Clip]) -> Clip:
    """Clips one after the other; frames without attention get zeros."""
    num_tokens = max(part.attn.shape[-1] for part in parts)
    attn = [
        part.attn
        if part.attn.shape[-1] == num_tokens
        else part.attn.new_zeros(*part.attn.shape[:-1], num_tokens)
        for part in parts
    ]
    return Clip(
        torch.cat([part.slots for part in parts], 1),
        torch.cat([part.predicted for part in parts], 1),
        torch.cat(attn, 1),
        merge_poses([part.pose for part in parts], partial(torch.cat, dim=1)),
        parts[-1].state,
    )
