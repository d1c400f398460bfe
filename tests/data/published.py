"""Data sets of photographs in their published layouts, small, extracted for a test."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recorded import GOLDEN

COCO_FILE = "annotations/instances_val2017.json"
YTVIS_FILE = "train/instances.json"
_MEAN, _STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def extract_published(name: str, root: Path) -> Path:
    """`coco`, `voc`, `ytvis` or `davis` below `root`, which is returned."""
    with tarfile.open(GOLDEN / f"data_{name}" / "published.tar.gz") as archive:
        archive.extractall(root, filter="data")
    return root


def change_json(file: Path, change: Callable[[Any], object]) -> None:
    """Change an annotation file's tables in place."""
    tables = json.loads(file.read_text())
    change(tables)
    file.write_text(json.dumps(tables))


def normalized(video: Tensor) -> Tensor:
    """By ImageNet's statistics, as the recorded frames are."""
    return (video - _MEAN) / _STD
