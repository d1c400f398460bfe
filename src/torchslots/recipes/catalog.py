"""Tables of model families and named recipes. A new model is a row of `FAMILIES` and its recipes in `RECIPES`."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torchslots.io import plugins
from torchslots.io.errors import UserError, check_type, first_line, nearest, note
from torchslots.io.json_files import read_object
from torchslots.io.ranges import check_ranges
from torchslots.models.model import ObjectCentricModel
from torchslots.models.sketch import sketching
from torchslots.models.tokenizers.base import Tokenizer
from torchslots.recipes import (
    dinosaur,
    feature_slots,
    ftdinosaur,
    isa,
    savi,
    savi_slotdiffusion,
    slot_attention,
    slotcontrast,
    slotdiffusion,
    statm,
    steve,
    steve_joint,
    tokenizers,
    videosaur,
)
from torchslots.recipes.config import RANGES, ModelConfig, Recipe, current_name, from_dict

Built = ObjectCentricModel | Tokenizer
"""What a recipe trains: a model with slots, or a tokenizer that is trained before it."""


@dataclass(frozen=True)
class Family:
    """One system: its title, the class of its configuration, and the function that builds a model from that."""

    title: str
    config: type[ModelConfig]
    build: Callable[[Any], Built]


FAMILIES: dict[str, Family] = {
    "savi": Family("SAVi", savi.SaviConfig, savi.build),
    "slot_attention": Family("Slot Attention", slot_attention.SlotAttentionConfig, slot_attention.build),
    "isa": Family("ISA", isa.IsaConfig, isa.build),
    "statm": Family("STATM-SAVi", statm.StatmConfig, statm.build),
    "savi_pytorch": Family(
        "SAVi (SlotDiffusion's)", savi_slotdiffusion.SaviPytorchConfig, savi_slotdiffusion.build
    ),
    "vqvae": Family("VQ-VAE", tokenizers.VqvaeConfig, tokenizers.build_vqvae),
    "dvae": Family("discrete VAE", tokenizers.DvaeConfig, tokenizers.build_dvae),
    "steve": Family("STEVE (SlotDiffusion's)", steve.SteveConfig, steve.build),
    "steve_joint": Family("STEVE", steve_joint.SteveJointConfig, steve_joint.build),
    "slotdiffusion": Family("SlotDiffusion", slotdiffusion.SlotDiffusionConfig, slotdiffusion.build),
    "dinosaur": Family("DINOSAUR", dinosaur.DinosaurConfig, dinosaur.build),
    "ftdinosaur": Family("FT-DINOSAUR", ftdinosaur.FtDinosaurConfig, ftdinosaur.build),
    "videosaur": Family("VideoSAUR", videosaur.VideosaurConfig, feature_slots.build),
    "slotcontrast": Family("SlotContrast", slotcontrast.SlotContrastConfig, feature_slots.build),
    "videosaur_images": Family(
        "DINOSAUR (VideoSAUR's)", videosaur.VideosaurImagesConfig, feature_slots.build
    ),
}

_ALONE = (
    savi.savi_small,
    savi.savi_medium,
    savi.savi_large,
    savi.savi_plus_plus,
    savi.savi_demo,
    savi_slotdiffusion.slots_video,
    savi.savi_sim,
    savi.savi_sim_small,
    savi.slots_sim,
    slot_attention.slot_attention_clevr6,
    slot_attention.slot_attention_tetrominoes,
    slot_attention.slot_attention_multi_dsprites,
    slot_attention.slot_attention_set_prediction,
    slot_attention.slot_attention_demo,
    slot_attention.set_prediction_demo,
    statm.statm_savi_small,
    statm.statm_savi,
    statm.statm_savi_plus_plus,
    statm.statm_demo,
    isa.isa_demo,
    steve.steve_demo,
    slotdiffusion.slotdiffusion_demo,
    tokenizers.vqvae_demo,
    tokenizers.dvae_demo,
    videosaur.videosaur_movi_c,
    videosaur.videosaur_movi_e,
    videosaur.videosaur_ytvis,
    videosaur.videosaur_ytvis_dinov2,
    videosaur.videosaur_demo,
    slotcontrast.slotcontrast_movi_c,
    slotcontrast.slotcontrast_movi_e,
    slotcontrast.slotcontrast_ytvis,
    slotcontrast.slotcontrast_demo,
    videosaur.dinosaur_coco_dinov2,
    ftdinosaur.ftdinosaur_small_224,
    ftdinosaur.ftdinosaur_base_224,
    ftdinosaur.ftdinosaur_small_518,
    ftdinosaur.ftdinosaur_base_518,
)
RECIPES: dict[str, Callable[[], Recipe]] = {
    **{function.__name__: function for function in _ALONE},
    **isa.RECIPES,
    **savi_slotdiffusion.RECIPES,
    **tokenizers.RECIPES,
    **steve.RECIPES,
    **steve_joint.RECIPES,
    **slotdiffusion.RECIPES,
    **dinosaur.RECIPES,
}
"""Every recipe by its name: single functions, and sweeps over data sets."""

PUBLISHED: dict[str, str] = {
    "savi_small": "FG-ARI 92.1",
    "savi_medium": "FG-ARI 93.4",
    "savi_large": "FG-ARI 95.1",
    "savi_plus_plus": "FG-ARI 85.1",
    "slot_attention_tetrominoes": "FG-ARI 99.5",
    "videosaur_movi_c": "FG-ARI 64.8",
    "videosaur_movi_e": "FG-ARI 73.9",
    "videosaur_ytvis": "FG-ARI 39.5",
    "videosaur_ytvis_dinov2": "FG-ARI 39.7",
    "slotcontrast_movi_c": "FG-ARI 69.3",
    "slotcontrast_movi_e": "FG-ARI 82.9",
    "slotcontrast_ytvis": "FG-ARI 38.0",
    "dinosaur_coco_dinov2": "FG-ARI 45.6",
    "dinosaur_coco_mlp": "FG-ARI 40.5",
    "dinosaur_coco_auto": "FG-ARI 34.1",
    "dinosaur_coco_auto_small": "FG-ARI 36.9",
    "dinosaur_voc_mlp": "FG-ARI 24.6",
    "dinosaur_voc_auto": "FG-ARI 24.8",
    "dinosaur_movi_c_mlp": "FG-ARI 67.2",
    "dinosaur_movi_e_mlp": "FG-ARI 64.7",
    "isa_clevr_with_masks_transl_scale_v2": "not released",
    "isa_multishapenet_easy_transl_scale_v2": "not released",
    "isa_clevrtex_resnet_transl_scale_v2": "not released",
    "isa_waymo_open_transl_scale_v2": "not released",
}
"""The published figure on a recipe's own data set, in per cent, where there is one; `not released` where the authors'
code has no such configuration."""

_SYSTEMS = {"savi_plus_plus": "SAVi++", "statm_savi_plus_plus": "STATM-SAVi++"}
"""Systems that share a family with another, by recipe; every other system has its family's title."""


