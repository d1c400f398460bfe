"""Inputs of `predict` and `edit`: common options, input files, result folders, hints, and the batches of an input."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

import torch
import tyro
from jaxtyping import UInt8
from numpy import ndarray

from torchslots.data.sets.own_masks import check_label_map, read_mask_image
from torchslots.hub import load_model
from torchslots.inference.generation import SamplingOptions, with_sampling
from torchslots.inference.view import (
    FirstFrameHint,
    Patches,
    View,
    ViewKind,
    box_hint,
    mask_hint,
    read_boxes,
    view_of,
)
from torchslots.io import video
from torchslots.io.errors import UserError, memory_is_full
from torchslots.io.listing import list_videos
from torchslots.io.values import convert_fields
from torchslots.models.adjust import with_counts
from torchslots.models.model import ObjectCentricModel
from torchslots.models.slots.initializers import Gaussian, Learned
from torchslots.models.slots.poses import WithPoses
from torchslots.models.types import Batch, Prediction

BOTH = "Give either boxes or masks of the objects, not both."
Hint = Annotated[Path | ndarray | None, tyro.conf.arg(constructor=Path | None)]
"""A file or folder with a hint, or the hint itself."""
_UNCONDITIONAL = (Learned, Gaussian, WithPoses)


@dataclass(frozen=True)
class InputOptions:
    """Hints for the first frame, slots, and where to run."""

    boxes: Hint = None
    """JSON with the boxes of the first frame, [[ymin, xmin, ymax, xmax], ...] in [0, 1] of the whole frame; with
    several inputs a folder of NAME.json. In Python also the rows themselves. None: no boxes."""
    masks: Hint = None
    """Indexed or grey PNG with the objects of the first frame, 0 for background; with several inputs a folder of
    NAME.png. In Python also integer ids [H, W]. None: no masks."""
    view: ViewKind | None = None
    """What the model sees of a frame. `crop`: the rectangle of its own shape in the middle; `squeeze`: all of it,
    squeezed into that shape; `whole`: all of it at the frame's shape, for models on a vision transformer alone. None:
    squeeze for those, which shows everything on the grid that they were trained on; crop for others."""
    num_slots: int | None = None
    """Number of slots, background included, for models that sample them; None: as the model was built."""
    num_iterations: int | None = None
    """Rounds of slot attention in each frame; None: as the model was built."""
    seed: int = 0
    """Seed of sampled slots."""
    fps: float | None = None
    """Frames per second of the written videos; None: as the input, 12 for a folder of images."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; None: cuda or mps where there is one, else cpu."""
    backbone: str | None = None
    """Weights of the backbone of a model that was saved without: a file or a folder; None: from the hub."""
    void_id: int | None = 255
    """Value of void pixels in palette masks, which start no slot; None: no value is void."""
    allow_odd_masks: bool = False
    """Take masks that cannot be label maps: stored with loss, smoothed, or of hundreds of ids."""
    allow_damaged: bool = False
    """Go on where frames of a film are damaged, and list them; otherwise such a film is refused."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        convert_fields(self)
        self.require_positive("num_slots", "num_iterations", "fps")
        if self.view is not None and self.view not in get_args(ViewKind):
            raise UserError(f"There is no view `{self.view}`. Choose from: {', '.join(get_args(ViewKind))}.")

    def require_positive(self, *names: str) -> None:
        """Check that each of these options is None or more than 0.

        Raises:
            UserError: one is not.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, got {value}.")

    def ready(self, model: ObjectCentricModel | str | Path) -> ObjectCentricModel:
        """The model, loaded if it is a path or hub id, with the rounds and the sampling of the options.

        Raises:
            UserError: no such model, or options that it does not have.
        """
        if isinstance(model, str | Path):
            model = load_model(model, device=self.device, backbone=self.backbone)
        return with_sampling(with_counts(model, num_iterations=self.num_iterations), self.sampling)

    def frame_rate(self, source: Path, num_frames: int) -> float | None:
        """Frames per second of results of `num_frames` frames; None: a single image."""
        return None if num_frames == 1 else float(self.fps or video.fps(source) or 12)


class Job(NamedTuple):
    """An input, the folder of its results, and its hint."""

    source: Path
    target: Path
    hint: FirstFrameHint
    fault: str = ""
    """Why there is nothing to read; empty: there is."""

    def require(self) -> None:
        """Check that there is something to read.

        Raises:
            UserError: there is not.
        """
        if self.fault:
            raise UserError(self.fault)


