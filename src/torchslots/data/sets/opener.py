"""Functions that open each data set and find its splits; a set's module is imported when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchslots.data.clips import Source
    from torchslots.data.config import DataConfig


def movi(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.movi import MoviReader

    return MoviReader(root, config.dataset, split, config.resolution)


def movi_splits(root: Path, name: str) -> Sequence[str]:
    from torchslots.data.sets.movi import splits

    return splits(root, name)


def frames(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.frame_folders import FrameFolders

    return FrameFolders(root, split, config)


def frames_splits(root: Path, name: str) -> Sequence[str]:
    from torchslots.data.sets.frame_folders import splits

    return splits(root, name)


def own_files(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.own_files import OwnFiles

    return OwnFiles(root, split, config)


def own_splits(root: Path, name: str) -> Sequence[str]:
    from torchslots.data.sets.own_files import existing_splits

    return existing_splits(root) or ("all",)


def own_explanation(root: Path) -> list[str]:
    from torchslots.data.sets.own_survey import explain_own_files

    return explain_own_files(root)


def prepared(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.prepared import PreparedArrays
    from torchslots.data.sets.prepared_features import FeatureArrays, is_features

    return (FeatureArrays if is_features(split) else PreparedArrays)(root, split, config)


def prepared_splits(root: Path, name: str) -> Sequence[str]:
    from torchslots.data.sets.prepared import splits

    return splits(root)


def multi_object(layout: str, root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.multi_object import LAYOUTS, MultiObjectImages

    return MultiObjectImages(root, LAYOUTS[layout], split, config.num_records)


def clevr(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.clevr import ClevrImages

    return ClevrImages(root, split)


def multishapenet(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.multishapenet import MultiShapeNetImages

    return MultiShapeNetImages(root, split)


def clevrtex(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.clevrtex import find_clevrtex

    return find_clevrtex(root, split, config.num_records)


def waymo(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.waymo import WaymoImages

    return WaymoImages(root, split, config.num_records)


def coco(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.coco import CocoImages

    return CocoImages(root, split, config)


def voc(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.voc import VocImages

    return VocImages(root, split, config)


def youtube_vis(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.youtube_vis import YouTubeVis

    return YouTubeVis(root, split, config)


def davis(root: Path, split: str, config: DataConfig) -> Source:
    from torchslots.data.sets.davis import DavisVideos

    return DavisVideos(root, split, config)
