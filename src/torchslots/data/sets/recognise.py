"""Find which data set a folder holds, by its files."""

import re
from pathlib import Path

from torchslots.data.find import folders
from torchslots.data.sets import frame_folders, multi_object
from torchslots.io.errors import UserError

_RECORDS = re.compile(r"(.+)-[^-]+\.tfrecord(-\d{5,}-of-\d{5,})?")
_OTHER_NAMES = {
    "msn_easy_frames": "multishapenet_easy",
    "multi_dsprites_colored_on_grayscale": "multi_dsprites",
}
"""Names in file names, and in the catalog."""


def recognise(folder: Path) -> str:
    """The name of the data set in a folder; for TFDS records their own name, in the catalog or not.

    Raises:
        UserError: there are several data sets.
    """
    files = (file.name for below in folders(folder, "a data set") for file in below.glob("*.tfrecord*"))
    names = sorted({match[1] for name in files if (match := _RECORDS.fullmatch(name))})
    if len(names) > 1:
        raise UserError(
            f"{folder} holds several data sets: {', '.join(names)}. Give one of these names with --root."
        )
    name = names[0] if names else multi_object.recognise(folder) or frame_folders.recognise(folder)
    if name is None:
        return "prepared" if any(folder.glob("*/meta.json")) else "folder"
    return _OTHER_NAMES.get(name, name)
