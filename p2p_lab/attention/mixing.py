"""Apply a plan to the probabilities of one site: the text block, and the image block.

On a joint softmax over text and image (IF, SD3, Flux) the same plan acts on its blocks, which is
our extension of the paper to such models. There a whole map carries the source's words along and
misaligns the target's; the image's queries and keys carry the layout alone (Shin et al. 2025,
arXiv 2508.07519), so they can be taken in the place of maps.

A move takes the source's attention in an object's region to another place:

    M̃[p, :] = (1 − N_p) (1 − V_p) M[p, :] + N_p M[from(p), :] + V_p (1 − N_p) M̄,
    from(p) = c + (p − c − by) / scale

R is the object's region with its centre c, N_p = R[from(p)] the new place, V = R the old one, and
M̄ the mean row of what lies outside both (outside the old place alone, or of the whole picture, if
nothing is left). Each row stays a mean of rows, so it still sums to 1. Positions and lengths are
fractions of the picture, the same at every site. This is our extension: the paper names moving
objects as a limit (section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.attention.sites import Site
from p2p_lab.attention.tap import AttentionCall
from p2p_lab.attention.tape import Entry, QueryKey
from p2p_lab.edits import EditPlan, mix_cross
from p2p_lab.edits.parts import MovePlan


def mixes(plan: EditPlan, site: Site, step: int) -> bool:
    """Return whether the plan changes the attention to text at a site and step."""
    return site.has_text and plan.edits_cross(step)


def injects(plan: EditPlan, site: Site, step: int) -> bool:
    """Return whether the plan takes the attention among image positions from the source."""
    return site.has_image and plan.edits_self(step) and site.pixels <= plan.self_pixels


def mix_site(
    target: Tensor, source: Tensor | None, site: Site, plan: EditPlan, step: int
) -> Tensor:
    """Return the target's probabilities after the edit.

    Args:
        target: The target's own, (B, heads, pixels, K).
        source: The source's, same shape; None where the plan does not need them.
        site: Where, which tells how the K keys are laid out.
        plan: The compiled edit.
        step: 0 is the noisiest.

    Returns:
        A new tensor; `target` itself where the plan changes nothing.

    Raises:
        ValueError: If the plan was compiled for another number of tokens.
    """
    text, image = mixes(plan, site, step), injects(plan, site, step)
    image = image and not shares(plan, site, step)  # it came by its queries and keys
    if not (text or image):
        return target
    check_length(site, target.shape[-1], plan)
    source = target if source is None else source  # multiplied by a gain of 0
    carried = moved(source, site, plan, step)
    assert carried is not None
    if site.kind == "cross":
        return mix_cross(carried, target, plan, step)
    edited, words = target.clone(), site.text_keys(target.shape[-1])
    if text:
        edited[..., words] = mix_cross(carried[..., words], target[..., words], plan, step)
    if image:
        pixels = site.image_keys(target.shape[-1])
        edited[..., pixels] = source[..., pixels]
    return edited


def moved(source: Tensor | None, site: Site, plan: EditPlan, step: int) -> Tensor | None:
    """Return the source's attention (B, ..., pixels, K) with the plan's moves made, if any."""
    moves = plan.moves_at(step)
    return source if source is None or not moves else move_source(source, site, moves)


def mix_values(
    source: Tensor | None, target: Tensor | None, value: Tensor, plan: EditPlan, step: int
) -> Tensor:
    """Return the output of edited cross-attention without forming the edited map M̂.

        M̂ V = M_src (P diag(g_src) V) + M_tgt (diag(g_tgt) V)

    The values are few and thin, (L, d), and the maps are large: so the edit acts on the values.

    Args:
        source: The source's probabilities, (B, heads, pixels, L); None where none are needed.
        target: The target's own, same shape; None where its gain is 0 for all tokens.
        value: The target's values, (B, heads, L, d).
        plan: The compiled edit.
        step: 0 is the noisiest.

    Returns:
        (B, heads, pixels, d), in the precision of `value`.
    """
    probs = target if source is None else source
    assert probs is not None
    mapper, source_gain, target_gain = plan.tensors_like(probs)
    wide, parts = value.to(probs.dtype), []
    if source is not None and plan.needs_source_cross(step):
        fed = source_gain[step].unsqueeze(-1) * wide
        parts.append(source @ (fed if plan.keeps_places else mapper @ fed))
        second = plan.second_like(probs)
        if second is not None:
            parts.append(source @ (second.mapper @ (second.gain[step].unsqueeze(-1) * wide)))
    if target is not None and (plan.needs_target_cross(step) or not parts):
        parts.append(target @ (target_gain[step].unsqueeze(-1) * wide))
    mixed = parts[0]
    for part in parts[1:]:
        mixed = mixed + part
    return mixed.to(value.dtype)


def check_length(site: Site, keys: int, plan: EditPlan) -> None:
    """Refuse a plan that was compiled for another number of text tokens than the site has."""
    text = site.text_keys(keys)
    length = text.stop - text.start
    if site.has_text and length != plan.length:
        raise ValueError(
            f"{site.name} attends to {length} text tokens and the plan was compiled for "
            f"{plan.length}. Compile it with prompts of the model's own length."
        )


def shares(plan: EditPlan | None, site: Site, step: int) -> bool:
    """Return whether a joint softmax takes the source's image queries and keys, not its maps."""
    if plan is None or plan.joint != "queries" or site.kind != "joint":
        return False
    return plan.edits_self(step) and site.pixels <= plan.self_pixels


def share_image(
    call: AttentionCall, rows: slice, site: Site, source: Entry | None
) -> AttentionCall:
    """Put the source's image queries and keys in the place of some rows' own.

    Args:
        call: The attention's arguments.
        rows: The target's rows of the batch.
        site: Where, which tells how queries and keys are laid out.
        source: The source's image queries and all its keys.

    Raises:
        ValueError: If the source is itself an edit whose maps were mixed: it has no such queries.
    """
    if not isinstance(source, QueryKey):
        raise ValueError(
            f"The source's map at {site.name} was itself edited, so there are no queries and keys "
            "to take from it. Use joint='maps', or put both changes in one edit."
        )
    query, key = call.query.clone(), call.key.clone()
    query[rows, :, site.image_queries(query.shape[2])] = source.query.to(query)
    pixels = site.image_keys(key.shape[2])
    key[rows, :, pixels] = source.key[:, :, pixels].to(key)
    return replace(call, query=query, key=key)


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
