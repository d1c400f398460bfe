"""Models in folders and on the Hugging Face hub: config.json + model.safetensors, rebuilt through recipes/.

`config.json` is `{"torchslots": version, "family": name in recipes/catalog.py, "model": its numbers}`.
Weights are safetensors only: a pickle can run code while it is read, so none is ever opened here.
"""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchslots import __version__
from torchslots.errors import UserError
from torchslots.latents.tokenizer import Tokenizer
from torchslots.model import ObjectCentricModel
from torchslots.recipes import catalog
from torchslots.training.recipe import ModelConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt")
RUN_MODELS = ("model", "best")
"""Where a run folder keeps models, in the order of preference: the final one, then the best so far."""

_Kind = TypeVar("_Kind", ObjectCentricModel, Tokenizer)
_Model = TypeVar("_Model", bound=catalog.Built)
_WHAT = (
    "a code of images without slots, a tokenizer: load it with torchslots.load_tokenizer, or give a model of slots",
    "a model of slots, no tokenizer: load it with torchslots.load_model, or give what a recipe such as "
    "vqvae_movi_e or dvae_movi_e trained",
)
"""What is there where a model of slots was asked for, and where a tokenizer was."""
_CARD_MARK = "<!-- written by torchslots: edit freely below and remove this line to keep the text -->"
_SETTINGS = {"torchslots": str, "family": str, "model": dict}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def save_pretrained(
    model: nn.Module, config: ModelConfig, folder: str | Path, *, card: dict[str, Any] | None = None
) -> Path:
    """Write `folder`/config.json, model.safetensors and a short README.md, each whole or not at all.

    Args:
        card: what else the README should say, one line for each entry, such as the data set and the scores.
            A README.md that somebody else wrote is left alone.
    Raises:
        UserError: the folder cannot be written or the disk is full; a model that was there stays as it was.
    """
    folder, family = Path(folder), catalog.family_of(config)
    settings = {"torchslots": __version__, "family": family, "model": dataclasses.asdict(config)}
    tensors = {name: _own_copy(tensor) for name, tensor in model.state_dict().items()}
    with _replaced_together(folder, (WEIGHTS_NAME, CONFIG_NAME)) as (weights_file, config_file):
        save_file(tensors, weights_file, metadata={"format": "pt"})
        config_file.write_text(json.dumps(settings, indent=2) + "\n")
    _write_card(folder / CARD_NAME, family, isinstance(model, Tokenizer), tensors, card or {})
    return folder


