"""Write what a panel has shown to a picture file: a strip (PNG) or a sequence (GIF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from p2p_lab.figures import show_pictures, to_gif, to_png
from p2p_lab.files import write_new


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture that a panel has shown.

    Attributes:
        image: The picture.
        caption: Its prompt.
        note: What made it.
    """

    image: Image.Image
    caption: str
    note: str

    def __eq__(self, other: object) -> bool:
        """Return whether both show the same, made in the same way."""
        return isinstance(other, Frame) and self._key == other._key

    def __hash__(self) -> int:
        """Return a number that equal frames share."""
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, str, bytes]:
        return self.caption, self.note, self.image.tobytes()


def save_strip(frames: Sequence[Frame], folder: str | Path = ".") -> Path:
    """Write the pictures side by side to a new PNG file, and return its path."""
    titles = [f"{frame.caption} · {frame.note}" for frame in frames]
    strip = show_pictures([frame.image for frame in frames], titles)
    return write_new(Path(folder) / "edit-strip.png", to_png(strip))


def save_gif(frames: Sequence[Frame], folder: str | Path = ".", *, seconds: float = 0.8) -> Path:
    """Write the pictures one after another to a new GIF file, and return its path."""
    pictures = [frame.image.convert("RGB") for frame in frames]
    return write_new(Path(folder) / "edit.gif", to_gif(pictures, seconds=seconds))
