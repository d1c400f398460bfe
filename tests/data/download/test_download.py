"""Google's storage cannot be reached from where these tests run: a server on this machine plays the bucket.

It speaks the same three requests (list, whole file, range of a file) and does at will what networks do: break
off, ignore ranges, change bytes, refuse, ask for patience.
"""

import base64
import errno
import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
import urllib.parse
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.movi_files import movi_contents
from data.published import extract_published
from recorded import GOLDEN
from torchslots.data.catalog import open_dataset
from torchslots.data.config import DataConfig
from torchslots.data.download import http
from torchslots.data.download.sets import download
from torchslots.data.sets.movi import MoviReader
from torchslots.io import files
from torchslots.io.errors import UserError

PREFIX = "tfds/movi_a/128x128/1.0.0"


class Bucket:
    """Files by name, and the faults to commit."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str | None]] = []
        self.break_after: dict[str, list[int]] = {}
        self.damage: Counter[str] = Counter()
        self.statuses: dict[str, list[int]] = {}
        self.ignore_range = self.hash_headers = False
        self.list_status = 200
        self.page_size = 3
        self.on_request = lambda name: None

    def asked(self, name: str) -> list[str | None]:
        return [span for path, span in self.requests if path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, format: str, *args) -> None:
        """Silence."""

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.bucket.requests.append((urllib.parse.unquote(url.path), self.headers.get("Range")))
        if url.path == "/storage/v1/b/kubric-public/o":
            self.send_listing(urllib.parse.parse_qs(url.query))
        else:
            self.send_file(urllib.parse.unquote(url.path).removeprefix(f"/kubric-public/{PREFIX}/"))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_listing(self, query: dict[str, list[str]]) -> None:
        bucket = self.bucket
        if bucket.list_status != 200:
            return self.answer(bucket.list_status, b"{}")
        assert query["prefix"] == [f"{PREFIX}/"]
        start = int(query.get("pageToken", ["0"])[0])
        names = sorted(bucket.files)
        items = [
            {
                "name": f"{PREFIX}/{name}",
                "size": str(len(bucket.files[name])),
                "md5Hash": md5(bucket.files[name]),
            }
            for name in names[start : start + bucket.page_size]
        ]
        page = {"items": items}
        if start + bucket.page_size < len(names):
            page["nextPageToken"] = str(start + bucket.page_size)
        self.answer(200, json.dumps(page).encode())

    def send_file(self, name: str) -> None:
        bucket = self.bucket
        bucket.on_request(name)
        if bucket.statuses.get(name):
            return self.answer(bucket.statuses[name].pop(0))
        if name not in bucket.files:
            return self.answer(404)
        body = bucket.files[name]
        headers = {"x_goog_hash": f"crc32c=AAAAAA==,md5={md5(body)}"} if bucket.hash_headers else {}
        if bucket.damage[name]:
            bucket.damage[name] -= 1
            body = body[:-1] + bytes([body[-1] ^ 1])
        status, span = 200, self.headers.get("Range")
        if span and not bucket.ignore_range:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.answer(416)
            status, headers["Content_Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if bucket.break_after.get(name):
            return self.break_off(status, body, bucket.break_after[name].pop(0), headers)
        self.answer(status, body, **headers)

    def break_off(self, status: int, body: bytes, after: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:after])
        self.wfile.flush()
        self.close_connection = True


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def shard(split: str, index: int, count: int) -> str:
    return f"movi_a-{split}.tfrecord-{index:05d}-of-{count:05d}"


def bucket_files() -> dict[str, bytes]:
    splits = [
        {"name": "train", "numBytes": "40000", "shardLengths": ["1"] * 4},
        {"name": "validation", "numBytes": "10000", "shardLengths": ["1"]},
    ]
    files = {
        "dataset_info.json": json.dumps({"name": "movi_a", "splits": splits}).encode(),
        "features.json": b"{}",
    }
    for i in range(4):
        files[shard("train", i, 4)] = bytes([i]) * 10_000
    return {**files, shard("validation", 0, 1): b"v" * 10_000}


@pytest.fixture
def bucket(monkeypatch):
    """A served bucket; TORCHSLOTS_MIRROR points to it."""
    bucket = Bucket(bucket_files())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"bucket": bucket}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("TORCHSLOTS_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.001)
    yield bucket
    server.shutdown()
    server.server_close()
    thread.join()


def record_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if ".tfrecord" in file.name)


def check_whole(folder: Path, bucket: Bucket) -> None:
    """Every file equals the bucket's and nothing else lies there."""
    assert sorted(file.name for file in folder.iterdir()) == sorted(bucket.files)
    for name in record_files(folder):
        assert (folder / name).read_bytes() == bucket.files[name], name


