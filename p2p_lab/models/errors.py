"""The one error of this room, and how causes are quoted in it."""

from __future__ import annotations

REINSTALL = "Install the package, or download the model, again."


class ModelError(ValueError):
    """Say why a model cannot be opened and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line + "."