_NO_FAMILY = "Update torchslots, or install the package that adds it."
NEED_NAMES = {
    "boxes": "boxes",
    "segmentations": "masks",
    "flow": "flow",
    "depth": "depth",
    "properties": "properties",
}
"""Keys of a training batch besides frames, and how the table of recipes calls them."""


class Summary(NamedTuple):
    """One row of the table of recipes."""

    name: str
    system: str
    dataset: str
    resolution: tuple[int, int]
    """Height and width of the frames."""
    num_frames: int
    """Frames of a training clip; 1: images."""
    num_slots: int | None
    """None: a tokenizer, which has no slots."""
    million_weights: float
    """Frozen ones included."""
    needs: str
    """What training needs besides frames: hints of the first frame, flow, depth, labels."""
    published: str
    """A figure such as "FG-ARI 92.1", or nothing."""
    about: str
    """The whole docstring."""


def families() -> dict[str, Family]:
    """Every model family by its name, those of other installed packages too."""
    plugins.load_plugins(plugins.RECIPES)
    return FAMILIES


def recipes() -> dict[str, Callable[[], Recipe]]:
    """Every recipe by its name, those of other installed packages too."""
    plugins.load_plugins(plugins.RECIPES)
    return RECIPES


def find_recipes(word: str = "") -> Iterator[tuple[str, Recipe]]:
    """Names and recipes, in the order of `RECIPES`.

    Args:
        word: only recipes with it in their name, system or data set, in any case.
    """
    for name, make in recipes().items():
        found = make()
        facts = f"{name} {_system(name, found)} {found.data.dataset}"
        if word.lower() in facts.lower():
            yield name, found


