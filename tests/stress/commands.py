"""Small runs of every command that writes, their inputs, and what their results say.

A command is run in a folder of its own; its data, model and films lie elsewhere.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load

from convert.file_server import serving
from convert.published_cases import publish
from data.movi_files import copy_movi
from fidelity.hash_init import with_model
from recorded import GOLDEN
from tiny_models import TINY
from torchslots.cli import main
from torchslots.data.catalog import open_dataset
from torchslots.data.config import DataConfig
from torchslots.io.files import hidden
from torchslots.io.run_log import read_log
from torchslots.io.video import write_video
from torchslots.models.weights import save_pretrained
from torchslots.recipes import savi
from torchslots.recipes.savi import DecoderConfig

SIDE = 16
_TIMES = {"time", "train/seconds_per_step", "train/seconds_waiting_for_data"}


class Command(NamedTuple):
    """A command that writes below `work`, its current folder, and what was run there before."""

    name: str
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    """Commands whose results it finds."""
    needs_cache: bool = False
    """Whether its results lie in the user's cache."""


class Inputs(NamedTuple):
    """What commands read: nothing of it may change."""

    data: Path
    model: Path
    other: Path
    """Another model of the same shape."""
    first: Path
    """A film."""
    second: Path
    checkpoint: Path
    """Folder of an original program's checkpoint."""
    tokenizer: Path
    """Folder of another's."""


def _tiny_model(seed: int, folder: Path) -> Path:
    decoder = DecoderConfig(grid=(4, 4), channels=(8, 6), strides=(2, 2))
    config = replace(
        TINY, resolution=(SIDE, SIDE), decoder=decoder, targets=("video",), conditioning="learned"
    )
    torch.manual_seed(seed)
    return save_pretrained(savi.build(config), config, folder)


@contextmanager
def prepared_inputs(folder: Path) -> Iterator[Inputs]:
    """Data, models, films, and a server that publishes a checkpoint."""
    copy_movi("a", folder / "data")
    config = DataConfig(dataset="movi_a", keys=("video",), num_frames=2)
    open_dataset("movi_a", folder / "data", "train", config, True)  # its index is stored beside it
    films = folder / "films"
    films.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (3, 24, 32, 3), np.uint8)
    write_video(films / "one.mp4", frames, 10)
    write_video(films / "two.mp4", frames[::-1], 10)
    originals = [with_model(GOLDEN / name, folder / "originals") for name in ("vqvae_mini", "dvae_mini")]
    models = _tiny_model(0, folder / "model"), _tiny_model(1, folder / "other")
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        for name in ("HF_ENDPOINT", "TORCHSLOTS_MIRROR"):
            patch.setenv(name, server.address)
        patch.setenv("no_proxy", "*")
        publish("mini_steve", GOLDEN, folder, server, patch)
        yield Inputs(folder / "data", *models, films / "one.mp4", films / "two.mp4", *originals)


