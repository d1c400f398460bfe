"""Recorded checkpoints that stand for published ones: rows of the same types, at the recordings' small sizes.

A further system is one row of `CASES`.
"""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from convert.file_server import FileServer
from fidelity.hash_init import with_model
from torchslots.convert import systems
from torchslots.convert.released import RELEASED
from torchslots.convert.sources import AmongHubFiles, InArchive, InBucket, OnHub, Released, Source
from torchslots.io.cache import user_cache
from torchslots.recipes import catalog

REPO = "authors/model"


@dataclass(frozen=True)
class Case:
    """A recording under the name of a published checkpoint.

    Args:
        folder: of the recording.
        recipe: whose system it is.
        source: where its file lies; `digest` in it becomes the first digits of its SHA-256.
        file: of the recording; hash-made ones have none, but `model.pth`.
    """

    folder: str
    recipe: str
    source: Callable[[str], Source]
    file: str = "model.pth"


def _on_hub(digest: str) -> OnHub:
    return OnHub(REPO, f"weights+10k-{digest}.pth", digest)


CASES = {
    "mini_object_discovery": Case(
        "slot_attention_object_discovery_mini",
        "slot_attention_clevr6",
        lambda digest: InBucket("public", "object-discovery"),
        "checkpoint",
    ),
    "mini_set_prediction": Case(
        "slot_attention_set_prediction_mini",
        "slot_attention_set_prediction",
        lambda digest: InBucket("public", "set-prediction"),
        "checkpoint",
    ),
    "mini_statm": Case(
        "statm_savi_small_mini",
        "statm_savi_small",
        lambda digest: AmongHubFiles("authors/flax", False, "movi_b"),
        "checkpoints-0/ckpt-1.flax",
    ),
    "mini_steve": Case("steve_mini", "steve_movi_e", _on_hub),
    "mini_vqvae": Case("vqvae_mini", "vqvae_movi_e", _on_hub),
    "mini_slotdiffusion": Case(
        "savi_ldm_mini",
        "slotdiffusion_movi_e",
        lambda digest: InArchive("https://authors.example/weights", "all.zip", "mini_params.pth"),
    ),
}
TOKENIZERS = ("mini_vqvae",)


@dataclass
class Published:
    """What the tests know of a case."""

    name: str
    row: Released
    file: Path
    """The original, or the folder of it."""
    config: Path

    @property
    def content(self) -> bytes:
        return self.file.read_bytes()

    @property
    def path(self) -> str:
        """Of the file in its repository."""
        assert isinstance(self.row.source, OnHub)
        return self.row.source.path


def publish(
    name: str, golden: Path, scratch: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> Published:
    """Register the row and its small recipe, and put the file where the row says."""
    case = CASES[name]
    recorded = golden / case.folder
    folder = with_model(recorded, scratch) if case.file == "model.pth" else recorded
    file = folder / case.file
    program, read = systems.open_original(file)
    config = systems.configuration(program, read, None, folder / "config.json")
    recipe = replace(catalog.recipe(case.recipe), name=name, model=config)
    monkeypatch.setitem(catalog.RECIPES, name, lambda: recipe)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file.is_file() else ""
    source = case.source(digest)
    dataset = source.dataset if isinstance(source, AmongHubFiles) else None
    row = Released(
        *("A system", name, "Data", "FG-ARI 1.0", "small", "CC0", "Someone, 2020"), source, dataset=dataset
    )
    monkeypatch.setitem(RELEASED, name, replace(row, is_tokenizer=name in TOKENIZERS))
    published = Published(name, row, file, folder / "config.json")
    _place(published, server)
    return published


def _place(published: Published, server: FileServer) -> None:
    source, file = published.row.source, published.file
    if isinstance(source, OnHub):
        server.hub.setdefault(source.repo, {})[source.path] = published.content
    elif isinstance(source, AmongHubFiles):
        files = server.hub.setdefault(source.repo, {})
        files["STATM-SAVi (small)/MOVi-B/checkpoints-0/ckpt-1.flax"] = published.content
        files["STATM-SAVi (small)/MOVi-B/checkpoints-0/ckpt-1.index"] = b"bookkeeping"
        files["mystery/ckpt-7.flax"] = b"of whom?"
    elif isinstance(source, InBucket):
        content = {path.name: path.read_bytes() for path in file.iterdir()}
        server.bucket[f"{source.bucket}/{source.prefix}"] = content
    else:
        place = user_cache("pretrained", source.archive)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_zip(place, {f"pretrained/{source.file}": published.content})


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    """An archive of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    path.write_bytes(packed.getvalue())
    return path


def settings(folder: Path) -> dict[str, object]:
    """The configuration of a written model."""
    return json.loads((folder / "config.json").read_text())


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder that can be changed."""
    return Path(shutil.copytree(folder, to, copy_function=shutil.copyfile))
