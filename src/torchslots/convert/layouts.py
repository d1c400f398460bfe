"""Layouts of the originals' weights and of ours: one `WeightMap` for each array, with the way there and back."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from torchslots.io.errors import UserError, first_line
from torchslots.models.weights import check_fit, shapes
from torchslots.models.weights import fill as load
from torchslots.recipes.config import ModelConfig, Recipe

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the original's arrays, by its names."""


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def _transpose(array: np.ndarray) -> np.ndarray:
    return array.T


Conversion = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class WeightMap:
    """One array of the original and the place of its values in our state dict.

    Several leaves with one path each read a part of that array; `to_theirs` joins the parts along `axis` in the order
    of the leaves.

    Args:
        path: the original's name, `/` between levels.
        name: our tensor's name.
        read: from the original's layout to ours; `write` is its inverse.
        part: rows of our tensor that this leaf fills, as (index, number of equal parts).
        axis: along which the original's array is divided among several leaves.
    """

    path: str
    name: str
    read: Conversion = _same
    write: Conversion = _same
    part: tuple[int, int] = (0, 1)
    axis: int = 0


def layer(path: str, name: str, read: Conversion, write: Conversion, *, bias: bool = True) -> list[WeightMap]:
    """A kernel in another layout, and the bias unchanged."""
    kernel = WeightMap(f"{path}/kernel", f"{name}.weight", read, write)
    return [kernel, WeightMap(f"{path}/bias", f"{name}.bias")] if bias else [kernel]


def dense(path: str, name: str, *, bias: bool = True) -> list[WeightMap]:
    """Kernel (in, out) to weight (out, in)."""
    return layer(path, name, _transpose, _transpose, bias=bias)


def norm(path: str, name: str) -> list[WeightMap]:
    """Scale and bias, with any axes of length one: flax 0.3 stores group norms as (1, 1, 1, C)."""
    return [
        WeightMap(f"{path}/scale", f"{name}.weight", _flat, _flat),
        WeightMap(f"{path}/bias", f"{name}.bias", _flat, _flat),
    ]


def conv(path: str, name: str, *, bias: bool = True) -> list[WeightMap]:
    """Kernel (h, w, in, out) to weight (out, in, h, w)."""
    return layer(path, name, lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0), bias=bias)


def pixelwise(path: str, name: str) -> list[WeightMap]:
    """A linear layer on each pixel as a 1x1 convolution: kernel (in, out) to weight (out, in, 1, 1)."""
    return layer(path, name, lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T)


def conv_transpose(path: str, name: str) -> list[WeightMap]:
    """(h, w, in, out), flipped, to (in, out, h, w): JAX correlates with the kernel, torch with its mirror image."""
    return layer(
        path,
        name,
        lambda a: a[::-1, ::-1].transpose(2, 3, 0, 1),
        lambda a: a.transpose(2, 3, 0, 1)[::-1, ::-1],
    )


def heads_in(path: str, name: str, num_heads: int, *, bias: bool = True) -> list[WeightMap]:
    """Projection to heads: kernel (in, heads, width) to weight (heads * width, in)."""
    kernel = WeightMap(
        f"{path}/kernel",
        f"{name}.weight",
        lambda a: a.reshape(a.shape[0], -1).T,
        lambda a: a.T.reshape(a.shape[1], num_heads, -1),
    )
    shift = WeightMap(f"{path}/bias", f"{name}.bias", _flat, lambda a: a.reshape(num_heads, -1))
    return [kernel, shift] if bias else [kernel]


def heads_out(path: str, name: str, num_heads: int) -> list[WeightMap]:
    """Projection from heads: kernel (heads, width, out) to weight (out, heads * width)."""
    return layer(
        path,
        name,
        lambda a: a.reshape(-1, a.shape[-1]).T,
        lambda a: a.T.reshape(num_heads, -1, a.shape[0]),
    )


def gru(path: str, name: str) -> list[WeightMap]:
    """flax's six gate matrices to torch's two stacks in the order reset, update, candidate."""
    leaves = [WeightMap(f"{path}/hn/bias", f"{name}.bias_hh")]
    for i, gate in enumerate("rzn"):
        leaves += [
            WeightMap(f"{path}/i{gate}/kernel", f"{name}.weight_ih", _transpose, _transpose, (i, 3)),
            WeightMap(f"{path}/i{gate}/bias", f"{name}.bias_ih", part=(i, 3)),
            WeightMap(f"{path}/h{gate}/kernel", f"{name}.weight_hh", _transpose, _transpose, (i, 3)),
        ]
    return leaves


