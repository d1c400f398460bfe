"""STEVE's recorded cases: slots, scores, losses, written codes and pictures, gradients and five steps of training.

`config.json` holds the original's configuration and what training gave; its `dvae_margin` is the least lead of a
tokenizer's code over the next.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fidelity import training as torch_training
from fidelity.cases import LOSS_TOLERANCE, MARGIN, OUTPUT_TOLERANCE, Case, Check, compare, compare_integers
from torchslots.convert.layouts import Arrays, to_ours, to_theirs
from torchslots.convert.originals import steve as steve_torch
from torchslots.convert.readers import torch as torch_checkpoint
from torchslots.models.decoders.autoregressive import AutoregressiveDecoder
from torchslots.models.decoders.code_transformer import most_likely
from torchslots.models.layers.ranges import from_signed
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch
from torchslots.recipes.steve import SteveConfig, build

_OTHER_NAMES = {"token_recon_loss": "tokens", "img_recon_loss": "image"}
"""The original's losses and ours."""


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case, its gradients and its training."""
    params, config, model = load(case)
    yield _weight_check(params, config, model)
    batch = to_batch(case.inputs)
    with torch.no_grad():
        ours = forward(case, model, batch)
    for name, recorded in case.outputs.items():
        if name not in ours:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
        elif np.issubdtype(recorded.dtype, np.integer):
            yield compare_integers(name, ours[name], recorded, _margin(case, name))
        else:
            tolerance = LOSS_TOLERANCE if "loss" in name else OUTPUT_TOLERANCE
            yield compare(name, ours[name], recorded, tolerance)
    theirs = partial(to_theirs, steve_torch.leaves(config))
    yield from torch_training.gradient_checks(case, model, batch, theirs)
    yield from torch_training.training_checks(case, model, partial(_training_batch, case.inputs), theirs)


def load(case: Case) -> tuple[Arrays, SteveConfig, ObjectCentricModel]:
    """The case's checkpoint, our numbers, and our model with its weights, without dropout."""
    config = steve_torch.from_reference(case.config["config"])
    checkpoint = torch_checkpoint.read(case.folder / "model.pth")
    where = str(checkpoint.path)
    weights = steve_torch.without_masks(checkpoint.params, config, where)
    model = build(config)
    model.load_state_dict(to_ours(steve_torch.leaves(config), weights, where))
    return checkpoint.params, config, model.eval()


def to_batch(inputs: Arrays) -> Batch:
    """The recorded clip, and the draws of its loss of pictures where there are any."""
    batch: Batch = {"video": from_signed(torch.from_numpy(inputs["img"]))}
    draws = {"exponential": torch.from_numpy(inputs["exponential"])} if "exponential" in inputs else {}
    return {**batch, **draws}


def _training_batch(inputs: Arrays, step: int) -> Batch:
    """The recorded clip with the draws of a step of training."""
    draws = {"exponential": inputs["train_exponential"][step]} if "train_exponential" in inputs else {}
    return to_batch({"img": inputs["img"], **draws})


def _weight_check(params: Arrays, config: SteveConfig, model: ObjectCentricModel) -> Check:
    """What was read is written back the same, causal masks among it."""
    written = to_theirs(steve_torch.leaves(config), dict(model.state_dict())) | steve_torch.masks(config)
    same = set(written) == set(params)
    same = same and all(np.array_equal(value, params[name]) for name, value in written.items())
    return Check("weights", (len(params),), 0.0, 0.0, 0.0, same, "read and written back")


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
        **_painted(decoder, target.codes, slots, batch),
        **_given(case, decoder, slots),
        **_written(decoder, slots, clip.slots.shape[:2], case.outputs["ar_ids"]),
    }
    return {name: value.numpy() for name, value in found.items()}


def _painted(decoder: AutoregressiveDecoder, codes: Tensor, slots: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The picture behind a soft draw beside the true one, where there is a loss of it."""
    if decoder.image_temperature is None:
        return {}
    painted = decoder.soft_images(decoder.writer(codes, slots), decoder.image_temperature, batch)
    return {"recon_img": painted, "gt_img": decoder.to_native(batch["video"].flatten(0, 1))}


def _given(case: Case, decoder: AutoregressiveDecoder, slots: Tensor) -> dict[str, Tensor]:
    """The loss of codes that are not those of the pictures."""
    if "given_token_id" not in case.inputs:
        return {}
    codes = torch.from_numpy(case.inputs["given_token_id"]).flatten(0, 1)
    return {"token_recon_loss_given": decoder.error(decoder.writer(codes, slots), codes)}


def _written(
    decoder: AutoregressiveDecoder, slots: Tensor, shape: torch.Size, recorded: Int[np.ndarray, "n l"]
) -> dict[str, Tensor]:
    """Codes written step by step, the scores that each was chosen by, and their pictures.

    A code that is followed by others decides on all of them: between two whose scores are within `MARGIN` the
    recording's is taken.
    """
    following, scores = torch.from_numpy(recorded), list[Tensor]()

    def choose(logits: Tensor) -> Tensor:
        wanted = following[:, len(scores)].clamp(0, logits.shape[-1] - 1)
        scores.append(logits)
        tied = logits.amax(-1) - logits.gather(-1, wanted[:, None])[:, 0] <= MARGIN
        return torch.where(tied, wanted, most_likely(logits))

    codes = decoder.writer.generate(slots, choose)
    pictures = decoder.decode_codes(codes).unflatten(0, tuple(shape))
    return {"ar_ids": codes, "ar_logits": torch.stack(scores, 1), "ar_recon": pictures}


def _margin(case: Case, name: str) -> np.ndarray | None:
    """The least lead of a chosen code of the tokenizer, which is known for the whole case alone."""
    least = case.config.get("dvae_margin") if name.startswith("target") else None
    return None if least is None else np.full(case.outputs[name].shape, least)
