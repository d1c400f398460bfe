"""SAVi's recorded cases: our forward pass, losses, gradients, slices and training steps beside the original's."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import (
    DEEP_GRADIENT_TOLERANCE,
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
from torchslots.convert import layouts
from torchslots.convert.layouts import Arrays, WeightMap
from torchslots.convert.originals import savi as savi_flax
from torchslots.convert.readers import flax as flax_checkpoint
from torchslots.metrics.segmentation import ari, contingency, fg_ari
from torchslots.models.decoders.broadcast import segmentation_from_logits
from torchslots.models.model import ObjectCentricModel, conditioning
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.encoder import FrameEncoder
from torchslots.models.slots.predictors import TransformerPredictor
from torchslots.models.types import Batch, Clip, Prediction, State
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.savi import ResNetConfig, SaviConfig, build
from torchslots.training import optim


class System(NamedTuple):
    """What differs between SAVi and systems built on it, as far as recordings show."""

    read_config: Callable[[dict[str, Any], Arrays], Any]
    build: Callable[[Any], ObjectCentricModel]
    leaves: Callable[[Any], list[WeightMap]]
    savi: Callable[[Any], SaviConfig]
    """SAVi's numbers of the system's."""
    predictor_attention: Callable[[ObjectCentricModel, Clip, State], Arrays]
    """The predictor's attention maps under the recordings' names, from a clip and the state before it."""
    between_slices: Callable[[State], State]
    """What the original's evaluation hands from one slice to the next."""


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case."""
    yield from system_checks(case, SAVI)


def system_checks(case: Case, system: System) -> Iterator[Check]:
    """Every recorded tensor of a case of SAVi or of a system built on it."""
    config, model = load(case, system)
    savi, batch = system.savi(config), to_batch(case.inputs)
    with torch.no_grad():
        ours = _forward(model, batch, savi, system)
        ours |= _slices(model, batch, case.outputs, system.between_slices)
    gradients = _losses_and_gradients(model, batch, system.leaves(config))
    for name, recorded in case.outputs.items():
        if name.startswith("grad"):
            yield from _gradient_check(name, recorded, gradients, savi)
        elif name.startswith("loss/"):
            yield compare(name, gradients[name], recorded, LOSS_TOLERANCE)
        elif name.endswith("segmentations"):
            yield compare_integers(name, ours[name], recorded, _margin(case, name))
        elif name in ours:
            yield compare(name, ours[name], recorded, OUTPUT_TOLERANCE)
        elif not name.startswith(_ELSEWHERE):
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    yield from _metric_checks(case, batch)
    for folder in [] if case.double else sorted(case.folder.glob("trajectory_*")):
        yield from trajectory_checks(case, folder, system)


_ELSEWHERE = ("outputs/segmentations_margin", "sliced/slice_size", "metrics/")


def load(case: Case, system: System | None = None) -> tuple[Any, ObjectCentricModel]:
    """The case's model with the case's weights; None: SAVi's."""
    system, weights = system or SAVI, case_weights(case)
    config = system.read_config(case.config["config"], weights)
    model = system.build(config)
    model.load_state_dict(layouts.to_ours(system.leaves(config), weights, str(case.folder)))
    return config, (model.double() if case.double else model).eval()


def case_weights(case: Case) -> Arrays:
    """From the checkpoint, or from the recipe that the recording names."""
    if case.config.get("weights") != "recipe":
        return flax_checkpoint.read(case.folder / str(case.config.get("checkpoint", "."))).params
    seed = case.config["weights_seed"]
    return {path: recipe_leaf(path, tuple(shape), seed) for path, shape in case.config["param_tree"].items()}


_GAINS = {
    "SpatialBroadcastDecoder_0/CNN_0": 2.5,
    "SpatialBroadcastDecoder_0/alpha_logits": 4.0,
    "FrameEncoder_0/CNN_0": 1.4,
}