def attention(path: str, name: str, num_heads: int) -> list[WeightMap]:
    """flax's multi-head attention."""
    projections = [
        leaf
        for part in ("query", "key", "value")
        for leaf in heads_in(f"{path}/{part}", f"{name}.{part}", num_heads)
    ]
    return [*projections, *heads_out(f"{path}/out", f"{name}.out", num_heads)]


def perceptron(path: str, name: str, *, num_layers: int = 2, pre_norm: bool = False) -> list[WeightMap]:
    """SAVi's perceptron: `dense_mlp_0`, `dense_mlp_1` and so on, with `LayerNorm_0` in front where `pre_norm`."""
    leaves = norm(f"{path}/LayerNorm_0", f"{name}.0") if pre_norm else []
    for i in range(num_layers):
        leaves += dense(f"{path}/dense_mlp_{i}", f"{name}.{2 * i + pre_norm}")
    return leaves


def bare(path: str, name: str) -> WeightMap:
    """A parameter in the same layout on both sides."""
    return WeightMap(path, name)


def gaussian(mean: str, log_sigma: str, name: str) -> list[WeightMap]:
    """Mean and logarithm of the standard deviation of sampled slots: (1, 1, D) to (D)."""
    return [
        WeightMap(path, f"{name}.{part}", _flat, lambda a: a[None, None])
        for path, part in ((mean, "mean"), (log_sigma, "log_sigma"))
    ]


def grid(path: str, name: str) -> WeightMap:
    """The stored (1, H, W, 2) grid."""
    return WeightMap(f"{path}/pos_embedding", f"{name}.grid", lambda a: a[0], lambda a: a[None])


def position(path: str, name: str) -> list[WeightMap]:
    """The stored grid and its projection."""
    return [grid(path, name), *dense(f"{path}/dense_pe_0", f"{name}.project")]


OTHER_RECIPE = "Get the file again if it is not whole, or name the right recipe with --recipe."
OTHER_SIZES = "Name the right recipe with --recipe, or give the original's configuration with --config."
"""Remedies for weights of another model, and of another size."""


def to_ours(
    leaves: Iterable[WeightMap], theirs: Arrays, where: str, remedy: str = OTHER_RECIPE
) -> dict[str, Tensor]:
    """Our state dict from the original's arrays. Each must have its place, and none may be missing.

    Args:
        remedy: end of the message: what to do.

    Raises:
        UserError: missing or unexpected arrays, with the first few names; an array with another number of axes.
    """
    leaves = list(leaves)
    stored, needed = (dict.fromkeys(sorted(names), ()) for names in (theirs, {leaf.path for leaf in leaves}))
    check_fit(stored, needed, f"{where}: weights do not fit the model", remedy)  # shapes: in `fill`
    stacks: dict[str, list[np.ndarray]] = {}
    for leaf in sorted(leaves, key=lambda leaf: leaf.part[0]):
        array = np.asarray(theirs[leaf.path], np.float32)
        with _axes_of(leaf, array, where, remedy):
            stacks.setdefault(leaf.name, []).append(leaf.read(array))
    return {name: torch.from_numpy(np.array(_joined(parts), order="C")) for name, parts in stacks.items()}