def jobs_of(
    inputs: Path | str | Sequence[Path | str], out: Path | str, options: InputOptions, each: bool
) -> list[Job]:
    """A job for every input: images, videos, folders of frames, and what is in folders, down to one level.

    What is left out of a folder is noted. One of several inputs that is missing or holds nothing has a job with a
    fault.

    Args:
        each: every image of a folder is an input.

    Raises:
        UserError: no input or the only one is missing, a result folder that contains an input, hints that cannot be
            read, or one hint for many inputs.
    """
    given = [Path(path) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    if not given:
        raise UserError("There is no input. Give images, videos or folders of them.")
    found = [each_of for path in given for each_of in _found(path, each, alone=len(given) == 1)]
    sources = [source for source, _ in found]
    targets = _result_folders(sources, Path(out))
    shared = {name for name, number in Counter(source.name for source in sources).items() if number > 1}

    def hint(source: Path, target: Path, fault: str) -> FirstFrameHint:
        if fault:
            return FirstFrameHint()
        return _hint(source, target, options, len(sources), source.name in shared)

    return [
        Job(source, target, hint(source, target, fault), fault)
        for (source, fault), target in zip(found, targets)
    ]


def _found(path: Path, each: bool, alone: bool) -> list[tuple[Path, str]]:
    """The inputs of a path, each with its fault: of a path that is not `alone` and has none, itself with the reason.

    Raises:
        UserError: it is alone and there is no input.
    """
    try:
        return [(source, "") for source in _files(path, each)]
    except UserError as error:
        if alone:
            raise
        return [(path, str(error))]


def _files(path: Path, each: bool) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist. Check the name.")
    if not path.is_dir():
        return [path]
    found = list_videos(path, each)
    found.note(path)
    if not found.videos:
        kinds = ", ".join(ending[1:] for ending in (*video.IMAGE_SUFFIXES, *video.FILM_SUFFIXES))
        raise UserError(
            f"There is no input. {path} holds no images or videos, nor do the folders in it. Known are: {kinds}."
        )
    return found.videos


def _result_folders(sources: list[Path], out: Path) -> list[Path]:
    """A folder below `out` for each source, named as it, none of which contains the source.

    Of sources with one name all but the first get a number; names are compared without case, as some disks do.

    Raises:
        UserError: a folder would contain its source.
    """
    names = [source.resolve().name if source.is_dir() else source.stem for source in sources]
    taken = {name.casefold() for name in names}
    seen: set[str] = set()
    folders: list[Path] = []
    for source, name in zip(sources, names):
        if name.casefold() in seen:
            name = next(new for i in count(2) if (new := f"{name}_{i}").casefold() not in taken)
            taken.add(name.casefold())
        seen.add(name.casefold())
        folder = out / name
        if folder.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(
                f"The results of {source} would go to {folder}, which contains it. Choose another --out."
            )
        folders.append(folder)
    return folders


def _hint(source: Path, target: Path, options: InputOptions, num_inputs: int, shared: bool) -> FirstFrameHint:
    """The hint of an input; of a folder of hints the one with the file's whole name, unless that is `shared` with
    another input, else with its result's name."""
    if options.boxes is not None and options.masks is not None:
        raise UserError(BOTH)
    place, read, suffix = (options.boxes, read_boxes, "json")
    if options.masks is not None:
        place, read, suffix = (options.masks, partial(_read_mask, options), "png")
    if place is None:
        return FirstFrameHint()
    if isinstance(place, ndarray):
        if num_inputs > 1:
            raise UserError(
                f"One hint is given for {num_inputs} inputs. Give a folder with NAME.{suffix} for each."
            )
        return box_hint(place) if options.masks is None else array_mask(place, options.allow_odd_masks)
    if num_inputs > 1 and not place.is_dir():
        raise UserError(
            f"{place} is one hint for {num_inputs} inputs. Give a folder with NAME.{suffix} for each."
        )
    if place.is_dir():
        whole = place / f"{source.name}.{suffix}"
        place = whole if whole.is_file() and not shared else place / f"{target.name}.{suffix}"
    return read(place)


def _read_mask(options: InputOptions, file: Path) -> FirstFrameHint:
    """The hint of a mask image; void is background.

    Raises:
        UserError: not an image, a colour image, no label map, or a mask without objects.
    """
    return mask_hint(read_mask_image(file, options.void_id, options.allow_odd_masks), where=str(file))


def array_mask(ids: ndarray, allow_odd: bool = False) -> FirstFrameHint:
    """The hint of integer ids [H, W].

    Raises:
        UserError: an array of another shape or type, no label map, or only background.
    """
    hint = mask_hint(ids)
    if not allow_odd:
        check_label_map(ids, "The mask")
    return hint


class InputsFailed(UserError):
    """Some of several inputs failed; the others are done."""

    exit_code = 1

    def __init__(self, failed: list[str], done: Sequence[Any], total: int, out: Path) -> None:
        """Say which failed and why; one line where all failed alike.

        Args:
            failed: a message for each.
            done: results of the others.
        """
        self.failed, self.done = failed, done
        alike = len(set(failed)) == 1 and len(failed) == total
        listed = f" {failed[0]}" if alike else "".join(f"\n  {message}" for message in failed)
        super().__init__(
            f"{len(failed)} of {total} inputs failed:{listed}"
            + (" " if alike else "\n")
            + (f"{len(done)} of {total} inputs are finished, in {out}." if done else "No input is finished.")
        )


Item = TypeVar("Item")
Result = TypeVar("Result")


def run_each(
    items: Sequence[Item], run: Callable[[Item], Sequence[Result]], full: str
) -> tuple[list[Result], list[str]]:
    """The results of all, and the messages of those that failed; the others go on after one that fails.

    Args:
        full: message where the device's memory is full.

    Raises:
        UserError: the only one failed.
    """
    done: list[Result] = []
    failed: list[str] = []
    for item in items:
        try:
            done += run(item)
            continue
        except UserError as error:
            told = error
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            told = UserError(full)
        if len(items) == 1:
            raise told
        failed.append(str(told))
    return done, failed


Part = tuple[UInt8[ndarray, "T H W 3"], Batch]
"""A slice of an input: its frames, and the batch for the model."""


def batches(
    model: ObjectCentricModel,
    chunks: Iterator[UInt8[ndarray, "T H W 3"]],
    hint: FirstFrameHint,
    options: InputOptions,
    side: int | None = None,
) -> tuple[View, Iterator[Part]]:
    """The view of an input, and its slices.

    Args:
        side: height and width in pixels of the model's frames; None: the model's resolution.

    Raises:
        UserError: a hint for an unconditional model, both a hint and a number of slots, or a view that the model does
            not have.
    """
    first = next(chunks)
    resolution = tuple(model.config.resolution) if side is None else (side, side)
    view = view_of(first.shape[1:3], resolution, options.view, _patches(model))
    device = next(model.parameters()).device
    start: dict[str, Any] = {key: value.to(device) for key, value in view.conditioning(hint).items()}
    start["num_slots"] = _num_slots(model, hint, options.num_slots)
    start["generator"] = torch.Generator(device).manual_seed(options.seed)
    parts = ((frames, start | {"video": view.shrink(frames).to(device)}) for frames in chain([first], chunks))
    return view, parts


def _patches(model: ObjectCentricModel) -> Patches | None:
    encoder = model.feature_encoder
    return None if encoder is None else Patches(encoder.backbone.patch_size, encoder.antialias)


def _num_slots(model: ObjectCentricModel, hint: FirstFrameHint, asked: int | None) -> int | None:
    """The number of slots for the model; None: its own, or the hint's."""
    hinted = hint.boxes is not None
    if hinted and isinstance(model.slot_encoder.initializer, _UNCONDITIONAL):
        raise UserError(
            "This model finds objects without hints: leave boxes and masks out, or use a conditional model."
        )
    if hinted and asked is not None:
        raise UserError(
            "The hint decides the number of slots, one for each object and one more: leave num_slots out."
        )
    return asked if hint.ids is None else int(hint.ids.max()) + 1


def decodes_features_alone(model: ObjectCentricModel) -> bool:
    """Whether the model decodes slots to the features of patches, and to no images."""
    return model.feature_encoder is not None and set(model.decoder.targets) <= {"features"}


def slot_order(found: Prediction, hint: FirstFrameHint) -> list[int]:
    """The slots, the background first: without a hint it is the slot with the most pixels."""
    count = found.masks.shape[2]
    if hint.boxes is not None:
        return list(range(count))
    background = int(torch.bincount(found.segmentation.flatten().long().cpu(), minlength=count).argmax())
    return [background, *(slot for slot in range(count) if slot != background)]
