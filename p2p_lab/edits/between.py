"""A plan between two plans: what an animation does between its keyframes.

    P_u = (1 − u) P_a + u P_b,   g_u = (1 − u) g_a + u g_b,   e_u = (1 − u) e(a) + u e(b)

All numbers are mixed: mapper, gains, windows, fences, moves, and (by the sampler) the embedding e
of the text. What only one of the two has is taken as having no effect in the other.
"""

from __future__ import annotations

from dataclasses import replace

from p2p_lab.edits.movement import MovePlan
from p2p_lab.edits.places import nearest_step
from p2p_lab.edits.plan import BlendPlan, EditPlan
from p2p_lab.tokens import Prompt


def between(one: EditPlan, other: EditPlan, share: float) -> EditPlan:
    """Return the plan that lies a share of the way from one plan to another.

    Args:
        one: the plan at share 0, which comes back as it is.
        other: the plan at share 1, the same.
        share: from 0 to 1.

    Raises:
        ValueError: the plans are of different sources, steps or lengths, or cannot be mixed.
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
    return one.with_(
        mapper=(1 - share) * one.mapper + share * other.mapper,
        source_gain=(1 - share) * one.source_gain + share * other.source_gain,
        target_gain=(1 - share) * one.target_gain + share * other.target_gain,
        self_steps=_steps(one.self_steps, other.self_steps, share),
        self_pixels=round(_mix(one.self_pixels, other.self_pixels, share)),
        blend=_blend(one.blend, other.blend, share),
        moves=_moves(one.moves, other.moves, share),
        toward=_toward(one, other, share),
    )


def _toward(one: EditPlan, other: EditPlan, share: float) -> tuple[Prompt, float] | None:
    if one.toward is not None or other.toward is not None:
        raise ValueError("A plan between two prompts cannot be mixed again. Mix keyframes only.")
    if one.target == other.target or other.target is None:
        return None
    return other.target, share


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
    """Return the fence between two; no fence is one with threshold 0 from the first step on."""
    if a is None and b is None:
        return None
    a, b = a or _open(b), b or _open(a)
    same = (a.source_subtract, a.target_subtract) == (b.source_subtract, b.target_subtract)
    if not same or (a.mask is None) != (b.mask is None):
        raise ValueError(
            "Two fences of which only one subtracts words or brings a mask cannot be mixed. Give "
            "both keyframes a LocalBlend with the same subtract= and a mask= each, or none."
        )
    if a.mask is not None and b.mask is not None and a.mask.shape != b.mask.shape:
        raise ValueError("The masks of two fences to be mixed must have the same shape.")
    return BlendPlan(
        source_tokens=tuple(sorted({*a.source_tokens, *b.source_tokens})),
        target_tokens=tuple(sorted({*a.target_tokens, *b.target_tokens})),
        source_subtract=a.source_subtract,
        target_subtract=a.target_subtract,
        threshold=_mix(a.threshold, b.threshold, share),
        start_step=nearest_step(_mix(a.start_step, b.start_step, share)),
        mask=None if a.mask is None or b.mask is None else (1 - share) * a.mask + share * b.mask,
    )


def _open(fence: BlendPlan | None) -> BlendPlan:
    """Return a fence like another one that lets the edit act everywhere."""
    assert fence is not None
    mask = None if fence.mask is None else fence.mask * 0 + 1
    return replace(fence, threshold=0.0, mask=mask)


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
    if (a.mask is None) != (b.mask is None):
        raise ValueError("Two moves of one word need a mask= each, or none.")
    return replace(
        a,
        by=(_mix(a.by[0], b.by[0], share), _mix(a.by[1], b.by[1], share)),
        scale=a.scale ** (1 - share) * b.scale**share,  # a size grows by factors
        steps=_steps(a.steps, b.steps, share),
        threshold=_mix(a.threshold, b.threshold, share),
    )
