"""Save models to folders with config.json and model.safetensors, publish them, and load weights with a strict check.

`config.json` is `{"torchslots": version, "family": ModelConfig.family, "model": its configuration}`.
"""

import dataclasses
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from torchslots._version import __version__
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_files, refuse_page, write_file, write_tensors
from torchslots.io.json_files import sealed
from torchslots.models.sketch import ShapesAlone

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ELSEWHERE = "elsewhere"
"""In config.json: beginnings of the names of tensors that are not in model.safetensors, and their `digest`."""
_CARD_NAME = "README.md"
_CARD_MARK = "<!-- written by torchslots: edit freely below and remove this line to keep the text -->"
_KINDS = {"load_model": "a slot model", "load_tokenizer": "a tokenizer"}
_CHECKSUM = "crc32c"
"""In the metadata of model.safetensors: `checksum` of its tensors."""
_BLOCK = 1 << 22
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Config(Protocol):
    """A model's configuration, a frozen dataclass (`recipes.config.ModelConfig`)."""

    family: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


class Saved(Protocol):
    """A model that can be saved."""

    load_function: ClassVar[str]
    """The function of `torchslots` that loads it."""

    def state_dict(self) -> dict[str, Tensor]: ...


def save_pretrained(
    model: Saved,
    config: Config,
    folder: str | Path,
    *,
    card: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> Path:
    """Write `folder`/config.json, model.safetensors and a short README.md; a failure leaves no partial file.

    Args:
        card: more lines of the README, such as the data set and the scores. A README.md that someone else wrote is not
            changed.
        leave_out: beginnings of the names of tensors that are not written.
        elsewhere: the same of tensors that are published elsewhere, with their `digest`, which config.json keeps.

    Raises:
        UserError: the folder cannot be written or the disk is full; an older model in it is unchanged.
    """
    folder = Path(folder)
    settings = {"torchslots": __version__, "family": config.family, "model": dataclasses.asdict(config)}
    if elsewhere:
        settings[ELSEWHERE] = dict(elsewhere)
    tensors = {  # safetensors needs contiguous tensors that share no memory
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
        if not name.startswith((*leave_out, *(elsewhere or {})))
    }
    with atomic_files(folder / WEIGHTS_NAME, folder / CONFIG_NAME, durable=True) as (
        weights_file,
        config_file,
    ):
        write_tensors(tensors, weights_file, {"format": "pt", _CHECKSUM: checksum(tensors)})
        config_file.write_text(json.dumps(sealed(settings), indent=2) + "\n")
    _write_card(folder / _CARD_NAME, config.family, model.load_function, tensors, card or {})
    return folder


def add_to_card(folder: Path, sections: Mapping[str, str]) -> None:
    """Add sections to the README.md that `save_pretrained` wrote; a text by another hand stays as it is.

    Args:
        sections: texts by heading.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    file = folder / _CARD_NAME
    if file.is_file() and _CARD_MARK in (text := file.read_text(errors="replace")):
        more = "".join(f"\n## {heading}\n\n{body.strip()}\n" for heading, body in sections.items())
        write_file(file, text + more, durable=True)


def has_card(folder: Path, sections: Mapping[str, str]) -> bool:
    """Whether README.md has these sections, or is by another hand."""
    file = folder / _CARD_NAME
    if not file.is_file():
        return False
    text = file.read_text(errors="replace")
    return _CARD_MARK not in text or all(body.strip() in text for body in sections.values())


def push_to_hub(
    model: Saved,
    config: Config,
    repo_id: str,
    *,
    private: bool = False,
    card: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> str:
    """Publish a model as `owner/name` on the Hugging Face hub and return its address.

    Raises:
        UserError: a malformed id, not logged in, no such owner, no network.
    """
    from huggingface_hub import HfApi

    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"A hub id should be owner/name, got {repo_id!r}.")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, config, folder, card=card, leave_out=leave_out)
        try:
            api = HfApi()
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload model")
        except Exception as error:  # the client's exceptions differ between its versions and its transports
            raise UserError(
                f"{repo_id} could not be published: {first_line(error)}. Log in with `hf auth login`, check "
                "the owner's name and the network."
            ) from error
    return str(address)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, in float32, and their names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32C of tensors as they are stored, with their names, types and shapes."""
    found = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        about = f"{name} {value.dtype} {list(value.shape)} "
        found = google_crc32c.extend(found, about.encode())
        data = value.reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(data), _BLOCK):
            found = google_crc32c.extend(found, data[start : start + _BLOCK].tobytes())
    return f"{found:08x}"


@contextmanager
def without_weights() -> Iterator[None]:
    """Build a model whose parameters have shapes and no memory, for weights that are all loaded next (`fill`).

    Buffers are as usual. Random numbers would take most of the time of loading.
    """
    handle = register_module_parameter_registration_hook(_without_memory)  # pyright: ignore[reportArgumentType]
    try:
        with ShapesAlone():
            yield
    finally:
        handle.remove()


