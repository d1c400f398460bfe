"""Weights of VideoSAUR's and SlotContrast's code: their names and layout, and the way to ours and back.

Names of models for images lack the `.module` of those for videos.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from torchslots.convert.layouts import WeightMap, bare, gaussian
from torchslots.convert.originals import vit
from torchslots.recipes.feature_slots import FeatureSlotsConfig, PerceptronConfig


def leaves(config: FeatureSlotsConfig) -> list[WeightMap]:
    """Every tensor of the original's state dict."""
    inner = "" if config.predictor_heads is None else ".module"
    return [
        *_initializer(config),
        *vit.leaves(config.backbone, f"encoder{inner}.backbone.model.", "slot_encoder.encoder.backbone."),
        *_layers(f"encoder{inner}.output_transform", "slot_encoder.encoder.transform", (0, 1, 3)),
        *_corrector(config, f"processor{inner}.corrector", "slot_encoder.corrector"),
        *_predictor(config),
        *_decoder(config, f"decoder{inner}", "decoder.renderer"),
    ]


def _initializer(config: FeatureSlotsConfig) -> list[WeightMap]:
    name = "slot_encoder.initializer"
    if config.initializer == "gaussian":
        return gaussian("initializer.mean", "initializer.log_std", name)
    return [WeightMap("initializer.slots", f"{name}.slots", lambda a: a[0], lambda a: a[None])]


def _corrector(config: FeatureSlotsConfig, theirs: str, ours: str) -> Iterator[WeightMap]:
    yield from _both(f"{theirs}.norm_features", f"{ours}.norm_inputs")
    yield from _both(f"{theirs}.norm_slots", f"{ours}.norm_slots")
    for letter, part in {"q": "query", "k": "key", "v": "value"}.items():
        yield bare(f"{theirs}.to_{letter}.weight", f"{ours}.{part}.weight")
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        yield bare(f"{theirs}.gru.{part}", f"{ours}.gru.{part}")
    if config.corrector_mlp is not None:
        yield from _layers(f"{theirs}.mlp", f"{ours}.mlp", (0, 1, 3))


def _predictor(config: FeatureSlotsConfig) -> Iterator[WeightMap]:
    if config.predictor_heads is None:
        return
    theirs, ours = "processor.module.predictor.blocks", "slot_encoder.predictor.block"
    alone = config.predictor_layers == 1
    for index in range(config.predictor_layers):
        yield from _block(f"{theirs}.{index}", ours if alone else f"{ours}.{index}", fused=True)


def _decoder(config: FeatureSlotsConfig, theirs: str, ours: str) -> Iterator[WeightMap]:
    numbers, table = config.decoder, f"{ours}.positions.table"
    if isinstance(numbers, PerceptronConfig):
        yield WeightMap(f"{theirs}.pos_emb", table, lambda a: a[0, 0], lambda a: a[None, None])
        last = len(numbers.hidden)
        names = [f"{ours}.first", *(f"{ours}.middle.{2 * i - 1}" for i in range(1, last)), f"{ours}.last"]
        for index, name in enumerate(names):
            yield from _both(f"{theirs}.mlp.layers.{2 * index}", name)
        return
    yield WeightMap(f"{theirs}.pos_emb", table, lambda a: a[0], lambda a: a[None])
    fused = numbers.position_size in (None, config.slot_size)
    for index in range(numbers.num_blocks):
        yield from _block(f"{theirs}.allocator.blocks.{index}", f"{ours}.blocks.{index}", fused=fused)
    yield from _both(f"{theirs}.norm_memory", f"{ours}.norm_memory")
    for letter, part in {"q": "query", "k": "key"}.items():
        yield from _both(f"{theirs}.norm_{letter}", f"{ours}.norm_{part}")
        yield bare(f"{theirs}.to_{letter}.weight", f"{ours}.{part}.weight")
    for index in range(len(numbers.hidden)):
        yield from _both(f"{theirs}.renderer.layers.{2 * index}", f"{ours}.mlp.{2 * index}")
    yield from _both(f"{theirs}.output_transform", f"{ours}.mlp.{2 * len(numbers.hidden)}")


def _block(theirs: str, ours: str, *, fused: bool) -> Iterator[WeightMap]:
    """A transformer block.

    Args:
        fused: queries, keys and values are of one layer; otherwise keys and values alone.
    """
    yield from _both(f"{theirs}.norm1", f"{ours}.norm_attention")
    yield from _both(f"{theirs}.norm2", f"{ours}.norm_mlp")
    stacks = {"qkv": ("query", "key", "value")} if fused else {"q": ("query",), "kv": ("key", "value")}
    for stack, parts in stacks.items():
        for index, part in enumerate(parts):
            for what in ("weight", "bias"):
                read = partial(_share, index=index, of=len(parts))
                yield WeightMap(f"{theirs}.self_attn.{stack}.{what}", f"{ours}.attention.{part}.{what}", read)
    yield from _both(f"{theirs}.self_attn.out_proj", f"{ours}.attention.out")
    yield from _both(f"{theirs}.linear1", f"{ours}.mlp.0")
    yield from _both(f"{theirs}.linear2", f"{ours}.mlp.2")


def _share(array: np.ndarray, index: int, of: int) -> np.ndarray:
    return np.split(array, of)[index]


def _both(theirs: str, ours: str) -> Iterator[WeightMap]:
    for part in ("weight", "bias"):
        yield bare(f"{theirs}.{part}", f"{ours}.{part}")


def _layers(theirs: str, ours: str, numbers: tuple[int, ...]) -> Iterator[WeightMap]:
    for number in numbers:
        yield from _both(f"{theirs}.layers.{number}", f"{ours}.{number}")
