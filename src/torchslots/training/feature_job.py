"""Store the features of a recipe's frozen backbone, so that training reads them in place of frames."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchslots.data import feature_store
from torchslots.data.feature_store import Encode, Layout
from torchslots.data.prepare import estimated_bytes, open_whole, prepare
from torchslots.data.sets.prepared_features import KEYS, TOKENS, features_split, preprocessing, unsampled
from torchslots.hub import load_model
from torchslots.io.counts import count_text
from torchslots.io.devices import choose_device
from torchslots.io.errors import UserError
from torchslots.io.files import size_text
from torchslots.io.ranges import COUNT, check_number
from torchslots.io.values import convert_fields
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.feature_encoder import FeatureEncoder
from torchslots.models.types import Features
from torchslots.models.weights import check_fit, digest, shapes
from torchslots.recipes import catalog
from torchslots.recipes.backbone_weights import load_backbone, published_backbone
from torchslots.recipes.config import Recipe
from torchslots.recipes.protocols import evaluation_data
from torchslots.training.features import feature_encoder, lost_text


@dataclass(frozen=True)
class FeatureOptions:
    """What is stored, and how it is computed."""

    features: str
    """Recipe whose frozen vision transformer sees the frames: its features are stored in place of them. By count of
    multiplications a training step is then 6.6 times as fast for videosaur_movi_c, 3.2 times for slotcontrast_ytvis and
    1.4 times for slotcontrast_movi_c, whose decoder is the larger part. What is sampled in frames is lost: mirroring
    (videosaur_*, slotcontrast_movi_*, dinosaur_coco_*, dinosaur_voc_*) and random squares (videosaur_ytvis*,
    slotcontrast_ytvis, dinosaur_coco_dinov2, dinosaur_voc_*)."""
    backbone: str | None = None
    """Weights of the transformer: a file, a folder, or owner/name on the hub; None: the recipe's own."""
    model: str | None = None
    """Trained model whose transformer it is: a run folder, a model folder, or owner/name on the hub; on the command
    line a published checkpoint, too."""
    feature_type: Literal["float16", "float32"] = "float16"
    """float16, or float32 in twice the space."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""
    frames_at_once: int = 16
    """Frames that pass through the transformer together."""
    num_workers: int = 0
    """Processes that read frames; 0: this one."""
    skip_corrupt: bool = False
    """Leave out records that cannot be read; otherwise the first one stops the command."""

    def __post_init__(self) -> None:
        convert_fields(self)


class FeatureJob:
    """The features of a recipe's training split, and the frames of the split that is evaluated, to be written."""

    def __init__(self, recipe: Recipe, root: Path, out: Path, options: FeatureOptions) -> None:
        """Load the backbone and count frames; nothing is written yet.

        Raises:
            UserError: no such data; no frozen transformer, or weights that do not fit it; features of other settings
                in `out`; too little space.
        """
        check_number("frames_at_once", options.frames_at_once, COUNT)
        self.recipe, self.out, self.options = recipe, out, options
        model = catalog.build_seeded(recipe.model, recipe.train.seed)
        self.encoder = _with_weights(feature_encoder(model, recipe.name), recipe, options)
        self.device = choose_device(options.device)
        data, backbone = recipe.data, self.encoder.backbone
        self.black = torch.zeros(1, 3, data.resolution, data.resolution)
        self.clips = open_whole(root, data.train_split, replace(unsampled(data), keys=("video",)))
        self.evaluated = open_whole(root, recipe.evaluation.split, evaluation_data(data, recipe.evaluation))
        self.made = preprocessing(data) | {"dataset": data.dataset, "backbone": digest(backbone.state_dict())}
        layout = Layout(backbone.grid(self.black), backbone.size, backbone.keys, options.feature_type)
        self.plan = feature_store.plan(self.clips, out / features_split(data.train_split), layout)
        feature_store.begin(self.plan, self.made)

    @property
    def finished(self) -> bool:
        """Whether all features are there already."""
        return not self.plan.missing

    def summary(self) -> str:
        """Sizes, the gain to expect, and what is lost."""
        plan, layout, recipe = self.plan, self.plan.layout, self.recipe
        frames, left = sum(plan.num_frames), plan.frames(plan.missing)
        patches = f"{layout.grid[0]} x {layout.grid[1]} patches x {layout.size}"
        step = recipe.train.batch_size * recipe.data.num_frames * layout.frame_bytes
        gain = expected_gain(recipe)
        lines = (
            f"{plan.folder}: {size_text(plan.num_bytes)}, {'features and keys' if layout.keys else 'features'} of "
            f"{count_text(frames, 'frame')} in {count_text(len(plan.num_frames), 'video')}, {patches} in "
            f"{layout.dtype}.",
            f"Of these {frames - left:,} frames are there already." if left < frames else "",
            f"{self.out / recipe.evaluation.split}: about {size_text(estimated_bytes(self.evaluated))}, frames and "
            "labels for evaluation.",
            f"A training step is up to {gain:.1f} times as fast, by count of its multiplications, where the disk gives "
            f"{size_text(step)} for each.",
            lost_text(recipe.data),
        )
        return "\n".join(line for line in lines if line)

    def run(self) -> list[str]:
        """Write everything; the same job again resumes after an interruption. Returns lines on what was written.

        Raises:
            UserError: data cannot be read, or the disk is full.
        """
        options = self.options
        features = feature_store.store(
            self.clips,
            self.plan,
            self.made,
            _encode(self.encoder.to(self.device), self.device, options.feature_type),
            black=self.black,
            frames_at_once=options.frames_at_once,
            num_workers=options.num_workers,
            skip_corrupt=options.skip_corrupt,
        )
        workers, skip = options.num_workers, options.skip_corrupt
        frames = prepare(self.evaluated, self.out, num_workers=workers, skip_corrupt=skip)
        lines: list[str] = []
        for part in (features, frames):
            lines.append(
                f"{part.folder}: {count_text(part.num_videos, 'video')}, {size_text(part.num_bytes)}"
            )
            lines += [f"left out: {message}" for message in part.left_out]
        return lines


