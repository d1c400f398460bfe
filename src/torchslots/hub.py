"""Models by the name of a recipe, from a folder, or from the Hugging Face hub.

A folder has config.json, `{"torchslots": version, "family": name in recipes/catalog.py, "model": configuration}`, and
model.safetensors. Pickles, which can run code when they are read, are never opened.
"""

import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from torchslots._version import __version__
from torchslots.data.download.hub import no_connection
from torchslots.io.cache import hub_cache
from torchslots.io.collection import without_collection
from torchslots.io.devices import choose_device
from torchslots.io.errors import UserError, check_type, first_line
from torchslots.io.files import expanded, size_text
from torchslots.io.json_files import check_seal, read_object
from torchslots.models.backbones.vit import ViT
from torchslots.models.model import ObjectCentricModel
from torchslots.models.sketch import sketching
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.models.weights import (
    CONFIG_NAME,
    ELSEWHERE,
    HUB_ID,
    WEIGHTS_NAME,
    check_stored,
    digest,
    load_weights,
    without_weights,
)
from torchslots.recipes import catalog
from torchslots.recipes.backbone_weights import load_backbone, published_backbone
from torchslots.recipes.config import ModelConfig, with_changes

PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt")
RUN_MODELS = ("model", "best")
"""Folders of models in a run, in the order of preference: the final one, then the best so far."""

_Kind = TypeVar("_Kind", ObjectCentricModel, Tokenizer)
_Model = TypeVar("_Model", bound=catalog.Built)
_WHAT = (
    "a tokenizer, without slots: load it with torchslots.load_tokenizer, or give a model of slots",
    "a model of slots, no tokenizer: load it with torchslots.load_model, or give what a recipe such as "
    "vqvae_movi_e or dvae_movi_e trained",
)
"""Contents of a folder without a model of slots, and of one without a tokenizer, for errors."""
_MOST_BUFFERS = 1 << 30
_SETTINGS = {"torchslots": str, "family": str, "model": dict}


def list_recipes(word: str | None = None) -> list[str]:
    """Names of recipes for `create_model` and `train`, in the order of `torchslots recipes`.

    Args:
        word: Only those that have it in their name, their system or their data set; None: all.

    Raises:
        UserError: `word` is no text.

    Examples:
        >>> torchslots.list_recipes("savi_plus_plus")
        ['savi_plus_plus', 'statm_savi_plus_plus']
    """
    return [name for name, _ in catalog.find_recipes(check_type("word", word or "", str))]


def create_model(recipe: str, **changes: Any) -> catalog.Built:
    """A new model, with the configuration of a recipe and random weights from torch's global generator.

    Args:
        recipe: Its name in `list_recipes()`.
        changes: Fields of its configuration to replace, those of parts by dotted name:
            `create_model("savi_small", num_slots=8, conditioning="learned", **{"decoder.grid": (8, 8)})`.

    Returns:
        In training mode an `ObjectCentricModel`, or for recipes of tokenizers a `Tokenizer`; `model.config` is its
        configuration. `model.predict(batch)` takes `video` float32 [B, T, 3, H, W] in [0, 1] and, of a model with
        conditioning, `boxes` [B, 1, n, 4] as (ymin, xmin, ymax, xmax) in [0, 1]; it returns `slots` [B, T, K, D],
        `masks` [B, T, K, H, W] and `segmentation` [B, T, H, W]. `model.loss(batch)` returns losses by name.

    Raises:
        UserError: no such recipe or field; values of the wrong type, out of range, or that do not go together.

    Examples:
        >>> model = torchslots.create_model("savi_small", num_slots=3, conditioning="learned")
        >>> with torch.no_grad():
        ...     found = model.predict({"video": torch.rand(1, 2, 3, 64, 64)})
        >>> tuple(found.slots.shape), tuple(found.masks.shape)
        ((1, 2, 3, 128), (1, 2, 3, 64, 64))
    """
    return catalog.build(with_changes(catalog.recipe(recipe).model, **changes))


