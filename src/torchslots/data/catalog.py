"""The place to add a data set: one row with a description, its source, and the function that opens it.

Nothing heavy is imported before a data set is opened: `torchslots data list` answers without torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torchslots.data.sets import opener
from torchslots.io import plugins
from torchslots.io.errors import UserError, check_type, note

if TYPE_CHECKING:
    from torchslots.data.clips import Clips, Source
    from torchslots.data.config import DataConfig

Open = Callable[[Path, str, "DataConfig"], "Source"]
"""(root, split, config) -> the stored split; `config.dataset` is the row's name."""
FindSplits = Callable[[Path, str], Sequence[str]]
"""(root, name) -> the splits found there."""
Explain = Callable[[Path], "list[str]"]
"""root -> sentences on what is used, what not and why."""

_KUBRIC_LICENCE = "generator: Apache-2.0; the publisher states no licence for the files"
_FRAMES_DRIVE = "https://drive.google.com/drive/folders/1R-2M4V1MeFu5Ycig1ofynbxxmLKc3wgM"
_SIM_LICENCE = "generated on your machine: yours"
_MOVI_SIZE = ("of the order of MOVi-A's 60 GB at 128 pixels", "about 60 GB at 128 pixels, 240 GB at 256")


@dataclass(frozen=True)
class Remote:
    """A TFDS folder in a public bucket of Google Cloud Storage."""

    bucket: str
    prefix: str
    """Folder in the bucket, `{resolution}` for the pixels of one side."""
    resolutions: tuple[int, ...]
    """Published sizes, the usual one first."""

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"https://storage.googleapis.com/{self.bucket}/{self.prefix}"

    def __str__(self) -> str:
        return f"{self.address}  (resolution: {', '.join(map(str, self.resolutions))})"


@dataclass(frozen=True)
class RemoteFiles:
    """Single files at a public address; ZIP and tar.gz archives are extracted after the download."""

    address: str
    """The folder of the files."""
    files: tuple[str, ...]
    """Their names."""
    splits: tuple[str, ...] = ()
    """What to ask for to have only the file at the same place of `files`; none: all come together. Files without a
    place here come with each."""
    folder: str = ""
    """Where they go below the root; empty: as the folder that they lie in is named."""

    def __str__(self) -> str:
        return f"{self.address}: {', '.join(self.files)}"


@dataclass(frozen=True)
class DatasetEntry:
    """One data set: what `torchslots data list` shows of it, and how to open it."""

    open: Open
    description: str
    """At most 45 characters, so that `torchslots data list` fits 80 columns."""
    licence: str
    """What the publisher says; it binds whoever downloads."""
    splits: tuple[str, ...]
    """Names that `--split` takes."""
    size: str
    """Roughly: number of videos or images, their pixels, gigabytes."""
    remote: Remote | RemoteFiles | None = None
    """Where `torchslots data download` finds it; None: it is not downloaded."""
    get: str = ""
    """How to get it, where there is no download."""
    num_background: int | None = 1
    """Ids from 0 that are background; 0: only objects have labels; None: as in what it was made from."""
    classes: bool = False
    """Whether masks tell classes, too."""
    explain: Explain | None = None
    """What training makes of a folder, for `torchslots data inspect`; None: splits and features say it all."""
    find_splits: FindSplits | None = None
    """How `torchslots data inspect` finds the splits that are there; None: it tries those of `splits` that have files
    of their own."""


def datasets() -> dict[str, DatasetEntry]:
    """Every row by its name, those of other installed packages too."""
    plugins.load_plugins(plugins.DATASETS)
    return DATASETS


def entry(name: str) -> DatasetEntry:
    """The row of a data set.

    Raises:
        UserError: no such data set, with the nearest names.
    """
    table = datasets()
    if check_type("name", name, str) in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
    raise UserError(f"There is no data set `{name}`. Nearest: {', '.join(near)}. See `torchslots data list`.")


_OF_A_SOURCE = ("title", "files", "keys", "__len__", "name", "open", "num_objects")


