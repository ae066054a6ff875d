"""Warnings that name the caller's line, whatever of this package lies between."""

from __future__ import annotations

import sys
import warnings

_ROOMS = ("warn", "devices", "models", "attention", "sampling", "inversion", "recipes", "rivals")
_INNER = (*(f"p2p_lab.{room}" for room in _ROOMS), "contextlib", "torch.")


def warn_caller(message: str) -> None:
    """Warn, and lay it to the line that called the package: a user's, a panel's or a command's."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(_INNER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