def _without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None or parameter.is_meta:
        return parameter
    return nn.Parameter(parameter.to("meta"), parameter.requires_grad)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load tensors of the right shapes; parameters without memory (`without_weights`) become copies of them.

    Args:
        strict: every parameter and every buffer that is saved must be there.
    """
    given = dict(tensors)
    without = any(parameter.is_meta for parameter in model.parameters())
    made: dict[int, Tensor] = {}
    for name, own in model.state_dict(keep_vars=True).items() if without else ():
        if name in given:  # one that several modules share stays shared
            # of the parameter's own memory format: channels last, where the model was built so; `empty_like` of a
            # tensor without memory would import torch's compiler
            place = {"dtype": own.dtype, "device": given[name].device}
            value = torch.empty_strided(own.shape, own.stride(), **place).copy_(given[name])
            parameter = nn.Parameter(value, own.requires_grad) if isinstance(own, nn.Parameter) else value
            given[name] = made.setdefault(id(own), parameter)
    model.load_state_dict(given, strict=strict, assign=without)


def load_weights(model: nn.Module, file: Path, elsewhere: tuple[str, ...] = ()) -> None:
    """Fill a model from a safetensors file, all of it and nothing else.

    Args:
        elsewhere: beginnings of the names of tensors that are not in the file.

    Raises:
        UserError: the file is truncated or of another format, its tensors do not fit the model, are of another kind,
            or not finite.
    """
    try:
        stated = check_stored(model, file, elsewhere)
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error
    if stated is not None and checksum(tensors) != stated:
        raise UserError(
            f"{file} is damaged: its tensors do not match their checksum. Copy or convert it again."
        )
    check_kinds(tensors, model.state_dict(), str(file))
    check_finite(tensors, str(file))
    fill(model, tensors, strict=not elsewhere)


def check_stored(model: nn.Module, file: Path, elsewhere: tuple[str, ...] = ()) -> str | None:
    """Check that a safetensors file fits a model, which may be on the meta device; only the file's header is read.

    Returns:
        The stated checksum of its tensors; None: an older version or another program wrote it.

    Raises:
        UserError: it is truncated or of another format, or its tensors do not fit the model.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            found = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
            stated = (stored.metadata() or {}).get(_CHECKSUM)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error
    remedy = f"Keep {CONFIG_NAME} and {WEIGHTS_NAME} together as they were written."
    own = model.state_dict()
    wanted = {name: own[name] for name in own if not name.startswith(elsewhere)} if elsewhere else own
    check_fit(found, shapes(wanted), f"{file} does not fit the model in {CONFIG_NAME}", remedy)
    return stated


def _unreadable(file: Path, error: Exception) -> UserError:
    refuse_page(file, "a safetensors file")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"{file} cannot be read: {error.strerror}. Check its permissions and the disk.")
    return UserError(
        f"{file} is truncated or not a safetensors file: {first_line(error)}. Copy or convert it again."
    )


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that no weight is infinite or not a number.

    Raises:
        UserError: some are; three tensors are named.
    """
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise UserError(
            f"{where} has weights that are not finite, in {len(bad)} tensors ({'; '.join(bad[:3])}"
            f"{'; ...' if len(bad) > 3 else ''}): the training went astray, or the file is damaged. Take an earlier "
            "checkpoint."
        )


def _is_finite(tensor: Tensor) -> bool:
    """In one reading: extremes are not numbers where any value is none."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    extremes = torch.aminmax(tensor.float() if tensor.element_size() == 1 else tensor)
    return all(math.isfinite(float(extreme)) for extreme in extremes)


def check_kinds(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Check that real numbers stand where real numbers are wanted, and integers where integers are.

    Raises:
        UserError: they do not; the first such tensor is named.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point() or tensor.is_complex():
            kinds = [str(value.dtype).removeprefix("torch.") for value in (tensor, wanted[name])]
            raise UserError(
                f"{where}: {name} holds {kinds[0]}, wanted is {kinds[1]}: it is damaged, or not of this model. Copy or "
                "convert it again."
            )


class Shaped(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


def shapes(arrays: Mapping[str, Shaped]) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def check_fit(
    stored: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], where: str, remedy: str
) -> None:
    """Check that every wanted array is stored in the wanted shape, and no other array is.

    Args:
        stored, wanted: shapes by name (`shapes`).
        where: beginning of the error, such as "RUN/model.safetensors does not fit the model".
        remedy: end of the error: what to do.

    Raises:
        UserError: arrays are missing, left over or of another shape; three of each are named.
    """
    missing = [name for name in wanted if name not in stored]
    unexpected = [name for name in stored if name not in wanted]
    reshaped = [
        f"{name}: {list(stored[name])} stored, {list(shape)} wanted"
        for name, shape in wanted.items()
        if name in stored and tuple(stored[name]) != tuple(shape)
    ]
    problems = [
        f"{len(names)} {what} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise UserError(f"{where}. Tensors: {', '.join(problems)}. {remedy}")


def _write_card(
    file: Path, family: str, load_function: str, tensors: dict[str, Tensor], card: dict[str, Any]
) -> None:
    if file.is_file() and _CARD_MARK not in file.read_text(errors="replace"):
        return
    weights = sum(tensor.numel() for tensor in tensors.values())
    lines = [f"- {key.replace('_', ' ')}: {value}" for key, value in card.items()]
    text = f"""---
library_name: torchslots
tags: [object-centric, slots, {family}]
---
{_CARD_MARK}
# {family}: {_KINDS[load_function]} for torchslots

{weights:,} weights. The model's configuration is in `{CONFIG_NAME}`, its weights in `{WEIGHTS_NAME}`.

```python
import torchslots

model = torchslots.{load_function}("this folder or hub id")
```
"""
    text += "".join(f"\n{line}" for line in lines) + ("\n" if lines else "")
    write_file(file, text, durable=True)
