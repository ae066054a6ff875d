"""Where an edit may change the picture: the mask of the paper's local editing.

    z* ← z + mask · (z* − z)

The mask is made of the mean cross-attention of chosen words (Hertz et al. 2022, section 4): 3×3
max-pool, upsampled, divided by its maximum, thresholded; the union of source and target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.records import nearest_size
from p2p_lab.attention.sites import Site
from p2p_lab.edits import BlendPlan


def blend_sites(sites: Mapping[str, Site]) -> list[Site]:
    """Choose the sites that the mask is made of: with text, nearest to 16×16, all of that size."""
    return nearest_size([site for site in sites.values() if site.has_text])


def blend_mask(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    blend: BlendPlan,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Compute the mask of one step.

    Args:
        source: The source's summed or mean maps so far, (B, pixels, L) a site.
        target: The same of the target.
        blend: Words, threshold and the user's own mask.
        grid: Height and width (h, w) of the maps.
        size: Height and width of the latents.

    Returns:
        Mask (B, 1, h, w) in [0, 1]: 1 where the edit may change the latents.
    """
    mask: Tensor | None = None
    if blend.source_tokens or blend.target_tokens:
        near = _region(source, blend.source_tokens, blend.threshold, grid, size, pool=True)
        mask = near | _region(target, blend.target_tokens, blend.threshold, grid, size, pool=True)
    if blend.source_subtract or blend.target_subtract:
        away = _region(source, blend.source_subtract, blend.threshold, grid, size, pool=False)
        away = away | _region(
            target, blend.target_subtract, blend.threshold, grid, size, pool=False
        )
        mask = ~away if mask is None else mask & ~away
    like = source[0]
    soft = like.new_ones(like.shape[0], 1, *size) if mask is None else mask.to(like.dtype)
    return soft if blend.mask is None else soft * _own(blend.mask, size).to(like)


def _region(
    maps: Sequence[Tensor],
    tokens: Sequence[int],
    threshold: float,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    pool: bool,
) -> Tensor:
    """Find where some tokens' mean map exceeds the threshold, (B, 1, h, w) bool."""
    batch = maps[0].shape[0]
    if not tokens:
        return torch.zeros(batch, 1, *size, dtype=torch.bool, device=maps[0].device)
    words = torch.stack([m[..., list(tokens)].sum(-1) for m in maps]).mean(0)  # (B, pixels)
    heat = words.reshape(batch, 1, *grid)
    if pool:
        heat = F.max_pool2d(heat, kernel_size=3, stride=1, padding=1)
    heat = F.interpolate(heat, size=size)  # nearest, as in the reference
    return heat / heat.amax(dim=(2, 3), keepdim=True) > threshold


def _own(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring the user's mask to the latents' size by averaging."""
    return F.interpolate(mask[None, None].float(), size=size, mode="area")  # (1, 1, h, w)
