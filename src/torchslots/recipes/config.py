"""What a training run is, as frozen numbers: model, data, optimiser, schedule, evaluation."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from torchslots.data.config import DataConfig
from torchslots.io.errors import UserError, nearest

__all__ = [
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "Recipe",
    "TrainConfig",
    "from_dict",
    "to_json",
    "with_changes",
]


@dataclass(frozen=True)
class ModelConfig:
    """Base of every system's model numbers; `recipes/catalog.py` knows how to build each."""

    family: ClassVar[str]
    """The name under which its models are saved, a key of `recipes.catalog.FAMILIES`."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam, its schedule and its clipping."""

    learning_rate: float = 2e-4
    """Peak learning rate, reached after warm-up."""
    warmup_steps: float = 2500
    """Steps of linear warm-up from `min_learning_rate`; may be a part of a step, such as 2.5 % of 173."""
    num_steps: int = 100_000
    """Training steps in all."""
    max_grad_norm: float | None = 0.05
    """Norm of all gradients together to which they are clipped; None: not clipped."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, used for evaluation; None: no average."""
    schedule: Literal["cosine", "exponential"] = "cosine"
    """After warm-up: a half cosine to `min_learning_rate` at `num_steps`; or `decay_rate` for every `decay_steps`, from
    step 0."""
    decay_rate: float = 0.5
    """Factor of the exponential schedule for every `decay_steps`."""
    decay_steps: int = 100_000
    """Steps in which the exponential schedule falls by `decay_rate`; it falls a little in each."""
    epsilon_hat: bool = False
    """Adam's epsilon is added before the bias of the second moment is corrected, as Keras does (Kingma and Ba 2015,
    end of section 2)."""
    min_learning_rate: float = 0.0
    """Rate that warm-up starts from and the cosine falls to, of all parts of the model."""
    decoder_learning_rate: float | None = None
    """Peak for the decoder's parameters; None: `learning_rate`."""
    tokenizer_learning_rate: float | None = None
    """Rate, the same at every step, of a tokenizer that is trained together with the slots; None: the decoder's. One
    that was trained before is frozen, and has none."""
    clip_norm: Literal["l2", "inf"] = "l2"
    """Which norm `max_grad_norm` bounds: the root of the sum of squares, or the largest entry."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run is carried out."""

    batch_size: int = 64
    """Clips in one optimiser step, over all processes and accumulation steps."""
    accumulation: int = 1
    """Forward and backward passes in one optimiser step; divides `batch_size`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products; weights stay fp32."""
    compile: bool | None = None
    """torch.compile the model: a minute or more at the start. None: on CUDA, where a compiler is at hand and the run is
    long enough to win that time back by faster steps, judged by its first one."""
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
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()


_Config = TypeVar("_Config")


def with_changes(config: _Config, **changes: Any) -> _Config:
    """A frozen dataclass with some fields replaced, those of dataclasses within it by dotted names.

    `with_changes(config, num_slots=8, **{"decoder.grid": (4, 4)})`

    Raises:
        UserError: an unknown field, or a value of another type.
    """
    whole, within = {}, {}
    for name, value in changes.items():
        head, dot, rest = name.partition(".")
        if dot:
            within.setdefault(head, {})[rest] = value
        else:
            whole[head] = value
    kind = type(config).__name__
    known: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, config))
    }
    for name in (*whole, *within):
        if name not in known:
            raise UserError(f"{kind} has no field `{name}`. {nearest(name, known)}")
    hints = typing.get_type_hints(type(config))
    for name, inner in within.items():
        if not dataclasses.is_dataclass(known[name]):
            raise UserError(
                f"`{name}` of {kind} is {known[name]!r}, without fields. Give `{name}` as a whole."
            )
        whole[name] = with_changes(whole.get(name, known[name]), **inner)
    values = {name: _revive(hints[name], value, f"{kind}: {name}") for name, value in whole.items()}
    return dataclasses.replace(cast(Any, config), **values)


def to_json(config: Any) -> str:
    """A frozen dataclass as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_dict(kind: type, values: dict[str, Any], where: str) -> Any:
    """Rebuild a frozen dataclass from what `to_json` wrote; lists become tuples again.

    Raises:
        UserError: an unknown or ill-typed field, naming `where` it was read.
    """
    known, hints = [field.name for field in dataclasses.fields(kind)], typing.get_type_hints(kind)
    fields = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: {kind.__name__} has no field `{key}`. It has: {', '.join(known)}.")
        fields[key] = _revive(hints[key], value, f"{where}: {key}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{where}: {error}. Write the file again with this version of torchslots.") from error


def _revive(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_dict(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is Literal and value not in typing.get_args(hint):
        raise UserError(
            f"{where} should be one of {', '.join(map(str, typing.get_args(hint)))}, got {value!r}."
        )
    if hint is Path:
        return Path(value)
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