def commands(given: Inputs, below: str = "") -> list[Command]:
    """Every command that writes, new and over results of the same kind.

    Args:
        below: what the names of results begin with, such as `./-folder/`.
    """
    data = ("--root", str(given.data))
    read = (*data, "--data", "movi_a", "--split", "train", "--num-workers", "0", "--num-videos", "2")
    read += ("--num-frames", "2", "--device", "cpu")
    train = _train(given, 2, below)
    config = ("--config.num-frames", "2", "--config.resolution", "16", "--config.keys", "video", "boxes")
    generate = ("data", "generate", "--out", f"{below}data", "--train", "2", "--validation", "1")
    generate += ("--workers", "1", "--resolution", "16", "--num-frames", "3", "--samples", "1")
    images = ("data", "generate-images", "--out", f"{below}images", "--count", "4", "--workers", "1")
    prepare = (
        "data",
        "prepare",
        *data,
        "--out",
        f"{below}prepared",
        "--splits",
        "train",
        "--num-workers",
        "0",
        *config,
    )
    features = (
        "data",
        "prepare",
        "movi_a",
        "--features",
        "videosaur_demo",
        *data,
        "--yes",
        "--device",
        "cpu",
    )
    features += ("--out", f"{below}features", "--evaluation.split", "train")
    evaluate = (
        "evaluate",
        str(given.model),
        *read,
        "--out",
        f"{below}eval",
        "--write-films",
        f"{below}films",
    )
    predict = (
        "predict",
        str(given.model),
        str(given.first),
        str(given.second),
        "--out",
        f"{below}out",
        "--device",
        "cpu",
    )
    convert, other = (
        ("convert", str(place), "--out", f"{below}model", "--config", str(place / "config.json"))
        for place in (given.checkpoint, given.tokenizer)
    )
    compose = ("compose", str(given.model), *read, "--out", f"{below}composed", "--num-plots", "1")
    concepts = ("concepts", str(given.model), *read, "--out", f"{below}concepts")
    concepts += ("--num-concepts", "2", "--samples", "1", "--every", "1", "--nearest", "1")
    slots = ("slots", str(given.model), *read, "--out", f"{below}slots")
    export = ("export", str(given.model), "--out", f"{below}graphs")
    export += ("--format", "torch-export", "--graphs", "start")
    report = ("report", f"{below}run", "--out", f"{below}report.html")
    return [
        Command("train", train),
        Command("train on", train, (_train(given, 1, below),)),
        Command("data generate", generate),
        Command("data generate-images", images),
        Command("data prepare", prepare),
        Command("data prepare --features", features),
        Command("convert", convert),
        Command("convert over", convert, (other,)),
        Command("evaluate --recon", evaluate),
        Command("evaluate over", evaluate, (_of_other(evaluate, given),)),
        Command("predict", predict),
        Command("predict over", predict, (_of_other(predict, given),)),
        Command("pretrained get", ("pretrained", "get", "mini_steve"), needs_cache=True),
        Command("export", export),
        Command("slots", slots),
        Command("compose", compose),
        Command("concepts", concepts),
        Command("report", report, (train,)),
    ]


def _of_other(words: tuple[str, ...], given: Inputs) -> tuple[str, ...]:
    return (words[0], str(given.other), *words[2:])


def _train(given: Inputs, steps: int, below: str) -> tuple[str, ...]:
    words = {
        "model.resolution": (16, 16),
        "model.decoder.grid": (4, 4),
        "model.slot-size": 16,
        "data.resolution": 16,
        "data.num-frames": 2,
        "optim.num-steps": steps,
        "train.batch-size": 2,
        "train.num-workers": 0,
        "train.keep": 1,
        "train.eval-every": 1,
        "train.checkpoint-every": 1,
        "train.log-every": 1,
        "evaluation.split": "train",
        "evaluation.num-frames": 2,
        "evaluation.num-videos": 1,
    }
    told = [part for name, value in words.items() for part in (f"--{name}", *map(str, _listed(value)))]
    start = ("train", "savi_demo", "--root", str(given.data), "--run", f"{below}run", "--data", "movi_a")
    return (*start, "--device", "cpu", "--num-plots", "1", "--data.crop", "None", *told)


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(words: tuple[str, ...], work: Path) -> int:
    """A command with `work` as current folder and its cache in it; for a forked process."""
    os.chdir(work)
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    return main(words)


def contents(work: Path) -> dict[str, Any]:
    """What every file below a folder says, by its path; times and names of event files do not count."""
    found: dict[str, Any] = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if ".tfevents." in name:
            found[f"{path.parent.relative_to(work)}/events"] = True
        elif path.name == "metrics.jsonl":
            found[name] = [
                {key: value for key, value in record.items() if key not in _TIMES}
                for record in read_log(path.parent)
            ]
        elif path.suffix == ".safetensors":  # the order of its header changes
            tensors = load(path.read_bytes())
            found[name] = {key: value.tolist() for key, value in tensors.items()}
        elif path.name == "README.md":  # the best model's card is of the time when it was the best
            found[name] = re.sub(r"of \d+ steps", "", path.read_text())
        elif path.is_file() and path.name not in (".lock", ".writer"):
            found[name] = _without_times(path.read_bytes())
        elif path.is_dir() and hidden(path):
            found[name] = "folder"
    return found


def _without_times(data: bytes) -> bytes:
    """What does not depend on the time, nor on where the user's files lie."""
    timeless = re.sub(rb'"(seconds|time|date|created|written)[a-z_]*": *[^,}\n]+', b"", data)
    return re.sub(rb"is left out: [^\0]*?TORCHSLOTS_FEATURES", b"", timeless)


def copy_of(work: Path, target: Path) -> Path:
    """A copy of a work folder, which replaces an older one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work, target, symlinks=True)
    return target


__all__ = ["Command", "Inputs", "commands", "contents", "copy_of", "prepared_inputs", "run"]
