import os
import pwd
import tempfile
from pathlib import Path

import numpy as np
import pytest

from torchslots.io import cache
from torchslots.io.errors import UserError
from torchslots.io.files import expanded, write_file


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No home is known, as of a user without a line in the system's list; the folder for temporary files."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_the_cache_is_among_temporary_files(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = homeless / f"torchslots-{os.getuid()}"
    assert cache.user_cache("a", "b") == own / "a" / "b" and cache.hub_cache() == str(own / "huggingface")
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    assert cache.user_cache("a") == Path("/given/torchslots/a") and cache.hub_cache() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert cache.user_cache() == Path("/home/one/.cache/torchslots") and cache.hub_cache() is None


def test_a_temporary_cache_of_another_user_is_refused(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (homeless / "torchslots-123456").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    with pytest.raises(UserError, match=r"is another user's\. Set XDG_CACHE_HOME"):
        cache.user_cache()


def test_an_unknown_home_stays_in_a_path(homeless: Path) -> None:
    assert expanded("~/a") == Path("~/a") and expanded("~nobody-of-that-name/a") == Path(
        "~nobody-of-that-name/a"
    )


def test_names_of_files_that_are_no_text_are_hashed(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"a\xff")
    folder.mkdir()
    (folder / "data").write_bytes(b"1")
    made = [cache.cached(folder / "data", "sum", lambda: {"a": np.arange(3)})["a"].tolist() for _ in range(2)]
    assert made == [[0, 1, 2]] * 2 and (folder / ".torchslots" / "data.sum.npz").is_file()
    write_file(folder / "told.html", f"at {folder}")
    assert b"a\xff" in (folder / "told.html").read_bytes()
