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

from p2p_lab.attention.sites import Site
from p2p_lab.attention.store import nearest_size
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
        blend: Words, threshold and the user's own mask; or two of them and a share.
        grid: Height and width (h, w) of the maps.
        size: Height and width of the latents.

    Returns:
        Mask (B, 1, h, w) in [0, 1]: 1 where the edit may change the latents.
    """
    like = source[0]
    blends = [(blend, 1.0)]
    if blend.toward is not None:
        other, share = blend.toward
        blends = [(blend, 1 - share), (other, share)]
    near, away = (
        [_relative(source, target, part, grid, size, subtract=subtract) for part, _ in blends]
        for subtract in (False, True)
    )
    inside, outside = _above(near, blends, missing=0.0), _above(away, blends, missing=1.0)
    mask = like.new_ones(like.shape[0], 1, *size) if inside is None else inside.to(like)
    if outside is not None:
        mask = mask * ~outside
    return mask * _user_masks(blends, size).to(like)


def blend_level(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    blend: BlendPlan,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Return the attention of the blend's words as a part of its maximum, (B, 1, h, w).

    The mask is where this is above the threshold. Arguments as in `blend_mask`; the blend names
    words.
    """
    level = _relative(source, target, blend, grid, size, subtract=False)
    assert level is not None
    return level


def _above(
    peaks: Sequence[Tensor | None], blends: Sequence[tuple[BlendPlan, float]], *, missing: float
) -> Tensor | None:
    """Find where Σ share · (relative attention − threshold) > 0: (B, 1, h, w) bool, or None.

    None without words. A blend without such words takes the other one's, at a threshold that
    lets all (0) or nothing (1) be above it.
    """
    known = [one for one in peaks if one is not None]
    if not known:
        return None
    level = torch.zeros_like(known[0])
    for one, (part, share) in zip(peaks, blends, strict=True):
        level = level + share * (known[0] - missing if one is None else one - part.threshold)
    return level > 0


def _relative(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    blend: BlendPlan,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    subtract: bool,
) -> Tensor | None:
    """Return the maps of a blend's words over their maximum, the larger of the two prompts'."""
    if subtract:
        groups = (source, blend.source_subtract), (target, blend.target_subtract)
    else:
        groups = (source, blend.source_tokens), (target, blend.target_tokens)
    parts = []
    for maps, tokens in groups:
        if tokens:
            parts.append(_over_maximum(_heat(maps, tokens, grid), size, pool=not subtract))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.maximum(*parts)


def _heat(maps: Sequence[Tensor], tokens: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Return some tokens' mean map, (B, 1, h, w).

    A word that is pushed away has a negative map: it acts where that is far from 0.
    """
    words = torch.stack([m[..., list(tokens)].abs().sum(-1) for m in maps]).mean(0)  # (B, pixels)
    return words.reshape(words.shape[0], 1, *grid)


def _over_maximum(heat: Tensor, size: tuple[int, int], *, pool: bool) -> Tensor:
    """Return a map as a part of its maximum, (B, 1, H, W); 0 where there is nothing."""
    if pool:
        heat = F.max_pool2d(heat, kernel_size=3, stride=1, padding=1)
    heat = F.interpolate(heat, size=size)  # nearest, as in the reference
    return (heat / heat.amax(dim=(2, 3), keepdim=True)).nan_to_num(0.0)


def _user_masks(blends: Sequence[tuple[BlendPlan, float]], size: tuple[int, int]) -> Tensor:
    """Bring the user's masks to the latents' size by averaging, and mix them, (1, 1, H, W)."""
    total = torch.zeros(1, 1, *size, dtype=torch.float32, device="cpu")
    for part, share in blends:
        user = torch.ones_like(total)
        if part.mask is not None:
            mask = part.mask[None, None].float().cpu()
            user = F.interpolate(mask, size=size, mode="area")
        total = total + share * user
    return total
