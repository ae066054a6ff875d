"""The sprites of the objects: the atlas, its smaller copies, and recolouring.

A sprite is a premultiplied RGBA tensor (4, S, S) in [0, 1]. An attribute (a colour or
a material) replaces colour by a ramp over luminance, so eyes stay dark and highlights
stay bright. The room knows nothing of scenes.
"""

from __future__ import annotations

import hashlib
import io
import json
from functools import lru_cache
from importlib.resources import files

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = (128, 64, 32)  # sprite sizes in pixels; the nearest above the drawn size is warped

# Three-point ramps over luminance: dark, middle, light.
RAMPS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "red": ((0.25, 0.0, 0.02), (0.88, 0.10, 0.12), (1.0, 0.80, 0.78)),
    "orange": ((0.30, 0.10, 0.0), (0.97, 0.52, 0.08), (1.0, 0.90, 0.72)),
    "yellow": ((0.32, 0.22, 0.0), (0.98, 0.84, 0.12), (1.0, 0.98, 0.80)),
    "green": ((0.0, 0.18, 0.04), (0.16, 0.68, 0.22), (0.80, 0.98, 0.78)),
    "blue": ((0.0, 0.05, 0.28), (0.14, 0.36, 0.92), (0.78, 0.88, 1.0)),
    "purple": ((0.14, 0.0, 0.22), (0.55, 0.22, 0.78), (0.92, 0.82, 1.0)),
    "pink": ((0.32, 0.04, 0.18), (0.98, 0.48, 0.70), (1.0, 0.90, 0.95)),
    "white": ((0.25, 0.25, 0.28), (0.88, 0.88, 0.90), (1.0, 1.0, 1.0)),
    "black": ((0.0, 0.0, 0.0), (0.16, 0.16, 0.18), (0.62, 0.62, 0.66)),
    "golden": ((0.32, 0.16, 0.0), (0.88, 0.62, 0.10), (1.0, 0.97, 0.62)),
    "wooden": ((0.20, 0.10, 0.04), (0.58, 0.36, 0.18), (0.88, 0.70, 0.46)),
    "icy": ((0.16, 0.36, 0.58), (0.56, 0.82, 0.94), (0.96, 1.0, 1.0)),
}
FRUIT_RAMPS = {
    "apple": "red",
    "lemon": "yellow",
    "strawberry": "pink",
    "pumpkin": "orange",
    "banana": "yellow",
}


class CorruptAtlas(ValueError):
    """The atlas on disk is not the one that its card describes."""


@lru_cache(maxsize=1)
def load_atlas() -> tuple[tuple[str, ...], Tensor]:
    """Return the object names and the sprites (objects, 2, 4, 128, 128), premultiplied.

    Column 0 is the rendered art, column 1 the flat art.

    Raises:
        CorruptAtlas: If the picture does not match the checksum on its card.
    """
    import numpy as np
    from PIL import Image

    folder = files("p2p_lab") / "assets"
    card = json.loads((folder / "atlas.json").read_text())
    data = (folder / "atlas.png").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != card["sha256"]:
        raise CorruptAtlas(
            f"atlas.png has checksum {digest[:12]}…, its card says {card['sha256'][:12]}…; "
            "reinstall p2p_lab or run tools/build_atlas.py."
        )
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGBA")))
    size, count = card["size"], len(card["objects"])
    grid = pixels.view(count, size, 2, size, 4).permute(0, 2, 4, 1, 3)  # (N, 2, 4, S, S)
    rgba = grid.float() / 255
    return tuple(card["objects"]), torch.cat([rgba[:, :, :3] * rgba[:, :, 3:], rgba[:, :, 3:]], 2)


def recolour(sprite: Tensor, attribute: str) -> Tensor:
    """Return a premultiplied sprite (4, S, S) in a colour or a material."""
    alpha = sprite[3:]
    rgb = sprite[:3] / alpha.clamp_min(1e-4)
    light = (rgb * rgb.new_tensor([0.3, 0.55, 0.15])[:, None, None]).sum(0)
    if attribute == "wooden":
        light = light + _grain(light.shape[-1]).to(light)
    ramp = torch.tensor(RAMPS[attribute], dtype=rgb.dtype)  # (3 points, 3 channels)
    position = (light.clamp(0, 1) * 2).unsqueeze(0)
    low = ramp[0][:, None, None] + (ramp[1] - ramp[0])[:, None, None] * position
    high = ramp[1][:, None, None] + (ramp[2] - ramp[1])[:, None, None] * (position - 1)
    coloured = torch.where(position < 1, low, high).clamp(0, 1)
    return torch.cat([coloured * alpha, alpha])


def _grain(size: int) -> Tensor:
    """Return the luminance pattern (S, S) of wood."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, size, dtype=torch.float32),
        torch.linspace(0, 1, size, dtype=torch.float32),
        indexing="ij",
    )
    return 0.11 * torch.sin(44 * y + 5 * torch.sin(5 * x) + 2 * x)


@lru_cache(maxsize=1024)
def sprite(name: str, style: str, attribute: str, level: int) -> Tensor:
    """Return the sprite (4, S, S) of an object in a style, an attribute and a size level."""
    names, atlas = load_atlas()
    full = atlas[names.index(name), 0 if style == "3d" else 1]
    if attribute:
        full = recolour(full, attribute)
    size = LEVELS[level]
    return full if size == full.shape[-1] else F.adaptive_avg_pool2d(full, size)
