"""DINOSAUR of its authors, and FT-DINOSAUR: recordings of small random transformers.

Images are recorded normalised, so our own normalisation is left out, but for the photo.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fidelity import features
from fidelity.cases import Case, Row, Rows, System, absolute, holds, integers
from fidelity.features import FEATURE, LOSS, SHARE, enlarged
from fidelity.loading import Loaded, load
from fidelity.training import loss_of, train
from torchslots.convert import layouts, systems
from torchslots.convert.layouts import Arrays
from torchslots.convert.originals import dinosaur as oclf
from torchslots.convert.originals import ftdinosaur as inference
from torchslots.data.fitting import RESIZERS
from torchslots.io.errors import UserError
from torchslots.models.backbones.names import to_vit
from torchslots.models.backbones.vit import Normalize
from torchslots.models.decoders.features import FeatureDecoder, standardized
from torchslots.models.decoders.renderers import Rendered
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Batch, Clip
from torchslots.recipes import catalog
from torchslots.recipes.backbones import build_backbone
from torchslots.recipes.config import OptimConfig
from torchslots.recipes.ftdinosaur import FtDinosaurConfig

_NEAR = {
    "backbone_features": FEATURE,
    "features": FEATURE,
    "slots": FEATURE,
    "reconstruction": FEATURE,
    "target_features": FEATURE,
    "attn": SHARE,
    "masks": SHARE,
    "masks_image_first": SHARE,
    "target": SHARE,
    "pos_embed": 1e-6,
    "preprocessed": 1e-6,
    "topk_indices": 0.0,
    "topk_selected": 0.0,
}
"""Largest differences, by what is recorded."""
_WAYS = re.compile(r"(full|top1|more|hires|photo)_(.+)")
"""Other ways to run the same weights, and what is recorded of them."""


# --------------------------------------------------------------------------------------------------- recorded


def rows(case: Case) -> Rows:
    """Everything that is recorded."""
    found: dict[str, Row] = {"checkpoint": holds("read and written back"), "trained": holds("fits as well")}
    for name, recorded in case.outputs.items():
        found[name] = _row(case, name, recorded)
    tuned = "training" in case.config
    if tuned:
        found["digest"] = holds("the file's name ends in its SHA-256")
        found |= {f"published/{name}": holds("names, shapes, recipe") for name in _published(case)}
    rates = case.config["train"]["lr_groups" if tuned else "lr"]
    rates = rates if tuned else [[rate] for rate in rates]
    trained = case.folder / _trained(case)
    if not trained.is_file():
        del found["trained"]
    return {
        **found,
        **features.gradient_rows(case),
        **features.training_rows(case, rates, case.folder / _checkpoint(case), trained, _drifting(case)),
    }


def _row(case: Case, name: str, recorded: np.ndarray) -> Row:
    way = _WAYS.fullmatch(name)
    what = way[2] if way else name
    if what == "topk_indices":
        return absolute(np.sort(recorded, axis=1), 0.0)
    if what in _NEAR:
        return absolute(recorded, _NEAR[what])
    if what.startswith("loss_"):
        return Row(recorded, LOSS)
    if not what.startswith("segmentation"):
        raise UserError(f"{case.folder}: no way to compare `{name}` here.")
    masks = case.outputs["attn" if what.endswith("_attn") else f"{way[1]}_masks" if way else "masks"]
    apart = features.margin(masks, _grid(case), recorded.shape[-2:]).reshape(recorded.shape)
    return integers(recorded, apart, features.CLOSE)


def _grid(case: Case) -> tuple[int, int]:
    rows, columns = (side // case.config["vit"]["patch_size"] for side in case.config["image_size"])
    return rows, columns


def _checkpoint(case: Case) -> str:
    return case.config.get("checkpoint", "checkpoint.ckpt")


def _trained(case: Case) -> str:
    return case.config.get("trained_checkpoint", "trained.ckpt")


def _published(case: Case) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of the released models, where they lie beside the recording."""
    file = case.folder / "published_params.json"
    models = json.loads(file.read_text()) if file.is_file() else {}
    return {
        name: {key: tuple(shape) for key, shape in shapes.items()}
        for name, shapes in models.items()
        if isinstance(shapes, dict) and "encoder.cls_token" in shapes
    }


