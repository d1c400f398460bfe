"""What a training run is, as frozen numbers: model, data, optimiser, schedule, evaluation."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from torchslots.data import config as data
from torchslots.data.config import DataConfig
from torchslots.io.errors import UserError, nearest
from torchslots.io.ranges import COUNT, FROM_ZERO, PART, POSITIVE, Range, check_ranges

__all__ = [
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "Recipe",
    "TrainConfig",
    "current_flags",
    "current_item",
    "current_name",
    "from_dict",
    "to_json",
    "with_changes",
]


@dataclass(frozen=True)
class ModelConfig:
    """Base of every system's model numbers; `recipes/catalog.py` knows how to build each."""

    family: ClassVar[str] = ""
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


RANGES: dict[str, Range] = {
    **data.RANGES,
    **dict.fromkeys(("accumulation", "batch_size", "checkpoint_every", "decay_steps", "log_every"), COUNT),
    **dict.fromkeys(("num_heads", "num_layers", "num_slots", "num_steps", "slice_size", "slot_size"), COUNT),
    **dict.fromkeys(("num_videos", "short_clip"), COUNT),
    **dict.fromkeys(
        ("eval_every", "num_background", "num_iterations", "num_plots", "num_workers"), FROM_ZERO
    ),
    **dict.fromkeys(("seed", "short_steps", "warmup_steps"), FROM_ZERO),
    **dict.fromkeys(("learning_rate", "decoder_learning_rate", "min_learning_rate"), FROM_ZERO),
    **dict.fromkeys(("decay_rate", "max_grad_norm"), POSITIVE),
    **dict.fromkeys(("dropout", "ema_decay"), PART),
    "tokenizer_learning_rate": FROM_ZERO,
    "TrainConfig.keep": COUNT,
}
"""What the numbers of a recipe may be, by the names of their fields."""

OLD_NAMES: dict[str, dict[str, str]] = {
    "CodeTransformerConfig": {"forget": "token_dropout"},
    "DiffusionConfig": {"prediction": "prediction_type"},
    "IsaConfig": {
        "frames": "initial_pose",
        "draws": "scale_sampling",
        "values_in_frame": "relative_values",
        "tell_frames": "append_pose",
    },
    "SteveConfig": {"writer": "transformer"},
    "SteveJointConfig": {"writer": "transformer"},
}
"""Fields that had another name in models and runs saved before: by class, old name to new."""
OLD_VALUES: dict[str, dict[str, dict[str, str]]] = {"IsaConfig": {"initial_pose": {"drawn": "sampled"}}}
"""Values that were written otherwise before: by class and (new) field, old value to new."""


def to_json(config: Any) -> str:
    """A frozen dataclass as JSON text; a recipe's tells its model's family, too."""
    family = {"family": config.model.family} if isinstance(config, Recipe) else {}
    return json.dumps(family | dataclasses.asdict(config), indent=2)


def from_dict(kind: type, values: dict[str, Any], where: str) -> Any:
    """Rebuild a frozen dataclass from what `to_json` wrote, by this version or an older one; lists become tuples again.

    Raises:
        UserError: an unknown or ill-typed field, naming `where` it was read.
    """
    known, hints = [field.name for field in dataclasses.fields(kind)], typing.get_type_hints(kind)
    fields = {}
    for key, value in values.items():
        name, value = _current(kind, key, value)
        if name not in known:
            raise UserError(f"{where}: {kind.__name__} has no field `{key}`. It has: {', '.join(known)}.")
        fields[name] = _revive(hints[name], value, f"{where}: {name}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{where}: {error}. Write the file again with this version of torchslots.") from error


_Config = TypeVar("_Config")


def with_changes(config: _Config, **changes: Any) -> _Config:
    """A frozen dataclass with some fields changed; nested ones by dotted name, `**{"decoder.grid": (4, 4)}`.

    Raises:
        UserError: no such field, with the nearest names; a value of the wrong type or out of range.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UserError(f"There is nothing to change in {config!r} by {', '.join(changes)}. Give all of it.")
    hints, fields = typing.get_type_hints(type(config)), {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        name, value = _current(type(config), head, value)
        if name not in vars(config):
            known = f"It has: {', '.join(vars(config))}."
            raise UserError(
                f"{type(config).__name__} has no field `{name}`. {nearest(name, vars(config))} {known}"
            )
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            fields[name] = _revive(hints[name], value, f"{type(config).__name__}.{name}")
    for name, inner in nested.items():
        fields[name] = with_changes(fields.get(name, getattr(config, name)), **inner)
    changed = dataclasses.replace(config, **fields)
    check_ranges(changed, RANGES, f"{type(config).__name__}.")
    return changed


def current_item(config: Any, path: str, value: Any = None) -> tuple[str, Any]:
    """A dotted name inside `config` and its value as this version writes them.

    Args:
        path: such as `model.decoder.grid`, under names of today or of older versions; may be of something else.
    """
    head, dot, rest = path.partition(".")
    head, value = _current(type(config), head, value)
    inner = vars(config).get(head) if dataclasses.is_dataclass(config) else None
    if dot:
        rest, value = current_item(inner, rest, value)
    return head + dot + rest, value


def current_flags(config: Any, words: list[str]) -> list[str]:
    """A command line whose flags `--dotted.name VALUE` set fields of `config`, as this version writes them."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--"):
            name = found[-1][2:].replace("-", "_")
            word = current_item(config, name, word)[1]
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name, value = current_item(config, flag.replace("-", "_"), value)
            word = f"--{name.replace('_', '-')}{equals}{value}" if name != flag.replace("-", "_") else word
        found.append(word)
    return found


def current_name(kind: type, name: str) -> str:
    """The name of a field of a dataclass in this version."""
    return OLD_NAMES.get(kind.__name__, {}).get(name, name)


def _current(kind: type, name: str, value: Any) -> tuple[str, Any]:
    """A field's name and value as this version writes them."""
    name = current_name(kind, name)
    values = OLD_VALUES.get(kind.__name__, {}).get(name, {})
    return name, values.get(value, value) if isinstance(value, str) else value


def _revive(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_dict(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is Literal and value not in typing.get_args(hint):
        raise UserError(
            f"{where} should be one of {', '.join(map(str, typing.get_args(hint)))}, got {value!r}."
        )
    if hint is Path and isinstance(value, str):
        return Path(value)
    if origin is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_revive(inner, item, where) for item in value)
    if origin is tuple:
        raise UserError(f"{where} should be several values, such as (64, 64), got {value!r}.")
    if origin in (typing.Union, types.UnionType) and value is not None:
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return _revive(_fitting(options, value), value, where)
    if hint in (int, float, str, bool) and (
        (isinstance(value, bool) and hint is not bool)
        or not (isinstance(value, hint) or (hint is float and isinstance(value, int)))
    ):
        raise UserError(f"{where} should be {hint.__name__}, got {value!r}.")
    return value


def _fitting(options: list[Any], value: Any) -> Any:
    """Of a union's types the value's own, or the first dataclass that has all of the given fields, else the first."""
    for option in options:
        if type(value) is option:
            return option
        if isinstance(option, type) and dataclasses.is_dataclass(option) and isinstance(value, dict):
            known = {field.name for field in dataclasses.fields(option)}
            if {current_name(option, name) for name in value} <= known:
                return option
    return options[0]
