"""Generate videos of textured objects from slots: train a tokenizer, then slots and their decoder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchslots.cli.demo import videos
from torchslots.cli.demo.plan import UNTRAINED, Kind, Plan, Result, Sets, Shown, batches_of, percent
from torchslots.inference.plots import to_images
from torchslots.io import draw, video
from torchslots.models import edits
from torchslots.models.model import ObjectCentricModel
from torchslots.models.types import Clip, Decoded

if TYPE_CHECKING:
    from torchslots.evaluation.observers import Observer
    from torchslots.evaluation.page import Section
    from torchslots.evaluation.report import EvalReport

MEAN = "mean frame"
_OBJECTS = (2, 3)
"""Fewest and most objects in a video."""
_RENDERED = 64
"""Height and width of the generated videos; the recipes crop their middle."""
_FILMS, _ROWS = 3, 6
"""Numbers of held-out videos shown as films and as stills."""
_TILE = 128
_FPS = 6
_AVERAGED = 500
"""Number of training clips for the mean frame."""


def make_sets(plan: Plan) -> Sets:
    """Clips, whole held-out videos, and single frames for the tokenizer."""
    from torchslots.data.catalog import open_dataset

    assert plan.tokenizer is not None
    (fewest, most), wanted = _OBJECTS, plan.tokenizer.data
    sets = videos.make_sets(plan, variant="c", resolution=_RENDERED, min_objects=fewest, max_objects=most)
    frames = open_dataset("prepared", plan.data / "prepared", wanted.train_split, wanted, True)
    return sets._replace(frames=frames)


def observers(model: ObjectCentricModel, device: str) -> "Sequence[Observer]":
    """Reconstruction metrics of decoded frames, and of the tokenizer alone."""
    from torchslots.evaluation.observers import ReconstructionFigures
    from torchslots.evaluation.tokenizer import Ceiling
    from torchslots.io.devices import figures_device
    from torchslots.metrics.reconstruction import ReconstructionScores

    back = model.decoder.round_trip()
    assert back is not None
    return [
        ReconstructionFigures(ReconstructionScores(device=figures_device(device))),
        Ceiling(back, {}, device),
    ]


def mean_frame(plan: Plan, sets: Sets) -> "dict[str, EvalReport]":
    """Baseline: the mean training frame in place of every held-out one."""
    from torchslots.evaluation.report import EvalReport
    from torchslots.metrics.reconstruction import DEFINITIONS, ReconstructionScores

    mean, scores, videos_seen = _mean_frame(sets), ReconstructionScores(), 0
    for batch in batches_of(plan, sets.held_out, f"Evaluating: {MEAN}"):
        frames: Tensor = batch["video"][:, : plan.recipe.evaluation.num_frames]
        scores.add(mean.expand_as(frames), frames, batch.get("padding_mask"))
        scores.finish(batch["name"])
        videos_seen += len(frames)
    figures, notes = scores.compute()
    definitions = {name: DEFINITIONS[name] for name in figures}
    return {MEAN: EvalReport(figures, {}, videos_seen, definitions, notes, {})}


def _mean_frame(sets: Sets) -> Tensor:
    """[3, H, W], of single frames spread over the training set."""
    assert sets.frames is not None
    stride = max(1, len(sets.frames) // _AVERAGED)
    frames = [
        torch.as_tensor(sets.frames.sample(index, None)["video"])
        for index in range(0, len(sets.frames), stride)
    ]
    return torch.stack(frames).float().mean((0, 1))


def introduce(result: Result) -> str:
    """What was trained, and its figures."""
    plan, found = result.plan, result.plan.demo.name
    assert plan.tokenizer is not None
    fewest, most = _OBJECTS
    return (
        f"A small {plan.demo.about} was trained in two steps on {plan.count} generated videos of {fewest} to {most} "
        f"thrown, textured objects: a tokenizer by itself for {plan.tokenizer.optim.num_steps} steps, then slots and "
        f"{plan.demo.decoder} for {plan.recipe.optim.num_steps}. It has no labels of objects: it only learns to "
        f"generate each frame's code from the slots. On {result.own.num_videos} held-out "
        f"videos, the slots' attention has an FG-ARI of {percent(result, found, 'fg_ari')} over whole videos "
        f"and of {percent(result, found, 'fg_ari_frame')} over single frames; the same model before training has "
        f"{percent(result, UNTRAINED, 'fg_ari')} and {percent(result, UNTRAINED, 'fg_ari_frame')}. The frames that it "
        f"generates from slots have a PSNR of {_decibel(result, found, 'psnr')}; its tokenizer alone, which sees the "
        f"frame, has {_decibel(result, found, 'psnr_ceiling')}, which slots can hardly exceed; the mean of "
        f"all training frames has {_decibel(result, MEAN, 'psnr')}."
    )


def _decibel(result: Result, name: str, figure: str) -> str:
    value = result.reports[name].metrics.get(figure)
    return "no figure" if value is None else f"{value:.1f} dB"


class _Seen(NamedTuple):
    """One held-out video, its slots, and their reconstruction; frames are uint8 [T, H, W, 3]."""

    name: str
    frames: NDArray[np.uint8]
    truth: NDArray[np.integer]
    code: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    masks: NDArray[np.float32]
    clip: Clip

    @property
    def ids(self) -> NDArray[np.int64]:
        """Slot of each pixel [T, H, W]."""
        return self.masks.argmax(1)

    @property
    def colors(self) -> NDArray[np.int64]:
        """Palette index of each slot [K], that of its matched object."""
        return draw.match_colors(self.truth, self.ids, self.masks.shape[1])

    def overlay(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Ids in colours over enlarged frames."""
        return draw.overlay(self.frames, ids, size=_TILE)


