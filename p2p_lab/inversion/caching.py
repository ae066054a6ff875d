"""Inversions kept on disk, found again by picture, prompt, model, method and settings.

Files are safetensors, written whole or not at all; the folder's size is bounded, and what was not
used for the longest time goes first. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from torch import Tensor

from p2p_lab import __version__
from p2p_lab.files import OLD, clear_drafts, drafts, size_of
from p2p_lab.inversion.jobs import is_within
from p2p_lab.models import Denoiser
from p2p_lab.models.identity import bytes_of, digest_of
from p2p_lab.sampling import Run
from p2p_lab.warn import warn_caller

LIMIT = 2 * 2**30
SUFFIX = ".safetensors"


def cache_folder() -> Path:
    """Return where inversions are kept: `P2P_LAB_CACHE`, or p2p_lab in the user's cache folder."""
    chosen = os.environ.get("P2P_LAB_CACHE")
    if chosen:
        return Path(chosen).expanduser() / "inversions"
    return platformdirs.user_cache_path("p2p_lab", appauthor=False) / "inversions"


@dataclass(frozen=True)
class InversionCache:
    """Keep inversions in a folder of bounded size.

    Attributes:
        folder: Where.
        limit: Bytes that the folder may hold.
    """

    folder: Path = field(default_factory=cache_folder)
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if not is_within(self.limit, 0):
            raise ValueError(
                f"limit={self.limit!r} is not possible: give the number of bytes that the folder "
                "may hold."
            )

    def get_or_make(self, key: str, model: Denoiser, make: Callable[[], Run]) -> Run:
        """Return the run kept under a key, or make it and keep it.

        A file that is damaged is thrown away and made again; a folder or file that cannot be read
        or written does no harm and is a warning, and a full disk does not lose the inversion.
        """
        path = self.folder / (key + SUFFIX)
        run = self._get(path, model)
        if run is None:
            run = make()
            self._put(run, path)
        return run

    def files(self) -> list[Path]:
        """List what is kept, the longest unused first."""
        if not self.folder.is_dir():
            return []
        found = [(_used(path), path) for path in self.folder.glob("*" + SUFFIX)]
        return [path for used, path in sorted(found) if used >= 0]

    def leftovers(self) -> list[Path]:
        """List what killed processes left half-written (or others write right now)."""
        return drafts(self.folder)

    @property
    def nbytes(self) -> int:
        """Bytes that the folder holds, leftovers included."""
        return sum(size_of(path) for path in (*self.files(), *self.leftovers()))

    def clear(self) -> int:
        """Throw everything away, leftovers too, and return how many inversions that were."""
        files = self.files()
        clear_drafts(self.folder)
        for path in files:
            path.unlink(missing_ok=True)
        return len(files)

    def _get(self, path: Path, model: Denoiser) -> Run | None:
        """Return the run in a file, or None; a damaged file is thrown away."""
        try:
            run = Run.load(path, model) if path.is_file() else None
        except ValueError:
            run = None
            with suppress(OSError):
                path.unlink()
        except OSError:  # not ours to read
            return None
        if run is not None:
            with suppress(OSError):
                os.utime(path)  # used now
        return run

    def _put(self, run: Run, path: Path) -> None:
        tape = 0 if run.tape is None else run.tape.nbytes
        try:
            run.save(path, tape=tape <= self.limit // 4, replace=True)
        except OSError as error:
            why = error.strerror or "its disk may be full"
            warn_caller(
                f"The inversion is not kept: the folder {self.folder} cannot be written ({why}). "
                "Give cache= another folder, or False."
            )
            return
        self._shrink(keep=path)

    def _shrink(self, keep: Path) -> None:
        """Throw away what was unused for the longest time until the rest fits."""
        clear_drafts(self.folder, older=OLD)
        files = self.files()
        total = sum(size_of(path) for path in files)
        for path in files:
            if total <= self.limit:
                return
            if path != keep or size_of(path) > self.limit:
                total -= size_of(path)
                with suppress(OSError):
                    path.unlink()


def key_of(model: Denoiser, pixels: Tensor, settings: Sequence[Any]) -> str:
    """Return a name for one inversion that no other one has.

    Args:
        model: The denoiser; all its weights count, not only its name.
        pixels: The picture as it is inverted, (1, 3, H, W).
        settings: Everything else that the result depends on, ready for JSON.
    """
    digest = hashlib.sha256()
    about = [__version__, model.name, digest_of(model), list(pixels.shape), *settings]
    digest.update(json.dumps(about).encode())
    digest.update(bytes_of(pixels))
    return digest.hexdigest()[:40]


def _used(path: Path) -> float:
    """Return when a file was last used; −1 if another process has just thrown it away."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return -1
