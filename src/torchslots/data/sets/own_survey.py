"""What training makes of a folder of your own images and videos: which clips, how long, how large, and what not."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torchslots.data.sets.own_files import (
    existing_splits,
    listed,
    of_unknown_kind,
    split_clips,
)
from torchslots.io.counts import count_text
from torchslots.io.errors import UserError
from torchslots.io.images import image_files, image_size
from torchslots.io.progress import progress
from torchslots.io.video import IMAGE_SUFFIXES, frame_count, read_frames

_NAMED = 10
_KNOWN_SPLITS = ("train", "validation")


class OwnClip(NamedTuple):
    """One clip that can be read."""

    path: Path
    num_frames: int
    size: tuple[int, int]
    """Height and width in pixels."""


@dataclass
class OwnSurvey:
    """The clips of a folder, and what cannot be used."""

    root: Path
    clips: list[OwnClip] = field(default_factory=list)
    unusable: list[tuple[Path, str]] = field(default_factory=list)
    """Clips that cannot be read, and why; training stops at them, or leaves them out with --skip-corrupt."""
    unknown: list[Path] = field(default_factory=list)
    """Files that are no image or video by name; training does not begin beside them."""
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    """Other files and folders that are passed over, and why."""
    splits: dict[str, list[Path]] = field(default_factory=dict)
    """Clips that are trained on, and those that are held out."""

    def longest(self, split: str) -> int:
        """Frames of the longest clip of a split that can be read; 0: there is none."""
        wanted = set(self.splits.get(split, ()))
        return max((clip.num_frames for clip in self.clips if clip.path in wanted), default=0)

    def unreadable(self, split: str) -> list[str]:
        """Why the clips of a split cannot be read, where it has some and none can."""
        wanted = set(self.splits.get(split, ()))
        return [] if self.longest(split) else [why for path, why in self.unusable if path in wanted]


def survey_own_files(root: Path) -> OwnSurvey:
    """Read the first frame of every clip and count its frames.

    Raises:
        UserError: no such folder.
    """
    folders = [root / split for split in existing_splits(root)] or [root]
    found = OwnSurvey(root)
    paths: list[Path] = []
    for folder in folders:
        listing = listed(folder)
        unknown = of_unknown_kind(listing, folder)
        paths += listing.videos
        found.unknown += unknown
        found.left_out += [(path, why) for path, why in listing.left_out if path not in unknown]
    with progress("Looking at clips", len(paths), "clips") as advance:
        for path in paths:
            _add(found, path)
            advance(1)
    if not found.unknown:
        found.splits = {split: clips for split in _KNOWN_SPLITS if (clips := _split(root, split))}
    return found


def _add(found: OwnSurvey, path: Path) -> None:
    try:
        count = frame_count(path)
        found.clips.append(OwnClip(path, count, read_frames(path, 0, 1).shape[1:3]))
    except UserError as error:
        found.unusable.append((path, str(error)))


def _split(root: Path, split: str) -> list[Path]:
    try:
        return split_clips(root, split)
    except UserError:  # there is no such split, which the survey shows
        return []


def explain_own_files(root: Path) -> list[str]:
    """Sentences on what training uses of a folder, what not and why, and how to begin.

    Raises:
        UserError: no such folder, or nothing in it can be used.
    """
    found = survey_own_files(root)
    if not found.clips:
        raise UserError(_nothing(found))
    lines = [
        f"Used: {_counted(found)}.",
        *_lengths(found),
        *_sizes(found),
        *_division(found),
        *_photos(found),
    ]
    lines += _named("Left out", [f"{_short(path, root)} ({why})" for path, why in found.left_out])
    lines += _named("Cannot be read", [f"{_short(path, root)}: {why}" for path, why in found.unusable])
    lines += _named("Of unknown kind", [_short(path, root) for path in found.unknown])
    return [*lines, *_next(found)]


def _nothing(found: OwnSurvey) -> str:
    reasons = [why for _, why in found.unusable] + [
        f"{path} is no image or video by name." for path in found.unknown
    ]
    if not reasons:
        return f"{found.root} is empty: no image, video or folder of images. Put your clips there."
    more = f" So it is with {count_text(len(reasons) - 1, 'other')}." if len(reasons) > 1 else ""
    return f"Nothing in {found.root} can be used. {reasons[0]}{more}"


def _counted(found: OwnSurvey) -> str:
    folders = sum(clip.path.is_dir() for clip in found.clips)
    images = sum(clip.path.suffix.lower() in IMAGE_SUFFIXES and clip.num_frames == 1 for clip in found.clips)
    films = len(found.clips) - folders - images
    kinds = ((films, "video", ""), (images, "single image", ""), (folders, "folder", " of frames"))
    named = [f"{count} {kind}{'s' * (count > 1)}{rest}" for count, kind, rest in kinds if count]
    return f"{_clips(len(found.clips))} ({', '.join(named)})"


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"


def _lengths(found: OwnSurvey) -> Iterator[str]:
    counts = [clip.num_frames for clip in found.clips]
    yield f"Frames: {sum(counts):,}; a clip has {min(counts)} to {max(counts)}."


def _sizes(found: OwnSurvey) -> Iterator[str]:
    sizes = Counter(clip.size for clip in found.clips).most_common()
    named = ", ".join(f"{width} x {height} ({count})" for (height, width), count in sizes[:_NAMED])
    yield f"Pixels: {named}{' and others' if len(sizes) > _NAMED else ''}."
    hidden = max(1 - min(size) / max(size) for size, _ in sizes)
    if hidden > 0.02:
        yield (
            f"Of each frame the central square is seen: of the longest shape {100 * hidden:.0f} % at the sides is not. "
            "Where objects are there, give --data.crop TOP LEFT HEIGHT WIDTH, or cut the frames yourself."
        )


def _division(found: OwnSurvey) -> Iterator[str]:
    if found.unknown:
        return
    train, held_out = (found.splits.get(split, []) for split in _KNOWN_SPLITS)
    if train and train == held_out:
        yield "The only clip is trained on and evaluated: nothing is held out. Cut a part of it off as a second file."
    elif train and held_out:
        own = bool(existing_splits(found.root))
        why = "the folders train and validation" if own else "chosen by name, always the same"
        names = [_short(path, found.root) for path in held_out]
        broken = {path for path, _ in found.unusable}
        readable = sum(path not in broken for path in train)
        yield f"Trained on: {_clips(readable)}. Held out to evaluate ({why}): {_list(names)}."
        if found.unreadable(_KNOWN_SPLITS[1]):
            yield (
                "No held-out clip can be read, so nothing could be evaluated: remove what cannot be read, or make the "
                f"folders {' and '.join(_KNOWN_SPLITS)}."
            )
    else:
        missing = next(split for split in _KNOWN_SPLITS if not found.splits.get(split))
        yield f"There is no clip for `{missing}`: make the folder {found.root / missing}, or remove the other folders."


def _photos(found: OwnSurvey) -> Iterator[str]:
    """Folders whose images differ in size, which are no frames of one video."""
    for clip in found.clips:
        if clip.path.is_dir():
            files = image_files(clip.path)
            sizes = {image_size(file) for file in files[:: max(1, len(files) // _NAMED)]}
            if len(sizes) > 1:
                yield (
                    f"{_short(clip.path, found.root)} holds images of several sizes, and is read as one video. If they "
                    "are photos, move them to the top of the folder: there each image is a clip of its own."
                )


def _next(found: OwnSurvey) -> Iterator[str]:
    if found.unknown:
        yield "Training does not begin beside files of unknown kind: convert them or move them away."
    elif found.unusable:
        yield "Training does not begin with clips that cannot be read: remove them, or give --skip-corrupt."
    else:
        root = shlex.quote(str(found.root))
        yield f"Next: torchslots train slots_video --data folder --root {root} --run-dir runs/mine"


def _named(title: str, names: Sequence[str]) -> list[str]:
    return [f"{title}: {_list(names)}."] if names else []


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name.rstrip(".") for name in names[:_NAMED]) + more


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