def summaries(word: str = "") -> list[Summary]:
    """A row for each of `find_recipes(word)`; models are built without memory for their weights."""
    rows = []
    for name, found in find_recipes(word):
        try:
            millions, needs = _facts(families()[found.model.family], found.model)
        except Exception as error:  # of another package's model: the others are listed
            if families()[found.model.family].build.__module__.startswith("torchslots."):
                raise
            note(f"the recipe `{name}` is not listed, since its model cannot be built: {first_line(error)}.")
            continue
        rows.append(
            Summary(
                name=name,
                system=_system(name, found),
                dataset=found.data.dataset,
                resolution=_find(found.model, "resolution"),
                num_frames=found.data.num_frames,
                num_slots=_find(found.model, "num_slots"),
                million_weights=millions,
                needs=needs,
                published=PUBLISHED.get(name, ""),
                about=inspect.cleandoc(recipes()[name].__doc__ or ""),
            )
        )
    return rows


def _system(name: str, found: Recipe) -> str:
    return _SYSTEMS.get(name, FAMILIES[found.model.family].title)


@cache
def _facts(family: Family, config: ModelConfig) -> tuple[float, str]:
    """Millions of weights of a family's model, and what training needs besides frames."""
    with sketching():
        model = family.build(config)
    millions = sum(weight.numel() for weight in model.state_dict().values()) / 1e6
    needs = model.needs if isinstance(model, ObjectCentricModel) else ()
    return millions, " ".join(NEED_NAMES[key] for key in needs)


def _find(config: Any, name: str) -> Any:
    """The first field of that name in a dataclass or in those inside it; None where there is none."""
    if not dataclasses.is_dataclass(config):
        return None
    inner = (_find(value, name) for value in vars(config).values())
    return vars(config).get(name) or next((value for value in inner if value is not None), None)


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    return _look_up(recipes(), name, "recipe", "See `torchslots recipes` for all.")()


def build(config: ModelConfig) -> Built:
    """A model with fresh weights.

    Raises:
        UserError: a configuration of no family.
    """
    return _look_up(families(), config.family, "model family", _NO_FAMILY).build(config)


def build_seeded(config: ModelConfig, seed: int) -> Built:
    """A model whose fresh weights depend on the seed alone; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


_RUN = "Give a folder that `torchslots train` made."


def read_recipe(file: Path) -> Recipe:
    """The recipe that a run wrote to `recipe.json`.

    Raises:
        UserError: the file is missing, is no JSON, or is of another version.
    """
    return recipe_of(read_object(file, _RUN), str(file))


def recipe_of(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `to_json` of this or an older version wrote as `values`.

    Args:
        where: Where they were read, for messages.

    Raises:
        UserError: no such family, or a field that is missing, unknown or ill-typed.
    """
    rest = dict(values)
    family, model = rest.pop("family", None), rest.pop("model", None)
    if not isinstance(model, Mapping):
        raise _at(
            "model",
            f"{where} is no recipe: `model` should hold the model's settings, got {model!r:.80}. {_RUN}",
        )
    family = family or _family_of(dict(model))
    if not isinstance(family, str) or family not in families():
        near = nearest(str(family), families())
        raise _at(
            "family",
            f"{where}: `family` should name a kind of model that this version knows, got {family!r:.80}. {near} "
            "Otherwise update, or install the package that adds it.",
        )
    try:
        built = from_dict(families()[family].config, dict(model), f"{where}: model")
    except UserError as error:
        error.path = ("model", *error.path)
        raise
    return from_dict(Recipe, {**rest, "model": built}, where)


def _at(key: str, message: str) -> UserError:
    error = UserError(message)
    error.path = (key,)
    return error


def _family_of(values: dict[str, Any]) -> str | None:
    """The family whose configuration has these fields and the fewest others, for runs of versions that did not write
    it."""
    others: dict[str, int] = {}
    for name, family in families().items():
        known = {field.name for field in dataclasses.fields(family.config)}
        given = {current_name(family.config, key) for key in values}
        if given <= known:
            others[name] = len(known - given)
    return min(others, key=lambda name: others[name], default=None)


def build_family(name: str, values: dict[str, Any], where: str = "config.json") -> tuple[ModelConfig, Built]:
    """Configuration and model, with fresh weights, from what `save_pretrained` wrote.

    Raises:
        UserError: an unknown family or field, or a number out of range, naming `where` it was read.
    """
    family = _look_up(families(), name, "model family", _NO_FAMILY)
    config = from_dict(family.config, values, where)
    check_ranges(config, RANGES, f"{where}: ")
    return config, family.build(config)


def _look_up(table: dict[str, Any], name: str, what: str, where: str) -> Any:
    if check_type(what, name, str) in table:
        return table[name]
    raise UserError(f"There is no {what} `{name}`. {nearest(name, table)} {where}")
