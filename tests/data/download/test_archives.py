import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from torchslots.data.download.archives import extract
from torchslots.io.errors import UserError

FILES = {"set/0/a.png": b"a" * 5000, "set/0/b.json": b"{}", "set/1/c.png": os.urandom(20_000)}


def _write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as stored:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            stored.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("set/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        stored.addfile(link)
    return path


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
def test_every_file_comes_out_and_whole_ones_stay(tmp_path: Path, name: str):
    archive = _write(tmp_path / name, FILES)
    extract(archive)
    found = {
        str(f.relative_to(tmp_path)): f.read_bytes() for f in (tmp_path / "set").rglob("*") if f.is_file()
    }
    assert found == FILES and not (tmp_path / "set" / "link").is_symlink()
    kept, cut = tmp_path / "set" / "0" / "a.png", tmp_path / "set" / "1" / "c.png"
    before = kept.stat().st_mtime_ns
    cut.write_bytes(b"cut")
    extract(archive)
    assert kept.stat().st_mtime_ns == before and cut.read_bytes() == FILES["set/1/c.png"]


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "something else"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str, damage: str):
    archive = _write(tmp_path / name, FILES)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    content = {
        "cut": bytes(data[: len(data) // 2]),
        "flipped": bytes(data),
        "something else": b"<html>no</html>" * 9,
    }
    archive.write_bytes(content[damage])
    with pytest.raises(UserError, match=rf"{name} cannot be extracted.*[Dd]ownload it again"):
        extract(archive)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [name]


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
@pytest.mark.parametrize("inside", ["../outside.txt", "/tmp/outside-of-torchslots.txt"])
def test_nothing_is_written_outside(tmp_path: Path, name: str, inside: str):
    folder = tmp_path / "deep"
    folder.mkdir()
    with pytest.raises(UserError, match="outside of its folder"):
        extract(_write(folder / name, {inside: b"x"}))
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [name]


@pytest.mark.parametrize("content", [b"<html>no</html>" * 99, b""])
def test_a_tar_without_checksums_that_is_none_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "set.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"set.tar cannot be extracted.*[Dd]ownload it again"):
        extract(tmp_path / "set.tar")


def test_a_tar_that_is_cut_off_is_named(tmp_path: Path):
    archive = _write(tmp_path / "set.tar", FILES)
    archive.write_bytes(archive.read_bytes()[:15_000])
    with pytest.raises(UserError, match=r"set.tar cannot be extracted.*[Dd]ownload it again"):
        extract(archive)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["set.tar"]


def test_too_little_room(tmp_path: Path, monkeypatch):
    archive = _write(tmp_path / "set.tar.gz", FILES)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="only 1,000 bytes are free"):
        extract(archive)
