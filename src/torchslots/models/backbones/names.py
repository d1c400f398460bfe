"""Names and layouts under which others store vision transformers, beside those of `vit.ViT`.

Three forms are known: timm's (DINO's and DINOv2's own files are almost the same), and those of `transformers` before
version 5 and since. What stands behind the last block, such as a final norm, is not used here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from torchslots.io.errors import UserError
from torchslots.models.weights import check_fit, shapes

Kind = Literal["dino", "dinov2"]
Form = Literal["timm", "transformers", "transformers4"]
UNUSED = re.compile(r"(norm|layernorm|fc_norm|head|classifier|pooler)\..*|(embeddings\.)?mask_token")
"""Names of what is behind the last block, or only used in pretraining."""
_PREFIX = re.compile(r"(module\.|backbone\.|dinov2\.|dinov2_with_registers\.|vit\.|model\.)+")


@dataclass(frozen=True)
class Entry:
    """One of our tensors and the array of theirs that holds it; arrays that hold several are joined along `axis`.

    Args:
        read: from their layout to ours, of tensors and arrays alike; `write` is its inverse.
    """

    theirs: str
    ours: str
    read: Callable[[Any], Any] = lambda array: array
    write: Callable[[Any], Any] = lambda array: array
    axis: int = 0


def entries(kind: Kind, depth: int, *, num_registers: int = 0, form: Form = "timm") -> list[Entry]:
    """Every tensor of a `ViT`.

    Args:
        num_registers: timm stores those models without a position of the class token, which it has added already.
    """
    names = _TIMM if form == "timm" else _TRANSFORMERS
    found = [*_embeddings(names, num_registers, folded=form == "timm" and num_registers > 0)]
    for index in range(depth):
        found += _block(kind, index, form)
    return found


_TIMM = ("cls_token", "pos_embed", "reg_token", "patch_embed.proj")
_TRANSFORMERS = tuple(
    f"embeddings.{part}"
    for part in ("cls_token", "position_embeddings", "register_tokens", "patch_embeddings.projection")
)


def _embeddings(names: tuple[str, ...], num_registers: int, folded: bool) -> Iterator[Entry]:
    cls_token, positions, registers, patch = names
    yield Entry(cls_token, "cls_token", lambda a: a[0, 0], lambda a: a[None, None])
    if folded:
        yield Entry(positions, "cls_position", lambda a: a[0, 0] * 0, _folded, axis=1)
        yield Entry(positions, "positions", lambda a: a[0], lambda a: a[None], axis=1)
    else:
        yield Entry(positions, "cls_position", lambda a: a[0, 0], lambda a: a[None, None], axis=1)
        yield Entry(positions, "positions", lambda a: a[0, 1:], lambda a: a[None], axis=1)
    if num_registers:
        yield Entry(registers, "registers", lambda a: a[0], lambda a: a[None])
    yield from _both(patch, "patch")


def _folded(position: Any) -> Any:
    """No rows: the class token has its position in it.

    Raises:
        UserError: it has not.
    """
    if bool((position != 0).any()):
        raise UserError(
            "timm has no position of the class token in models with registers, and this model was trained with one. "
            "Add it to cls_token first."
        )
    return position[None, None][:, :0]


def _both(theirs: str, ours: str) -> Iterator[Entry]:
    for part in ("weight", "bias"):
        yield Entry(f"{theirs}.{part}", f"{ours}.{part}")


def _third(array: Any, index: int) -> Any:
    size = len(array) // 3
    return array[index * size : (index + 1) * size]


_NORMS = {"dino": ("layernorm_before", "layernorm_after"), "dinov2": ("norm1", "norm2")}
_ATTENTION: dict[Form, tuple[str, str, str, str]] = {
    "transformers": ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    "transformers4": (
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ),
}


def _block(kind: Kind, index: int, form: Form) -> Iterator[Entry]:
    ours, timm = f"blocks.{index}", form == "timm"
    listed = "encoder.layer" if kind == "dinov2" or form == "transformers4" else "layers"
    theirs = f"blocks.{index}" if timm else f"{listed}.{index}"
    norms = ("norm1", "norm2") if timm else _NORMS[kind]
    for name, own in zip(norms, _NORMS[kind]):
        yield from _both(f"{theirs}.{name}", f"{ours}.{own}")
    yield from _fused(f"{theirs}.attn", f"{ours}.attention") if timm else _apart(theirs, ours, form)
    layers = ("mlp.fc1", "mlp.fc2")
    if kind == "dino" and form == "transformers4":
        layers = ("intermediate.dense", "output.dense")
    for name, own in zip(layers, ("fc1", "fc2")):
        yield from _both(f"{theirs}.{name}", f"{ours}.mlp.{own}")
    if kind == "dinov2":
        for number in (1, 2):
            name = f"ls{number}.gamma" if timm else f"layer_scale{number}.lambda1"
            yield Entry(f"{theirs}.{name}", f"{ours}.layer_scale{number}.lambda1")


def _fused(theirs: str, ours: str) -> Iterator[Entry]:
    """Queries, keys and values of one layer."""
    for index, letter in enumerate("qkv"):
        for part in ("weight", "bias"):
            yield Entry(f"{theirs}.qkv.{part}", f"{ours}.{letter}_proj.{part}", partial(_third, index=index))
    yield from _both(f"{theirs}.proj", f"{ours}.o_proj")


def _apart(theirs: str, ours: str, form: Form) -> Iterator[Entry]:
    for name, letter in zip(_ATTENTION[form], "qkvo"):
        yield from _both(f"{theirs}.{name}", f"{ours}.attention.{letter}_proj")


def form_of(names: Mapping[str, object]) -> Form:
    """The form whose names these are."""
    if any(".attention.attention.query." in name for name in names):
        return "transformers4"
    return "transformers" if any(name.startswith("embeddings.") for name in names) else "timm"


def kind_of(names: Mapping[str, object]) -> Kind:
    """DINOv2's blocks scale what they add."""
    return (
        "dinov2" if any(name.endswith((".ls1.gamma", ".layer_scale1.lambda1")) for name in names) else "dino"
    )


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A stored transformer by the names of `form_of`'s forms, without what is not used.

    DINOv2's own files with registers keep the class token's position, which becomes a part of the token.
    """
    found = {_PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name: a for name, a in state.items()}
    found = {name: array for name, array in found.items() if not UNUSED.fullmatch(name)}
    if "register_tokens" in found:
        positions = found["pos_embed"]
        found["cls_token"] = found["cls_token"] + positions[:, :1]
        found |= {"reg_token": found.pop("register_tokens"), "pos_embed": positions[:, 1:]}
    return found


_OURS = ("cls_token", "positions", "registers", "patch")
_BLOCK = re.compile(r"(?:blocks|encoder\.layer|layers)\.(\d+)\.")


def _names(form: Form | None) -> tuple[str, ...]:
    """Class token, positions, registers, and the layer of patches; None: of a `ViT` of ours."""
    return _OURS if form is None else _TIMM if form == "timm" else _TRANSFORMERS


def _check_axes(state: Mapping[str, Tensor], form: Form, what: str, remedy: str) -> None:
    """Raise a `UserError` where a tensor is of no real numbers, or has no axes that it is cut along."""
    cls_token, positions, registers, patch = _names(form)
    axes = dict.fromkeys((cls_token, positions, registers), 3) | {f"{patch}.weight": 4}
    for name, tensor in state.items():
        fewest = axes.get(name, 1)
        if tensor.ndim < fewest or not tensor.is_floating_point():
            held = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            raise UserError(f"{what}: {name} is {held}, wanted are real numbers with {fewest} axes. {remedy}")


def _measures(state: Mapping[str, Tensor], form: Form | None) -> dict[str, int]:
    """What tells one transformer from another, by words for a message; what is not stored is left out.

    Args:
        form: None: a `ViT` of ours.
    """
    cls_token, positions, registers, patch = _names(form)
    found = {"blocks": len({match[1] for match in map(_BLOCK.match, state) if match})}
    found["registers"] = state[registers].shape[-2] if registers in state else 0
    if cls_token in state:
        found["channels"] = state[cls_token].shape[-1]
    if f"{patch}.weight" in state:
        found["pixels along a patch"] = state[f"{patch}.weight"].shape[-1]
    if positions in state:
        folded = form is None or (form == "timm" and found["registers"] > 0)
        found["patches with a position"] = state[positions].shape[-2] - (not folded)
    return found


def _differences(found: Mapping[str, int], wanted: Mapping[str, int]) -> list[str]:
    return [
        f"{found[name]} {name}, wanted are {value}"
        for name, value in wanted.items()
        if name in found and found[name] != value
    ]


def to_vit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The state dict of a `ViT` from a stored transformer in any of the forms.

    Args:
        wanted: the state dict that is to be filled, for names and shapes.
        where: the file's place, for messages.

    Raises:
        UserError: a transformer of another size, another kind, or with another number of registers; tensors that are
            none of a transformer.
    """
    stored, kind = bare_names(state), kind_of(wanted)
    what = f"{where} is not the backbone of this model"
    remedy = "Give the weights of the backbone that the configuration describes (`backbone` in it)."
    if kind_of(stored) != kind:
        raise UserError(f"{what}: it is of the kind {kind_of(stored)}, wanted is {kind}. {remedy}")
    depth = len({name.split(".")[1] for name in wanted if name.startswith("blocks.")})
    num_registers = len(wanted["registers"]) if "registers" in wanted else 0
    form = form_of(stored)
    _check_axes(stored, form, what, remedy)
    other = _differences(_measures(stored, form), _measures(wanted, None))
    if other:
        raise UserError(f"{what}: it has {'; '.join(other)}. {remedy}")
    table = entries(kind, depth, num_registers=num_registers, form=form)
    check_fit(dict.fromkeys(stored, ()), dict.fromkeys((e.theirs for e in table), ()), what, remedy)
    found = {entry.ours: entry.read(stored[entry.theirs]).to(torch.float32) for entry in table}
    check_fit(shapes(found), shapes(wanted), what, remedy)
    return found
