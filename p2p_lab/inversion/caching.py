"""Inversions kept on disk, found again by picture, prompt, model, method and settings.

Files are safetensors, written whole or not at all; the folder's size is bounded, and what was not
used for the longest time goes first. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p2p_lab import __version__
from p2p_lab.models import Denoiser
from p2p_lab.sampling import Run

LIMIT = 2 * 2**30
SUFFIX = ".safetensors"


def cache_folder() -> Path:
    """Tell where inversions are kept: `P2P_LAB_CACHE`, or p2p_lab in the user's cache folder."""
    own = os.environ.get("P2P_LAB_CACHE")
    if own:
        return Path(own).expanduser() / "inversions"
    usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(usual).expanduser() / "p2p_lab" / "inversions"


@dataclass(frozen=True)
class InversionCache:
    """Keep inversions in a folder of bounded size.

    Attributes:
        folder: Where.
        limit: Bytes that the folder may hold.
    """

    folder: Path = field(default_factory=cache_folder)
    limit: int = LIMIT

    def get_or_make(self, key: str, model: Denoiser, make: Callable[[], Run]) -> Run:
        """Return the run kept under a key, or make it and keep it.

        A file that cannot be read is thrown away; a folder that cannot be written does no harm.
        """
        path = self.folder / (key + SUFFIX)
        if path.is_file():
            try:
                run = Run.load(path, model)
                os.utime(path)  # used now
                return run
            except (ValueError, OSError):
                path.unlink(missing_ok=True)
        run = make()
        self._put(run, path)
        return run

    def files(self) -> list[Path]:
        """List what is kept, the longest unused first."""
        if not self.folder.is_dir():
            return []
        found = [(_used(path), path) for path in self.folder.glob("*" + SUFFIX)]
        return [path for used, path in sorted(found) if used >= 0]

    @property
    def nbytes(self) -> int:
        """Tell how many bytes the folder holds."""
        return sum(_size(path) for path in self.files())

    def clear(self) -> int:
        """Throw everything away and return how many files that were."""
        files = self.files()
        for path in files:
            path.unlink(missing_ok=True)
        return len(files)

    def _put(self, run: Run, path: Path) -> None:
        tape = 0 if run.tape is None else run.tape.nbytes
        try:
            run.save(path, tape=tape <= self.limit // 4)
        except OSError:
            return
        self._shrink(keep=path)

    def _shrink(self, keep: Path) -> None:
        """Throw away what was unused for the longest time until the rest fits."""
        files = self.files()
        total = sum(_size(path) for path in files)
        for path in files:
            if total <= self.limit:
                return
            if path != keep or _size(path) > self.limit:
                total -= _size(path)
                path.unlink(missing_ok=True)


def key_of(model: Denoiser, pixels: Tensor, settings: Sequence[Any]) -> str:
    """Return a name for one inversion that no other one has.

    Args:
        model: The denoiser; its weights count, not only its name.
        pixels: The picture as it is inverted, (1, 3, H, W).
        settings: Everything else that the result depends on, ready for JSON.
    """
    digest = hashlib.sha256()
    about = [__version__, model.name, str(model.dtype), list(pixels.shape), *settings]
    digest.update(json.dumps(about).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    digest.update(_fingerprint(model).encode())
    return digest.hexdigest()[:40]


def _fingerprint(model: Denoiser) -> str:
    """Return a hash of the weights: names, shapes and a few numbers of every tensor.

    Reading them all would take seconds for a large model; training changes every one of them.
    """
    parts = [model.module, *(getattr(model, name, None) for name in ("vae", "text_encoder"))]
    digest = hashlib.sha256(json.dumps(dict(model.scheduler_config), default=str).encode())
    samples = []
    for part in parts:
        for name, tensor in [] if part is None else part.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            samples.append(tensor.detach().flatten()[:8].double())
    digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()


def _used(path: Path) -> float:
    """Tell when a file was last used; −1 if another process has just thrown it away."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return -1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