def load_model(
    path_or_id: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> ObjectCentricModel:
    """The model saved in a folder, in a run of `torchslots train`, or on the hub, in eval mode.

    The returned `ObjectCentricModel` carries its numbers as `model.config`.

    Args:
        path_or_id: a folder with config.json and model.safetensors, its model.safetensors, a run folder (its
            final model, else its best), or a hub id.
        revision: branch, tag or commit on the hub; None: the main branch.
    Raises:
        UserError: nothing there; a pickle; a truncated or foreign file; tensors missing, left over or of
            another shape; a config from a newer version or of an unknown family; a device that is not there.
    """
    return _load(path_or_id, device, revision, ObjectCentricModel)


def load_tokenizer(
    path_or_id: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> Tokenizer:
    """The code of images saved in a folder, in a run of `torchslots train`, or on the hub, in eval mode.

    Arguments and errors are those of `load_model`, which loads models of slots.
    """
    return _load(path_or_id, device, revision, Tokenizer)


def load_trained(
    path_or_id: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> catalog.Built:
    """Whatever a recipe trained, a model of slots or a code of images; arguments and errors as of `load_model`."""
    folder, weights = _locate(path_or_id, revision)
    return _filled(*_rebuild(folder / CONFIG_NAME), weights, device)


def _load(
    path_or_id: str | Path, device: str | torch.device, revision: str | None, kind: type[_Kind]
) -> _Kind:
    folder, weights = _locate(path_or_id, revision)
    config, model = _rebuild(folder / CONFIG_NAME)
    if not isinstance(model, kind):
        raise UserError(f"{folder} holds {_WHAT[kind is Tokenizer]}.")
    return _filled(config, model, weights, device)


def _filled(config: ModelConfig, model: _Model, weights: Path, device: str | torch.device) -> _Model:
    """The model with its weights and numbers, in eval mode."""
    _load_weights(model, weights, _device(device))
    model.config = config
    return model.eval()


def push_to_hub(
    model: nn.Module,
    config: ModelConfig,
    repo_id: str,
    *,
    private: bool = False,
    card: dict[str, Any] | None = None,
) -> str:
    """Publish a model as `owner/name` on the Hugging Face hub and return its address.

    Raises:
        UserError: not logged in, no such owner, no network.
    """
    from huggingface_hub import HfApi

    if not _HUB_ID.fullmatch(repo_id):
        raise UserError(f"A hub id is written owner/name, got {repo_id!r}.")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, config, folder, card=card)
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload model")
        except Exception as error:  # the client's exceptions differ between its versions and its transports
            raise UserError(
                f"{repo_id} could not be published: {_first_line(error)}. Log in with `hf auth login`, check "
                "the owner's name and the network."
            ) from error
    return str(address)


def _locate(path_or_id: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Folder of config.json, and the weights' file."""
    path = Path(path_or_id).expanduser()
    if path.suffix.lower() in PICKLE_SUFFIXES and not path.is_dir():
        raise UserError(
            f"{path} is a pickle, which can run code when it is opened; torchslots never executes one. "
            "Turn checkpoints of known projects into model.safetensors with `torchslots convert`."
        )
    if path.is_dir():
        folder = _model_folder(path)
        return folder, folder / WEIGHTS_NAME
    if path.is_file():
        return _weights_file(path)
    if _HUB_ID.fullmatch(str(path_or_id)):
        folder = _model_folder(_download(str(path_or_id), revision))
        return folder, folder / WEIGHTS_NAME
    raise UserError(
        f"{path} does not exist. Give a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, a run folder of "
        "`torchslots train`, or a hub id written owner/name."
    )


def _weights_file(path: Path) -> tuple[Path, Path]:
    if path.suffix == ".safetensors" and (path.parent / CONFIG_NAME).is_file():
        return path.parent, path
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} has no {CONFIG_NAME} beside it, so its model cannot be rebuilt. Keep both together."
        )
    raise UserError(
        f"{path} is not a model of torchslots. Give the folder with {CONFIG_NAME} and {WEIGHTS_NAME}; "
        "`torchslots convert` makes one from another project's checkpoint."
    )


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the model of a run folder, once both files are there."""
    for candidate in (folder, *(folder / name for name in RUN_MODELS)):
        found = [(candidate / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)]
        if all(found):
            return candidate
        if found[1]:
            raise UserError(
                f"{candidate} has {WEIGHTS_NAME} but no {CONFIG_NAME}, so its model cannot be rebuilt."
            )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)
    if pickles:
        raise UserError(
            f"{folder} has no {WEIGHTS_NAME}, only {pickles[0]}: a pickle, which torchslots never executes. "
            "Use `torchslots convert`."
        )
    raise UserError(
        f"{folder} has no {WEIGHTS_NAME}, nor has {' or '.join(RUN_MODELS)} in it. Give a folder that "
        "`model.save_pretrained` or `torchslots convert` wrote, or a run that has saved a model."
    )


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the client's exceptions differ between its versions and its transports
        raise UserError(
            f"{repo_id} is no folder here and could not be fetched from the Hugging Face hub: "
            f"{_first_line(error)}. Check the spelling, the network, and `hf auth login` for private models."
        ) from error


def _rebuild(file: Path) -> tuple[ModelConfig, catalog.Built]:
    """Build the model that config.json describes, with fresh weights and torch's random state unmoved."""
    family, values = _read_config(file)
    try:
        with torch.random.fork_rng(devices=[]):
            return catalog.build_family(family, values, "`model`")
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (TypeError, ValueError, KeyError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"{file}: no {family} model can be built from these numbers: {_first_line(error)}."
        ) from error


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as JSON: {_first_line(error)}. Copy or convert it again."
        ) from error
    found = settings if isinstance(settings, dict) else {}
    wrong = [f"`{key}`" for key, kind in _SETTINGS.items() if not isinstance(found.get(key), kind)]
    if wrong:
        raise UserError(
            f"{file} is not a config of torchslots: {', '.join(wrong)} missing or of the wrong kind. "
            "Another project's checkpoint needs `torchslots convert`."
        )
    if _release(settings["torchslots"], file) > _release(__version__, file):
        raise UserError(
            f"{file} was written by torchslots {settings['torchslots']}, this is {__version__}. "
            "Upgrade with `pip install --upgrade torchslots`."
        )
    return settings["family"], settings["model"]


