"""Table of original programs: one row says how a program's checkpoints are recognised, sized, named and laid out."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchslots.convert.layouts import OTHER_RECIPE, Arrays, Shapes, WeightMap, fits, to_ours
from torchslots.convert.originals import (
    dinosaur,
    dvae,
    ftdinosaur,
    isa,
    savi,
    savi_slotdiffusion,
    slot_attention,
    slot_attention_layout,
    slotdiffusion,
    statm,
    steve,
    steve_joint,
    videosaur,
    vqvae,
)
from torchslots.convert.readers import flax as flax_reader
from torchslots.convert.readers import tensorflow as tensorflow_reader
from torchslots.convert.readers import torch as torch_reader
from torchslots.convert.readers.checkpoint import Checkpoint
from torchslots.convert.readers.torch import TorchCheckpoint
from torchslots.io.errors import UserError, first_line
from torchslots.io.files import refuse_page
from torchslots.io.json_files import read_object
from torchslots.models.weights import shapes
from torchslots.recipes import catalog
from torchslots.recipes.config import ModelConfig
from torchslots.recipes.dinosaur import DinosaurConfig
from torchslots.recipes.feature_slots import FeatureSlotsConfig
from torchslots.recipes.ftdinosaur import FtDinosaurConfig
from torchslots.recipes.isa import IsaConfig
from torchslots.recipes.savi import SaviConfig
from torchslots.recipes.savi_slotdiffusion import SaviPytorchConfig
from torchslots.recipes.slot_attention import SlotAttentionConfig
from torchslots.recipes.slotdiffusion import SlotDiffusionConfig
from torchslots.recipes.statm import StatmConfig
from torchslots.recipes.steve import SteveConfig
from torchslots.recipes.steve_joint import SteveJointConfig
from torchslots.recipes.tokenizers import DvaeConfig, VqvaeConfig

_BUFFER = re.compile(
    r".*\.(grid|running_mean|running_var|num_batches_tracked)|dm_decoder\.[^.]+|models\.object_decoder\.mask"
)
"""Names in a state dict that are no parameters: position grids, statistics, the tables of a noise schedule, masks."""


@dataclass(frozen=True)
class Reader:
    """A format of checkpoint files.

    Args:
        holds: whether a file, prefix or folder is of this format.
        read: what it holds.
    """

    holds: Callable[[Path], bool]
    read: Callable[[Path], Checkpoint | TorchCheckpoint]


FLAX = Reader(flax_reader.holds, flax_reader.read)
TENSORFLOW = Reader(tensorflow_reader.is_checkpoint, slot_attention.read)
TORCH = Reader(torch_reader.holds, torch_reader.read)
_READERS = (FLAX, TENSORFLOW, TORCH)
"""Tried in this order: trainers in flax write an empty TensorFlow checkpoint beside their own file."""


@dataclass(frozen=True)
class Program:
    """One original program's way from a checkpoint to a model.

    Args:
        title: its name in messages.
        reader: the format of its checkpoints.
        mark: beginning of a name that its checkpoints have, and those of no later row of the same format.
        config: the class of the model's configuration.
        from_shapes: the configuration by the names and shapes of the arrays alone.
        from_reference: the configuration by the original's own, and by names and shapes.
        leaves: which array goes where.
        like: a recipe's configuration, changed to what names and shapes show.
        arrays: those of the checkpoint's arrays that our model has.
        configures: whether `model` in an original's configuration says that it is of this program.
        decoder: begins the names of the parameters in the second group of the original's optimiser; None: one group.
        frozen: begins the names of parameters in no group, which its trainer does not train.
        assumed: sentences on what of a configuration the arrays do not show; empty: they show everything.
    """

    title: str
    reader: Reader
    mark: str
    config: type[ModelConfig]
    from_shapes: Callable[[Shapes], ModelConfig]
    from_reference: Callable[[Any, Shapes], ModelConfig]
    leaves: Callable[[Any], list[WeightMap]]
    like: Callable[[Any, Shapes], ModelConfig] = lambda config, shapes: config
    arrays: Callable[[Arrays, Any, str], Arrays] = lambda arrays, config, where: arrays
    configures: Callable[[Any], bool] = lambda model: False
    decoder: str | None = None
    frozen: str | None = None
    assumed: Callable[[Any], str] = lambda config: ""

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Names of a torch optimiser's parameters by group, in its order, from all names of a state dict.

        What belongs to the decoder is in the second group whether it is trained or not, boolean masks included.
        """
        found = [name for name in names if not _BUFFER.fullmatch(name)]
        second = [name for name in found if self.decoder is not None and name.startswith(self.decoder)]
        frozen = [name for name in found if self.frozen is not None and name.startswith(self.frozen)]
        first = [name for name in found if name not in {*second, *frozen}]
        return [first] if self.decoder is None else [first, second]


def _alone(from_reference: Callable[[Any], ModelConfig]) -> Callable[[Any, Shapes], ModelConfig]:
    """For programs whose configuration says everything."""
    return lambda reference, _: from_reference(reference)


