"""Invariant Slot Attention's recorded cases: our rounds, pictures, gradients and steps beside the original's."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fidelity.cases import OUTPUT_TOLERANCE, Case, Check, compare, compare_integers, compare_zero
from torchslots.convert import layouts
from torchslots.convert.convert import adam_state
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import isa as isa_flax
from torchslots.convert.readers import flax as flax_checkpoint
from torchslots.io.errors import UserError
from torchslots.models.decoders.broadcast import lowest_argmax
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.attention import SlotAttention
from torchslots.models.slots.invariant import InvariantSlotAttention, statistics
from torchslots.models.types import Batch, Clip, Conditioning, Pose, State
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.isa import IsaConfig, build
from torchslots.training import optim

GRADIENT_TOLERANCE = 1e-2
"""Relative, of each weight's gradient norm; the eigenvectors behind rotations amplify rounding."""
GRADIENT_FLOOR = 1e-4
"""Of the whole gradient's norm, on top."""

FINAL_TOLERANCE = 1e-2
"""Of weights after a few steps of Adam, which makes full steps of gradients that are rounding noise: starting from
weights changed by 3e-7, the recorded five steps end up to 5e-3 apart."""


def checks(case: Case) -> Iterator[Check]:
    """Every recorded tensor of the case."""
    config, model = load(case)
    batch, pose = to_batch(case.inputs), recorded_pose(config, case.inputs["init_state"])
    with torch.no_grad():
        ours = _forward(model, batch, pose) | _rounds(model, batch, pose)
    ours |= _loss_and_gradients(model, config, batch, pose)
    for name, recorded in case.outputs.items():
        if name.startswith("grad_norm/"):
            yield _gradient_check(name, recorded, ours)
        elif name == "segmentations":
            yield compare_integers(name, ours[name], recorded, _margin(case.outputs))
        elif name in ours:
            yield compare(name, ours[name], recorded, OUTPUT_TOLERANCE)
        elif name == "grad_global_norm":
            yield compare(name, ours["norm"], recorded, GRADIENT_TOLERANCE)
        else:
            yield Check(name, recorded.shape, 0.0, 0.0, 0.0, False, "recorded, but not computed here")
    yield from _initial_check(case, model, config)
    if (case.folder / "trajectory.npz").is_file() and not case.double:
        yield from trajectory_checks(case)


def load(case: Case) -> tuple[IsaConfig, ObjectCentricModel]:
    """The case's model with the case's weights."""
    weights = case_weights(case)
    config = isa_flax.config_from_reference(case.config["config"], weights)
    model = build(config)
    model.load_state_dict(layouts.to_ours(isa_flax.leaves(config), weights, str(case.folder)))
    return config, (model.double() if case.double else model).eval()


def case_weights(case: Case) -> Arrays:
    """From the checkpoint, or from the recipe that the recording describes.

    Grids are no random numbers and differ from the recorded ones in the last bit.

    Raises:
        UserError: the recipe gives other numbers than were recorded.
    """
    if (case.folder / "checkpoint").is_dir():
        return flax_checkpoint.read(case.folder / "checkpoint" / "checkpoints-0").params
    shapes = {path: tuple(shape) for path, shape in case.config["params"].items()}
    weights = recipe_weights(shapes, case.config["seed"])
    for path, digest in case.config.get("sha256", {}).items():
        if (
            not path.endswith("pos_embedding")
            and hashlib.sha256(weights[path].tobytes()).hexdigest() != digest
        ):
            raise UserError(f"{case.folder}: {path} as the recipe makes it is not what was recorded.")
    return weights


def recipe_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Arrays:
    """Weights too large to ship: one stream of normal numbers over the arrays in the order of their names."""
    stream = np.random.default_rng(seed)
    return {path: _recipe_leaf(path, shapes[path], stream) for path in sorted(shapes)}


def _recipe_leaf(path: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
    kind = path.rsplit("/", 1)[-1]
    if kind == "pos_embedding":
        axes = (np.linspace(-1, 1, length) for length in shape[1:3])
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)[None].astype(np.float32)
    normal = stream.standard_normal(shape)
    if kind == "scale":
        values = 1 + 0.1 * normal
    elif kind == "bias":
        values = 0.1 * normal
    elif kind.startswith("state_init"):
        values = normal
    else:
        values = normal / np.sqrt(np.prod(shape[:-1])) * (3 if "general_dense_q_0" in path else 1)
    return values.astype(np.float32)


