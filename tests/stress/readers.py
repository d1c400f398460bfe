"""One small file of every kind that is read, and how it is read."""

import gzip
import json
from pathlib import Path

import msgpack
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import torchslots
from data.movi_files import copy_movi, shard
from stress.mutants import Case
from torchslots.convert.readers import flax
from torchslots.convert.readers import torch as torch_checkpoints
from torchslots.data.catalog import open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.download.archives import extract, list_members
from torchslots.data.inspect import inspect_dataset
from torchslots.data.prepare import prepare
from torchslots.data.sets.own_masks import read_masks
from torchslots.inference.view import read_boxes
from torchslots.io.run_log import read_log
from torchslots.io.video import read_frames, write_video
from torchslots.recipes import catalog
from torchslots.recipes.config import to_json
from torchslots.training import checkpoint
from torchslots.training.checkpoint import RunState
from torchslots.training.resume import read_start


def cases(folder: Path) -> list[Case]:
    """All cases, with their files below `folder`."""
    return [*_configurations(folder), *_media(folder), *_data(folder), *_checkpoints(folder)]


def _configurations(folder: Path) -> list[Case]:
    run = folder / "run"
    run.mkdir()
    (run / "recipe.json").write_text(to_json(catalog.recipe("savi_demo")))
    (run / "start.json").write_text(
        json.dumps({"root": "/data", "options": {"num_plots": 2, "device": None}})
    )
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": null}\n')
    (folder / "boxes.json").write_text(
        '{"boxes": [[0.1, 0.1, 0.5, 0.5]], "format": "yxyx", "normalized": true}'
    )
    torchslots.create_model("savi_demo").save_pretrained(folder / "model")
    return [
        Case("recipe.json", run / "recipe.json", lambda: read_start(run)),
        Case("start.json", run / "start.json", lambda: read_start(run)),
        Case("metrics.jsonl", run / "metrics.jsonl", lambda: read_log(run)),
        Case("boxes.json", folder / "boxes.json", lambda: read_boxes(folder / "boxes.json")),
        Case(
            "config.json", folder / "model" / "config.json", lambda: torchslots.load_model(folder / "model")
        ),
        Case(
            "weights", folder / "model" / "model.safetensors", lambda: torchslots.load_model(folder / "model")
        ),
    ]


def _media(folder: Path) -> list[Case]:
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), np.uint8)
    ids = np.zeros((4, 32, 48), np.uint8)
    ids[:, 4:20, 8:30] = 1
    found = []
    for ending in ("png", "jpg", "webp", "bmp", "tiff", "gif"):
        file = folder / f"image.{ending}"
        Image.fromarray(frames[0]).save(file)
        found.append(Case(ending, file, lambda file=file: read_frames(file)))
    for ending in ("mp4", "mkv"):
        file = folder / f"film.{ending}"
        write_video(file, frames, 10)
        found.append(Case(ending, file, lambda file=file: read_frames(file)))
    np.savez_compressed(folder / "masks.npz", masks=ids)
    np.save(folder / "masks.npy", ids)
    Image.fromarray(ids[0]).save(folder / "mask.png")
    found += [
        Case("masks.npz", folder / "masks.npz", lambda: read_masks(folder / "masks.npz", 4)),
        Case("masks.npy", folder / "masks.npy", lambda: read_masks(folder / "masks.npy", 4)),
        Case("mask.png", folder / "mask.png", lambda: read_masks(folder / "mask.png", 1)),
    ]
    return found


def _data(folder: Path) -> list[Case]:
    movi = copy_movi("a", folder / "data")
    config = DataConfig(
        dataset="movi_a", resolution=16, keys=("video", "segmentations", "boxes", "flow"), num_frames=2
    )
    clips = open_dataset("movi_a", folder / "data", "train", config, True)
    prepare(clips, folder / "prepared")
    stored = folder / "prepared" / "train"

    def read(name: str, root: Path) -> object:
        return open_dataset(name, root, "train", config, True).sample(0, np.random.default_rng(0))

    import zipfile

    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/b.txt", "content" * 100)
    return [
        Case("record", shard(movi), lambda: read("movi_a", folder / "data")),
        Case(
            "record, checked",
            shard(movi),
            lambda: inspect_dataset("movi_a", root=folder / "data", check=True),
        ),
        Case("dataset_info", movi / "dataset_info.json", lambda: read("movi_a", folder / "data")),
        Case("prepared meta", stored / "meta.json", lambda: read("prepared", folder / "prepared")),
        Case(
            "prepared index", stored / "00000" / "index.json", lambda: read("prepared", folder / "prepared")
        ),
        Case("zip", folder / "archive.zip", lambda: (list_members(folder / "archive.zip"), _extract(folder))),
    ]


def _extract(folder: Path) -> None:
    extract(folder / "archive.zip", folder / "extracted")


def _checkpoints(folder: Path) -> list[Case]:
    run = folder / "resumed"
    checkpoint.save(run, RunState(2, 0.5, 1), {"a": torch.ones(3)}, {"m": torch.ones(3)}, 2)
    place = checkpoint.folder_of(run, 2)

    def array(value: np.ndarray) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    tree = {
        "params": {"layer": {"kernel": np.ones((3, 3), np.float32)}},
        "opt_state": {"1": {"0": {"count": 3}}},
    }
    tree["opt_state"]["1"]["0"] |= {"mu": {"a": np.ones(2)}, "nu": {"a": np.ones(2)}}
    data = msgpack.packb(tree, default=array)
    (folder / "ckpt-1.flax").write_bytes(data)
    (folder / "ckpt-2.flax.gz").write_bytes(gzip.compress(data, mtime=0))
    torch.save({"state_dict": {"a": torch.ones(3, 3)}, "opt_state_dict": None}, folder / "model.pth")
    save_file({"a": torch.ones(3)}, folder / "a.safetensors")
    return [
        Case("state.json", place / "state.json", lambda: checkpoint.read(place)),
        Case("checkpoint", place / "model.safetensors", lambda: checkpoint.read(place)),
        Case("flax", folder / "ckpt-1.flax", lambda: flax.read(folder / "ckpt-1.flax")),
        Case("flax.gz", folder / "ckpt-2.flax.gz", lambda: flax.read(folder / "ckpt-2.flax.gz")),
        Case("pth", folder / "model.pth", lambda: torch_checkpoints.read(folder / "model.pth")),
    ]
