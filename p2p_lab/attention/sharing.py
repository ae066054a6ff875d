"""Joint attention, the other way: the source's image queries and keys in place of its maps.

On a softmax over words and image a whole map carries the source's words along and misaligns the
target's; the image's queries and keys carry the layout alone (Shin et al. 2025, arXiv 2508.07519).
Words keep their queries, keys and values. Like all edits of joint attention this is an extension.
"""

from __future__ import annotations

from dataclasses import replace

from p2p_lab.attention.query_key import QueryKey
from p2p_lab.attention.sites import Site
from p2p_lab.attention.tap import AttentionCall
from p2p_lab.attention.tape import Entry
from p2p_lab.edits import EditPlan


def shares(plan: EditPlan | None, site: Site, step: int) -> bool:
    """Tell whether a joint softmax takes the source's image queries and keys, not its maps."""
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
