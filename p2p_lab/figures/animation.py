"""Frames of an animation: as a strip of pictures, and as a GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from p2p_lab.figures._style import (
    LabFigure,
    describe,
    evenly,
    panels,
    show_picture,
    to_array,
)
from p2p_lab.images import to_image

SIDE = 256  # small pictures are enlarged to this, so that a GIF can be looked at


def to_gif(pictures: Sequence[Any], *, seconds: float = 0.2, side: int = SIDE) -> bytes:
    """Return pictures one after another as an endless GIF.

    Args:
        pictures: Runs, PIL, numpy or torch, all of one size.
        seconds: How long each is shown.
        side: Smaller pictures are enlarged until their longer side has this many pixels.

    Raises:
        ValueError: If there are no pictures, or no time to look at them.
    """
    if not pictures or not seconds > 0:
        raise ValueError(
            f"A GIF shows one picture or more for some time, got {len(pictures)} pictures and "
            f"{seconds!r} seconds."
        )
    images = [_enlarged(picture, side) for picture in pictures]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="gif",
        save_all=True,
        append_images=images[1:],
        duration=int(1000 * seconds),
        loop=0,
    )
    return buffer.getvalue()


def show_frames(pictures: Sequence[Any], *, columns: int = 7) -> LabFigure:
    """Draw frames of an animation side by side, with how much each differs from the one before.

    Args:
        pictures: Runs, PIL, numpy or torch, in order.
        columns: How many to show, first and last among them.
    """
    if not pictures:
        raise ValueError("There are no frames to show.")
    changes = frame_changes(pictures)
    shown = list(evenly(len(pictures), columns))
    figure, grid = panels(len(shown), columns=len(shown), size=1.5)
    for ax, i in zip(grid.flat, shown, strict=True):
        below = f"changed {changes[i - 1]:.3f}" if i else ""
        show_picture(ax, pictures[i], f"frame {i}", below=below)
    most = f", {max(changes):.3f} at most from one to the next" if changes else ""
    describe(figure, f"{len(shown)} of {len(pictures)} frames of an animation{most}.")
    return figure


def frame_changes(pictures: Sequence[Any]) -> list[float]:
    """Return the mean absolute change of the pixels from each frame to the next."""
    arrays = [to_array(picture) for picture in pictures]
    return [float(np.abs(b - a).mean()) for a, b in zip(arrays[:-1], arrays[1:], strict=True)]


def _enlarged(picture: Any, side: int) -> Image.Image:
    image = to_image(to_array(picture))
    factor = max(1.0, side / max(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)
