"""Write files and folders whole or not at all, and tell one content from another.

Everything is written to a draft folder beside its place, flushed to the disk and then moved there
in one step. A process that is killed at any moment leaves the old file, or the new one, and perhaps
a draft; drafts have a name of their own, so that they can be counted and cleared. This file knows
nothing of what is written.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRAFT = ".p2p-draft-"
OLD = 3600.0  # seconds after which a draft belongs to no process that still writes it


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a draft to write to; the file appears under its name when the block ends well.

    Args:
        path: Where the file is to be. Its folder is made if it is not there.
        replace: Whether a file that is there already is replaced.

    Yields:
        The draft's path: an empty file with the usual rights.

    Raises:
        FileExistsError: If there is a file and `replace` is off.
        OSError: If it cannot be written; a file that was there is still whole.
    """
    # In a folder of its own: some libraries write beside the draft first, and may be killed too.
    with _draft_folder(path) as folder:
        draft = folder / "file"
        # As open() makes it: with the rights that the user's umask leaves.
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        rights = draft.stat().st_mode & 0o777
        yield draft
        _flush(draft)
        draft.chmod(rights)  # some libraries keep what they write to its owner
        _place(draft, path, replace=replace)
    _flush_folder(path.parent)


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> Path:
    """Write bytes to a file, whole or not at all; see `whole_file`.

    Returns:
        The path.
    """
    with whole_file(path, replace=replace) as draft:
        draft.write_bytes(data)
    return path


def write_new(path: Path, data: bytes) -> Path:
    """Write bytes under a name that is still free: edit.json, then edit-2.json.

    Returns:
        The path that was free.
    """
    number, free = 1, path
    while True:
        if not os.path.lexists(free):
            with suppress(FileExistsError):  # another one took the name meanwhile
                return write_whole(free, data, replace=False)
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")


def append_line(path: Path, text: str) -> None:
    """Write a line at the end of a log; what a kill left of a line that was cut is taken off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
        file.write(text.encode() + b"\n")


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a log, without one at its end that a kill has cut."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode().splitlines()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a draft folder to fill; it appears under its name when the block ends well.

    Args:
        path: Where the folder is to be; must not be there.

    Yields:
        The draft's path, an empty folder.

    Raises:
        FileExistsError: If there is something already; before the block runs.
        OSError: If it cannot be written.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already.")
    with _draft_folder(path) as draft:
        yield draft
        for file in draft.rglob("*"):
            if file.is_file():
                _flush(file)
        draft.rename(path)
    _flush_folder(path.parent)


def check_may_write(folder: Path) -> None:
    """See that files can be written in a folder, which need not be there yet.

    Raises:
        NotADirectoryError: If it is a file, or would lie in one.
        PermissionError: If there is no right to write in it, or to make it.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file. Name a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(
            f"There is no right to write in the folder {place}. Name another one, or change its "
            "rights."
        )


def remove_folder(path: Path) -> None:
    """Delete a folder so that nobody ever finds a part of it under its name."""
    draft = _draft_beside(path)
    path.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)


def drafts(folder: Path, *, older: float = 0.0) -> list[Path]:
    """List the drafts in a folder that were not touched for `older` seconds.

    They are what a killed process left, or what another process writes right now.
    """
    if not folder.is_dir():
        return []
    latest = time.time() - older
    return [path for path in folder.glob(DRAFT + "*") if older <= 0 or _changed(path) < latest]


def clear_drafts(folder: Path, *, older: float = 0.0) -> int:
    """Delete the drafts in a folder, and return how many there were."""
    found = drafts(folder, older=older)
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return len(found)


def size_of(path: Path) -> int:
    """Return how many bytes a file takes, or the files in a folder; 0 if it is gone meanwhile."""
    files = path.rglob("*") if path.is_dir() else (path,)
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """Make an empty draft folder beside a path, and delete it (if it is still there) afterwards."""
    _check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_drafts(path.parent, older=OLD)
    draft = _draft_beside(path)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_name(path: Path) -> None:
    """Refuse a name that no file can have.

    Raises:
        ValueError: If it holds half of a character, or a null.
    """
    try:
        named = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise ValueError(
            f"{str(path)!r} cannot be the name of a file: it holds half of a character, or a "
            "null. Choose another one."
        )


def _draft_beside(path: Path) -> Path:
    """Return a new name for a draft; a short one, for long names may have no room for more."""
    return path.with_name(DRAFT + secrets.token_hex(8))


def _place(draft: Path, path: Path, *, replace: bool) -> None:
    """Give the draft its name."""
    if replace:
        os.replace(draft, path)
        return
    try:
        os.link(draft, path)  # unlike a move, this fails where a file lies already
    except FileExistsError:
        raise FileExistsError(f"{path} exists already.") from None
    except (OSError, AttributeError):  # no hard links: exFAT, some mounted drives
        if os.path.lexists(path):  # the moment between this and the move cannot be closed there
            raise FileExistsError(f"{path} exists already.") from None
        os.replace(draft, path)


def _flush(path: Path) -> None:
    """Ask the system to bring a file's content to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Bring a folder's list of names to the disk, where the system has a way to."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _changed(path: Path) -> float:
    """Return when a draft was changed; infinity if its writer has just finished it."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")