def _named(*names: str) -> Callable[[Any], bool]:
    """For programs whose configuration names the model."""
    return lambda model: model in names


PROGRAMS = (
    Program(
        "STATM",
        FLAX,
        "TimeSpaceTransformerBlock",
        StatmConfig,
        statm.from_shapes,
        statm.from_reference,
        statm.leaves,
        like=statm.like,
        configures=statm.configures,
    ),
    Program(
        "Invariant Slot Attention",
        FLAX,
        "SiameseSpatialBroadcastDecoder_0",
        IsaConfig,
        isa.from_shapes,
        isa.from_reference,
        isa.leaves,
        like=isa.like,
        configures=isa.configures,
    ),
    Program(
        "SAVi",
        FLAX,
        "TransformerBlock_0",
        SaviConfig,
        savi.from_shapes,
        savi.from_reference,
        savi.leaves,
        like=savi.like,
        configures=savi.configures,
    ),
    Program(
        "Slot Attention",
        TENSORFLOW,
        "slot_attention/",
        SlotAttentionConfig,
        slot_attention.from_shapes,
        slot_attention.from_reference,
        slot_attention_layout.leaves,
        like=slot_attention.like,
        configures=_named("object_discovery", "set_prediction"),
    ),
    Program(
        "SlotDiffusion",
        TORCH,
        "dm_decoder.",
        SlotDiffusionConfig,
        slotdiffusion.from_shapes,
        _alone(slotdiffusion.from_reference),
        slotdiffusion.leaves,
        arrays=lambda params, config, where: slotdiffusion.without_schedule(params, config.diffusion, where),
        configures=_named("SAViDiffusion"),
        decoder="dm_decoder.",
    ),
    Program(
        "STEVE",
        TORCH,
        "trans_decoder.",
        SteveConfig,
        steve.from_shapes,
        _alone(steve.from_reference),
        steve.leaves,
        arrays=steve.without_masks,
        configures=_named("STEVE"),
        decoder="trans_decoder.",
        frozen="dvae.",
    ),
    Program(
        "DINOSAUR",
        TORCH,
        dinosaur.MARK,
        DinosaurConfig,
        dinosaur.from_shapes,
        dinosaur.from_reference,
        dinosaur.leaves,
        like=dinosaur.like,
        arrays=dinosaur.without_mask,
    ),
    Program(
        "FT-DINOSAUR",
        TORCH,
        ftdinosaur.MARK,
        FtDinosaurConfig,
        ftdinosaur.from_shapes,
        ftdinosaur.from_reference,
        ftdinosaur.leaves,
        like=ftdinosaur.like,
    ),
    Program(
        "SAVi of SlotDiffusion's code",
        TORCH,
        "slot_attention.",
        SaviPytorchConfig,
        savi_slotdiffusion.from_shapes,
        _alone(savi_slotdiffusion.from_reference),
        savi_slotdiffusion.leaves,
        configures=_named("SAVi"),
    ),
    Program(
        "VQ-VAE",
        TORCH,
        "quantize.embedding.",
        VqvaeConfig,
        vqvae.from_shapes,
        _alone(vqvae.from_reference),
        vqvae.leaves,
        arrays=lambda params, config, where: vqvae.without_loss(params),
        configures=_named("VQVAE"),
        frozen="loss.",
    ),
    Program(
        "STEVE's discrete VAE",
        TORCH,
        "encoder.0.m.",
        DvaeConfig,
        dvae.from_shapes,
        _alone(dvae.from_reference),
        dvae.leaves,
        configures=_named("dVAE"),
    ),
    Program(
        "STEVE of its authors",
        TORCH,
        "steve_encoder.",
        SteveJointConfig,
        steve_joint.from_shapes,
        _alone(steve_joint.from_reference),
        steve_joint.leaves,
        arrays=steve_joint.joined,
    ),
    Program(
        "VideoSAUR's code",
        TORCH,
        videosaur.MARK,
        FeatureSlotsConfig,
        videosaur.from_shapes,
        videosaur.from_reference,
        videosaur.leaves,
        configures=videosaur.configures,
        assumed=videosaur.assumed,
    ),
)


def open_original(source: Path) -> tuple[Program, Checkpoint | TorchCheckpoint]:
    """The program that wrote a checkpoint, and the checkpoint's content.

    Raises:
        UserError: a file that is damaged, or of no program in the table.
    """
    reader, read = read_original(source)
    return program_of(read, reader), read


def read_original(source: Path) -> tuple[Reader, Checkpoint | TorchCheckpoint]:
    """What a checkpoint holds, and the format that it is in.

    Raises:
        UserError: a file that is damaged, a web page, or in no known format; a folder with several checkpoints in its
            folders.
    """
    place = _holder(source)
    refuse_page(place)
    reader = _reader(place) or FLAX
    return reader, reader.read(place)


def _reader(place: Path) -> Reader | None:
    return next((reader for reader in _READERS if reader.holds(place)), None)


