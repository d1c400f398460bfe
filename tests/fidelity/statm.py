"""STATM's recordings: SAVi's, with a memory that the original's evaluation drops between slices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fidelity import savi
from fidelity.cases import Case, Row, Rows, System
from torchslots.convert.layouts import Arrays
from torchslots.models.layers.attention import MultiHeadAttention
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slices import carry_state, cut
from torchslots.models.slots.temporal import Fusion, History, Memory, MemoryPredictor, forget
from torchslots.models.types import Clip, Grouping, State


def rows(case: Case) -> Rows:
    """SAVi's, and that slices which hand the memory on are the whole clip."""
    found = savi.rows(case)
    carried = {"carried/states": Row(case.outputs["states"], note="in slices")}
    return {**found, **(carried if "sliced/slice_size" in case.outputs else {})}


def ours(case: Case) -> Arrays:
    """Our model's result for every recorded tensor."""
    return savi.ours(case, STATM) | _carried(case)


def _carried(case: Case) -> Arrays:
    if "sliced/slice_size" not in case.outputs:
        return {}
    pieces = cut(savi.to_batch(case.inputs), int(case.outputs["sliced/slice_size"]))
    slots = [found.slots for _, found in carry_state(savi.load(case).model.predict, pieces)]
    return {"carried/states": torch.cat(slots, 1).numpy()}


def predictor_attention(model: ObjectCentricModel, clip: Clip, start: State) -> Arrays:
    """Attention maps in the order of the original's calls: two for each frame, over slots and over time."""
    predictor = cast(MemoryPredictor, model.slot_encoder.predictor)
    state = start
    with recorded_attention(predictor.fusion) as maps:
        for t in range(clip.slots.shape[1]):
            state = predictor(Grouping(clip.slots[:, t], clip.attn[:, t]), state)
    return {f"predictor_attn/{i}": found for i, found in enumerate(maps)}


@contextmanager
def recorded_attention(fusion: Fusion) -> Iterator[list[np.ndarray]]:
    """Attention maps of `fusion`, in the order of its calls inside the context."""
    maps: list[np.ndarray] = []

    def in_space(module: nn.Module, args: tuple[Tensor]) -> None:
        attention = cast(MultiHeadAttention, module)
        maps.append(attention.weights(args[0], attention.project(args[0])).numpy())

    def in_time(module: nn.Module, args: tuple[Tensor], kwargs: dict[str, Memory]) -> None:
        history = cast(History, module)
        maps.append(history.attention.weights(*history.arrange(args[0], kwargs["memory"])).numpy())

    hooks = (
        fusion.space.register_forward_pre_hook(in_space),
        fusion.time.register_forward_pre_hook(in_time, with_kwargs=True),
    )
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


STATM = savi.Kind(lambda config: config.savi, predictor_attention, between_slices=forget)
SYSTEM = System(rows, ours)