def test_everything_comes_and_a_second_time_nothing(bucket, tmp_path):
    folder = download("movi_a", tmp_path)
    assert folder == tmp_path / "movi_a" / "128x128" / "1.0.0"
    check_whole(folder, bucket)
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info == json.loads(bucket.files["dataset_info.json"])
    bucket.requests.clear()
    download("movi_a", tmp_path)
    assert not [path for path, _ in bucket.requests if ".tfrecord" in path]


def test_one_split_and_the_first_shards(bucket, tmp_path):
    folder = download("movi_a", tmp_path, splits=["train"], shards=2, connections=1)
    assert record_files(folder) == [shard("train", 0, 4), shard("train", 1, 4)]
    train = json.loads((folder / "dataset_info.json").read_text())["splits"][0]
    assert train["shardLengths"] == ["1", "1"]
    assert train["filepathTemplate"] == "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}-of-00004"
    download("movi_a", tmp_path)
    check_whole(folder, bucket)
    assert json.loads((folder / "dataset_info.json").read_text()) == json.loads(
        bucket.files["dataset_info.json"]
    )


def test_real_shards_are_readable_afterwards(bucket, tmp_path):
    bucket.files = movi_contents("a")
    download("movi_a", tmp_path)
    reader = MoviReader(tmp_path, "movi_a", "train")
    assert len(reader) == 4 and reader.example(3, ["video"])["video"].shape == (24, 32, 32, 3)


def test_the_first_shards_alone_are_a_data_set(bucket, tmp_path):
    bucket.files = movi_contents("a")
    download("movi_a", tmp_path, splits=["train"], shards=1)
    reader = MoviReader(tmp_path, "movi_a", "train")
    assert len(reader) == 2 and reader.example(1, ["video"])["video"].shape == (24, 32, 32, 3)


@pytest.mark.parametrize("hash_headers", [False, True])
@pytest.mark.parametrize("list_status", [401, 403, 404])
def test_without_a_listing_the_shard_counts_lead(bucket, tmp_path, list_status, hash_headers):
    bucket.list_status, bucket.hash_headers = list_status, hash_headers
    check_whole(download("movi_a", tmp_path), bucket)


def test_a_broken_connection_is_resumed_where_it_broke(bucket, tmp_path):
    name = shard("train", 1, 4)
    bucket.break_after[name] = [3000, 2000, 0, 0]
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == [None, "bytes=3000-", "bytes=5000-", "bytes=5000-", "bytes=5000-"]


def test_without_listing_and_header_a_broken_connection_is_resumed_too(bucket, tmp_path):
    name = shard("train", 1, 4)
    bucket.list_status, bucket.break_after[name] = 403, [3000]
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == [None, "bytes=3000-"]


def test_a_server_that_ignores_ranges_starts_over(bucket, tmp_path):
    name = shard("train", 1, 4)
    bucket.ignore_range, bucket.break_after[name] = True, [3000]
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == [None, "bytes=3000-"]


def test_a_connection_that_never_brings_anything_is_given_up_and_goes_on_later(bucket, tmp_path):
    name = shard("train", 1, 4)
    bucket.break_after[name] = [4000] + [0] * 6
    with pytest.raises(
        UserError, match=rf"{name} did not arrive in 6 attempts: .*4000 of 10000.*the same command resumes"
    ):
        download("movi_a", tmp_path, connections=1)
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    assert not (folder / name).exists() and (folder / f"{name}.part").stat().st_size == 4000
    bucket.requests.clear()
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == ["bytes=4000-"]


