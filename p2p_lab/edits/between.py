"""A plan between two plans: what an animation does between its keyframes.

    M̂_u = (1 − u) M̂_a + u M̂_b  for any maps,   e_u = (1 − u) e(a) + u e(b)

What is mixed is the map, so the attention of a word lies between what it has in the two plans;
windows, fences and moves are mixed number by number, and (by the sampler) the embedding e of the
text. What only one of the two has is taken as having no effect in the other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from p2p_lab.devices import cpu_by_default
from p2p_lab.edits.parts import BlendPlan, Feed, MovePlan
from p2p_lab.edits.places import nearest_step
from p2p_lab.edits.plan import EditPlan, Joint
from p2p_lab.tokens import Prompt


@cpu_by_default()
def between(one: EditPlan, other: EditPlan, share: float) -> EditPlan:
    """Return the plan that lies a share of the way from one plan to another.

    Args:
        one: The plan at share 0, which comes back as it is.
        other: The plan at share 1, the same.
        share: From 0 to 1.

    Raises:
        ValueError: If the plans are of different sources, steps or lengths, or cannot be mixed.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share lies between 0 and 1, got {share!r}.")
    for name in ("steps", "length", "source", "compat"):
        if getattr(one, name) != getattr(other, name):
            raise ValueError(
                f"Plans of different {name} cannot be mixed: {getattr(one, name)!r:.80} and "
                f"{getattr(other, name)!r:.80}. Compile both for the same source."
            )
    if share in (0, 1):
        return other if share else one
    toward = _toward(one, other, share)
    mapper, gain, second = _feeds(one, other, share)
    return one.with_(
        mapper=mapper,
        source_gain=gain,
        target_gain=(1 - share) * one.target_gain + share * other.target_gain,
        second=second,
        self_steps=_steps(one.self_steps, other.self_steps, share),
        self_pixels=round(_mix(one.self_pixels, other.self_pixels, share)),
        joint=_joint(one, other),
        blend=_blend(one.blend, other.blend, share),
        moves=_moves(one.moves, other.moves, share),
        toward=toward,
    )


def _toward(one: EditPlan, other: EditPlan, share: float) -> tuple[Prompt, float] | None:
    for plan in (one, other):
        half_way = plan.blend is not None and plan.blend.toward is not None
        if plan.toward is not None or plan.second is not None or half_way:
            raise ValueError("A plan between two others cannot be mixed again. Mix keyframes only.")
    if one.target == other.target or other.target is None:
        return None
    return other.target, share


def _feeds(one: EditPlan, other: EditPlan, share: float) -> tuple[Tensor, Tensor, Feed | None]:
    """Return mapper, source gain and second feed, whose sum is the mix of both plans' feeds.

    A token that both plans feed from the same places, or only one feeds at all, needs one mapper;
    only where the places differ the other plan's go to the second.
    """
    mine, theirs = (1 - share) * one.source_gain, share * other.source_gain  # (T, L)
    used, wanted = (mine != 0).any(dim=0), (theirs != 0).any(dim=0)  # (L,)
    apart = used & wanted & (one.mapper != other.mapper).any(dim=0)
    mapper = torch.where(wanted & ~used, other.mapper, one.mapper)
    gain = mine + torch.where(apart, torch.zeros_like(theirs), theirs)
    if not bool(apart.any()):
        return mapper, gain, None
    return mapper, gain, Feed(other.mapper * apart, theirs * apart)


def _joint(one: EditPlan, other: EditPlan) -> Joint:
    """Return how joint softmaxes are treated; a plan without self-attention steps has no say."""
    if one.self_steps and other.self_steps and one.joint != other.joint:
        raise ValueError(
            f"One keyframe has joint={one.joint!r} and another {other.joint!r}; there is nothing "
            "between them. Give both the same."
        )
    return one.joint if one.self_steps else other.joint


def _mix(a: float, b: float, share: float) -> float:
    return (1 - share) * a + share * b


def _steps(a: range, b: range, share: float) -> range:
    """Return the steps between two windows; an empty one lies at the start of the other."""
    a = a or range(b.start, b.start)
    b = b or range(a.start, a.start)
    return range(
        *(nearest_step(_mix(getattr(a, e), getattr(b, e), share)) for e in ("start", "stop"))
    )


def _blend(a: BlendPlan | None, b: BlendPlan | None, share: float) -> BlendPlan | None:
    """Return the fence between two; no fence is one that says nothing."""
    if a == b:
        return a
    a = a or BlendPlan(start_step=b.start_step if b else 0)
    b = b or BlendPlan(start_step=a.start_step)
    return replace(
        a, start_step=nearest_step(_mix(a.start_step, b.start_step, share)), toward=(b, share)
    )


def _moves(a: tuple[MovePlan, ...], b: tuple[MovePlan, ...], share: float) -> tuple[MovePlan, ...]:
    """Return the moves between two lists; a word that only one moves stays in the other."""
    before, after = ({move.tokens: move for move in moves} for moves in (a, b))
    mixed = []
    for tokens in {**before, **after}:
        here = before.get(tokens) or _still(after[tokens])
        there = after.get(tokens) or _still(before[tokens])
        mixed.append(_move(here, there, share))
    return tuple(move for move in mixed if not move.is_identity)


def _still(move: MovePlan) -> MovePlan:
    return replace(move, by=(0.0, 0.0), scale=1.0)


def _move(a: MovePlan, b: MovePlan, share: float) -> MovePlan:
    one, two = a.mask, b.mask
    if (one is None) != (two is None):
        raise ValueError("Two moves of one word need a mask= each, or none.")
    if one is not None and two is not None and one.shape != two.shape:
        raise ValueError("The masks of two moves of one word must have the same shape.")
    return replace(
        a,
        by=(_mix(a.by[0], b.by[0], share), _mix(a.by[1], b.by[1], share)),
        scale=a.scale ** (1 - share) * b.scale**share,  # a size grows by factors
        steps=_steps(a.steps, b.steps, share),
        threshold=_mix(a.threshold, b.threshold, share),
        mask=None if one is None or two is None else torch.lerp(one, two, share),
    )
