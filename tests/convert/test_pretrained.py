"""Published checkpoints by name, from a server on this machine that commits the faults of real ones."""

import errno
import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import torchslots
from convert.file_server import FileServer, serving
from convert.published_cases import CASES, REPO, TOKENIZERS, Published, copied, publish, settings, write_zip
from torchslots import hub
from torchslots.convert import locations, pretrained
from torchslots.convert.convert import convert
from torchslots.convert.released import RELEASED
from torchslots.convert.sources import InArchive, OnHub
from torchslots.data.download import http
from torchslots.data.download import hub as remote
from torchslots.io import files
from torchslots.io.cache import user_cache
from torchslots.io.errors import UserError
from torchslots.recipes import catalog


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub and a bucket, an empty cache, and no waiting between attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.001)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("TORCHSLOTS_MIRROR", found.address)
        yield found


@pytest.fixture
def published(golden, server, monkeypatch, tmp_path):
    """Publishes a case."""
    return lambda name: publish(name, golden, tmp_path, server, monkeypatch)


@pytest.fixture
def steve(published) -> Published:
    """A file on the hub whose name ends with digits of its digest."""
    return published("mini_steve")


def load(name: str):
    return (torchslots.load_tokenizer if name in TOKENIZERS else torchslots.load_model)(name)


def kept(name: str) -> list[str]:
    """Files of a published checkpoint in the cache."""
    folder = locations.cache_folder(name)
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def original_of(steve: Published) -> Path:
    return locations.cache_folder(steve.name) / "original" / steve.path


# What is loaded


@pytest.mark.parametrize("name", CASES)
def test_a_name_loads_what_convert_makes_of_the_file(published, server, tmp_path, name):
    case = published(name)
    found = load(name)
    wanted = convert(case.file, tmp_path / "out", config=case.config)
    expected = hub.load_trained(tmp_path / "out").state_dict()
    assert found.config == wanted.config and not found.training
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    server.requests.clear()
    again = load(name).state_dict()
    assert not server.requests and all(torch.equal(value, expected[key]) for key, value in again.items())


def test_the_folder_says_where_it_comes_from(published):
    case = published("mini_statm")
    folder = pretrained.get("mini_statm").folder
    source = json.loads((folder / "source.json").read_text())
    assert source["sha256"] == {"ckpt-1.flax": hashlib.sha256(case.content).hexdigest()}
    assert catalog.read_recipe(folder / "recipe.json").data.dataset == "movi_b"
    assert catalog.read_recipe(folder / "recipe.json").model == catalog.recipe("mini_statm").model
    assert "Someone, 2020" in (folder / "README.md").read_text()
    tensorflow = pretrained.get(published("mini_object_discovery").name).folder
    names = set(json.loads((tensorflow / "source.json").read_text())["sha256"])
    assert names == {"ckpt-1.index", "ckpt-1.data-00000-of-00001"}


def test_a_changed_conversion_is_made_again_from_the_file_that_is_here(steve, server, monkeypatch):
    first = pretrained.get(steve.name).folder
    server.requests.clear()
    monkeypatch.setattr(locations, "_CONVERSION", 99)
    second = pretrained.get(steve.name).folder
    assert second != first and not first.exists() and not server.requests
    assert settings(second)["family"] == "steve"


def test_a_changed_recipe_is_converted_anew(published, server, monkeypatch):
    published("mini_statm")
    assert load("mini_statm").config.max_frames is None
    recipe = catalog.recipe("mini_statm")
    changed = replace(recipe, model=replace(recipe.model, max_frames=5))
    monkeypatch.setitem(catalog.RECIPES, "mini_statm", lambda: changed)
    server.requests.clear()
    assert load("mini_statm").config.max_frames == 5 and not server.requests


def test_a_bucket_that_lists_nothing_is_read_by_its_checkpoint_note(published, server):
    published("mini_object_discovery")
    server.statuses["/storage/v1/"] = 403
    load("mini_object_discovery")
    content = [path.rpartition("/")[2] for path, _ in server.requests if path.startswith("/public/")]
    assert {"checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"} == set(content)