@contextmanager
def _axes_of(leaf: WeightMap, array: np.ndarray, where: str, remedy: str) -> Iterator[None]:
    """A user's error for an array that cannot be brought into our layout."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{where}: weights do not fit the model: {leaf.path} of shape {list(array.shape)} cannot become "
            f"{leaf.name} ({first_line(error)}). {remedy}"
        ) from error


def _joined(parts: list[np.ndarray], axis: int = 0) -> np.ndarray:
    """Parts joined to one array; a single part, which may be a scalar, unchanged."""
    return np.concatenate(parts, axis) if len(parts) > 1 else parts[0]


def to_theirs(leaves: Iterable[WeightMap], ours: Mapping[str, Tensor]) -> Arrays:
    """The original's arrays from our weights, gradients or moments; those of absent tensors are left out."""
    arrays: dict[str, list[np.ndarray]] = {}
    axes: dict[str, int] = {}
    for leaf in leaves:
        if leaf.name in ours:
            whole = ours[leaf.name].detach().cpu().numpy()
            index, count = leaf.part
            rows = np.split(whole, count)[index] if count > 1 else whole
            arrays.setdefault(leaf.path, []).append(leaf.write(rows))
            axes[leaf.path] = leaf.axis
    return {path: _joined(parts, axes[path]) for path, parts in arrays.items()}


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str, remedy: str = OTHER_SIZES) -> None:
    """Load a model's weights, which must be complete and of the right shapes.

    Args:
        remedy: end of the message: what to do.

    Raises:
        UserError: names or shapes differ.
    """
    check_fit(shapes(state), shapes(model.state_dict()), f"{where}: weights do not fit the model", remedy)
    load(model, state)


def fits(leaves: Iterable[WeightMap], make: Callable[[], nn.Module], found: Shapes) -> bool:
    """Whether arrays of these names and shapes fill exactly the model that `make` builds."""
    leaves = list(leaves)
    if {leaf.path for leaf in leaves} != set(found):
        return False
    with torch.device("meta"):
        wanted = shapes(make().state_dict())
    blank = {path: np.broadcast_to(np.float32(0), shape) for path, shape in found.items()}
    return shapes(to_ours(leaves, blank, "checkpoint")) == wanted


Config = TypeVar("Config", bound=ModelConfig)


def fitting(
    system: str,
    recipes: Iterable[Recipe],
    like: Callable[[Any, Shapes], Config],
    leaves: Callable[[Config], list[WeightMap]],
    build: Callable[[Config], nn.Module],
    found: Shapes,
) -> dict[str, Config]:
    """Published configurations whose models are filled exactly by arrays of these names and shapes, by recipe.

    Args:
        like: a recipe's configuration, changed to what names and shapes show.

    Raises:
        UserError: there is none; the configuration must be given.
    """
    configs = {recipe.name: like(recipe.model, found) for recipe in recipes}
    chosen = {
        name: config
        for name, config in configs.items()
        if fits(leaves(config), partial(build, config), found)
    }
    if not chosen:
        raise UserError(
            f"This is a model of {system} of sizes that were not published. Give the original's configuration as JSON "
            "with --config FILE, or the nearest recipe with --recipe NAME."
        )
    return chosen


def without_constants(params: Arrays, constants: Arrays, where: str, what: str) -> Arrays:
    """The arrays without those that the original computes and stores beside its weights.

    Args:
        constants: as this model's original computes them; the file may lack them.
        what: they are, for the message.

    Raises:
        UserError: the file has other values.
    """
    for name, expected in constants.items():
        found = params.get(name)
        if found is not None and (
            found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4, atol=1e-6)
        ):
            raise UserError(
                f"{where}: `{name}` {list(found.shape)} is not {what}. Give the original's configuration as JSON with "
                "--config."
            )
    return {name: array for name, array in params.items() if name not in constants}


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Turn errors of reading a configuration, or names and shapes, into a user's error.

    Args:
        what: beginning of the message, such as "This is no configuration of STEVE".
        remedy: its last sentence.

    Raises:
        UserError: a field or an array is missing, or is of another type or shape.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{what}: `{error.args[0]}` is missing. {remedy}") from error
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{what}: a field is ill-typed or of another shape ({first_line(error)}). {remedy}"
        ) from error


def refuse_unusual(what: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Refuse options of the original's code that its released configurations do not use.

    Raises:
        UserError: `given` has another value than `usual`.
    """
    for name, value in usual.items():
        if given.get(name, value) != value:
            raise UserError(f"{what} with `{name}` {given[name]} is not built here, only with {value}.")


RECONFIGURE = "Give the original's params as JSON."
"""Remedy for an incomplete configuration."""
OTHER_FILE = "Give another checkpoint, or the original's configuration with --config."
"""Remedy for a checkpoint of other names and shapes."""


def count(shapes: Shapes, pattern: str) -> int:
    """Number of names that match a regular expression as a whole."""
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def within(shapes: Shapes, prefix: str) -> Shapes:
    """The arrays of a part, by their names without `prefix`."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
