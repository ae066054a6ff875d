"""The bundled model, loaded once. It stays when the other checks are read from disk again."""

from __future__ import annotations

from functools import cache

from p2p_lab.models import Denoiser, load


@cache
def bundled() -> Denoiser:
    """Return the bundled model on the CPU, loaded once."""
    return load(device="cpu")
