"""STEVE's recordings: slots, scores, losses, decoded codes and images, gradients and five steps of training.

`config.json` holds the original's configuration and what training gave; its `dvae_margin` is the least lead of a
tokenizer's code over the next.
"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fidelity.cases import LOSS_TOLERANCE, MARGIN, Case, Row, Rows, System, holds, integers
from fidelity.loading import Loaded, load
from fidelity.training import num_steps, torch_rows, torch_training
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import steve as steve_torch
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.code_transformer import most_likely
from torchslots.models.layers.ranges import from_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.models.weights import shapes

_OTHER_NAMES = {"token_recon_loss": "tokens", "img_recon_loss": "image"}
"""The original's losses and ours."""


def rows(case: Case) -> Rows:
    """Tolerance of each recorded tensor."""
    found = {name: _row(case, name, recorded) for name, recorded in case.outputs.items()}
    written = {"weights": holds("read and written back")}
    return {**written, **found, **torch_rows(case, shapes(load(case).read.params))}


def _row(case: Case, name: str, recorded: np.ndarray) -> Row:
    """Tolerance of one tensor; the margin of the tokenizer's codes is known as a minimum over the whole case."""
    if np.issubdtype(recorded.dtype, np.integer):
        least = case.config.get("dvae_margin") if name.startswith("target") else None
        return integers(recorded, None if least is None else np.full(recorded.shape, least))
    return Row(recorded, LOSS_TOLERANCE if "loss" in name else Row.tolerance)


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    loaded, batch = load(case), to_batch(case.inputs)
    with torch.no_grad():
        found = forward(case, loaded.model, batch)
    found["weights"] = np.array(_written_back(loaded))
    batches = (_training_batch(case.inputs, step) for step in range(num_steps(case)))
    return found | torch_training(case, loaded, batch, batches)


def to_batch(inputs: Arrays) -> Batch:
    """The recorded clip, and the noise of its loss of images where there is any."""
    batch: Batch = {"video": from_signed(torch.from_numpy(inputs["img"]))}
    noise = {"exponential": torch.from_numpy(inputs["exponential"])} if "exponential" in inputs else {}
    return {**batch, **noise}


def _training_batch(inputs: Arrays, step: int) -> Batch:
    """The recorded clip with the noise of a step of training."""
    noise = {"exponential": inputs["train_exponential"][step]} if "train_exponential" in inputs else {}
    return to_batch({"img": inputs["img"], **noise})


def _written_back(loaded: Loaded) -> bool:
    """Whether weights and causal masks are written back as they were read."""
    written = loaded.to_theirs(dict(loaded.model.state_dict())) | steve_torch.masks(loaded.config)
    params = loaded.read.params
    return set(written) == set(params) and all(
        np.array_equal(value, params[name]) for name, value in written.items()
    )


def forward(case: Case, model: ObjectCentricModel, batch: Batch) -> Arrays:
    """Every output that the recordings name."""
    decoder, clip = cast(AutoregressiveDecoder, model.decoder), model.encode(batch)
    slots = clip.slots.flatten(0, 1)
    target = decoder.target_codes(decoder.tokenizer, decoder.to_native(batch["video"].flatten(0, 1)), batch)
    losses = decoder.loss(clip, batch)
    found = {
        "slots": clip.slots,
        "masks": decoder.decode(clip, recon=False).masks,
        "target_token_id": target.codes,
        "pred_token_id": decoder.writer(target.codes, slots),
        **{theirs: losses[ours] for theirs, ours in _OTHER_NAMES.items() if ours in losses},
        **_soft_images(decoder, target.codes, slots, batch),
        **_given(case, decoder, slots),
        **_decoded(decoder, slots, clip.slots.shape[:2], case.outputs["ar_ids"]),
    }
    return {name: value.numpy() for name, value in found.items()}


def _soft_images(
    decoder: AutoregressiveDecoder, codes: Tensor, slots: Tensor, batch: Batch
) -> dict[str, Tensor]:
    """The image behind a soft sample beside the true one, where there is a loss of it."""
    if decoder.image_temperature is None:
        return {}
    soft = decoder.soft_images(decoder.writer(codes, slots), decoder.image_temperature, batch)
    return {"recon_img": soft, "gt_img": decoder.to_native(batch["video"].flatten(0, 1))}


def _given(case: Case, decoder: AutoregressiveDecoder, slots: Tensor) -> dict[str, Tensor]:
    """The loss of codes that are not those of the images."""
    if "given_token_id" not in case.inputs:
        return {}
    codes = torch.from_numpy(case.inputs["given_token_id"]).flatten(0, 1)
    return {"token_recon_loss_given": decoder.error(decoder.writer(codes, slots), codes)}


def _decoded(
    decoder: AutoregressiveDecoder, slots: Tensor, shape: torch.Size, recorded: Int[np.ndarray, "n l"]
) -> dict[str, Tensor]:
    """Codes decoded step by step, the scores by which each was chosen, and their images.

    A code changes all later ones: of two codes whose scores are within `MARGIN` the recorded one is taken.
    """
    following, scores = torch.from_numpy(recorded), list[Tensor]()

    def choose(logits: Tensor) -> Tensor:
        wanted = following[:, len(scores)].clamp(0, logits.shape[-1] - 1)
        scores.append(logits)
        tied = logits.amax(-1) - logits.gather(-1, wanted[:, None])[:, 0] <= MARGIN
        return torch.where(tied, wanted, most_likely(logits))

    codes = decoder.writer.generate(slots, choose)
    images = decoder.decode_codes(codes).unflatten(0, tuple(shape))
    return {"ar_ids": codes, "ar_logits": torch.stack(scores, 1), "ar_recon": images}


SYSTEM = System(rows, ours)
