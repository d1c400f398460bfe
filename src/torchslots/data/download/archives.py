"""ZIP, tar.gz and tar archives, extracted beside themselves; the same call again goes on where it was interrupted."""

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from torchslots.io.errors import UserError, first_line
from torchslots.io.files import atomic_file, check_space
from torchslots.io.progress import progress

ENDINGS = (".zip", ".tar.gz", ".tar")
_BLOCK = 1 << 20


def extract(
    archive: Path, into: Path | None = None, *, wanted: Callable[[str], bool] = lambda name: True
) -> None:
    """Extract an archive; files that are there in full size are skipped.

    Args:
        into: folder for its files; None: the archive's own.
        wanted: whether the file of a name in the archive is extracted.

    Raises:
        UserError: it is damaged, holds paths outside of its folder, or the disk is full.
    """
    written: list[Path] = []
    try:
        with progress(f"Extracting {archive.name}", None, "files") as advance:
            for name, size, stream in _members(archive):
                target = (into or archive.parent) / _inside(name, archive)
                if wanted(name) and (not target.exists() or target.stat().st_size != size):
                    _write(target, size, stream)
                    written.append(target)
                advance(1)
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is None:
            raise _damaged(archive, error.__cause__, written) from error
        raise
    except (
        Exception
    ) as error:  # the readers raise whatever a damaged archive, or a name in it, makes them meet
        raise _damaged(archive, error, written) from error


def list_members(archive: Path) -> list[str]:
    """Names of the files in an archive.

    Raises:
        UserError: it is damaged.
    """
    try:
        return [name for name, _, _ in _members(archive)]
    except Exception as error:  # as in `extract`
        raise _damaged(archive, error, []) from error


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each file, in the archive's order."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if not member.is_dir():
                    with packed.open(member) as stream:
                        yield member.filename, member.file_size, stream
        return
    with gzip.open(archive) if archive.name.endswith(".gz") else archive.open("rb") as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as stored:
            for entry in stored:
                stream = stored.extractfile(entry) if entry.isfile() else None
                if stream is not None:
                    yield entry.name, entry.size, stream
        while unpacked.read(_BLOCK):  # the checksum is at the end
            continue


def _write(target: Path, size: int, stream: IO[bytes]) -> None:
    advice = "Free some space and repeat the command; extracted files stay."
    check_space(target.parent, size, advice, f"Extracting {target.name}")
    with atomic_file(target) as partial, partial.open("wb") as file:
        shutil.copyfileobj(stream, file)


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive} holds `{name}`, outside of its folder. Do not use this file.")
    return path


def _damaged(archive: Path, error: BaseException, written: list[Path]) -> UserError:
    """Remove what was extracted: a checksum covers the whole archive, not single files."""
    for path in written:
        path.unlink(missing_ok=True)
    return UserError(f"{archive} cannot be extracted: {first_line(error)}. Remove it and download it again.")