def open_source(name: str, row: DatasetEntry, root: Path, split: str, config: DataConfig) -> Source:
    """The stored arrays of a split.

    Raises:
        UserError: what the row opens is no `Source`: attributes are missing.
    """
    source = row.open(root, split, config)
    missing = [attribute for attribute in _OF_A_SOURCE if attribute not in dir(source)]
    if missing:
        raise UserError(
            f"The data set `{name}` opens as {type(source).__name__}, no `torchslots.data.clips.Source`: it has "
            f"no {', '.join(missing)}. docs/add.md has an example."
        )
    return source


def open_dataset(name: str, root: Path, split: str, config: DataConfig, train: bool) -> Clips:
    """Open a split of a data set that lies under `root`.

    Args:
        root: The folder that holds the data set's (`root/movi_a/128x128/1.0.0`), or one of those below it.
        split: Its name, and in brackets which part of it, see `data/parts.py`.
        train: Clips of `config.num_frames` at random places; otherwise the first `config.num_frames` of each.

    Raises:
        UserError: unknown name, no such folder, no such split.
    """
    from torchslots.data.clips import Clips
    from torchslots.data.parts import parse_split

    found, root, config = entry(name), Path(root), replace(config, dataset=name)
    if not root.exists():
        remedy = found.get or "Check the path."
        if found.remote:
            remedy = f"Get it with `torchslots data download {name}`."
        raise UserError(f"{root} does not exist. {remedy}")
    whole, part = (split, None) if (root / split).is_dir() else parse_split(split)
    limit = config.num_records if part is None or config.num_records is not None else part.last
    source = open_source(name, found, root, whole, replace(config, num_records=limit))
    return Clips(source, split, config, train, part)


def split_on(name: str, root: Path | None, split: str, usual: str) -> str:
    """A recipe's split, or the `usual` one where another data set lacks it, which a line says.

    Args:
        root: As in `known_splits`.

    Raises:
        UserError: no such data set.
    """
    known = {*known_splits(name, root)}
    divided_by_names = known == {"all"}  # clips of your own without a folder for each split
    if has_split(name, root, split) or not (usual in known or divided_by_names):
        return split
    note(f"`{name}` has no split `{split}`, which the recipe names: reading `{usual}`.")
    return usual


def has_split(name: str, root: Path | None, split: str) -> bool:
    """Whether a data set has a split, or the one that `split` is a part of; arguments and errors as of `split_on`."""
    from torchslots.data.parts import parse_split

    return not {split, parse_split(split)[0]}.isdisjoint(known_splits(name, root))


def known_splits(name: str, root: Path | None) -> Sequence[str]:
    """The splits that a data set has: as published or, of your own files and of prepared arrays, those below `root`.

    Args:
        root: None: unknown.

    Raises:
        UserError: no such data set.
    """
    found = entry(name)
    made_here = found.find_splits is not None and found.remote is None and not found.get
    if found.find_splits is None or not made_here or root is None or not root.exists():
        return found.splits
    return found.find_splits(root, name)


# The rows

_CLEVRTEX_VARIANTS = ("full", "outd", "camo", "pbg", "vbg", "grassbg")
_PARTS = ("train", "validation", "train_full", "validation_full", "test_full", "all")


def _multi_object(
    name: str,
    description: str,
    size: str,
    folder: str = "",
    tests: tuple[str, ...] = (),
    num_background: int = 1,
) -> DatasetEntry:
    """A set of Multi-Object Datasets; `tests` are splits in files of their own."""
    trained = f"{name}.tfrecords" if folder else f"{name}_train.tfrecords"
    return DatasetEntry(
        open=partial(opener.multi_object, name),
        num_background=num_background,
        description=description,
        licence="repository: Apache-2.0; the publisher states no other licence for the files",
        splits=(*_PARTS, *tests),
        size=size,
        remote=RemoteFiles(
            f"https://storage.googleapis.com/multi-object-datasets/{folder or name}",
            (trained, *(f"{name}_test_{test}.tfrecords" for test in tests)),
            ("train", *tests),
        ),
    )