def test_a_hub_that_lists_nothing_still_gives_the_file(steve, server):
    server.statuses["/api/"] = 403
    assert load(steve.name).config == catalog.recipe(steve.name).model


# Where the file is


def test_a_file_that_was_put_by_hand_is_not_fetched(steve, server):
    original_of(steve).parent.mkdir(parents=True)
    original_of(steve).write_bytes(steve.content)
    load(steve.name)
    assert not server.requests


def test_a_given_file_takes_the_place_of_a_download(steve, server, tmp_path):
    elsewhere = tmp_path / "downloads" / "weights (1).pth"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(steve.content)
    assert pretrained.get(steve.name, elsewhere).folder == locations.converted_folder(steve.name)
    packed = write_zip(tmp_path / "downloads" / "all.zip", {f"inside/{steve.path}": steve.content, "b": b""})
    assert load(steve.name).config == hub.load_model(pretrained.get(steve.name, packed).folder).config
    assert not server.requests and elsewhere.is_file()
    assert not list(locations.cache_folder(steve.name).glob(".unpacked*"))


def test_folders_and_zips_of_other_kinds(published, server, tmp_path):
    tensorflow, flax = published("mini_set_prediction"), published("mini_statm")
    for given in ("", "ckpt-1", "ckpt-1.index"):
        pretrained.get(tensorflow.name, tensorflow.file / given)
    with pytest.raises(UserError, match=r"ckpt-2 does not exist. Fetch all files of https://console.cloud"):
        pretrained.get(tensorflow.name, tensorflow.file / "ckpt-2")
    content = {f"set-prediction/{path.name}": path.read_bytes() for path in tensorflow.file.iterdir()}
    pretrained.get(tensorflow.name, write_zip(tmp_path / "set-prediction.zip", content))
    pretrained.get(flax.name, flax.file.parent)
    assert pretrained.get(flax.name, flax.file).folder.is_dir() and not server.requests


