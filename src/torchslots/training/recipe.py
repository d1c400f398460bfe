"""What a training run is, as frozen numbers: model, data, optimiser, schedule, evaluation."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from torchslots.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Base of every system's model numbers; `recipes/catalog.py` knows how to build each."""


@dataclass(frozen=True)
class DataConfig:
    """What a recipe asks of its data, in the order of the preprocessing."""

    dataset: str = "movi_a"
    """Name in `torchslots data list`."""
    keys: tuple[str, ...] = ("video", "segmentations", "boxes", "flow")
    """Batch keys to load; nothing else is decoded."""
    resolution: int = 64
    """Pixels of the shorter side after resizing."""
    num_frames: int = 6
    """Frames in a training clip."""
    max_instances: int = 23
    """Rows of `boxes`; objects beyond are dropped from boxes and masks."""
    min_object_covered: float | None = None
    """Least part of the frame that a random resized crop keeps in training; None: no crop."""
    depth_transform: Literal["log_plus", "log", "invert_plus"] = "log_plus"
    """How distance becomes the depth target: ln(1 + d), ln d, 1 / (1 + d)."""
    max_objects: int | None = None
    """Use only images and videos of at most this many objects; None: all."""
    crop: tuple[int, ...] | None = None
    """Top, left, height and width, in pixels of the source, of what is kept before resizing; None: everything."""
    square: bool = False
    """Resize to `resolution` in both directions, whatever that does to the aspect."""
    num_records: int | None = None
    """Only the first so many records of the split, where a large file would be unpacked whole; None: all."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam, its schedule and its clipping."""

    learning_rate: float = 2e-4
    """Peak learning rate, reached after warm-up."""
    warmup_steps: int = 2500
    """Steps of linear warm-up from zero."""
    num_steps: int = 100_000
    """Training steps in all."""
    max_grad_norm: float | None = 0.05
    """Global L2 norm to which gradients are clipped; None: not clipped."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, used for evaluation; None: no average."""
    schedule: Literal["cosine", "exponential"] = "cosine"
    """After warm-up: a half cosine to zero at `num_steps`; or `decay_rate` for every `decay_steps`, from step 0."""
    decay_rate: float = 0.5
    """Factor of the exponential schedule for every `decay_steps`."""
    decay_steps: int = 100_000
    """Steps in which the exponential schedule falls by `decay_rate`; it falls a little in each."""
    epsilon_hat: bool = False
    """Adam's epsilon is added before the bias of the second moment is corrected, as Keras does (Kingma and Ba 2015,
    end of section 2)."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run is carried out."""

    batch_size: int = 64
    """Clips in one optimiser step, over all processes and accumulation steps."""
    accumulation: int = 1
    """Forward and backward passes in one optimiser step; divides `batch_size`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products; weights stay fp32."""
    compile: bool = False
    """torch.compile the model: minutes at the start, faster steps."""
    seed: int = 42
    """Seed of weights, data order and every random draw."""
    num_workers: int = 2
    """Data loading processes for each training process."""
    log_every: int = 50
    """Steps between log lines."""
    eval_every: int = 1000
    """Steps between evaluations; 0: only at the end."""
    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    keep: int = 2
    """Latest checkpoints that are kept, besides the best."""
    short_clip: int | None = None
    """Frames of the pieces that clips are cut into at the beginning of training: slots learn to find objects sooner
    than to follow them. None: whole clips from the start, as in the papers."""
    short_steps: int = 0
    """Steps with short clips."""


@dataclass(frozen=True)
class EvalConfig:
    """How whole videos are judged."""

    split: str = "validation"
    """Split of the data set."""
    num_frames: int = 24
    """Frames of each video; shorter ones are padded and the padding ignored."""
    slice_size: int = 6
    """Frames that go through the model at once."""
    batch_size: int = 4
    """Videos at once."""
    num_videos: int | None = None
    """Videos to evaluate; None: the whole split."""
    restart_memory: bool = False
    """Forget the frames before each slice, as STATM's published evaluation does; without a memory the same."""
    seed: int = 0
    """Seed of slots that are drawn at random; a video's draws depend on it and on the video's name alone."""
    num_background: int = 1
    """Ids from 0 that are background, such as sky, floor and walls; with more than one FG-ARI is also reported without
    all of them."""


@dataclass(frozen=True)
class Recipe:
    """One paper's one experiment: everything that `torchslots train NAME` needs but the data's place."""

    name: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()


def to_json(config: Any) -> str:
    """A frozen dataclass as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_dict(kind: type, values: dict[str, Any], where: str) -> Any:
    """Rebuild a frozen dataclass from what `to_json` wrote; lists become tuples again.

    Raises:
        UserError: an unknown or ill-typed field, naming `where` it was read.
    """
    hints = typing.get_type_hints(kind)
    fields = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{where}: {kind.__name__} has no field `{key}`. It has: {', '.join(hints)}.")
        fields[key] = _revive(hints[key], value, f"{where}: {key}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{where}: {error}. Write the file again with this version of torchslots.") from error


def _revive(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_dict(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return tuple(_revive(inner, item, where) for item in value)
    if origin in (typing.Union, types.UnionType) and value is not None:
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return _revive(_fitting(options, value), value, where)
    if hint in (int, float, str, bool) and not (
        isinstance(value, hint) or (hint is float and isinstance(value, int))
    ):
        raise UserError(f"{where} should be {hint.__name__}, got {value!r}.")
    return value


def _fitting(options: list[Any], value: Any) -> Any:
    """Of a union's types the first dataclass that has all of the given fields, else the first type."""
    for option in options:
        known = (
            {field.name for field in dataclasses.fields(option)}
            if dataclasses.is_dataclass(option)
            else set()
        )
        if isinstance(value, dict) and set(value) <= known:
            return option
    return options[0]