def _drifting(case: Case) -> features.Drifting:
    """Shifts that a softmax cancels: of keys, of scores, of all slots."""
    last = 2 * len(case.config["model"]["decoder"].get("features", ()))
    scores = {f"{prefix}decoder.{last}.bias" for prefix in (oclf.NAMES.decoder, inference.NAMES.decoder)}

    def found(name: str, array: np.ndarray) -> np.ndarray:
        loose = np.zeros(array.shape, bool)
        if name.endswith((".attn.qkv.bias", ".in_proj_bias")):
            third = len(array) // 3
            loose[third : 2 * third] = True
        elif name.endswith(".norm_slots.bias"):
            loose[:] = True
        elif name in scores:
            loose[-1] = True
        return loose

    return found


# ------------------------------------------------------------------------------------------------------- ours


class Run(NamedTuple):
    """A model on its inputs."""

    model: ObjectCentricModel
    batch: Batch
    clip: Clip
    rendered: Rendered

    @property
    def decoder(self) -> FeatureDecoder:
        return _decoder(self.model)

    def outputs(self) -> dict[str, Tensor]:
        """What is recorded of every way to run it."""
        assert self.clip.features is not None and self.rendered.output is not None
        return {
            "backbone_features": self.clip.features.tokens[:, 0],
            "slots": self.clip.slots[:, 0],
            "attn": self.clip.attn[:, 0],
            "reconstruction": self.rendered.output,
            "masks": self.rendered.masks,
        }

    def maps(self) -> Tensor:
        """Masks in rows and columns, as our users get them."""
        return self.decoder.decode(self.clip, recon=False).masks[:, 0]


def _decoder(model: Any) -> FeatureDecoder:
    assert isinstance(model, ObjectCentricModel) and isinstance(model.decoder, FeatureDecoder)
    return model.decoder


def ours(case: Case) -> Arrays:
    """Every recorded tensor."""
    loaded = _load(case)
    batch = _batch(case, case.inputs["image"], case.inputs["noise"])
    with torch.no_grad():
        run = _run(loaded.model, batch)
        found = {**run.outputs(), **_forward(case, run), **_other_ways(case, loaded)}
    checked = {"checkpoint": features.written_back(loaded, loaded.read.params), **_files(case, loaded)}
    return {
        **{name: value.detach().numpy() for name, value in found.items()},
        **checked,
        **features.gradients(case, loaded, batch),
        **_training(case, loaded),
    }


def _load(case: Case) -> Loaded:
    """The model as it is trained; its teacher is the recorded one."""
    loaded = load(case, _checkpoint(case))
    loaded.model.slot_encoder.encoder.normalize = nn.Identity()
    if isinstance(loaded.config, FtDinosaurConfig):
        _decoder(loaded.model).learn_from(_teacher(case, loaded.config))
    return loaded


def _teacher(case: Case, config: FtDinosaurConfig) -> nn.Module:
    file = case.folder / case.config["target_checkpoint"]
    state = {name: torch.from_numpy(value) for name, value in systems.TORCH.read(file).params.items()}
    teacher = build_backbone(replace(config.backbone, trainable_from=None))
    teacher.load_state_dict(to_vit(state, teacher.state_dict(), str(file)))
    return case.prepared(teacher)


def _batch(case: Case, images: np.ndarray, noise: np.ndarray) -> Batch:
    """Images as clips of one frame, and the noise of the initial slots."""
    dtype = torch.float64 if case.double else torch.float32
    return {
        "video": torch.from_numpy(images).to(dtype)[:, None],
        "noise": torch.from_numpy(noise).to(dtype),
    }


