"""Write files whole or not at all, and never over another one unless asked to."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from p2p_lab import files

if TYPE_CHECKING:
    from p2p_lab.sampling import Run

_FORCE = "Name another file, or add --force to replace it."


def check_writable(path: Path, suffixes: tuple[str, ...], *, force: bool) -> Path:
    """Return the path if it can be written, before any work is done.

    Raises:
        ValueError: If the name has an ending that is not supported.
        FileExistsError: If the file is there and must not be replaced.
        NotADirectoryError: If its folder does not exist, or the path is itself a folder.
        PermissionError: If there is no right to write in its folder.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}, got {path.suffix!r}.")
    if path.is_dir():
        raise NotADirectoryError(f"{path} is a folder. Name a file in it.")
    if not path.resolve().parent.is_dir():
        raise NotADirectoryError(f"The folder of {path} does not exist. Make it first.")
    files.check_may_write(path.resolve().parent)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already. {_FORCE}")
    return path


def write_picture(path: Path, run: Run, *, force: bool) -> None:
    """Write a run's picture as PNG.

    Raises:
        ValueError: If the picture holds numbers that are not finite; nothing is written.
        FileExistsError: If another file came to lie there meanwhile, and `force` is off.
    """
    import numpy as np

    if not np.isfinite(run.array).all():
        raise ValueError(
            f"The picture for {path} holds numbers that are not finite, so it was not written. "
            "Take a smaller guidance scale or smaller weights."
        )
    buffer = io.BytesIO()
    run.image.save(buffer, format="png")
    write_whole(path, buffer.getvalue(), force=force)


def write_whole(path: Path, data: bytes, *, force: bool) -> None:
    """Write bytes beside the path and move them there in one step.

    Raises:
        FileExistsError: If another file came to lie there meanwhile, and `force` is off.
    """
    try:
        files.write_whole(path, data, replace=force)
    except FileExistsError as error:
        raise FileExistsError(f"{error} {_FORCE}") from None