def test_damage_is_found_by_the_checksum_and_mended(bucket, tmp_path):
    name = shard("train", 2, 4)
    bucket.damage[name] = 2
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == [None, None, None]


def test_damage_by_the_header_alone(bucket, tmp_path):
    bucket.list_status, bucket.hash_headers = 403, True
    bucket.damage[shard("train", 2, 4)] = 1
    check_whole(download("movi_a", tmp_path), bucket)


def test_a_file_that_is_always_damaged_is_not_kept(bucket, tmp_path):
    name = shard("train", 2, 4)
    bucket.damage[name] = 99
    with pytest.raises(UserError, match=rf"{name} did not arrive in 6 attempts: it arrived damaged"):
        download("movi_a", tmp_path)
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    assert not (folder / name).exists() and not (folder / f"{name}.part").exists()


@pytest.mark.parametrize("size", [10_000, 12_000])
def test_a_part_with_foreign_bytes_is_thrown_away(bucket, tmp_path, size):
    name = shard("train", 0, 4)
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / f"{name}.part").write_bytes(b"?" * size)
    check_whole(download("movi_a", tmp_path), bucket)


def test_a_part_past_the_end_where_the_size_is_unknown(bucket, tmp_path):
    name = shard("train", 0, 4)
    bucket.list_status = 403
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / f"{name}.part").write_bytes(b"\0" * 10_000)
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(name) == ["bytes=10000-", None]


def test_a_shorter_file_under_the_final_name_is_replaced(bucket, tmp_path):
    folder = download("movi_a", tmp_path, splits=["validation"])
    (folder / shard("validation", 0, 1)).write_bytes(b"cut")
    download("movi_a", tmp_path, splits=["validation"])
    assert (folder / shard("validation", 0, 1)).read_bytes() == bucket.files[shard("validation", 0, 1)]


def test_a_busy_server_is_asked_again(bucket, tmp_path):
    bucket.statuses = {"dataset_info.json": [503], shard("train", 0, 4): [429, 500, 503]}
    check_whole(download("movi_a", tmp_path), bucket)


def test_refusals_are_told(bucket, tmp_path):
    bucket.statuses[shard("train", 3, 4)] = [403]
    with pytest.raises(UserError, match=r"00003-of-00004 answers with status 403"):
        download("movi_a", tmp_path)
    del bucket.files["dataset_info.json"]
    with pytest.raises(
        UserError, match=r"dataset_info.json answers with status 404. The data set may have moved"
    ):
        download("movi_a", tmp_path)
    bucket.files["dataset_info.json"] = b"<html>Log in to the hotel's network</html>"
    with pytest.raises(UserError, match=r"The answer of .* is no data set"):
        download("movi_a", tmp_path)


def test_no_server_at_all(bucket, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:9 cannot be reached: no connection .*Check the network"
    ):
        download("movi_a", tmp_path, base_url="http://127.0.0.1:9")
    assert sum(waits) <= 2, "the one message comes in a few seconds"