def show(result: Result) -> Shown:
    """Reconstructions of held-out videos, as stills and films, and edited videos."""
    from torchslots.evaluation.page import Heading, Image, Text, Video
    from torchslots.evaluation.report import write_panel

    seen = [_look(result, index) for index in range(min(_ROWS, len(result.sets.held_out)))]
    folder = result.plan.pictures
    video.write_png(folder / "reconstructions.png", np.concatenate([_still(one) for one in seen]))
    sections: list[Section] = [
        Text(_HOW_TO_READ),
        Image(
            folder / "reconstructions.png", "The middle frame of held-out videos, from codes and from slots."
        ),
    ]
    for index, one in enumerate(seen[:_FILMS]):
        recon = {"tokenizer": one.code, "from slots": one.decoded}
        film = draw.clip_panel(
            one.frames, one.ids, truth=one.truth, recon=recon, masks=one.masks, tile=_TILE, columns=7
        )
        path, _ = write_panel(film, folder / f"video_{index}", _FPS, gif=True)
        sections.append(Video(path, f"Held-out video {one.name}"))
    film = _edited(result, seen[0], seen[1 % len(seen)])
    path, _ = write_panel(film, folder / "edited", _FPS, gif=True)
    video.write_png(folder / "edited.png", film[len(film) // 2])
    sections += [Heading("Slots edited"), Text(_EDITED), Video(path, "Two held-out videos, generated anew.")]
    return Shown(sections, {})


_HOW_TO_READ = (
    "The input; the tokenizer's reconstruction, which is an upper limit; the frames generated from slots alone; the "
    "true objects; and each slot's attention, in the same colours. The films also show the input under each mask."
)
_EDITED = (
    "Of each of two videos the slot that fits one of its true objects best was found (the truth serves for this choice "
    "alone). The first video is generated without it, then with the other video's in its place, and the second video "
    "with the first one's. Everything else in the frames comes from the slots that were left as they are; nothing "
    "is copied from the input."
)


@torch.no_grad()
def _look(result: Result, index: int) -> _Seen:
    from torchslots.data.batch import collate

    batch = collate([result.sets.held_out.sample(index, None)])
    frames = batch["video"].to(result.plan.device)
    clip = result.model.encode({"video": frames})
    decoded, back = result.model.decoder.decode(clip), result.model.decoder.round_trip()
    assert back is not None
    return _Seen(
        batch["name"][0],
        to_images(frames[0]),
        batch["segmentations"][0].numpy(),
        to_images(back(frames[0])),
        _frames(decoded),
        decoded.masks[0].float().cpu().numpy(),
        clip,
    )


def _still(seen: _Seen) -> NDArray[np.uint8]:
    """A row of labelled images of the middle frame."""
    images = {
        "input": draw.scale_up(seen.frames, _TILE),
        "tokenizer": draw.scale_up(seen.code, _TILE),
        "from slots": draw.scale_up(seen.decoded, _TILE),
        "true objects": seen.overlay(seen.truth),
        "slots": seen.overlay(seen.colors[seen.ids]),
    }
    middle = len(seen.frames) // 2
    return draw.contact_sheet(
        [film[middle] for film in images.values()], list(images), columns=len(images), tile=_TILE
    )


@torch.no_grad()
def _edited(result: Result, first: _Seen, second: _Seen) -> NDArray[np.uint8]:
    """Labelled frames: each video, the first without an object, and both with an object exchanged."""
    mine, theirs = _best_slot(first), _best_slot(second)
    decoder = result.model.decoder
    without = decoder.decode(edits.remove(first.clip, [mine]))
    swapped = [decoder.decode(clip) for clip in edits.swap(first.clip, second.clip, [(mine, theirs)])]
    films = {
        "first: input": first.frames,
        "from slots": first.decoded,
        f"without slot {mine}": _frames(without),
        "with the other's": _frames(swapped[0]),
        "second: input": second.frames,
        "from slots ": second.decoded,
        f"slot {theirs} exchanged": _frames(swapped[1]),
    }
    sheets = [
        draw.contact_sheet([film[t] for film in films.values()], list(films), columns=4, tile=_TILE)
        for t in range(len(first.frames))
    ]
    return np.stack(sheets)


def _best_slot(seen: _Seen) -> int:
    """The slot whose pixels agree best with those of one true object, over the whole video."""
    ids, best = seen.ids, (-1.0, 0)
    for slot in range(seen.masks.shape[1]):
        for thing in range(1, int(seen.truth.max()) + 1):
            mine, its = ids == slot, seen.truth == thing
            agreement = float((mine & its).sum() / max(1, (mine | its).sum()))
            best = max(best, (agreement, slot))
    return best[1]


def _frames(decoded: Decoded) -> NDArray[np.uint8]:
    return to_images(decoded.recon["video"][0])


GENERATION = Kind(
    unit="videos",
    count=600,
    held_out=32,
    monitor="fg_ari",
    make_sets=make_sets,
    introduce=introduce,
    show=show,
    baselines=mean_frame,
    observers=observers,
)
