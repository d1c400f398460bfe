"""Public files of weights: taken from the cache or from where the user says, checked, never run."""

import hashlib
import http.server
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from torchslots.io.errors import UserError
from torchslots.metrics.networks import weights
from torchslots.metrics.networks.weights import (
    FILES,
    FeatureFile,
    MissingWeights,
    feature_folder,
    feature_weights,
)
from torchslots.metrics.reconstruction import NETWORK_METRICS, load_networks


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path / "features"))
    (tmp_path / "features").mkdir()
    return tmp_path / "features"


@pytest.fixture
def public(cache, tmp_path, monkeypatch) -> FeatureFile:
    """A small file in the place of a published one, and its bytes."""
    torch.save({"a": torch.arange(3.0)}, tmp_path / "source.pth")
    digest = hashlib.sha256((tmp_path / "source.pth").read_bytes()).hexdigest()
    public = replace(FILES["alexnet"], sha256=digest, address=(tmp_path / "source.pth").as_uri())
    monkeypatch.setitem(FILES, "alexnet", public)
    return public


def test_every_file_can_be_told_from_others():
    for name, file in FILES.items():
        assert file.name == name and file.address.startswith("https://") and file.licence and file.what
        assert (len(file.sha256) == 64) != (len(file.git_id) == 40)
        if file.address.endswith(file.file) and "-" in file.file:
            assert file.sha256.startswith(Path(file.file).stem.rsplit("-", 1)[1])


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHSLOTS_FEATURES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert feature_folder() == tmp_path / "torchslots" / "features"


def test_from_the_cache_and_from_a_file(cache, public, tmp_path):
    (cache / public.file).write_bytes((tmp_path / "source.pth").read_bytes())
    assert feature_weights("alexnet", download=False)["a"].tolist() == [0, 1, 2]
    assert feature_weights("alexnet", tmp_path / "source.pth")["a"].tolist() == [0, 1, 2]


def test_a_missing_file_says_where_it_is(cache):
    with pytest.raises(MissingWeights, match=r"vgg16-397923af\.pth does not exist.*download\.pytorch\.org"):
        feature_weights("vgg16", download=False)
    with pytest.raises(MissingWeights, match=r"elsewhere\.pth does not exist"):
        feature_weights("vgg16", cache / "elsewhere.pth")
    with pytest.raises(UserError, match=r"There are no public weights called `vgg61`\. Did you mean vgg16"):
        feature_weights("vgg61")


def test_another_file_is_taken_only_by_its_digest(cache, public):
    other = cache / "other.pth"
    torch.save({"b": torch.ones(1)}, other)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"has the SHA-256 {digest} and is not the published"):
        feature_weights("alexnet", other)
    assert feature_weights("alexnet", other, sha256=digest.upper())["b"] == 1
    with pytest.raises(UserError, match="Get the file anew"):
        feature_weights("alexnet", other, sha256="0" * 64)


def test_git_ids_are_those_of_git(cache, monkeypatch):
    """`git hash-object` of a file with "hello\\n" gives this id."""
    file = cache / "hello"
    file.write_bytes(b"hello\n")
    public = replace(FILES["i3d"], git_id="ce013625030ba8dba906f756967f9e9ca394464a")
    assert weights._is_public(file, public, "")
    file.write_bytes(b"hello!")
    assert not weights._is_public(file, public, "")


class _Bomb:
    """A pickle that calls a function when it is opened by a careless reader."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.filterwarnings("ignore")
def test_programs_are_never_run(cache, capsys):
    script, bomb, listed = (cache / name for name in ("i3d_torchscript.pt", "bomb.pth", "list.pth"))
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), script)
    torch.save({"a": _Bomb()}, bomb)
    torch.save([torch.zeros(1)], listed)
    for file, message in (
        (script, "not a file of weights alone"),
        (bomb, "not a file of weights alone"),
        (listed, "does not hold tensors by name"),
    ):
        with pytest.raises(UserError, match=message):
            feature_weights("i3d", file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    assert capsys.readouterr().out == ""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format, *args):
        """Nothing on standard error."""


@pytest.fixture
def server(tmp_path):
    handler = partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        _Quiet.asked.clear()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_download_into_the_cache(cache, public, server, monkeypatch):
    monkeypatch.setitem(FILES, "alexnet", replace(public, address=f"{server}/source.pth"))
    assert feature_weights("alexnet")["a"].tolist() == [0, 1, 2]
    assert sorted(file.name for file in cache.iterdir()) == sorted([".lock", public.file])


def test_a_download_with_another_digest_is_thrown_away(cache, public, server, monkeypatch):
    wrong = replace(public, address=f"{server}/source.pth", sha256="00000000")
    monkeypatch.setitem(FILES, "alexnet", wrong)
    with pytest.raises(UserError, match="was thrown away"):
        feature_weights("alexnet")
    assert [file.name for file in cache.iterdir()] == [".lock"]


def test_a_download_that_is_refused_says_what_to_do_by_hand(cache, public, server, monkeypatch):
    monkeypatch.setitem(FILES, "alexnet", replace(public, address=f"{server}/nowhere.pth"))
    with pytest.raises(MissingWeights, match=r"status 404.*save it as"):
        feature_weights("alexnet")


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHSLOTS_FEATURES", str(tmp_path / "file" / "features"))
    with pytest.raises(UserError, match=r"cannot be written.*Set TORCHSLOTS_FEATURES"):
        feature_weights("alexnet")


_DOWNLOAD = """
import sys
from dataclasses import replace
from torchslots.metrics.networks.weights import FILES, feature_weights

FILES["alexnet"] = replace(FILES["alexnet"], address=sys.argv[1], sha256=sys.argv[2])
print(feature_weights("alexnet")["a"].tolist())
"""


@pytest.mark.slow
def test_processes_that_want_the_same_file_bring_it_once(cache, public, server, tmp_path):
    torch.save({"a": torch.zeros(5_000_000)}, tmp_path / "source.pth")
    digest = hashlib.sha256((tmp_path / "source.pth").read_bytes()).hexdigest()
    arguments = [
        sys.executable,
        "-c",
        _DOWNLOAD.replace(".tolist()", ".shape"),
        f"{server}/source.pth",
        digest,
    ]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [
        "torch.Size([5000000])"
    ] * 3
    assert _Quiet.asked.count("/source.pth") == 1


def test_figures_without_weights_are_left_out_with_a_note(cache):
    networks, notes = load_networks()
    assert networks == {} and len(notes) == len(NETWORK_METRICS)
    assert all("is left out" in note and "https://" in note for note in notes)
    with pytest.raises(UserError, match="no figure `fdv`"):
        load_networks(["fdv"])