def expected_gain(recipe: Recipe) -> float:
    """Multiplications of a training step from frames over those from stored features.

    Counted on one clip without computing anything; on a device that is kept busy, it is about the gain in speed.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = catalog.build(recipe.model)
        video = torch.empty(recipe.data.num_frames, 3, *(recipe.data.resolution,) * 2)
    assert isinstance(model, ObjectCentricModel)
    encoder = feature_encoder(model, recipe.name)
    with FlopCounterMode(display=False) as backbone:
        found: Features = encoder.backbone(encoder.normalize(video)).map(lambda values: values[None])
    with FlopCounterMode(display=False) as rest:
        losses = model.loss({TOKENS: found.tokens, KEYS: found.keys})
        torch.stack(list(losses.values())).sum().backward()
    return 1 + backbone.get_total_flops() / rest.get_total_flops()


def _with_weights(encoder: FeatureEncoder, recipe: Recipe, options: FeatureOptions) -> FeatureEncoder:
    """The encoder with the backbone's weights.

    Raises:
        UserError: two sources of weights, or weights that do not fit.
    """
    if options.model is not None:
        if options.backbone is not None:
            raise UserError("--model and --backbone both give the backbone's weights: leave one of them out.")
        given = feature_encoder(load_model(options.model), options.model).backbone.state_dict()
        own, what = (
            encoder.backbone.state_dict(),
            f"The backbone of {options.model} is not that of {recipe.name}",
        )
        check_fit(shapes(given), shapes(own), what, "Give a model of the same recipe, or another --features.")
        encoder.backbone.load_state_dict(given)
    elif place := options.backbone or published_backbone(recipe.model):
        load_backbone(encoder.backbone, place)
    return encoder


def _encode(encoder: FeatureEncoder, device: torch.device, dtype: str) -> Encode:
    kind = getattr(torch, dtype)

    @torch.inference_mode()
    def encode(frames: Float[Tensor, "n 3 H W"]) -> Mapping[str, np.ndarray]:
        found: Features = encoder.backbone(encoder.normalize(frames.to(device)))
        stored = found.map(lambda values: values.to(kind).cpu())
        keys = {} if stored.keys is None else {KEYS: stored.keys.numpy()}
        return {TOKENS: stored.tokens.numpy(), **keys}

    return encode
