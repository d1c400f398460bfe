"""Import what the commands import, once, so that forked processes need not."""

import pkgutil
from importlib import import_module

import accelerate
import matplotlib.pyplot
import pycocotools.mask
import scipy.stats
import torch._dynamo
import torch.export
import torch.utils.tensorboard
import transformers

import torchslots

_OF_EXTRAS = ("torchslots.cli.app", "torchslots.__main__")

for _found in pkgutil.walk_packages(torchslots.__path__, "torchslots."):
    if not _found.name.startswith(_OF_EXTRAS):
        import_module(_found.name)

__all__ = ["accelerate", "matplotlib", "pycocotools", "scipy", "torch", "transformers"]
