"""Arrays and tensors as PIL images of 8 bits a channel. A leaf: it knows no run and no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


def to_image(pixels: Any) -> Image:
    """Return an image in RGB; values are rounded to the nearest of 255.

    Args:
        pixels: A tensor (3, H, W) or an array (H, W, 3), values in [0, 1]; what lies outside is
            clamped.
    """
    from PIL import Image

    array = pixels if not hasattr(pixels, "permute") else _channels_last(pixels)
    return Image.fromarray((array.clip(0, 1) * 255).round().astype("uint8"))


def _channels_last(tensor: Any) -> Any:
    return tensor.detach().permute(1, 2, 0).float().cpu().numpy()  # (H, W, 3)