def recipe_leaf(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Weights too large to ship: normal numbers from a generator seeded by the array's name, scaled by its kind."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    normal = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little"))).standard_normal(shape)
    kind = path.rsplit("/", 1)[-1]
    if kind == "scale":
        values = 1.0 + 0.1 * normal
    elif kind == "bias":
        values = 0.1 * normal
    elif kind == "pos_embedding":
        axes = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
        values = np.stack(axes, -1)[None] + 0.02 * normal
    else:
        gain = next((gain for start, gain in _GAINS.items() if path.startswith(start)), 1.0)
        values = (gain if kind == "kernel" else 1.0) * normal / np.sqrt(np.prod(shape[:-1]))
    return values.astype(np.float32)


def to_batch(inputs: Arrays) -> Batch:
    """Recorded channels-last arrays as a batch."""
    batch: Batch = {key: torch.from_numpy(inputs[key]) for key in ("boxes", "segmentations") if key in inputs}
    for key in ("video", "flow", "depth"):
        if key in inputs:
            batch[key] = torch.from_numpy(inputs[key]).movedim(-1, 2).contiguous()
    batch["padding_mask"] = torch.from_numpy(inputs["padding_mask"]).bool()
    return batch


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _forward(model: ObjectCentricModel, batch: Batch, savi: SaviConfig, system: System) -> Arrays:
    """Every activation that the recordings name, in the original's layout."""
    start: State = model.slot_encoder.initializer(conditioning(batch))
    clip = model.encode(batch)
    tokens = model.slot_encoder.tokens(batch["video"])
    found = {
        "init_slots": _array(start.slots),
        "states": _array(clip.slots),
        "states_pred": _array(clip.predicted),
        "encoder_out": _array(tokens),
        "encoder_out_last_frame": _array(tokens[:, -1:]),
        **_pictures(model, clip, savi),
        **_attention(model, clip, start, tokens),
        **system.predictor_attention(model, clip, start),
        **_backbone(model, batch, savi),
    }
    return found


def _pictures(model: ObjectCentricModel, clip: Clip, savi: SaviConfig) -> Arrays:
    decoded = model.decoder.decode(clip, slot_recon=True)
    first = decoded.logits[:, 0].flatten(0, 1)[:, None, ..., None]
    found = {"alphas": _array(decoded.masks[..., None]), "alpha_logits_raw_first_frame": _array(first)}
    late = savi.decoder.fusion == "late"
    for name, picture in decoded.recon.items():
        found[f"outputs/{name}"] = _array(picture.movedim(2, -1))
        slots = (decoded.slot_recon or {})[name][:, :1] if late else picture[:, :1]
        found[f"decoder/{name}_slots_first_frame"] = _array(slots.movedim(-3, -1))
    found["outputs/segmentations"] = _array(segmentation_from_logits(decoded.logits)[..., None])
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
        found[f"corrector_attn/it{i}"] = _array(attn.unflatten(0, lead))
    return found


def _interaction(model: ObjectCentricModel, clip: Clip, start: State) -> Arrays:
    attention = cast(TransformerPredictor, model.slot_encoder.predictor).block.attention
    return {"predictor_attn/0": _array(attention.weights(clip.slots, attention.project(clip.slots)))}


def _backbone(model: ObjectCentricModel, batch: Batch, savi: SaviConfig) -> Arrays:
    features = cast(FrameEncoder, model.slot_encoder.encoder).backbone(batch["video"][:, 0])
    name = f"encoder/{'ResNet' if isinstance(savi.encoder, ResNetConfig) else 'CNN'}_0_first_frame"
    maps = _array(features.movedim(1, -1))
    return {name: maps[:, None], f"{name}_last_8ch": maps[..., -8:]}


def _slices(
    model: ObjectCentricModel, batch: Batch, recorded: Arrays, between: Callable[[State], State]
) -> Arrays:
    """The clip again in slices, each from the state that the one before left."""
    if "sliced/slice_size" not in recorded:
        return {}
    size, state, parts = int(recorded["sliced/slice_size"]), None, []
    for start in range(0, batch["video"].shape[1], size):
        piece = {key: value[:, start : start + size] for key, value in batch.items()}
        clip = model.encode(piece, state)
        prediction: Prediction = model.predict(piece, state)
        state = between(prediction.state)
        parts.append((clip.slots, clip.predicted, prediction.segmentation[..., None]))
    names = ("sliced/states", "sliced/states_pred", "sliced/outputs/segmentations")
    return {name: _array(torch.cat(values, 1)) for name, values in zip(names, zip(*parts))}


def _metric_checks(case: Case, batch: Batch) -> Iterator[Check]:
    """Scores of whole videos, computed from the recorded maps: they hang on how the original broke ties.

    The reference knows as many object ids as it has rows of boxes, and background.
    """
    predicted = torch.from_numpy(case.outputs["outputs/segmentations"][..., 0].astype(np.int64))
    num_slots, num_objects = case.outputs["states"].shape[2], batch["boxes"].shape[2] + 1
    tables = contingency(
        batch["segmentations"], predicted, num_slots, num_objects, batch["padding_mask"]
    ).sum(1)
    for name, score in (("metrics/ari", ari), ("metrics/ari_nobg", fg_ari)):
        if name in case.outputs:
            yield compare_absolute(name, _array(score(tables)), case.outputs[name], LOSS_TOLERANCE)


def _losses_and_gradients(model: ObjectCentricModel, batch: Batch, leaves: list[WeightMap]) -> Arrays:
    """Losses, and gradients under the original's names."""
    losses = model.loss(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    tensors = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(tensors.values()))
    model.zero_grad()
    found = {"loss/total": _array(total), "grad_global_norm": _array(norm)}
    found["grad_global_norm_clipped"] = _array(norm * (0.05 / (norm + 1e-6)).clamp(max=1.0))
    for name, value in losses.items():
        found[f"loss/{name}_value"], found[f"loss/{name}_weight"] = _array(value), np.ones((), np.float32)
    for path, gradient in layouts.to_theirs(leaves, tensors).items():
        found[f"grad_norm/{path}"] = np.asarray(np.linalg.norm(gradient.astype(np.float64)))
    return found


def _gradient_check(name: str, recorded: np.ndarray, ours: Arrays, config: SaviConfig) -> Iterator[Check]:
    tolerance = DEEP_GRADIENT_TOLERANCE if isinstance(config.encoder, ResNetConfig) else GRADIENT_TOLERANCE
    if name.startswith("grad_global"):
        yield compare(name, ours[name], recorded, tolerance)
    elif name.startswith("grad_norm/") and (is_zero_gradient(name) or _vanished(name, recorded)):
        yield compare_zero(name, float(ours[name]), float(ours["grad_global_norm"]))
    elif name.startswith("grad_norm/") and not name.endswith("pos_embedding"):
        yield compare(name, np.asarray(ours[name]), recorded, tolerance)
    elif name.startswith("grad_norm/"):
        yield Check(name, (), 0.0, float(recorded), 0.0, float(recorded) == 0.0, "the grid is a constant")


def _vanished(name: str, recorded: np.ndarray) -> bool:
    """A gradient that the original itself found to be exactly zero, as of attention over a single frame."""
    return float(recorded) == 0.0 and not name.endswith("pos_embedding")


def is_zero_gradient(name: str) -> bool:
    """Leaves whose gradient vanishes in exact arithmetic: shifts that a softmax cancels."""
    return name.endswith(("alpha_logits/bias", "key/bias", "SlotAttention_0/LayerNorm_0/bias"))


def _margin(case: Case, name: str) -> np.ndarray | None:
    return case.outputs.get("outputs/segmentations_margin")


def trajectory_checks(case: Case, folder: Path, system: System | None = None) -> Iterator[Check]:
    """The original trainer's steps on the case's own batch: loss and learning rate of each, weights after the last."""
    numbers = json.loads((folder / "trajectory.json").read_text())
    recorded = dict(np.load(folder / "trajectory.npz"))
    system = system or SAVI
    config, model = load(case, system)
    batch, losses, rates = to_batch(case.inputs), [], []
    optimizer = optim.adam(model)
    rate = optim.schedule(
        OptimConfig(
            learning_rate=numbers["learning_rate"],
            warmup_steps=numbers["warmup_steps"],
            num_steps=numbers["num_train_steps"],
        )
    )
    for step in range(len(recorded["loss"])):
        rates.append(rate(step))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        loss = torch.stack(list(model.loss(batch).values())).sum()
        loss.backward()
        optim.clip_gradients(model.parameters(), numbers["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    yield compare(f"{folder.name}/loss", np.array(losses), recorded["loss"], OUTPUT_TOLERANCE)
    yield compare(
        f"{folder.name}/learning_rate", np.array(rates), recorded["learning_rate"], OUTPUT_TOLERANCE
    )
    ours = layouts.to_theirs(system.leaves(config), dict(model.state_dict()))
    for name, value in recorded.items():
        path = name.removeprefix("final_param_norm/")
        if name.startswith("final_param_norm/") and not is_zero_gradient(path):
            yield compare(
                f"{folder.name}/{name}",
                np.asarray(np.linalg.norm(ours[path].astype(np.float64))),
                value,
                OUTPUT_TOLERANCE,
            )


def _same(value: Any) -> Any:
    return value


SAVI = System(
    savi_flax.config_from_reference,
    build,
    savi_flax.leaves,
    savi=_same,
    predictor_attention=_interaction,
    between_slices=_same,
)
