"""Find which data set a folder holds, by its files."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchslots.data.find import folders
from torchslots.data.sets import coco, davis, frame_folders, multi_object, voc, youtube_vis
from torchslots.io.errors import UserError
from torchslots.io.files import hidden

_RECORDS = re.compile(r"(.+)-[^-]+\.tfrecord(-\d{5,}-of-\d{5,})?")
_OTHER_NAMES = {
    "msn_easy_frames": "multishapenet_easy",
    "multi_dsprites_colored_on_grayscale": "multi_dsprites",
}
"""Names in file names, and in the catalog."""


_PRESENT: dict[str, Callable[[Path], bool]] = {
    "coco": coco.present,
    "voc": voc.present,
    "davis_2017": davis.present,
    **{name: partial(youtube_vis.present, name) for name in youtube_vis.TITLES},
}
"""Sets of photographs, and whether one lies in a folder."""


def recognise(folder: Path) -> str:
    """The name of the data set in a folder; for TFDS records their own name, in the catalog or not.

    Raises:
        UserError: there are several data sets.
    """
    below = list(folders(folder, "a data set"))
    files = (file.name for place in below for file in place.glob("*.tfrecord*") if not hidden(file))
    names = {match[1] for name in files if (match := _RECORDS.fullmatch(name))}
    names |= {name for name, present in _PRESENT.items() if any(map(present, below))}
    if len(names) > 1:
        raise UserError(
            f"{folder} holds several data sets: {', '.join(sorted(names))}. Give one of these names with --root."
        )
    name = next(iter(names), None) or multi_object.recognise(folder) or frame_folders.recognise(folder)
    if name is None:
        return "prepared" if any(folder.glob("*/meta.json")) else "folder"
    return _OTHER_NAMES.get(name, name)
