"""Data sets opened for tests as their clips."""

from torchslots.data.clips import Clips
from torchslots.data.config import DataConfig
from torchslots.data.sets.movi import MoviReader
from torchslots.data.sets.own_files import OwnFiles
from torchslots.data.sets.prepared import PreparedArrays


def movi_clips(root, split: str, config: DataConfig, train: bool = True) -> Clips:
    """Of the set that the config names, or of whatever set `root` itself holds."""
    return Clips(MoviReader(root, config.dataset, split, config.resolution), split, config, train)


def own_clips(root, split: str, config: DataConfig, train: bool) -> Clips:
    """Of a folder of one's own."""
    return Clips(OwnFiles(root, split, config), split, config, train)


def prepared_clips(root, split: str, config: DataConfig, train: bool = True) -> Clips:
    """Of what `prepare` wrote."""
    return Clips(PreparedArrays(root, split, config), split, config, train)