def to_batch(inputs: Arrays) -> Batch:
    """Recorded channels-last pictures as a batch."""
    return {"video": torch.from_numpy(inputs["video"]).movedim(-1, 2).contiguous()}


def recorded_pose(config: IsaConfig, state: np.ndarray) -> Pose | None:
    """The drawn frames behind the slots in a recorded initial state; None where none are drawn."""
    if config.invariance == "none" or config.initial_pose == "learned":
        return None
    drawn = torch.from_numpy(state[..., config.slot_size :].copy())
    return Pose(
        drawn[..., :2],
        None if config.invariance == "translation" else drawn[..., 2:4],
        drawn[..., 4:].unflatten(-1, (2, 2)) if config.invariance == "rotation" else None,
    )


def _start(model: ObjectCentricModel, batch: Batch, pose: Pose | None) -> State:
    """The initializer's slots, with recorded draws in place of new ones."""
    video: Tensor = batch["video"]
    return model.slot_encoder.initializer(Conditioning(len(video), video.device, pose=pose))


def _encode(model: ObjectCentricModel, batch: Batch, pose: Pose | None) -> Clip:
    return model.encode(batch, _start(model, batch, pose))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _state(slots: Tensor, pose: Pose | None) -> np.ndarray:
    """Slots and frames side by side, as the original keeps them."""
    return _array(slots if pose is None else torch.cat([slots, statistics(pose)], -1))


def _forward(model: ObjectCentricModel, batch: Batch, pose: Pose | None) -> Arrays:
    clip = _encode(model, batch, pose)
    decoded = model.decoder.decode(clip, slot_recon=True)
    return {
        "states": _state(clip.slots, clip.pose),
        "encoder_out": _array(model.slot_encoder.tokens(batch["video"])),
        "recon": _array(decoded.recon["video"].movedim(2, -1)),
        "recon_per_slot": _array((decoded.slot_recon or {})["video"].movedim(3, -1)),
        "masks": _array(decoded.masks[..., None]),
        "mask_logits": _array(decoded.logits[..., None]),
        "segmentations": _array(lowest_argmax(decoded.logits)[..., None]),
    }


def _rounds(model: ObjectCentricModel, batch: Batch, pose: Pose | None) -> Arrays:
    """Every round on the first frame."""
    start, corrector = _start(model, batch, pose), model.slot_encoder.corrector
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
    return {name: _array(torch.stack(values)) for name, values in found.items() if values}


def _plain_rounds(corrector: SlotAttention, start: State, tokens: Tensor) -> Arrays:
    """The baseline's."""
    inputs, slots = corrector.project(tokens).frames()[0], start.slots
    attentions, states = [], []
    for _ in range(corrector.num_iterations):
        gathered, attn = corrector.attend(slots, inputs)
        slots = corrector.update(slots, gathered)
        attentions.append(attn.squeeze(1))
        states.append(slots)
    return {"attn_rounds": _array(torch.stack(attentions)), "slots_iter": _array(torch.stack(states))}


def _loss_and_gradients(
    model: ObjectCentricModel, config: IsaConfig, batch: Batch, pose: Pose | None
) -> Arrays:
    """The loss, and norms of gradients under the original's names."""
    loss = _loss(model, batch, pose)
    loss.backward()
    tensors = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(tensors.values()))
    model.zero_grad()
    theirs = layouts.to_theirs(isa_flax.leaves(config), tensors)
    found = {
        f"grad_norm/{path}": np.asarray(np.linalg.norm(value.astype(np.float64)))
        for path, value in theirs.items()
    }
    value = _array(loss)
    return {
        **found,
        "norm": _array(norm),
        "loss": value,
        "loss_aux/recon_video_value": value,
        "loss_aux/recon_video_weight": np.array(1.0, np.float32),
    }


def _loss(model: ObjectCentricModel, batch: Batch, pose: Pose | None) -> Tensor:
    return torch.stack(list(model.decoder.loss(_encode(model, batch, pose), batch).values())).sum()


def _gradient_check(name: str, recorded: np.ndarray, ours: Arrays) -> Check:
    if name.endswith("pos_embedding"):
        return Check(name, (), 0.0, float(recorded), 0.0, float(recorded) == 0.0, "the grid is a constant")
    if is_zero_gradient(name):
        return compare_zero(name, float(ours.get(name, 0.0)), float(ours["norm"]))
    if name not in ours:
        return Check(name, (), 0.0, float(recorded), 0.0, float(recorded) == 0.0, "no gradient here")
    error, size = abs(float(ours[name]) - float(recorded)), float(recorded)
    allowed = GRADIENT_TOLERANCE * size + GRADIENT_FLOOR * float(ours["norm"])
    return Check(
        name,
        (),
        error,
        error / size if size else error,
        allowed / size if size else allowed,
        error <= allowed,
        ours=np.asarray(ours[name]),
    )


