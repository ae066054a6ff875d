"""Take the source's attention in an object's region to another place.

    M̃[p, :] = (1 − N_p) (1 − V_p) M[p, :] + N_p M[from(p), :] + V_p (1 − N_p) M̄,
    from(p) = c + (p − c − by) / scale

R is the object's region with its centre c, N_p = R[from(p)] the new place, V = R the old one, and
M̄ the mean row of what lies outside both (outside the old place alone, or of the whole picture, if
nothing is left). Each row stays a mean of rows, so it still sums to 1.
Positions and lengths are fractions of the picture, the same at every site. Prompts and steps are
not known here. This is our extension: the paper names moving objects as a limit (section 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.edits.movement import MovePlan


def region_of(heat: Tensor, threshold: float) -> Tensor:
    """Return where a word's map (..., h, w) lies above a part of its maximum, 0 or 1."""
    return (heat > threshold * heat.amax(dim=(-2, -1), keepdim=True)).to(heat.dtype)


def centre_of(region: Tensor) -> Tensor:
    """Return the centre of mass of regions (B, h, w) as fractions (down, right), (B, 2).

    Raises:
        ValueError: If a region is empty.
    """
    mass = region.sum(dim=(-2, -1))  # (B,)
    if not bool((mass > 0).all()):
        raise ValueError("There is nothing to move: the region is empty. Lower the threshold.")
    down = (region.sum(dim=-1) * _centres(region.shape[-2], region)).sum(dim=-1) / mass
    right = (region.sum(dim=-2) * _centres(region.shape[-1], region)).sum(dim=-1) / mass
    return torch.stack([down, right], dim=-1)


def carried(
    values: Tensor, centre: Tensor, by: tuple[float, float], scale: float, *, padding: str
) -> Tensor:
    """Read a grid of values at from(p) for every position p, bilinear.

    Args:
        values: (B, C, h, w).
        centre: Centres c of the regions, (B, 2).
        by: How far, (down, right), in fractions.
        scale: How much larger.
        padding: What lies outside: "zeros", or "border" for the nearest value.

    Returns:
        (B, C, h, w).
    """
    h, w = values.shape[-2:]
    c = centre.to(values)
    down = c[:, :1] + (_centres(h, values) - c[:, :1] - by[0]) / scale  # (B, h)
    right = c[:, 1:] + (_centres(w, values) - c[:, 1:] - by[1]) / scale  # (B, w)
    grid = torch.stack(
        [right[:, None, :].expand(-1, h, -1), down[:, :, None].expand(-1, -1, w)], dim=-1
    )  # (B, h, w, 2)
    return F.grid_sample(
        values, grid * 2 - 1, mode="bilinear", padding_mode=padding, align_corners=False
    )


def move_rows(
    probs: Tensor,
    region: Tensor,
    by: tuple[float, float],
    scale: float,
    size: tuple[int, int],
) -> Tensor:
    """Carry the rows of attention in a region to another place.

    Args:
        probs: (B, ..., pixels, L); each row is one position's attention to the text.
        region: (B, H, W) in [0, 1] at any resolution, the object.
        by: How far, (down, right), as fractions of height and width.
        scale: How much larger, around the region's centre.
        size: The site's height and width (h, w), h · w = pixels.

    Returns:
        The moved probabilities, a new tensor of the same shape.
    """
    region = region.to(probs)
    centre = centre_of(region)
    old = F.interpolate(region[:, None], size=size, mode="area")  # (B, 1, h, w)
    new = F.interpolate(
        carried(region[:, None], centre, by, scale, padding="zeros"), size=size, mode="area"
    )
    grid = probs.movedim(-1, 1)  # (B, L, ..., pixels)
    flat = grid.reshape(grid.shape[0], -1, *size)  # (B, L · heads, h, w)
    around = (1 - old) * (1 - new)
    mean = _mean_row(flat, (around, 1 - old, torch.ones_like(old)))
    brought = carried(flat, centre, by, scale, padding="border")
    moved = around * flat + new * brought + old * (1 - new) * mean
    return moved.reshape(grid.shape).movedim(1, -1)


def move_source(source: Tensor, site: Site, moves: Sequence[MovePlan]) -> Tensor:
    """Return the source's attention to words with moves made.

    Args:
        source: (B, ..., pixels, K).
        site: Where, which tells how the K keys are laid out.
        moves: What is moved; each carries its region as a mask (H, W) or (B, H, W).
    """
    words = site.text_keys(source.shape[-1])
    rows = source[..., words]
    for move in moves:
        assert move.mask is not None
        region = move.mask if move.mask.ndim == 3 else move.mask[None].expand(len(rows), -1, -1)
        rows = move_rows(rows, region, move.by, move.scale, site.size)
    if rows.shape == source.shape:
        return rows
    moved = source.clone()
    moved[..., words] = rows
    return moved


def _centres(count: int, like: Tensor) -> Tensor:
    """Return the centres of `count` cells as fractions, (count,)."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def _mean_row(grid: Tensor, choices: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean row of a grid (B, C, h, w), (B, C, 1, 1).

    The weights, (B, 1, h, w), are the first of the choices that is not 0 everywhere; the last one
    never is. Every picture of the batch has its own.
    """
    weights = choices[-1]
    for other in reversed(choices[:-1]):
        some = (other > 0).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        weights = torch.where(some, other, weights)
    total = weights.sum(dim=(-2, -1), keepdim=True)
    return (grid * weights).sum(dim=(-2, -1), keepdim=True) / total
