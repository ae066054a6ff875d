"""Question 5 of problem set 3: edits that beat two targets, one of layout and one of background."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Wrong
from p2p_lab.checks.engine.question import Args, Mistake, Question
from p2p_lab.checks.engine.watching import Rules
from p2p_lab.checks.fixtures.targets import (
    CHANGED,
    KEPT_DB,
    LAYOUT,
    MOVED,
    DrawnCase,
    PaintedCase,
    draw_case,
    paint_case,
    score_of,
)
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight

_KINDS = (Replace, Refine, Reweight, LocalBlend)
_MOST = 6


class Asked(tuple):  # type: ignore[type-arg]
    """The arguments (old, new, local) of an answer, with the case that they are about.

    Attributes:
        case: The picture and what is known of it; an answer does not get it.
    """

    case: DrawnCase | PaintedCase


def asked(case: DrawnCase | PaintedCase) -> Asked:
    """Return what an answer is asked about a case."""
    args = Asked((case.old, case.new, isinstance(case, DrawnCase)))
    args.case = case
    return args


def _draw(rng: random.Random, easy: bool) -> Args:
    """Draw the easier of the two targets, or both in turn."""
    seed = rng.randrange(2**20)
    return asked(paint_case(seed) if easy or rng.random() < 0.5 else draw_case(seed))


def _read(value: Any, args: Args) -> Tensor:
    """Return the two numbers of an answer's edits."""
    assert isinstance(args, Asked)
    edits = list(value) if isinstance(value, (list, tuple)) else [value]
    if not edits or not all(type(one) in _KINDS for one in edits):
        raise Wrong("It must return a list of edits of the package: Replace, Refine, Reweight, "
                    "LocalBlend.")  # fmt: skip
    if len(edits) > _MOST:
        raise Wrong(f"It returned {len(edits)} edits; {_MOST} are enough for anybody.")
    if not args[2] and any(isinstance(one, LocalBlend) for one in edits):
        raise Wrong(
            "With local=False the layout is asked for without LocalBlend: take the source's "
            "attention maps."
        )
    try:
        return torch.tensor(score_of(args.case, tuple(edits)), dtype=torch.float64)
    except Exception as error:
        raise Wrong(f"The edits were refused: {type(error).__name__}: {error}"[:300]) from None


def _why(value: Tensor, args: Args) -> str:
    """Return what a target lacks; empty when both of its numbers are good enough."""
    first, second = float(value[0]), float(value[1])
    if args[2]:
        report = (
            f"{args[0]} → {args[1]}, local: background {first:+.1f} dB, object changed {second:.0%}"
        )
        if first < KEPT_DB:
            return f"{report}: the background has to gain {KEPT_DB:.0f} dB or more."
        return "" if second >= CHANGED else f"{report}: the object has to change {CHANGED:.0%}."
    report = f"{args[0]} → {args[1]}, layout: structure distance {first:.0%}, changed {second:.0%}"
    if first > LAYOUT:
        return f"{report} of the free edit's: at most {LAYOUT:.0%} of the distance may be left."
    return "" if second >= MOVED else f"{report} of the free edit's: change at least {MOVED:.0%}."


def _good(old: str, new: str, local: bool) -> list[Any]:
    if local:
        return [Replace(cross=(0, 0.4), self_attention=(0, 0.2)), LocalBlend(old, new)]
    return [Replace(cross=(0, 0.8), self_attention=(0, 0.4))]


_FREE = Replace(cross=(0, 0), self_attention=(0, 0))

EDITS: Question = Question(
    id="ps3.edits",
    title="Edits that beat two targets",
    signature="f(old, new, local: bool) -> list of p2p_lab edits that turn the object old into new",
    hints=(
        "Without local: what carries the layout from one picture to the other? With local: what "
        "keeps the background where neither word looks?",
        "The two targets pull at the same windows: long ones keep, short ones let the new object "
        "be drawn. Begin with the defaults and look at both numbers.",
        "A swap alone, with windows that cover a good part of the steps, keeps the layout. For the "
        "local target shorten the windows, so that the object is free, and let a second edit, "
        "about the words old and new, keep all else.",
    ),
    draw=_draw,
    right=_good,
    read=_read,
    otherwise=_why,
    mistakes=(
        Mistake(
            "Nothing of the source is taken: the windows are empty, so the layout is lost.",
            lambda old, new, local: [_FREE],
            easy=True,
        ),
        Mistake(
            "LocalBlend alone keeps the background; the layout without it needs the source's maps.",
            lambda old, new, local: [_FREE, *([LocalBlend(old, new)] if local else [])],
            easy=True,
        ),
        Mistake(
            "A swap without LocalBlend does not keep the background of a drawn scene.",
            lambda old, new, local: [Replace(cross=(0, 0.8), self_attention=(0, 0.4))],
        ),
        Mistake(
            "The region of LocalBlend is empty, so the object does not change.",
            lambda old, new, local: (
                [Replace(), LocalBlend(old, new, threshold=1.0)] if local else [Replace()]
            ),
        ),
    ),
    done="The layout is kept without a blend, and the background with one.",
    cases=2,
    accept=lambda value, args: not _why(value, args),
    rules=Rules(may_use=("p2p_lab.edits",)),
)