def test_wrong_wishes(bucket, tmp_path):
    cases = [
        (("movi_z",), {}, r"no data set `movi_z`. Nearest: movi_"),
        (("folder",), {}, r"`folder` is not published anywhere"),
        (("movi_a",), {"resolution": 64}, r"not published at 64 pixels. Choose --resolution from: 128, 256"),
        (("movi_a",), {"splits": ["test"]}, r"no split `test`. It has: train, validation"),
        (("movi_a",), {"shards": 0}, r"--shards is 0"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(UserError, match=message):
            download(*arguments, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_told_before_the_first_byte(bucket, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 70_000_000 - 30_000))
    with pytest.raises(
        UserError, match=r"movi_a.* needs [\d,]+ bytes more, but only 70 MB are free.*--shards"
    ):
        monkeypatch.setattr(files, "SPARE", 70_000_000 - 60_000)
        download("movi_a", tmp_path)
    assert list(tmp_path.iterdir()) == []
    download("movi_a", tmp_path, splits=["validation"])


def test_a_disk_that_fills_up_keeps_what_has_come(bucket, tmp_path, monkeypatch):
    def full(response, sink, advance, stop):
        sink.write(response.read(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(http, "_copy", full)
        with pytest.raises(UserError, match=r"cannot be written: No space left.*The downloaded part is kept"):
            download("movi_a", tmp_path)
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    assert record_files(folder) and all(name.endswith(".part") for name in record_files(folder))
    check_whole(download("movi_a", tmp_path), bucket)


def test_a_read_only_folder_is_told(bucket, tmp_path):
    (tmp_path / "movi_a").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written: .*choose another --root"):
        download("movi_a", tmp_path)


def wait_until(holds, seconds=60):
    """For what another thread is about to do."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_ctrl_c_keeps_what_has_come(bucket, tmp_path, monkeypatch):
    arrived = threading.Event()
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    part = folder / f"{shard('train', 1, 4)}.part"

    def interrupted(tasks, return_when):
        assert arrived.wait(60)
        wait_until(lambda: part.is_file() and part.stat().st_size == 2500)
        raise KeyboardInterrupt

    def on_request(name):
        if name == shard("validation", 0, 1):
            arrived.set()

    bucket.on_request = on_request
    bucket.break_after = {shard("train", 1, 4): [2500] + [0] * 99}
    monkeypatch.setattr(http, "_MOST_FAILURES", 10_000)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(http, "wait", interrupted)
        download("movi_a", tmp_path, connections=2)
    assert part.stat().st_size == 2500
    for name in record_files(folder):
        if not name.endswith(".part"):
            assert (folder / name).read_bytes() == bucket.files[name]
    assert json.loads((folder / "dataset_info.json").read_text())["splits"][0]["shardLengths"] == ["1"]
    bucket.break_after, bucket.on_request = {}, lambda name: None
    bucket.requests.clear()
    check_whole(download("movi_a", tmp_path), bucket)
    assert bucket.asked(shard("train", 1, 4)) == ["bytes=2500-"]


def test_names_that_leave_the_folder_are_left_out(bucket, tmp_path):
    info = {"name": "../../movi_a", "splits": [{"name": "train", "shardLengths": ["1"]}]}
    good, bucket.files["dataset_info.json"] = bucket.files["dataset_info.json"], json.dumps(info).encode()
    with pytest.raises(UserError, match="lists no shards"):
        download("movi_a", tmp_path)
    bucket.files["dataset_info.json"] = good
    bucket.files["../../escaped.txt"] = b"x"
    bucket.files["sub/folder.txt"] = b"x"
    download("movi_a", tmp_path)
    assert not list(tmp_path.rglob("escaped.txt")) and not list(tmp_path.rglob("folder.txt"))


# Single files

TETROMINOES = "/multi-object-datasets/tetrominoes/tetrominoes_train.tfrecords"
ROOMS = "/multi-object-datasets/objects_room/objects_room_"


def test_a_single_file_comes_is_readable_and_stays(bucket, tmp_path):
    recorded = GOLDEN / "data_tetrominoes" / "tetrominoes_train.tfrecords"
    bucket.files = {TETROMINOES: recorded.read_bytes()}
    folder = download("tetrominoes", tmp_path)
    assert folder == tmp_path / "tetrominoes"
    config = DataConfig(keys=("video",), num_frames=1)
    assert len(open_dataset("tetrominoes", tmp_path, "all", config, False)) == 12
    bucket.requests.clear()
    download("tetrominoes", tmp_path)
    assert len(bucket.requests) == 1  # its size is asked for


@pytest.mark.parametrize("hash_headers", [False, True])
def test_a_single_file_is_resumed_where_it_broke(bucket, tmp_path, hash_headers):
    bucket.files = {TETROMINOES: bytes(range(256)) * 4000}
    bucket.hash_headers = hash_headers
    part = tmp_path / "tetrominoes" / "tetrominoes_train.tfrecords.part"
    part.parent.mkdir()
    part.write_bytes(bucket.files[TETROMINOES][:5000])
    bucket.statuses[TETROMINOES] = [503]
    download("tetrominoes", tmp_path)
    assert (tmp_path / "tetrominoes" / "tetrominoes_train.tfrecords").read_bytes() == bucket.files[
        TETROMINOES
    ]
    assert bucket.asked(TETROMINOES) == [None, None, "bytes=5000-"]


def test_files_of_single_splits_and_an_archive(bucket, tmp_path):
    names = ("train", "test_six_objects", "test_identical_color", "test_empty_room")
    bucket.files = {f"{ROOMS}{name}.tfrecords": name.encode() for name in names}
    folder = download("objects_room", tmp_path, splits=["empty_room"])
    assert record_files(folder) == ["objects_room_test_empty_room.tfrecords"]
    download("objects_room", tmp_path)
    assert len(record_files(folder)) == 4
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("CLEVR_v1.0/scenes/CLEVR_val_scenes.json", "{}")
    bucket.files = {"/clevr/CLEVR_v1.0.zip": packed.getvalue()}
    folder = download("clevr", tmp_path)
    assert (folder / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json").read_text() == "{}"


def test_archives_in_several_folders_come_to_one(bucket, tmp_path):
    """COCO's images and annotations; annotations come with each split."""
    published = extract_published("coco", tmp_path / "published")
    parts = {"zips/train2017": "train2017", "zips/val2017": "val2017"}
    parts |= {"annotations/annotations_trainval2017": "annotations"}
    bucket.files = {f"/{name}.zip": _zipped(published, part) for name, part in parts.items()}
    folder = download("coco", tmp_path / "data", splits=["validation"])
    assert folder == tmp_path / "data" / "coco"
    assert [split for split in SPLITS if _opens("coco", tmp_path / "data", split)] == ["validation"]
    assert not bucket.asked("train2017.zip")
    download("coco", tmp_path / "data")
    assert [split for split in SPLITS if _opens("coco", tmp_path / "data", split)] == list(SPLITS)


def test_a_plain_tar_is_extracted(bucket, tmp_path):
    published, packed = extract_published("voc", tmp_path / "published"), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(published / "VOCdevkit", "VOCdevkit")
    bucket.files = {"/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar": packed.getvalue()}
    download("voc", tmp_path / "data")
    assert [split for split in SPLITS if _opens("voc", tmp_path / "data", split)] == list(SPLITS)


def test_one_track_of_davis(bucket, tmp_path):
    published = extract_published("davis", tmp_path / "published")
    address = "/csergi/share/davis/DAVIS-2017-Unsupervised-trainval-480p.zip"
    bucket.files = {address: _zipped(published, "DAVIS")}
    download("davis_2017", tmp_path / "data", splits=["unsupervised"])
    assert _opens("davis_2017", tmp_path / "data", "validation")


def test_what_needs_a_login_says_what_to_fetch_by_hand(bucket, tmp_path):
    for year, place in (
        (2021, "train/instances.json and train/JPEGImages"),
        (2019, "train.json beside train"),
    ):
        with pytest.raises(
            UserError, match=rf"by hand: sign in.*youtube-vos.org/dataset/vis.*{year}.*{place}"
        ):
            download(f"youtube_vis_{year}", tmp_path)
    assert not bucket.requests


SPLITS = ("train", "validation")


def _zipped(folder: Path, part: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in (folder / part).rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    return packed.getvalue()


def _opens(name: str, root: Path, split: str) -> bool:
    try:
        return len(open_dataset(name, root, split, DataConfig(keys=("video",), num_frames=1), False)) > 0
    except UserError:
        return False


def test_wrong_wishes_for_single_files(bucket, tmp_path, monkeypatch):
    bucket.files = {TETROMINOES: bytes(10)}
    with pytest.raises(UserError, match="single files: leave out --shards and --resolution"):
        download("tetrominoes", tmp_path, shards=1)
    with pytest.raises(UserError, match=r"objects_room has no file of its own for `validation`.*six_objects"):
        download("objects_room", tmp_path, splits=["validation"])
    with pytest.raises(UserError, match=r"clevr has no file of its own for `train`. Leave out --split"):
        download("clevr", tmp_path, splits=["train"])
    with pytest.raises(UserError, match=r"CLEVR_v1.0.zip answers with status 404"):
        download("clevr", tmp_path)
    monkeypatch.setattr(files, "SPARE", 1 << 60)
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes more"):
        download("tetrominoes", tmp_path)
