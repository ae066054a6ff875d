"""A pytest plugin: nbval compares stored pictures too, by tolerance.

nbval 0.11 skips pictures. Here each stored picture is decoded and compared with the new one: a
font or a rounding may differ, another picture may not.
"""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np

BLOCK = 8  # pixels; text that is drawn half a pixel further must not count
BLOCK_TOLERANCE = 24.0  # of 255
SHARE_TOLERANCE = 0.02  # of the blocks
SIZE_TOLERANCE = 0.03
INLINE = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")


def picture_difference(one: str | bytes, two: str | bytes) -> float:
    """Return the share of blocks whose mean colour differs visibly between two base64 pictures.

    Pictures of another size (by more than 3 %) differ wholly, 1.
    """
    from PIL import Image

    a, b = (Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in (one, two))
    if any(abs(m - n) > SIZE_TOLERANCE * max(m, n) for m, n in zip(a.size, b.size, strict=True)):
        return 1.0
    small = tuple(max(1, side // BLOCK) for side in a.size)
    means = [np.asarray(x.resize(small, Image.Resampling.BOX), dtype=float) for x in (a, b)]
    return float((np.abs(means[0] - means[1]).max(-1) > BLOCK_TOLERANCE).mean())


def pictures(outputs: list[Any]) -> list[str]:
    """Return the base64 pictures of a cell's outputs, those inside HTML too."""
    found: list[str] = []
    for data in (output.get("data", {}) for output in outputs):
        found += [data["image/png"]] if "image/png" in data else []
        found += INLINE.findall(data.get("text/html", ""))
    return found


def compare_pictures(cell: Any, test: list[Any], stored: list[Any]) -> bool:
    """Compare a cell's new pictures with the stored ones, and say what differs."""
    new, old = pictures(test), pictures(stored)
    if len(new) != len(old):
        cell.comparison_traceback = [f"{len(new)} pictures instead of {len(old)}"]
        return False
    for i, pair in enumerate(zip(new, old, strict=True)):
        difference = picture_difference(*pair)
        if difference > SHARE_TOLERANCE:
            cell.comparison_traceback = [
                f"picture {i} differs from the stored one in {difference:.0%} of its area"
            ]
            return False
    return True


def pytest_configure(config: Any) -> None:
    """Add the comparison of pictures to nbval's own."""
    if not getattr(config.option, "nbval", False):
        return
    from nbval.plugin import IPyNbCell

    texts = IPyNbCell.compare_outputs

    def compare(self: Any, test: list[Any], ref: list[Any], skip_compare: Any = None) -> bool:
        return bool(texts(self, test, ref, skip_compare)) and compare_pictures(self, test, ref)

    IPyNbCell.compare_outputs = compare