def load_model(
    path_or_id: str | Path,
    *,
    device: str | torch.device | None = "cpu",
    revision: str | None = None,
    backbone: str | Path | None = None,
) -> ObjectCentricModel:
    """Load the model of a folder, of a run of `train`, or of the hub, in evaluation mode.

    The public `load_model` also takes names of published checkpoints (`convert/pretrained.py`).

    Args:
        path_or_id: A folder with config.json and model.safetensors, its model.safetensors, a run folder (its
            final model, else its best), or a hub id.
        device: Device of the model; None: cuda or mps where there is one, else cpu.
        revision: Branch, tag or commit on the hub; None: the main branch.
        backbone: For a model that was saved without its backbone: a file or folder with its weights; None: they are
            taken from the hub, or its cache, under the name in the configuration.

    Raises:
        UserError: no such folder or id; a pickle; a truncated or foreign file; tensors missing, left over or of
            another shape; a configuration of a newer version or an unknown family; a device that does not exist.
    """
    return _load(path_or_id, device, revision, ObjectCentricModel, backbone)


def load_tokenizer(
    path_or_id: str | Path, *, device: str | torch.device | None = "cpu", revision: str | None = None
) -> Tokenizer:
    """Load a tokenizer (dVAE, VQ-VAE); arguments and errors are those of `load_model`."""
    return _load(path_or_id, device, revision, Tokenizer)


@without_collection()
def load_trained(
    path_or_id: str | Path,
    *,
    device: str | torch.device | None = "cpu",
    revision: str | None = None,
    backbone: str | Path | None = None,
) -> catalog.Built:
    """Load a model of slots or a tokenizer, whichever it is; arguments as of `load_model`.

    Raises:
        UserError: as `load_model`.
    """
    folder, weights = _locate(path_or_id, revision)
    return _filled(*_rebuild(folder / CONFIG_NAME, weights), folder, weights, device, backbone)


@without_collection()
def _load(
    path_or_id: str | Path,
    device: str | torch.device | None,
    revision: str | None,
    kind: type[_Kind],
    backbone: str | Path | None = None,
) -> _Kind:
    folder, weights = _locate(path_or_id, revision)
    config, model = _rebuild(folder / CONFIG_NAME, weights)
    if not isinstance(model, kind):
        raise UserError(f"{folder} holds {_WHAT[kind is Tokenizer]}.")
    return _filled(config, model, folder, weights, device, backbone)


def _filled(
    config: ModelConfig,
    model: _Model,
    folder: Path,
    weights: Path,
    device: str | torch.device | None,
    backbone: str | Path | None,
) -> _Model:
    """The model with its weights and configuration, in evaluation mode."""
    elsewhere = _elsewhere(folder / CONFIG_NAME)
    place = choose_device(device)
    load_weights(model, weights, tuple(elsewhere))
    for prefix, wanted in elsewhere.items():
        _take_published(model, prefix, wanted, backbone or published_backbone(config), folder)
    model.config = config
    return model.to(place).eval()


