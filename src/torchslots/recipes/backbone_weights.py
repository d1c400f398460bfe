"""Weights of pretrained backbones: from a file, from a folder, or from the Hugging Face hub and its cache."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from torchslots.data.download.hub import no_connection
from torchslots.io.cache import hub_cache
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import expanded, refuse_page
from torchslots.io.torch_files import read_torch_file
from torchslots.models.backbones.names import to_vit
from torchslots.models.backbones.vit import ViT
from torchslots.models.weights import HUB_ID, check_finite, fill
from torchslots.recipes.backbones import BackboneConfig

_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Files of a backbone's weights on the hub, the first that is there."""


def published_backbone(config: Any) -> str:
    """Where the weights of a configuration's backbone are on the hub, as owner/name; nothing: it has none there."""
    found = vars(config).get("backbone")
    return found.pretrained if isinstance(found, BackboneConfig) else ""


def load_backbone(vit: ViT, source: str | Path) -> None:
    """Fill a vision transformer with pretrained weights, by whatever names they are stored.

    Args:
        source: a file of safetensors or torch, a folder with model.safetensors or pytorch_model.bin, or owner/name on
            the hub.

    Raises:
        UserError: nothing there, no network, a damaged file, weights that are not finite, or a transformer of another
            kind or size.
    """
    file = _file(source)
    found = to_vit(_tensors(file), vit.state_dict(), str(source))
    check_finite(found, str(file))
    fill(vit, found)


def _file(source: str | Path) -> Path:
    path = expanded(source)
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if found:
            return found[0]
        raise UserError(f"{path} has neither {' nor '.join(_NAMES)}. Give the backbone's file itself.")
    if HUB_ID.fullmatch(str(source)):
        return _download(str(source))
    raise UserError(
        f"The backbone {source} does not exist. Give a file of safetensors or torch, a folder, or owner/name on the "
        "hub."
    )


def _download(repo_id: str) -> Path:
    """The cached file, else the first that the hub has."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in _NAMES:
        cached = try_to_load_from_cache(repo_id, name, hub_cache())
        if isinstance(cached, str):
            return Path(cached)
    problem: Exception | None = no_connection()
    for name in () if problem else _NAMES:
        try:
            with _quiet():
                return Path(hf_hub_download(repo_id, name, cache_dir=hub_cache()))
        except Exception as error:  # the client's exceptions differ between its versions and its transports
            problem = error
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                break
    assert problem is not None
    raise UserError(
        f"The backbone's pretrained weights {repo_id} are not in the cache of the Hugging Face hub and could not be "
        f"fetched: {first_line(problem)}. Where there is a network fetch {_NAMES[0]}, or {_NAMES[1]} where there is no "
        f"such file, from https://huggingface.co/{repo_id}/tree/main, and give it with --backbone FILE (in Python: "
        "backbone=FILE)."
    ) from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's warning of each attempt, since what failed is said once."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tensors(file: Path) -> dict[str, Tensor]:
    refuse_page(file, "a backbone's weights")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{file} is truncated or not a safetensors file: {first_line(error)}. Copy or fetch it again."
            ) from error
    content = read_torch_file(file)
    inner = next((content[key] for key in ("state_dict", "model", "teacher") if key in content), content)
    named = isinstance(inner, Mapping) and all(isinstance(name, str) for name in inner)
    if not named or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise UserError(f"{file} holds no state dict, tensors by their names. Give a backbone's weights.")
    return dict(inner)
