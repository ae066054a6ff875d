"""Apply a plan to the probabilities of one site: the text block, and the image block.

On a joint softmax over text and image (IF, SD3, Flux) the same plan acts on its blocks, which is
our extension of the paper to such models. There a whole map carries the source's words along and
misaligns the target's; the image's queries and keys carry the layout alone (Shin et al. 2025,
arXiv 2508.07519), so they can be taken in the place of maps.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from p2p_lab.attention.moving import move_source
from p2p_lab.attention.sites import Site
from p2p_lab.attention.tap import AttentionCall
from p2p_lab.attention.tape import Entry, QueryKey
from p2p_lab.edits import EditPlan, mix_cross


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
