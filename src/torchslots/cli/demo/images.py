"""Objects found in generated Tetrominoes, and slots with poses moved."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from torchslots.cli.demo.plan import UNTRAINED, Kind, Plan, Result, Sets, Shown, percent
from torchslots.inference.plots import plot_poses, to_images
from torchslots.io import video
from torchslots.io.counts import count_text
from torchslots.io.draw import contact_sheet, scale_up
from torchslots.models import edits
from torchslots.models.types import Clip, Decoded, Pose

if TYPE_CHECKING:
    from torchslots.evaluation.page import Section

_OTHER_SEED = 1_000_003
"""Added to the seed of the held-out images."""
_TILE = 175
_STEP = 0.5
"""Distance by which a slot is moved towards the centre, in halves of the image."""
_HOW_TO_READ = (
    "From left to right and top to bottom: the input; the true objects; the predicted ones, in the same colours; "
    "the reconstruction; and each slot's reconstruction under its mask."
)


def make_sets(plan: Plan) -> Sets:
    """Generate images to train on and, with another seed, images to evaluate on."""
    from torchslots.data.catalog import open_dataset
    from torchslots.sim.generate_images import generate_images

    wanted, parts = plan.recipe.data, (("train", plan.count, 0), ("held_out", plan.held_out, _OTHER_SEED))
    for name, count, offset in parts:
        generate_images(plan.data / name, kind="tetrominoes", count=count, seed=plan.seed + offset)
    train, held_out = (
        open_dataset(wanted.dataset, plan.data / name, "all", wanted, name == "train") for name, _, _ in parts
    )
    return Sets(train, held_out)


def introduce(result: Result) -> str:
    """What was trained, and its figures."""
    found = result.plan.demo.name
    return (
        f"A small {result.plan.demo.about} was trained for {count_text(result.plan.recipe.optim.num_steps, 'step')} of "
        f"{result.plan.recipe.train.batch_size} images on {result.plan.count} generated Tetrominoes, without labels "
        f"of objects: its slots together reconstruct each image. On {result.own.num_videos} held-out images "
        f"it reaches an FG-ARI of {percent(result, found, 'fg_ari')}; the same model before training "
        f"has {percent(result, UNTRAINED, 'fg_ari')}. FG-ARI is 100 where every object is one slot, and 0 where the "
        "grouping is no better than chance; it leaves the background out, ARI does not."
    )


def show(result: Result) -> Shown:
    """Held-out images with their slots."""
    from torchslots.evaluation.page import Image, Text

    sections: list[Section] = [Text(_HOW_TO_READ)]
    for index, plotted in enumerate(result.own.panels):
        path = result.plan.pictures / f"image_{index}.png"
        video.write_png(path, plotted.panel(_TILE)[0])
        sections.append(Image(path, f"Held-out image {index}"))
    return Shown(sections, {})


class _Seen(NamedTuple):
    """One held-out image [H, W, 3], its slots and their reconstruction."""

    image: NDArray[np.uint8]
    clip: Clip
    decoded: Decoded

    @property
    def ids(self) -> NDArray[Any]:
        """Slot of each pixel [H, W]."""
        return self.decoded.masks[0, 0].argmax(0).cpu().numpy()

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each slot [K]."""
        return np.bincount(self.ids.ravel(), minlength=self.decoded.masks.shape[2])

    @property
    def pose(self) -> Pose:
        assert self.clip.pose is not None
        return self.clip.pose.map(lambda part: part[0, 0])


def show_poses(result: Result) -> Shown:
    """As `show`, and the slots' positions, and one slot moved."""
    from torchslots.evaluation.page import Heading, Image, Text

    plain = show(result)
    rows = [_look(result, index) for index in range(min(4, len(result.sets.held_out)))]
    path = result.plan.pictures / "moved.png"
    video.write_png(path, np.concatenate([_row(result, seen) for seen in rows]))
    sections: list[Section] = [
        Heading("Slots have positions"),
        Text(_MOVED),
        Image(
            path, "Four held-out images: input, positions, decoded by the model, decoded with one slot moved."
        ),
    ]
    return Shown(plain.sections + sections, {})


_MOVED = (
    "A cross marks each slot's position, which the model learned without labels. The slot of the largest "
    "region, the background, is left out. The last image of each row is decoded from the same slots after the "
    "position of one of them, and nothing else, was changed by a quarter of the image's height and width: its object "
    "should be at the cross, of the same shape and colour, and the others should not change. What remains at its old "
    "position was decoded from another slot."
)


@torch.no_grad()
def _look(result: Result, index: int) -> _Seen:
    from torchslots.data.batch import collate
    from torchslots.models.slots.seeding import seeded

    batch = seeded(collate([result.sets.held_out.sample(index, None)]), 0, index)
    batch["video"] = batch["video"].to(result.plan.device)
    clip = result.model.encode(batch)
    return _Seen(to_images(batch["video"][0, 0]), clip, result.model.decoder.decode(clip))


@torch.no_grad()
def _row(result: Result, seen: _Seen) -> NDArray[np.uint8]:
    background, slot = int(seen.areas.argmax()), int(seen.areas.argsort()[-2])
    y, x = seen.pose.position[slot].tolist()
    moved = edits.move(seen.clip, slot, -_STEP if y > 0 else _STEP, -_STEP if x > 0 else _STEP)
    decoded = result.model.decoder.decode(moved).recon["video"]
    hidden = tuple({background, *np.flatnonzero(seen.areas == 0).tolist()})
    assert moved.pose is not None
    there = tuple(other for other in range(len(seen.areas)) if other != slot)
    images = {
        "input": scale_up(seen.image, _TILE),
        "positions": plot_poses(seen.image, seen.pose, seen.decoded.masks[0, 0].cpu().numpy(), hidden=hidden),
        "decoded": scale_up(to_images(seen.decoded.recon["video"][0, 0]), _TILE),
        f"slot {slot} moved": plot_poses(
            to_images(decoded[0, 0]), moved.pose.map(lambda part: part[0, 0]), hidden=there
        ),
    }
    return contact_sheet(list(images.values()), list(images), tile=_TILE)


DISCOVERY = Kind(
    unit="images",
    count=8000,
    held_out=320,
    monitor="fg_ari",
    make_sets=make_sets,
    introduce=introduce,
    show=show,
)
POSES = replace(DISCOVERY, show=show_poses)