def _sprites(variant: str, description: str) -> DatasetEntry:
    size = "64 x 64 pixels; unpacked once, 16 KB for each image"
    return _multi_object(f"multi_dsprites_{variant}", description, size, "multi_dsprites")


def _movi(
    letter: str, description: str, *, test: bool, resolutions: tuple[int, ...] = (128, 256)
) -> DatasetEntry:
    return DatasetEntry(
        open=opener.movi,
        find_splits=opener.movi_splits,
        description=description,
        licence=_KUBRIC_LICENCE,
        splits=("train", "validation", *(("test",) if test else ())),
        size=f"about 9,750 videos for training and 250 for validation, 24 frames each; {_MOVI_SIZE[letter == 'a']}",
        remote=Remote(
            "kubric-public", f"tfds/movi_{letter}/{{resolution}}x{{resolution}}/1.0.0", resolutions
        ),
    )


def _movi_frames(name: str, title: str, description: str) -> DatasetEntry:
    return DatasetEntry(
        open=opener.frames,
        find_splits=opener.frames_splits,
        description=f"{title}: {description}",
        licence="none known here: see where its makers, the authors of STEVE, publish it",
        splits=("train", "validation", "test"),
        size="videos of 24 frames at 128 pixels, a folder of PNG files each; masks only for `train` and `test`, so "
        "evaluate on `test`",
        get=f"Google Drive shows {_FRAMES_DRIVE} to browsers, not to `torchslots data download`: fetch {title}'s "
        f"tar.gz there, or the folder with `gdown --folder`, and extract it below the data folder ({title}/train and "
        "so on).",
    )


def _converted_movi(letter: str) -> DatasetEntry:
    title = f"MOVi-{letter.upper()}"
    return DatasetEntry(
        open=opener.frames,
        find_splits=opener.frames_splits,
        description=f"{title} as SlotDiffusion's script converts it",
        licence=_KUBRIC_LICENCE,
        splits=("train", "validation", "test"),
        size="videos of 24 frames at 128 pixels, as JPEG frames (with loss) and PNG masks",
        get=f"Only for comparison: `torchslots data download movi_{letter}` brings the frames without loss. Folders "
        f"that SlotDiffusion's script has written ({title}/train and so on) are read as they are.",
    )


def _youtube_vis(year: int, size: str) -> DatasetEntry:
    place = (
        "train.json beside train/JPEGImages" if year == 2019 else "train/instances.json and train/JPEGImages"
    )
    return DatasetEntry(
        open=opener.youtube_vis,
        num_background=0,
        classes=True,
        description=f"YouTube-VIS {year}: real videos, 40 classes",
        licence="CC BY 4.0 for the annotations; the videos are YouTube users': see youtube-vos.org",
        splits=("train", "validation", "all"),
        size=f"{size}; the last 300 are `validation`, as labels of the published one are not public",
        get=f"It needs a login, so fetch it by hand: sign in where youtube-vos.org/dataset/vis links to for {year}, "
        f"take the frames and annotations of the training videos, and extract them to one folder ({place}).",
    )


def _sim(name: str, description: str) -> DatasetEntry:
    return DatasetEntry(
        open=opener.movi,
        find_splits=opener.movi_splits,
        description=description,
        licence=_SIM_LICENCE,
        splits=("train", "validation"),
        get="Make it with `torchslots data generate`.",
        size="as many as you generate; about 1.5 MB for a video of 24 frames at 64 pixels",
    )


