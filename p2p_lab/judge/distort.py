"""Spoil pictures as a generator might: blur, wobble, noise, blocks, a wrong hue.

The judge is trained on renders and reads generated pictures, which are blurrier and less
regular. All functions take pictures (B, 3, S, S) in [0, 1] and draw from a generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WOBBLE = 2.0  # pixels of 64 that a point moves at most
KINDS = 4  # of resampling; each takes a quarter of a batch


def distort(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return spoiled pictures, and their masks (B, O, M, M) moved with them.

    A quarter of the pictures is only recoloured and made noisy, so that clean renders stay easy.
    """
    images, masks = images.clone(), masks.clone()
    half = torch.arange(len(images) // 2)
    images[half], masks[half] = wobble(images[half], masks[half], generator)
    quarter = max(len(images) // KINDS, 1)
    order = torch.randperm(len(images), generator=generator)
    for rows, spoil in zip(torch.split(order, quarter), (blur, coarsen, blocks), strict=False):
        images[rows] = spoil(images[rows], generator)
    return noise(recolour(images, generator), generator).clamp(0, 1), masks


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return numbers (B, 1, 1, 1) between `low` and `high`."""
    return (low + (high - low) * torch.rand(count, generator=generator)).view(-1, 1, 1, 1)


def wobble(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move every point a little along a smooth random field, and the whole picture too."""
    count = len(images)
    coarse = torch.randn(count, 2, 5, 5, generator=generator)
    coarse += torch.randn(count, 2, 1, 1, generator=generator)
    size = images.shape[-1]
    field = F.interpolate(coarse, size=size, mode="bicubic").clamp(-2, 2)
    grid = field.permute(0, 2, 3, 1) * (WOBBLE / 64)  # (B, S, S, 2), in [−1, 1] of the side
    return _warp(images, grid), _warp(masks, _shrink(grid, masks.shape[-1]))


def _shrink(grid: Tensor, size: int) -> Tensor:
    return F.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def _warp(planes: Tensor, offset: Tensor) -> Tensor:
    size = planes.shape[-1]
    line = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], -1) + offset  # (B, S, S, 2)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth with a Gaussian of 0.4 to 1.3 pixels (of 64)."""
    sigma = float(uniform(1, 0.4, 1.3, generator)) * images.shape[-1] / 64
    radius = max(1, round(2.5 * sigma))
    x = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def coarsen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shrink the pictures to a half or more of their side and enlarge them again."""
    size = images.shape[-1]
    small = round(size * float(uniform(1, 0.45, 0.9, generator)))
    shrunk = F.interpolate(images, size=small, mode="bilinear", antialias=True)
    return F.interpolate(shrunk, size=size, mode="bilinear")


def blocks(images: Tensor, generator: torch.Generator) -> Tensor:
    """Round the cosine coefficients of 8 × 8 blocks, as JPEG does."""
    k, n = torch.arange(8)[:, None], torch.arange(8)[None]
    basis = torch.cos(math.pi * (2 * n + 1) * k / 16) * 0.5  # (8 frequencies, 8 pixels)
    basis[0] /= math.sqrt(2)
    size = images.shape[-1]
    tiles = images.view(-1, 3, size // 8, 8, size // 8, 8).transpose(3, 4)
    waves = basis @ tiles @ basis.T
    step = float(uniform(1, 0.02, 0.10, generator)) * (1 + 0.4 * (k + n))
    tiles = basis.T @ ((waves / step).round() * step) @ basis
    return tiles.transpose(3, 4).reshape(-1, 3, size, size)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and white balance a little."""
    count = len(images)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(count, 0.88, 1.12, generator)
    centre = images.mean((1, 2, 3), keepdim=True)
    images = centre + (images - centre) * uniform(count, 0.9, 1.1, generator)
    tint = 0.015 * torch.randn(count, 3, 1, 1, generator=generator)
    return images + tint + uniform(count, -0.03, 0.03, generator)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add grain, from none to five hundredths, fine or a few pixels wide."""
    count, _, size, _ = images.shape
    fine = torch.randn(images.shape, generator=generator)
    wide = torch.randn(count, 3, size // 4, size // 4, generator=generator)
    wide = F.interpolate(wide, size=size, mode="bilinear")
    strength = uniform(count, 0, 0.04, generator)
    return images + strength * fine + uniform(count, 0, 0.04, generator) * wide
