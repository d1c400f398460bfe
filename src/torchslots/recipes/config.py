"""Configuration of a training run: model, data, optimiser, schedule and evaluation, in frozen dataclasses."""

import dataclasses
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from torchslots.data import config as data
from torchslots.data.config import DataConfig
from torchslots.io.errors import UserError, nearest
from torchslots.io.ranges import COUNT, FROM_ZERO, PART, POSITIVE, Range, check_ranges
from torchslots.io.values import revive

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
    """Base of every model's configuration; `recipes/catalog.py` knows how to build each."""

    family: ClassVar[str] = ""
    """Name under which its models are saved, a key of `recipes.catalog.FAMILIES`."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam, its schedule and its clipping; AdamW where weights decay."""

    learning_rate: float = 2e-4
    """Peak learning rate, reached after warm-up."""
    warmup_steps: float = 2500
    """Steps of linear warm-up; may be a part of a step, such as 2.5 % of 173."""
    num_steps: int = 100_000
    """Training steps."""
    max_grad_norm: float | None = 0.05
    """Norm to which all gradients together are clipped; None: no clipping."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, used for evaluation; None: no average."""
    schedule: Literal["cosine", "exponential", "exponential_after_warmup", "cosine_from_half"] = "cosine"
    """After warm-up: a half cosine to `min_learning_rate` at `num_steps`; `decay_rate` for every `decay_steps`, from
    step 0; the same from the end of warm-up on; or a half cosine to `min_learning_rate` in the last step, with a
    warm-up from zero whose steps count from a half."""
    decay_rate: float = 0.5
    """Factor of the exponential schedules for every `decay_steps`."""
    decay_steps: int = 100_000
    """Steps in which the exponential schedules fall by `decay_rate`; they fall a little in each."""
    epsilon_hat: bool = False
    """Add Adam's epsilon before the bias of the second moment is corrected, as Keras does (Kingma and Ba 2015, end of
    section 2)."""
    min_learning_rate: float = 0.0
    """Rate that the cosine falls to, of all parts of the model; where it does so at `num_steps`, also the rate that
    warm-up starts from."""
    decoder_learning_rate: float | None = None
    """Peak rate of the decoder's parameters; None: `learning_rate`."""
    tokenizer_learning_rate: float | None = None
    """Rate, the same at every step, of a tokenizer that is trained together with the slots; None: the decoder's. One
    that was trained before is frozen, and has none."""
    backbone_learning_rate: float | None = None
    """Peak for the last block of a vision transformer that is tuned; None: `learning_rate` for all of it."""
    backbone_layer_decay: float = 1.0
    """Factor of the backbone's rate for each block below the last; what is below the first block has its rate."""
    backbone_weight_decay: float = 0.0
    """Decay of the backbone's matrices and kernels in each step, as a part of the rate (AdamW); biases, norms, scales,
    positions and the class token do not decay."""
    clip_norm: Literal["l2", "inf"] = "l2"
    """Norm that `max_grad_norm` bounds: the root of the sum of squares, or the largest absolute entry."""
    clip_epsilon: float = 1e-6
    """Added to the norm of the gradients when they are scaled, as torch does; 0 as in optax."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run is carried out."""

    batch_size: int = 64
    """Clips per optimiser step, over all processes and accumulation steps."""
    accumulation: int = 1
    """Forward and backward passes per optimiser step; divides `batch_size`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products; weights stay fp32. fp16 needs a GPU, and is fp32 on the CPU."""
    compile: bool | None = None
    """torch.compile the model, which takes a minute or more at the start. None: on CUDA, where a compiler is found and
    the run, estimated from its first step, is long enough to regain that time."""
    seed: int = 42
    """Seed of weights, data order and all sampling."""
    num_workers: int = 2
    """Data loading processes per training process."""
    log_every: int = 50
    """Steps between log lines."""
    eval_every: int = 1000
    """Steps between evaluations; 0: at the end alone."""
    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    keep: int = 2
    """Number of latest checkpoints to keep, besides the best."""
    best_metric: str | None = None
    """Figure whose best value marks the best model, such as `loss`, the sum of the losses on the videos evaluated, of
    which the lowest is the best; None: the decoder's. `--best-metric` replaces it."""
    short_clip: int | None = None
    """Frames of the pieces into which clips are cut in the first `short_steps` steps: slots learn to find objects
    sooner than to follow them. None: whole clips from the start, as in the papers."""
    short_steps: int = 0
    """Steps with short clips, at the beginning of training."""


@dataclass(frozen=True)
class EvalConfig:
    """How whole videos are evaluated."""

    split: str = "validation"
    """Split of the data set to evaluate. A part of a split has bounds in records or per cent behind it, as TFDS writes
    them: `all[512:70000]`, `train[70%:85%]`."""
    num_frames: int = 24
    """Frames of each video; shorter videos are padded, and the padding is ignored."""
    slice_size: int = 6
    """Frames that pass through the model at once."""
    batch_size: int = 4
    """Videos evaluated at once."""
    num_videos: int | None = None
    """Videos to evaluate; None: the whole split."""
    test_split: str | None = None
    """Split for finished runs: `evaluate`, `compose` and `concepts` read it where the data set has it, while the
    evaluations of a training, and so the choice of the best model, keep to `split`. None: `split`."""
    test_videos: int | None = None
    """Videos of `test_split` to evaluate; None: all of it."""
    keys: tuple[str, ...] | None = None
    """Batch keys to load in the evaluations of a training; None: those that are trained on."""
    restart_memory: bool = False
    """Drop a memory of earlier frames before each slice, as STATM's published evaluation does; no effect on models
    without a memory."""
    seed: int = 0
    """Seed of sampled slots; those of a video depend on it and on the video's name alone."""
    num_background: int = 1
    """Ids from 0 that are background, such as sky, floor and walls; with more than one, FG-ARI is also reported without
    any of them. 0: only objects have labels, as in COCO, VOC, YouTube-VIS and DAVIS."""
    protocol: str = "savi"
    """Published evaluation whose conventions figures follow, by its name in `recipes/protocols.py`: savi, videosaur,
    slotcontrast, vs_dinosaur, dinosaur, ftdinosaur, davis."""