DATASETS: dict[str, DatasetEntry] = {
    "movi_a": _movi("a", "MOVi-A: 3 to 10 plain solids on a grey floor", test=False),
    "movi_b": _movi("b", "MOVi-B: 11 shapes, any colour, random camera", test=False),
    "movi_c": _movi("c", "MOVi-C: scanned objects before photographs", test=True),
    "movi_d": _movi("d", "MOVi-D: 10 to 20 scans at rest, 1 to 3 fall", test=True),
    "movi_e": _movi("e", "MOVi-E: as MOVi-D, with a camera that moves", test=True),
    "movi_f": _movi("f", "MOVi-F: as MOVi-E, with motion blur", test=True, resolutions=(128, 256, 512)),
    "movi_solid": _movi_frames("movi_solid", "MOVi-Solid", "STEVE's videos of solid objects"),
    "movi_tex": _movi_frames("movi_tex", "MOVi-Tex", "STEVE's videos of textured objects"),
    "movi_d_frames": _converted_movi("d"),
    "movi_e_frames": _converted_movi("e"),
    "sim_a": _sim("sim_a", "Generated: plain solids, after MOVi-A"),
    "sim_c": _sim("sim_c", "Generated: textured objects, after MOVi-C"),
    "sim_e": _sim("sim_e", "Generated: as sim_a with a moving camera"),
    "clevr": DatasetEntry(
        open=opener.clevr,
        description="CLEVR: 3 to 10 solids, properties, no masks",
        licence="CC BY 4.0",
        splits=("train", "train_eval", "validation", "test", "train_full"),
        size="70,000, 15,000 and 15,000 images of 320 x 480 pixels; 18 GB, as TFDS' folder or the original's",
        remote=RemoteFiles("https://dl.fbaipublicfiles.com/clevr", ("CLEVR_v1.0.zip",)),
    ),
    "clevr_with_masks": _multi_object(
        "clevr_with_masks",
        "CLEVR's scenes rendered anew, with masks",
        "100,000 images of 240 x 320 pixels; 10.5 GB, unpacked once to 31 GB (or data.num_records of 0.3 MB)",
    ),
    "tetrominoes": _multi_object(
        "tetrominoes",
        "Tetrominoes: three pieces of Tetris on black",
        "35 x 35 pixels; 0.3 GB, of which `train` and `validation` unpack 612 images",
    ),
    "objects_room": _multi_object(
        "objects_room",
        "Objects Room: 1 to 3 objects in a room",
        "1,000,000 images of 64 x 64 pixels; 7 GB, unpacked once to 16 GB (or data.num_records of 16 KB)",
        tests=("six_objects", "identical_color", "empty_room"),
        num_background=4,
    ),
    "multi_dsprites": _sprites("colored_on_grayscale", "Multi-dSprites: up to 5 in colour, on grey"),
    "multi_dsprites_colored_on_colored": _sprites(
        "colored_on_colored", "Multi-dSprites: up to 4 in colour, on colour"
    ),
    "multi_dsprites_binarized": _sprites("binarized", "Multi-dSprites: up to 3 in white, on black"),
    "multishapenet_easy": DatasetEntry(
        open=opener.multishapenet,
        description="MultiShapeNet-Easy: ShapeNet objects, plain",
        licence=_KUBRIC_LICENCE,
        splits=("train", "validation"),
        size="images of 240 x 320 pixels, one from each camera, as TFDS' folder msn_easy_frames",
        get="Copy gs://kubric-public/tfds/msn_easy_frames below the data folder, such as with `gcloud storage cp -r`.",
    ),
    "clevrtex": DatasetEntry(
        open=opener.clevrtex,
        description="CLEVRTex: 3 to 10 textured solids; 5 variants",
        licence="the publisher's terms: www.robots.ox.ac.uk/~vgg/data/clevrtex",
        splits=("train", "validation", "test", *_CLEVRTEX_VARIANTS),
        size="50,000 images of 240 x 320 pixels (24 GB), 20,000 of camo, pbg, vbg and grassbg, 10,000 of outd",
        remote=RemoteFiles(
            "https://thor.robots.ox.ac.uk/datasets/clevrtex",
            (
                *(f"clevrtex_full_part{part}.tar.gz" for part in range(1, 6)),
                *(f"clevrtex_{variant}.tar.gz" for variant in _CLEVRTEX_VARIANTS[1:]),
            ),
            (*_CLEVRTEX_VARIANTS[:1] * 5, *_CLEVRTEX_VARIANTS[1:]),
        ),
    ),
    "waymo_open": DatasetEntry(
        open=opener.waymo,
        description="Waymo Open: front camera images of streets",
        licence="Waymo Dataset License Agreement for Non-Commercial Use, to be accepted at waymo.com/open",
        splits=("train", "validation", "validation_full"),
        size="158,081 images of 128 x 192 pixels for training, 1,872 with ids of objects for validation",
        get="Sign up at waymo.com/open, get the frames of version 1.4, and make images of them with "
        "`torchslots data prepare-waymo`.",
    ),
    "coco": DatasetEntry(
        open=opener.coco,
        num_background=0,
        classes=True,
        description="COCO 2017: photos of scenes, 80 classes",
        licence="CC BY 4.0 for the annotations; the images are Flickr users', under their terms",
        splits=("train", "validation"),
        size="118,287 images for training (19.3 GB) and 5,000 for validation (0.8 GB), mostly 480 x 640 pixels",
        remote=RemoteFiles(
            "http://images.cocodataset.org",
            ("zips/train2017.zip", "zips/val2017.zip", "annotations/annotations_trainval2017.zip"),
            ("train", "validation"),
            folder="coco",
        ),
    ),
    "voc": DatasetEntry(
        open=opener.voc,
        num_background=0,
        classes=True,
        description="PASCAL VOC 2012: photos, 20 classes",
        licence="the images are Flickr users', under their terms: host.robots.ox.ac.uk/pascal/VOC/voc2012",
        splits=("train", "validation", "trainval", "trainaug"),
        size="1,464 images with masks for training and 1,449 for validation, 2 GB; 10,582 by the list `trainaug`",
        remote=RemoteFiles(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012", ("VOCtrainval_11-May-2012.tar",)
        ),
    ),
    "youtube_vis_2021": _youtube_vis(2021, "2,985 videos of up to 36 frames, mostly 720 x 1280 pixels"),
    "youtube_vis_2019": _youtube_vis(2019, "2,238 videos of up to 36 frames, mostly 720 x 1280 pixels"),
    "davis_2017": DatasetEntry(
        open=opener.davis,
        num_background=0,
        description="DAVIS 2017: short real videos, every frame",
        licence="the publisher's terms: davischallenge.org",
        splits=("train", "validation", "train_semi_supervised", "validation_semi_supervised"),
        size="60 and 30 videos of 25 to 104 frames, 480 pixels high, 0.8 GB for each of two tracks",
        remote=RemoteFiles(
            "https://data.vision.ee.ethz.ch/csergi/share/davis",
            ("DAVIS-2017-Unsupervised-trainval-480p.zip", "DAVIS-2017-trainval-480p.zip"),
            ("unsupervised", "semi_supervised"),
        ),
    ),
    "folder": DatasetEntry(
        open=opener.own_files,
        explain=opener.own_explanation,
        find_splits=opener.own_splits,
        description="Your own images or videos, masks or none",
        licence="yours",
        splits=("train", "validation"),
        size="whatever the folder holds",
    ),
    "prepared": DatasetEntry(
        open=opener.prepared,
        find_splits=opener.prepared_splits,
        num_background=None,
        description="Arrays made by `torchslots data prepare`",
        licence="that of the data set it was made from",
        splits=("train", "validation", "test"),
        size="whatever was prepared; fastest to read",
    ),
}


def list_datasets(word: str | None = None) -> list[str]:
    """Names of data sets for `open_dataset`, in the order of `torchslots data list`.

    Args:
        word: Only those that have it in their name or description; None: all.

    Raises:
        UserError: `word` is no text.

    Examples:
        >>> torchslots.list_datasets("clevrtex")
        ['clevrtex']
    """
    word = check_type("word", word or "", str).lower()
    return [name for name, found in datasets().items() if word in f"{name} {found.description}".lower()]