def _run(model: ObjectCentricModel, batch: Batch) -> Run:
    clip = model.encode(batch)
    return Run(model, batch, clip, _decoder(model).render(clip))


def _forward(case: Case, run: Run) -> dict[str, Tensor]:
    """Losses, masks at the image's size, segmentations, and what a teacher says."""
    maps, size = run.maps(), run.batch["video"].shape[-2:]
    attn = run.clip.attn[:, 0].unflatten(-1, maps.shape[-2:])
    found = {
        "features": run.model.slot_encoder.tokens(run.batch["video"])[:, 0],
        "masks_image_first": enlarged(maps[:1], size),
        "segmentation_decoder": _segmentation(maps, _label_size(case)),
        "segmentation_attn": _segmentation(attn, _label_size(case)),
        "loss_mse": loss_of(run.model, run.batch),
        "loss_total": loss_of(run.model, run.batch),
    }
    if run.decoder.taught:
        target = run.decoder.explained(run.clip, run.batch).features.tokens[:, 0]
        found |= {"target_features": target, "target": standardized(target), **_chosen(run)}
    return found


def _label_size(case: Case) -> tuple[int, ...]:
    return case.outputs["segmentation_decoder"].shape[-2:]


def _segmentation(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return enlarged(maps, size).argmax(1)


def _chosen(run: Run) -> dict[str, Tensor]:
    """The slots that are decoded at each patch."""
    selected = run.rendered.masks > 0
    per_patch = int(selected[0, :, 0].sum())
    order = selected.int().transpose(1, 2).argsort(dim=-1, descending=True, stable=True)
    indices = order[..., :per_patch].sort(-1).values.transpose(1, 2)
    return {"topk_selected": selected, "topk_indices": indices}


def _other_ways(case: Case, loaded: Loaded) -> dict[str, Tensor]:
    """The same weights with all slots decoded, with one, with more slots, at the native size, and on a photo."""
    found: dict[str, Tensor] = {}
    recorded = {way[1] for name in case.outputs if (way := _WAYS.fullmatch(name))}
    images, noise = case.inputs["image"], case.inputs["noise"]
    if "full" in recorded:
        found |= _under("full", _run(_with_top_k(case, loaded, 0), _batch(case, images, noise)).outputs())
    if "top1" in recorded:
        found |= _under("top1", _run(_with_top_k(case, loaded, 1), _batch(case, images, noise)).outputs())
    if "more" in recorded:
        more = _batch(case, images, case.inputs["noise_more"])
        found |= _under("more", _run(loaded.model, more).outputs())
    if "hires" in recorded:
        found |= _native(case, loaded.model)
    if "photo" in recorded:
        found |= _photo(case, loaded.model)
    return found


def _under(way: str, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{way}_{name}": value for name, value in outputs.items()}


def _with_top_k(case: Case, loaded: Loaded, top_k: int) -> ObjectCentricModel:
    """The model of another configuration with the same weights."""
    config = replace(loaded.config, decoder=replace(loaded.config.decoder, top_k=top_k))
    model = catalog.build(config)
    assert isinstance(model, ObjectCentricModel)
    own = {name: value for name, value in loaded.model.state_dict().items() if ".teacher." not in name}
    model = (model.double() if case.double else model).eval()
    model.load_state_dict(own)
    model.slot_encoder.encoder.normalize = nn.Identity()
    return model


def _native(case: Case, model: ObjectCentricModel) -> dict[str, Tensor]:
    """At the transformer's own size, positions of the decoder resampled."""
    images = case.inputs["image_hires"]
    run = _run(model, _batch(case, images, case.inputs["noise"][: len(images)]))
    positions = run.decoder.renderer.positions
    assert run.clip.grid is not None and isinstance(positions, nn.Module)
    return _under("hires", {**run.outputs(), "pos_embed": positions(run.clip.grid)[None].clone()})


def _photo(case: Case, model: ObjectCentricModel) -> dict[str, Tensor]:
    """A photo as its program prepares it, and its segmentation at the photo's own size."""
    photo = torch.from_numpy(case.inputs["photo"]).permute(2, 0, 1)[None]
    small = RESIZERS["bicubic_antialias"](photo, *case.config["image_size"])
    prepared = Normalize()(small.float() / 255)
    run = _run(model, _batch(case, prepared.numpy(), case.inputs["noise"][:1]))
    segmentation = _segmentation(run.maps(), tuple(photo.shape[-2:]))[0]
    found = {"preprocessed": prepared[0], "segmentation": segmentation}
    return _under("photo", {**run.outputs(), **found})


def _files(case: Case, loaded: Loaded) -> Arrays:
    """Whether the trained checkpoint fits the same model, and what is published."""
    found: Arrays = {}
    trained = case.folder / _trained(case)
    if trained.is_file():
        program, read = systems.open_original(trained)
        other = loaded._replace(program=program, read=read, model=catalog.build(loaded.config))
        layouts.fill(other.model, systems.weights(program, read, loaded.config), str(trained))
        found["trained"] = features.written_back(other, read.params)
    if isinstance(loaded.config, FtDinosaurConfig):
        file = case.folder / _checkpoint(case)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found["digest"] = np.array(file.stem.endswith(f"-{digest[:8]}"))
    published = _published(case)
    return found | {f"published/{name}": np.array(_fits(name, published[name])) for name in published}


def _fits(name: str, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a released model is recognised as our recipe, and has its names and shapes."""
    size, side = name.split("_")[1], name.split("_")[3]
    config = inference.from_shapes(shapes)
    same = config == catalog.recipe(f"ftdinosaur_{size}_{side}").model
    return same and layouts.fits(inference.leaves(config), lambda: catalog.build(config), shapes)


# --------------------------------------------------------------------------------------------------- training


def _training(case: Case, loaded: Loaded) -> Arrays:
    """Steps of our trainer; the model is trained on."""
    tuned = "training" in case.config
    steps = train(loaded, _tuned(case) if tuned else _plain(case), _batches(case))
    return features.trained_arrays(loaded, steps, _drifting(case))


def _batches(case: Case) -> Iterator[Batch]:
    for noise in case.inputs["train_noise"]:
        yield _batch(case, case.inputs["image"], noise)


def _plain(case: Case) -> OptimConfig:
    """Settings from the recorded words, such as "linear warm-up 2, then 0.5**((step-2)/8)".

    Raises:
        UserError: other words.
    """
    numbers = case.config["optimizer"]
    words = re.fullmatch(
        r"linear warm-up (\d+), then ([\d.]+)\*\*\(\(step-(\d+)\)/(\d+)\)", numbers["schedule"]
    )
    if words is None or words[1] != words[3]:
        raise UserError(f"{case.folder}: `{numbers['schedule']}` is not a schedule that is known here.")
    return OptimConfig(
        learning_rate=numbers["lr"],
        warmup_steps=int(words[1]),
        max_grad_norm=case.config["gradient_clip_val"],
        schedule="exponential_after_warmup",
        decay_rate=float(words[2]),
        decay_steps=int(words[4]),
    )


def _tuned(case: Case) -> OptimConfig:
    numbers = case.config["training"]
    rate = numbers["base_learning_rate"] * (numbers["batch"] / numbers["reference_batch"]) ** 0.5
    return OptimConfig(
        learning_rate=rate,
        warmup_steps=numbers["warmup_steps"],
        num_steps=numbers["T_max"],
        max_grad_norm=numbers["gradient_clip_val"],
        schedule="cosine_from_half",
        min_learning_rate=numbers["eta_min"],
        backbone_learning_rate=rate * numbers["encoder_lr_factor"],
        backbone_layer_decay=numbers["layerwise_lr_decay"],
        backbone_weight_decay=numbers["weight_decay"],
    )


SYSTEM = System(rows, ours)