@dataclass(frozen=True)
class Recipe:
    """One experiment of a paper: all that `torchslots train NAME` needs but the place of the data."""

    name: str
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()


RANGES: dict[str, Range] = {
    **data.RANGES,
    **dict.fromkeys(("accumulation", "checkpoint_every", "decay_steps", "log_every"), COUNT),
    "batch_size": Range(1, 1_000_000),
    **dict.fromkeys(("num_heads", "num_steps", "slice_size", "slot_size"), COUNT),
    **dict.fromkeys(("num_layers", "BackboneConfig.depth", "predictor_layers"), Range(1, 1000)),
    **dict.fromkeys(("BackboneConfig.patch_size", "BackboneConfig.grid_size"), Range(1, 1000)),
    "BackboneConfig.num_registers": Range(0, 1000),
    "BackboneConfig.size": Range(1, 100_000),
    "num_slots": Range(1, 10_000),
    **dict.fromkeys(("hint_frequencies", "RegionDecoderConfig.frequencies"), Range(0, 16)),
    "RegionDecoderConfig.appearance_hidden": Range(1, 100_000),
    "RegionDecoderConfig.sparsity": FROM_ZERO,
    **dict.fromkeys(("EvalConfig.num_videos", "short_clip", "test_videos"), COUNT),
    **dict.fromkeys(
        ("eval_every", "num_background", "num_iterations", "num_plots", "num_videos", "num_workers"),
        FROM_ZERO,
    ),
    **dict.fromkeys(("seed", "short_steps", "sparsity_start", "warmup_steps"), FROM_ZERO),
    **dict.fromkeys(
        ("learning_rate", "decoder_learning_rate", "min_learning_rate", "clip_epsilon"), FROM_ZERO
    ),
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
"""Fields that older versions saved under another name: by class, old name to new."""
OLD_VALUES: dict[str, dict[str, dict[str, str]]] = {"IsaConfig": {"initial_pose": {"drawn": "sampled"}}}
"""Values that older versions wrote otherwise: by class and (new) field, old value to new."""


def to_json(config: Any) -> str:
    """A frozen dataclass as JSON text; that of a recipe also holds the model's family."""
    family = {"family": config.model.family} if isinstance(config, Recipe) else {}
    return json.dumps(family | dataclasses.asdict(config), indent=2)


def from_dict(kind: type, values: dict[str, Any], where: str) -> Any:
    """A frozen dataclass from what `to_json` of this or an older version wrote; lists become tuples again.

    Raises:
        UserError: an unknown, missing or ill-typed field, naming `where` it was read.
    """
    known, hints = [field.name for field in dataclasses.fields(kind)], typing.get_type_hints(kind)
    fields = {}
    for key, value in values.items():
        name, value = _current(kind, key, value)
        try:
            if name not in known:
                raise UserError(f"{where}: {kind.__name__} has no field `{key}`. It has: {', '.join(known)}.")
            fields[name] = revive(hints[name], value, f"{where}: {name}", _nested)
        except UserError as error:
            error.path = (key, *error.path)
            raise
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
            what = f"{type(config).__name__} has no field `{name}`."
            raise UserError(f"{what} {nearest(name, vars(config))} It has: {', '.join(vars(config))}.")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            fields[name] = revive(hints[name], value, f"{type(config).__name__}.{name}", _nested)
    for name, inner in nested.items():
        fields[name] = with_changes(fields.get(name, getattr(config, name)), **inner)
    changed = dataclasses.replace(config, **fields)
    check_ranges(changed, RANGES, f"{type(config).__name__}.")
    return changed


def current_item(config: Any, path: str, value: Any = None) -> tuple[str, Any]:
    """A dotted name inside `config`, and its value, as this version writes them.

    Args:
        path: such as `model.decoder.grid`, by names of this or an older version; where `config` lacks it, it stays.
    """
    head, dot, rest = path.partition(".")
    head, value = _current(type(config), head, value)
    inner = vars(config).get(head) if dataclasses.is_dataclass(config) else None
    if dot:
        rest, value = current_item(inner, rest, value)
    return head + dot + rest, value


def current_flags(config: Any, words: list[str]) -> list[str]:
    """A command line with flags `--dotted.name VALUE` of fields of `config`, as this version writes them."""
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
    """Name of a dataclass's field in this version."""
    return OLD_NAMES.get(kind.__name__, {}).get(name, name)


def _current(kind: type, name: str, value: Any) -> tuple[str, Any]:
    """Name and value of a field as this version writes them."""
    name = current_name(kind, name)
    values = OLD_VALUES.get(kind.__name__, {}).get(name, {})
    return name, values.get(value, value) if isinstance(value, str) else value


def _nested(options: Sequence[Any], values: dict[str, Any], where: str) -> Any:
    """Of several dataclasses the first that has all of the given fields, else the first, from its fields."""
    fits = (
        option
        for option in options
        if {current_name(option, name) for name in values}
        <= {field.name for field in dataclasses.fields(option)}
    )
    return from_dict(next(fits, options[0]), values, where)
