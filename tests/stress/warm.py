"""Import what the commands import, once, so that forked processes need not."""

import accelerate
import av
import matplotlib.pyplot
import torch._dynamo
import torch.export
import torch.utils.tensorboard

from torchslots.cli import (
    compose,
    concepts,
    convert,
    data,
    evaluate,
    export,
    predict,
    pretrained,
    report,
    slots,
    train,
)

__all__ = [
    "accelerate",
    "av",
    "compose",
    "concepts",
    "convert",
    "data",
    "evaluate",
    "export",
    "matplotlib",
    "predict",
    "pretrained",
    "report",
    "slots",
    "torch",
    "train",
]