def is_zero_gradient(path: str) -> bool:
    """Weights whose gradient vanishes in exact arithmetic: shifts that a softmax cancels."""
    return path.endswith(("alphas/bias", "/SlotAttention_0/LayerNorm_0/bias"))


def _margin(outputs: Arrays) -> np.ndarray:
    """By how much the original's winner leads: in mask scores, or in logarithms of masks where those are recorded."""
    scores = outputs["mask_logits"] if "mask_logits" in outputs else np.log(outputs["masks"] + 1e-30)
    best = np.sort(scores, axis=2)
    return best[:, :, -1] - best[:, :, -2]


def _initial_check(case: Case, model: ObjectCentricModel, config: IsaConfig) -> Iterator[Check]:
    """The initializer's output: all of it where frames are learned, the slots where they are drawn."""
    with torch.no_grad():
        start = _start(model, to_batch(case.inputs), recorded_pose(config, case.inputs["init_state"]))
    yield compare("init_state", _state(start.slots, start.pose), case.inputs["init_state"], OUTPUT_TOLERANCE)


def trajectory_checks(case: Case) -> Iterator[Check]:
    """Steps of the original's optimiser on the case's pictures, from the start and going on from the checkpoint."""
    recorded = dict(np.load(case.folder / "trajectory.npz"))
    for run in sorted({name.split("/")[0] for name in recorded}):
        part = {
            name.removeprefix(f"{run}/"): value
            for name, value in recorded.items()
            if name.startswith(run + "/")
        }
        for check in _run_checks(case, part, resumed=run == "resume"):
            yield Check(**{**vars(check), "name": f"trajectory/{run}/{check.name}"})


def _run_checks(case: Case, recorded: Arrays, *, resumed: bool) -> Iterator[Check]:
    config, model = load(case)
    optimizer, done = optim.adam(model), 0
    if resumed:
        done = restore_moments(case, config, model, optimizer)
    numbers, batch = _optim_config(case.config["config"]), to_batch(case.inputs)
    ours: dict[str, list[float]] = {"loss": [], "lr": [], "grad_global_norm": []}
    for step, state in enumerate(recorded["init_state"]):
        rate = optim.prepare_update(optimizer, numbers, done + step)
        loss = _loss(model, batch, recorded_pose(config, state))
        loss.backward()
        norm = optim.clip_gradients(model.parameters(), numbers.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        for name, value in (("loss", loss.item()), ("lr", rate), ("grad_global_norm", norm.item())):
            ours[name].append(value)
    tolerances = {"loss": OUTPUT_TOLERANCE, "lr": OUTPUT_TOLERANCE, "grad_global_norm": GRADIENT_TOLERANCE}
    for name, tolerance in tolerances.items():
        yield compare(name, np.array(ours[name]), recorded[name], tolerance)
    yield from _final_checks(model, config, recorded)


def _final_checks(model: ObjectCentricModel, config: IsaConfig, recorded: Arrays) -> Iterator[Check]:
    """Weights after the last step."""
    ours = layouts.to_theirs(isa_flax.leaves(config), dict(model.state_dict()))
    for path, value in ours.items():
        if f"final/{path}" in recorded and not is_zero_gradient(f"/{path}"):
            yield compare(f"final/{path}", value, recorded[f"final/{path}"], FINAL_TOLERANCE)


def _optim_config(reference: dict) -> OptimConfig:
    rates = reference["lr_configs"]
    return OptimConfig(
        learning_rate=rates["base_learning_rate"],
        warmup_steps=rates["warmup_steps"],
        num_steps=rates["steps_per_cycle"],
        max_grad_norm=reference["optimizer_configs"]["grad_clip"]["clip_value"],
    )


def restore_moments(
    case: Case, config: IsaConfig, model: ObjectCentricModel, optimizer: torch.optim.Optimizer
) -> int:
    """Put Adam's state of the case's checkpoint into ours; the number of updates it has seen."""
    read = flax_checkpoint.read(case.folder / "checkpoint" / "checkpoints-0")
    leaves, where = isa_flax.leaves(config), str(read.path)
    first, second = (
        layouts.to_ours(leaves, part, where) for part in (read.first_moments, read.second_moments)
    )
    optim.load_optimizer(model, optimizer, adam_state(model, first, second, read.step), where)
    return read.step or 0
