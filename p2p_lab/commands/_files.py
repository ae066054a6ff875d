"""Write files whole or not at all, and never over another one unless asked to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_FORCE = "Name another file, or add --force to replace it."


def check_writable(path: Path, suffixes: tuple[str, ...], *, force: bool) -> Path:
    """Return the path if it can be written, before any work is done.

    Raises:
        ValueError: the name has an ending that is not supported.
        FileExistsError: the file is there and must not be replaced.
        NotADirectoryError: its folder does not exist, or the path is itself a folder.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}, got {path.suffix!r}.")
    if path.is_dir():
        raise NotADirectoryError(f"{path} is a folder. Name a file in it.")
    if not path.resolve().parent.is_dir():
        raise NotADirectoryError(f"The folder of {path} does not exist. Make it first.")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already. {_FORCE}")
    return path


def write_whole(path: Path, data: bytes, *, force: bool) -> None:
    """Write bytes beside the path and move them there in one step.

    Raises:
        FileExistsError: another file came to lie there meanwhile, and `force` is off.
    """
    handle, partial = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        if force or not hasattr(os, "link"):
            os.replace(partial, path)
        else:
            _link(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _link(partial: str, path: Path) -> None:
    """Give the partial file its name; unlike a move, this fails where a file lies already."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise FileExistsError(f"{path} exists already. {_FORCE}") from None


def _umask() -> int:
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