def test_an_archive_that_needs_a_browser(published, tmp_path):
    case = published("mini_slotdiffusion")
    place = user_cache("pretrained", "all.zip")
    moved = place.rename(tmp_path / "all.zip")
    with pytest.raises(UserError) as caught:
        load(case.name)
    for part in ("https://authors.example/weights", "mini_params.pth", str(place), "--file PATH"):
        assert part in str(caught.value)
    assert pretrained.get(case.name, moved).folder.is_dir()
    with pytest.raises(UserError, match=r"other.zip holds no file of mini_slotdiffusion, only notes.txt"):
        pretrained.get(case.name, write_zip(tmp_path / "other.zip", {"notes.txt": b"hello"}))
    (tmp_path / "cut.zip").write_bytes(moved.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut.zip cannot be extracted"):
        pretrained.get(case.name, tmp_path / "cut.zip")


def test_every_file_of_an_archive_is_recognised(published, steve, tmp_path, capsys):
    case = published("mini_slotdiffusion")
    contents = {
        "pretrained/mini_params.pth": case.content,
        "pretrained/renamed.pth": case.content,
        "pretrained/broken.pth": b"PK nothing",
        "pretrained/readme.txt": b"hello",
    }
    archive = write_zip(tmp_path / "all.zip", contents)
    found, others = pretrained.get_all(archive)
    assert [done.name for done in found] == ["mini_slotdiffusion"] and set(others) == {
        "renamed.pth",
        "broken.pth",
    }
    assert others["renamed.pth"].startswith("a checkpoint of SlotDiffusion that has no name here.")
    assert "By its shapes it may be mini_slotdiffusion." in others["renamed.pth"]
    assert others["broken.pth"].startswith("not taken: broken.pth is not a whole file")
    with pytest.raises(UserError, match=r"holds no published checkpoint, only a.txt"):
        pretrained.get_all(write_zip(tmp_path / "none.zip", {"a.txt": b""}))
    other = steve.content
    with pytest.raises(UserError, match=r"only mini_params.pth \(not taken: .*is a checkpoint of STEVE"):
        pretrained.get_all(write_zip(tmp_path / "another.zip", {"mini_params.pth": other}))
    for path in (tmp_path / "nowhere.zip", case.file):
        with pytest.raises(UserError, match=r"is no archive \(.zip, .tar.gz"):
            pretrained.get_all(path)


def test_the_file_of_another_name_in_the_archive_is_refused(published, monkeypatch, tmp_path):
    case = published("mini_slotdiffusion")
    other = replace(case.row, source=replace(case.row.source, file="other_params.pth"))
    monkeypatch.setitem(RELEASED, "other", other)
    path = tmp_path / "other_params.pth"
    path.write_bytes(case.content)
    with pytest.raises(UserError, match=r"other_params.pth is published as other, not as mini_slotdiffusion"):
        pretrained.get(case.name, path)


def test_files_that_nobody_lists_are_matched_by_their_paths(published, server):
    published("mini_statm")
    notes = pretrained.get("mini_statm").notes
    assert notes[0].startswith("mini_statm is STATM-SAVi (small)/MOVi-B/checkpoints-0/ckpt-1.flax")
    assert "mystery/ckpt-7.flax in authors/flax has no name here" in notes[1]
    monkeyed = server.hub["authors/flax"]
    shutil.rmtree(locations.cache_folder("mini_statm"))
    monkeyed.pop("STATM-SAVi (small)/MOVi-B/checkpoints-0/ckpt-1.flax")
    with pytest.raises(
        UserError, match=r"No file of authors/flax could be matched to mini_statm. mystery/.*--file"
    ):
        pretrained.get("mini_statm")


# Faults


def test_a_broken_connection_is_resumed_where_it_broke(steve, server):
    server.break_after = [3000, 2000]
    load(steve.name)
    assert server.asked(steve.path) == [None, "bytes=3000-", "bytes=5000-"]


def test_half_of_a_checkpoints_files_is_completed_the_next_time(published, server):
    published("mini_object_discovery")
    server.statuses["data-00000-of-00001"] = 403
    with pytest.raises(UserError, match=r"data-00000-of-00001 answers with status 403. Fetch all files of"):
        load("mini_object_discovery")
    assert "ckpt-1.data-00000-of-00001" not in kept("mini_object_discovery")
    server.statuses.clear()
    load("mini_object_discovery")


def test_half_a_download_goes_on_the_next_time(steve, server, monkeypatch):
    server.break_after = [4000] + [0] * 6
    with pytest.raises(UserError, match=r"in 6 attempts: .*4000 of"):
        load(steve.name)
    assert kept(steve.name) == [f"{steve.path}.part"]
    server.requests.clear()
    load(steve.name)
    assert server.asked(steve.path) == ["bytes=4000-"]


def test_a_wrong_digest_is_refused_and_nothing_is_kept(steve, server):
    damaged = bytearray(steve.content)
    damaged[-1] ^= 1
    server.hub[REPO][steve.path] = bytes(damaged)
    with pytest.raises(
        UserError, match=r"SHA-256 \w{64}, which should begin with \w{8}: .*It was removed. Fetch"
    ):
        load(steve.name)
    assert kept(steve.name) == []
    with pytest.raises(UserError, match=r"which should begin with.* --file PATH"):
        path = steve.file.with_name("given.pth")
        path.write_bytes(bytes(damaged))
        pretrained.get(steve.name, path)


def test_the_digest_that_the_hub_lists_is_checked_too(published, server, monkeypatch):
    case = published("mini_statm")
    listed = remote.list_files("authors/flax")
    changed = [replace(file, sha256="0" * 64) for file in listed]
    monkeypatch.setattr(remote, "list_files", lambda repo: changed)
    with pytest.raises(UserError, match=r"should begin with 0{16}: .*It was removed"):
        load(case.name)
    assert kept(case.name) == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "status 401, so the repository is gone, private, or asks for a login"),
        (403, "status 403, so the repository is private"),
        (404, "status 404, so there is no such file any more"),
        (429, "status 429. Too many requests: try again in some minutes"),
        (500, "status 500"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_way_by_hand(steve, server, status, says):
    server.statuses = {"/api/": 404 if status == 404 else status, "/resolve/": status}
    with pytest.raises(UserError) as caught:
        load(steve.name)
    message = str(caught.value)
    assert says in message and f"{REPO}/resolve/main/" in message
    assert str(original_of(steve)) in message and f"get {steve.name} --file PATH" in message


@pytest.mark.parametrize("name", ["mini_steve", "mini_statm", "mini_set_prediction"])
def test_without_a_network_one_message_says_what_to_fetch_and_where_to_put_it(published, monkeypatch, name):
    case = published(name)
    for variable in ("HF_ENDPOINT", "TORCHSLOTS_MIRROR"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be fetched: no connection")
    assert locations.address(case.row) in message and f"get {name} --file PATH" in message


def test_an_answer_that_is_no_list_is_told(published, server):
    published("mini_statm")
    server.hub["authors/flax"] = {}
    with pytest.raises(UserError, match="It holds no flax file"):
        load("mini_statm")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>Log in</html>", "is a web page, not a checkpoint"),
        (b"  <html><body>proxy</body></html>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_checkpoint_is_removed(steve, server, content, says):
    server.hub[REPO][steve.path] = content
    with pytest.raises(UserError, match=says) as caught:
        load(steve.name)
    assert "It was removed. Fetch http" in str(caught.value) and kept(steve.name) == []


def test_a_page_that_the_server_calls_one_is_not_even_fetched(steve, server):
    server.headers = {"Content_Type": "text/html; charset=utf-8"}
    with pytest.raises(
        UserError, match=r"answers with a web page in place of the file: a login.*\. Fetch http"
    ):
        load(steve.name)
    assert kept(steve.name) == [] and server.asked(steve.path) == [None]


def test_a_file_that_cannot_be_read_is_removed_too(steve, server, monkeypatch):
    """Where no digest is published, half a file is noticed only when it is read."""
    row = replace(steve.row, source=OnHub(REPO, steve.path))
    monkeypatch.setitem(RELEASED, steve.name, row)
    server.hub[REPO][steve.path] = steve.content[: len(steve.content) // 2]
    with pytest.raises(
        UserError, match=r"not a whole file of torch.save.*It was removed: give the command again"
    ):
        load(steve.name)
    assert kept(steve.name) == []
    server.hub[REPO][steve.path] = steve.content
    assert load(steve.name).config == catalog.recipe(steve.name).model


def test_nothing_in_a_file_is_executed(steve, monkeypatch, tmp_path):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"a": Runs()}, tmp_path / "evil.pth")
    monkeypatch.setitem(RELEASED, steve.name, replace(steve.row, source=OnHub(REPO, steve.path)))
    with pytest.raises(UserError, match=r"it holds code, .* nothing in it was executed"):
        pretrained.get(steve.name, tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists() and not locations.is_here(steve.name)


@pytest.fixture
def spoiled(steve, monkeypatch, tmp_path):
    """Gives the file with a changed state dict."""
    monkeypatch.setitem(RELEASED, steve.name, replace(steve.row, source=OnHub(REPO, steve.path)))

    def give(change):
        state = torch.load(io.BytesIO(steve.content), weights_only=True)
        change(state)
        torch.save(state, tmp_path / "spoiled.pth")
        with pytest.raises(UserError) as caught:
            pretrained.get(steve.name, tmp_path / "spoiled.pth")
        assert not locations.is_here(steve.name)
        return str(caught.value)

    return give


def test_tensors_missing_left_over_and_of_another_shape_are_named(spoiled):
    last = "slot_attention.mlp.3.bias"
    assert f"1 missing ({last})" in spoiled(lambda state: state.pop(last))
    assert "1 unexpected (more.weight)" in spoiled(lambda state: state.update({"more.weight": torch.ones(2)}))
    reshaped = spoiled(lambda state: state.update({last: torch.ones(17)}))
    assert "1 of another shape" in reshaped and "[17] stored" in reshaped
    assert "It is not mini_steve as published. Fetch http" in reshaped and "spoiled.pth" in reshaped


def test_the_file_of_another_size_is_refused_with_the_name_that_it_fits(steve, published, monkeypatch):
    recipe = catalog.recipe(steve.name)
    slots = recipe.model.slots
    larger = replace(recipe.model, slots=replace(slots, num_slots=slots.num_slots + 1))
    monkeypatch.setitem(catalog.RECIPES, "larger", lambda: replace(recipe, name="larger", model=larger))
    monkeypatch.setitem(RELEASED, "larger", replace(steve.row, recipe="larger"))
    with pytest.raises(
        UserError, match=r"of another shape .*It is not larger as published.*may be mini_steve\."
    ):
        torchslots.load_model("larger")


def test_the_file_of_another_system_is_refused(steve, published, monkeypatch):
    other = published("mini_vqvae")
    monkeypatch.setitem(RELEASED, other.name, replace(other.row, source=steve.row.source))
    with pytest.raises(UserError, match=r"is a checkpoint of STEVE, not of A system.*may be mini_steve\."):
        torchslots.load_tokenizer(other.name)


def test_no_room_is_told_before_the_first_byte(steve, server, monkeypatch, tmp_path):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, files.SPARE + len(steve.content)))
    with pytest.raises(UserError, match=r"Fetching mini_steve needs .* are free. .*XDG_CACHE_HOME"):
        load(steve.name)
    assert server.asked(steve.path) == [] and kept(steve.name) == []


def test_a_disk_that_fills_up_leaves_no_half_model(steve, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(UserError, match="No space left on device"):
            load(steve.name)
    assert kept(steve.name) == [steve.path]
    assert load(steve.name).config == catalog.recipe(steve.name).model


def test_a_cache_that_cannot_be_written_is_told(steve, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written: .*set XDG_CACHE_HOME to a writable folder"):
        load(steve.name)


# Names


def test_a_mistyped_name_gives_the_nearest(server):
    with pytest.raises(
        UserError, match=r"ftdinosaur_bas_518 does not exist here.*Did you mean ftdinosaur_base_518"
    ):
        torchslots.load_model("ftdinosaur_bas_518")
    with pytest.raises(
        UserError, match=r"no published checkpoint `slotcontrast`. Did you mean slotcontrast_"
    ):
        pretrained.get("slotcontrast")
    with pytest.raises(
        UserError, match=r"^qqqqq does not exist here, and is no published checkpoint. `torchslots"
    ):
        torchslots.load_model("qqqqq")
    for other in ("runs/mine", "owner/model.pth", "./ftdinosaur_bas_518"):
        with pytest.raises(UserError, match=r"does not exist|pickle|could not be fetched"):
            torchslots.load_model(other)


def test_a_model_folder_comes_before_a_name_and_other_folders_do_not(steve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / steve.name).mkdir()
    (tmp_path / steve.name / "overlay.mp4").write_text("results")
    assert load(steve.name).config == catalog.recipe(steve.name).model
    shutil.rmtree(tmp_path / steve.name)
    torchslots.create_model("vqvae_demo").save_pretrained(tmp_path / steve.name)
    with pytest.raises(UserError, match="holds a tokenizer"):
        load(steve.name)


def test_a_tokenizer_is_no_model_of_slots(published):
    published("mini_vqvae")
    with pytest.raises(UserError, match="holds a tokenizer, without slots"):
        torchslots.load_model("mini_vqvae")


def test_an_archive_beside_a_folder(published, tmp_path):
    case = published("mini_slotdiffusion")
    folder = copied(case.file.parent, tmp_path / "unpacked")
    (folder / "model.pth").rename(folder / "mini_params.pth")
    assert isinstance(case.row.source, InArchive)
    assert pretrained.get(case.name, folder).folder.is_dir()


def test_the_server_of_these_tests_commits_what_it_is_told(server: FileServer):
    server.hub["a/b"] = {"c.bin": b"0123456789"}
    assert [file.path for file in remote.list_files("a/b")] == ["c.bin"]
    assert http.fetch(remote.address("a/b", "c.bin")) == b"0123456789"