def _release(version: str, file: Path) -> tuple[int, int]:
    """Major and minor number: patch releases read each other's configs."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise UserError(f"{file}: `torchslots` should be a version such as {__version__}, got {version!r}.")
    return int(found[1]), int(found[2])


def _own_copy(tensor: Tensor) -> Tensor:
    """safetensors wants contiguous tensors that share no memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _load_weights(model: nn.Module, file: Path, device: torch.device) -> None:
    try:
        with safe_open(file, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        _check_fit(shapes, model.state_dict(), file)
        model.load_state_dict(load_file(file), strict=True)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is truncated or not a safetensors file: {_first_line(error)}. Copy or convert it again."
        ) from error
    model.to(device)


def _check_fit(stored: dict[str, tuple[int, ...]], wanted: dict[str, Tensor], file: Path) -> None:
    """Strict both ways: all tensors of the model are in the file, and no other."""
    missing = [name for name in wanted if name not in stored]
    unexpected = [name for name in stored if name not in wanted]
    reshaped = [
        f"{name}: {list(stored[name])} in the file, {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if name in stored and stored[name] != tuple(tensor.shape)
    ]
    problems = [
        f"{len(names)} {what} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise UserError(
            f"{file} does not fit the model in {CONFIG_NAME}. Tensors: {', '.join(problems)}. "
            "Keep the two files together as they were written."
        )


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"Device {device} cannot be used here: {_first_line(error)}. Try --device cpu."
        ) from error


@contextmanager
def _replaced_together(folder: Path, names: tuple[str, ...]) -> Iterator[list[Path]]:
    """Paths to write to; all of them take their names' places once all are on the disk, or none does."""
    drafts = [folder / f".{name}.{os.getpid()}.tmp" for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield drafts
        for draft in drafts:
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
        for draft, name in zip(drafts, names):
            draft.replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The model could not be written to {folder}: {_first_line(error)}.") from error
    finally:
        for draft in drafts:
            if folder.is_dir():
                draft.unlink(missing_ok=True)


def _write_card(
    file: Path, family: str, is_tokenizer: bool, tensors: dict[str, Tensor], card: dict[str, Any]
) -> None:
    if file.is_file() and _CARD_MARK not in file.read_text(errors="replace"):
        return
    weights = sum(tensor.numel() for tensor in tensors.values())
    what, load = ("an image code", "load_tokenizer") if is_tokenizer else ("a slot model", "load_model")
    lines = [f"- {key.replace('_', ' ')}: {value}" for key, value in card.items()]
    text = f"""---
library_name: torchslots
tags: [object-centric, slots, {family}]
---
{_CARD_MARK}
# {family}: {what} for torchslots

{weights:,} weights. The model's numbers are in `{CONFIG_NAME}`, its weights in `{WEIGHTS_NAME}`.

```python
import torchslots

model = torchslots.{load}("this folder or hub id")
```
"""
    with _replaced_together(file.parent, (file.name,)) as (draft,):
        draft.write_text(text + "".join(f"\n{line}" for line in lines) + ("\n" if lines else ""))


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