def _holder(source: Path) -> Path:
    """The file or folder with the checkpoint: `source`, or the one folder in it that holds one.

    Raises:
        UserError: several folders hold one.
    """
    if not source.is_dir() or _reader(source):
        return source
    inner = sorted(
        folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    found = [folder for folder in inner if _reader(folder)]
    if len(found) > 1:
        raise UserError(
            f"{source} holds {len(found)} checkpoints. Give one: {', '.join(map(str, found[:5]))}."
        )
    return found[0] if found else source


def program_of(read: Checkpoint | TorchCheckpoint, reader: Reader) -> Program:
    """The program that a checkpoint of a format is of, by the names in it.

    Raises:
        UserError: no program in the table has such names.
    """
    known = [program for program in PROGRAMS if program.reader is reader]
    for program in known:
        if any(name.startswith(program.mark) for name in read.params):
            return program
    tops = sorted({name.split("/")[0] for name in read.params})
    raise UserError(
        f"{read.path} holds {', '.join(tops)[:200]}: not a checkpoint of "
        f"{', '.join(program.title for program in known)}. Give one that an original trainer wrote."
    )


def configuration(
    program: Program, read: Checkpoint | TorchCheckpoint, recipe: str | None, reference: Path | None
) -> ModelConfig:
    """Configuration of a checkpoint's model.

    Args:
        recipe: name of the recipe that has it. None, without `reference`: recognised by names and shapes.
        reference: file with the original's own configuration.

    Raises:
        UserError: another program's recipe or configuration, with the right ones' names; sizes that fit nothing.
    """
    found = shapes(read.params)
    if reference is not None:
        return _from_reference(program, read.path, _read_reference(reference, read.path, program), found)
    if recipe is not None:
        config = catalog.recipe(recipe).model
        if not isinstance(config, program.config):
            ours = [name for name, found in catalog.find_recipes() if isinstance(found.model, program.config)]
            raise UserError(
                f"{read.path} is a checkpoint of {program.title}, and recipe {recipe} is of another system. Leave "
                f"--recipe out, or choose one of {', '.join(ours[:5])}{', ...' if len(ours) > 5 else ''}."
            )
        with _about(read.path):
            return program.like(config, found)
    with _about(read.path):
        return program.from_shapes(found)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Put the file's name in front of errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def weights(
    program: Program,
    read: Checkpoint | TorchCheckpoint,
    config: ModelConfig,
    remedy: str = OTHER_RECIPE,
) -> dict[str, Any]:
    """Our state dict from a checkpoint, which must have exactly the arrays that our model has.

    Args:
        remedy: end of the message: what to do.

    Raises:
        UserError: missing or left-over arrays.
    """
    arrays = program.arrays(read.params, config, str(read.path))
    return to_ours(program.leaves(config), arrays, str(read.path), remedy)


def has_weights_of(program: Program, read: Checkpoint | TorchCheckpoint, config: ModelConfig) -> bool:
    """Whether the arrays of a checkpoint are exactly those of a model, by names and shapes."""
    if not isinstance(config, program.config):
        return False
    try:
        arrays = program.arrays(read.params, config, str(read.path))
        return fits(program.leaves(config), partial(catalog.build, config), shapes(arrays))
    except UserError:
        return False


def moments(
    program: Program, read: Checkpoint | TorchCheckpoint, config: ModelConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Adam's first and second moments by our names; empty where the file has none.

    Raises:
        UserError: an optimiser of another model.
    """
    leaves = program.leaves(config)
    if isinstance(read, TorchCheckpoint):
        both = read.moments(program.groups(list(read.params)))
        leaves = [leaf for leaf in leaves if leaf.path in both[0]]
    else:
        both = read.first_moments, read.second_moments
    first, second = (to_ours(leaves, part, str(read.path)) if part else {} for part in both)
    return first, second


def _from_reference(program: Program, path: Path, reference: Mapping[str, Any], found: Shapes) -> ModelConfig:
    try:
        with _about(path):
            return program.from_reference(reference, found)
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise UserError(
            f"{path} is a checkpoint of {program.title} that the configuration given does not fit: "
            f"{first_line(error)}. Give the one that it was trained with, or leave --config out."
        ) from error


def _read_reference(file: Path, checkpoint: Path, program: Program) -> dict[str, Any]:
    """An original's own configuration as JSON, which may stand under `config`.

    Raises:
        UserError: no JSON, no fields, or the configuration of another program.
    """
    values = read_object(
        file, "Give the original configuration that the checkpoint was trained with, as JSON."
    )
    inner = values["config"] if isinstance(values.get("config"), dict) else values
    models = [part.get("model") for part in (values, inner)]
    found = next((program for model in models for program in PROGRAMS if program.configures(model)), None)
    if found is not None and found.title != program.title:
        raise UserError(
            f"{checkpoint} is a checkpoint of {program.title}, and {file} configures {found.title}. Give the "
            "configuration that it was trained with, or leave --config out."
        )
    return inner