def _elsewhere(file: Path) -> dict[str, str]:
    """Tensors that a saved model is without: the beginnings of their names, and their digests."""
    found = read_object(file, "Copy it again.").get(ELSEWHERE, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{file}: `{ELSEWHERE}` should be digests by name, got {found!r}. Copy it again.")
    return found


def _take_published(model: nn.Module, prefix: str, wanted: str, source: str | Path, folder: Path) -> None:
    """Fill a backbone that is not in a saved model's own file, and check that it is the right one."""
    part = dict(model.named_modules()).get(prefix.removesuffix("."))
    if not isinstance(part, ViT) or not source:
        raise UserError(
            f"{folder} was saved without {prefix}*, and {CONFIG_NAME} does not say where to get it. Give the "
            "backbone's weights with --backbone FILE (in Python: backbone=FILE)."
        )
    load_backbone(part, source)
    if digest(part.state_dict()) != wanted:
        raise UserError(
            f"{source} has other weights than the backbone that the model in {folder} was trained on. Give the right "
            "ones with --backbone FILE (in Python: backbone=FILE), or save the model again with its backbone."
        )


def _locate(path_or_id: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Folder of config.json, and the weights' file."""
    path = expanded(check_type("path_or_id", path_or_id, str, Path))
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
    if HUB_ID.fullmatch(str(path_or_id)):
        folder = _model_folder(_download(str(path_or_id), revision))
        return folder, folder / WEIGHTS_NAME
    raise UserError(
        f"{path} does not exist. Give a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, a run folder of "
        "`torchslots train`, or a hub id owner/name. `torchslots.load_model` fetches published checkpoints by name."
    )


def _weights_file(path: Path) -> tuple[Path, Path]:
    if path.suffix == ".safetensors" and (path.parent / CONFIG_NAME).is_file():
        return path.parent, path
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} has no {CONFIG_NAME} beside it, so its model cannot be built. Keep both together."
        )
    raise UserError(
        f"{path} is not a model of torchslots. Give the folder with {CONFIG_NAME} and {WEIGHTS_NAME}; "
        "`torchslots convert` makes one from another project's checkpoint."
    )


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the model's folder of a run, whichever has both files."""
    for candidate in (folder, *(folder / name for name in RUN_MODELS)):
        found = [(candidate / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)]
        if all(found):
            return candidate
        if found[1]:
            raise UserError(
                f"{candidate} has {WEIGHTS_NAME} but no {CONFIG_NAME}, so its model cannot be built. Copy both."
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

    problem = no_connection()
    patterns, here = ["*.json", "*.safetensors"], problem is not None
    try:
        found = snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=here,
            cache_dir=hub_cache(),
        )
        return Path(found)
    except Exception as error:  # the client's exceptions differ between its versions and its transports
        raise UserError(
            f"{repo_id} is not a folder and could not be fetched from the Hugging Face hub: "
            f"{problem or first_line(error)}. Check the spelling, the network, and `hf auth login` for private models."
        ) from error


def _rebuild(file: Path, weights: Path) -> tuple[ModelConfig, catalog.Built]:
    """Build the model of config.json without memory for its weights; torch's random state does not change.

    It is built without buffers first and compared with the weights, which a damaged configuration may exceed by far.
    """
    family, values = _read_config(file)
    try:
        with torch.random.fork_rng(devices=[]):
            with sketching():
                sketch = catalog.build_family(family, values, "`model`")[1]
            check_stored(sketch, weights, tuple(_elsewhere(file)))
            _check_buffers(sketch, weights)
            with without_weights():
                return catalog.build_family(family, values, "`model`")
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(weights)) else f"{file}: {error}") from error
    except Exception as error:  # constructors raise whatever values of a foreign file make them meet
        wrong = f"{file}: no {family} model can be built from this configuration: {first_line(error)}."
        raise UserError(wrong) from error


def _check_buffers(sketch: nn.Module, weights: Path) -> None:
    """Check that what a model keeps beside its weights, such as grids of positions, is of a bounded size."""
    stored, needed = sketch.state_dict(), 0
    for name, buffer in sketch.named_buffers():
        needed += 0 if name in stored else buffer.numel() * buffer.element_size()
    if needed > _MOST_BUFFERS:
        raise UserError(
            f"the model would keep {size_text(needed)} beside its weights, at most {size_text(_MOST_BUFFERS)} are "
            f"sensible. Copy {CONFIG_NAME} and {weights.name} again."
        )


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    again = "Copy it again, or convert another project's checkpoint with `torchslots convert`."
    settings = read_object(file, again)
    wrong = [f"`{key}`" for key, kind in _SETTINGS.items() if not isinstance(settings.get(key), kind)]
    if wrong:
        raise UserError(
            f"{file} is not a configuration of torchslots: {', '.join(wrong)} missing or of the wrong kind. "
            "Another project's checkpoint needs `torchslots convert`."
        )
    if _release(settings["torchslots"], file) > _release(__version__, file):
        raise UserError(
            f"{file} was written by torchslots {settings['torchslots']}, this is {__version__}. "
            "Upgrade with `pip install --upgrade torchslots`."
        )
    check_seal(settings, file, "Copy it again; if it was changed on purpose, remove its field `crc32c`.")
    return settings["family"], settings["model"]


def _release(version: str, file: Path) -> tuple[int, int]:
    """Major and minor number; patch releases read each other's configurations."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise UserError(f"{file}: `torchslots` should be a version such as {__version__}, got {version!r}.")
    return int(found[1]), int(found[2])
