"""Pictures that come with the package and that no model of it was trained on.

Emoji by another artist, which the bundled models ought to manage, and photographs, which they
cannot: the picture comes back as far as the autoencoder knows such pictures, and edits fail.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from p2p_lab.inversion.pictures import PictureError, load_image

if TYPE_CHECKING:
    from PIL.Image import Image

_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "examples"
_SIDE = 256


def list_example_images() -> dict[str, str]:
    """List the pictures' names with what each one shows."""
    return {name: entry["prompt"] for name, entry in _entries().items()}


def open_example_image(name: str, size: int = _SIDE) -> Image:
    """Open one of the pictures, RGB, `size` pixels a side.

    Raises:
        PictureError: If there is none of that name.
    """
    entries = _entries()
    if name not in entries:
        raise PictureError(
            f"There is no picture {name!r} in the package; there are {', '.join(entries)}."
        )
    return load_image(_FOLDER / entries[name]["file"], size)


def _entries() -> dict[str, dict[str, str]]:
    entries: dict[str, dict[str, str]] = json.loads(
        (_FOLDER / "examples.json").read_text(encoding="utf-8")
    )
    return entries
