"""Questions of problem set 3: the three operators, a plan's gains, and edits that beat a target."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import draw_probs
from p2p_lab.checks.engine.question import Args, Mistake, Question, gap, reader
from p2p_lab.checks.sets.ps3_edits import EDITS
from p2p_lab.checks.sets.ps3_gains import GAINS, LENGTH, flags

Window = tuple[float, float]
Partners = Sequence[int | None]
SHAPE, AXES = (2, 9, LENGTH), "(heads, pixels, L)"
_LIKE_TARGET = reader(lambda source, target, *rest: tuple(target.shape), AXES)


def _two_maps(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Draw the probabilities of a source and of a target."""
    seed = rng.randrange(2**31)
    return draw_probs(*SHAPE, seed=seed), draw_probs(*SHAPE, seed=seed + 1)


def _normal(probs: Tensor) -> Tensor:
    return probs / probs.sum(-1, keepdim=True)


# 1: the swap operator ---------------------------------------------------------------------------


def _mapper(rng: random.Random) -> Tensor:
    """Draw a mapper in which one word shrinks from two tokens to one, so later ones move."""
    P = torch.zeros(LENGTH, LENGTH)  # noqa: N806 - the paper's letter
    at = rng.randrange(LENGTH - 2)
    for j in range(LENGTH - 1):
        rows = [j] if j < at else [j, j + 1] if j == at else [j + 1]
        P[rows, j] = 1.0 / len(rows)
    return P


def _draw_swap(rng: random.Random, easy: bool) -> Args:
    inside = torch.ones(LENGTH, dtype=torch.bool) if easy else flags(rng, LENGTH)
    return *_two_maps(rng), _mapper(rng), inside


def _swap(source: Tensor, target: Tensor, mapper: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside, source @ mapper, target)


SWAP: Question = Question(
    id="ps3.swap",
    title="The swap operator",
    signature="f(source (heads, pixels, L), target, mapper (L, L), inside (L,) bool) -> "
    "(heads, pixels, L)",
    hints=(
        "Inside its window a token takes its column of M · P, outside its own.",
        "The product with the mapper moves all columns at once; `inside` then chooses.",
        "torch has a function that takes one of two tensors where a condition is true; the "
        "condition (L,) is spread over heads and pixels by itself.",
    ),
    draw=_draw_swap,
    right=_swap,
    read=_LIKE_TARGET,
    otherwise=lambda value, args: (
        f"With the tokens {args[3].nonzero().flatten().tolist()} inside, the columns differ. "
        + gap(SWAP, value, args)
    ),
    mistakes=(
        Mistake(
            "It returns the source's columns without the mapper.",
            lambda s, t, P, inside: torch.where(inside, s, t),
            easy=True,
        ),
        Mistake(
            "The mapper is applied transposed: it is source @ mapper.",
            lambda s, t, P, inside: torch.where(inside, s @ P.T, t),
            easy=True,
        ),
        Mistake(
            "The windows are turned round: inside, the source's map is taken.",
            lambda s, t, P, inside: torch.where(inside, t, s @ P),
            easy=True,
        ),
        Mistake(
            "The rows were renormalised; the paper does not do that.",
            lambda *args: _normal(_swap(*args)),
            easy=True,
        ),
        Mistake(
            "The windows are not used: a token outside its window keeps the target's map.",
            lambda s, t, P, inside: s @ P,
        ),
        Mistake(
            "Columns outside their window became zero; they keep the target's map.",
            lambda s, t, P, inside: (s @ P) * inside,
        ),
        Mistake(
            "The window of the first token is used for all; each token has its own.",
            lambda s, t, P, inside: s @ P if inside[0] else t,
        ),
    ),
    done="Swaps: each token takes the source's map inside its window, its own outside.",
    cases=5,
)


# 2: the refinement operator, softly -------------------------------------------------------------


def _draw_refine(rng: random.Random, easy: bool) -> Args:
    fresh = set(rng.sample(range(1, LENGTH), 2))
    left = iter(range(LENGTH))
    partner: list[int | None] = [None if j in fresh else next(left) for j in range(LENGTH)]
    if easy:
        return *_two_maps(rng), partner, torch.ones(LENGTH)
    strength = [rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for _ in range(LENGTH)]
    return *_two_maps(rng), partner, torch.tensor(strength)


def _refine(source: Tensor, target: Tensor, partner: Partners, strength: Tensor) -> Tensor:
    edited = target.clone()
    for j, i in enumerate(partner):
        if i is not None:
            s = strength[j]
            edited[..., j] = s * source[..., i] + (1 - s) * target[..., j]
    return edited


def _whole(source: Tensor, target: Tensor, partner: Partners, strength: Tensor) -> Tensor:
    """Ignore the strength, as the operator of lesson 03 does."""
    return _refine(source, target, partner, torch.ones_like(strength))


def _new_from(column: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Return a refinement whose new tokens take another column."""

    def answer(source: Tensor, target: Tensor, partner: Partners, strength: Tensor) -> Tensor:
        edited = _refine(source, target, partner, strength)
        for j, i in enumerate(partner):
            if i is None:
                edited[..., j] = column(source, target, j)
        return edited

    return answer


REFINE: Question = Question(
    id="ps3.refine",
    title="The refinement operator, softly",
    signature="f(source (heads, pixels, L), target, partner: list of int or None, strength (L,)) "
    "-> (heads, pixels, L)",
    hints=(
        "An old token is a mixture of two columns; a new one keeps its own.",
        "strength 1 is the paper's operator, strength 0 the target's map: what lies between them?",
        "Start with a copy of the target. For each token with a partner, put s times the source's "
        "column A(j) and 1 − s times the target's column j in its place, with its own s.",
    ),
    draw=_draw_refine,
    right=_refine,
    read=_LIKE_TARGET,
    otherwise=lambda value, args: (
        f"For A = {args[2]} and the strengths {[round(float(s), 2) for s in args[3]]} the columns "
        f"differ. " + gap(REFINE, value, args)
    ),
    mistakes=(
        Mistake("It returns the target unchanged.", lambda s, t, *rest: t.clone(), easy=True),
        Mistake(
            "Column j takes source column j; it has to take column A(j).",
            lambda s, t, partner, strength: _refine(
                s, t, [None if i is None else j for j, i in enumerate(partner)], strength
            ),
            easy=True,
        ),
        Mistake(
            "New tokens got zeros; they keep the target's own map.",
            _new_from(lambda source, target, j: torch.zeros_like(target[..., j])),
            easy=True,
        ),
        Mistake(
            "New tokens took the source's last column (index None or -1).",
            _new_from(lambda source, target, j: source[..., -1]),
            easy=True,
        ),
        Mistake(
            "Source and target are exchanged.",
            lambda s, t, *rest: _refine(t, s, *rest),
            easy=True,
        ),
        Mistake(
            "The rows were renormalised; the paper does not do that.",
            lambda *args: _normal(_refine(*args)),
            easy=True,
        ),
        Mistake("The strength is not used: an old token is a mixture.", _whole),
        Mistake(
            "The strength is turned round: 1 takes the source's map whole.",
            lambda s, t, partner, strength: _refine(s, t, partner, 1 - strength),
            easy=True,
        ),
        Mistake(
            "The strength of token A(j) is used; it belongs to the target's token j.",
            lambda s, t, partner, strength: _refine(
                s,
                t,
                partner,
                torch.stack([strength[j if i is None else i] for j, i in enumerate(partner)]),
            ),
        ),
        Mistake(
            "The source's column is scaled, but the rest is not filled up with the target's.",
            lambda s, t, partner, strength: (
                _refine(s, t * 0, partner, strength)
                + t * torch.tensor([i is None for i in partner])
            ),
        ),
    ),
    done="Alignments and strengths: old tokens are mixed from A(j), new ones keep their own.",
)


# 3: a fader that moves --------------------------------------------------------------------------


def _draw_fade(rng: random.Random, easy: bool) -> Args:
    steps = rng.choice([4, 5, 6])
    probs = draw_probs(steps, *SHAPE, seed=rng.randrange(2**31))
    tokens = rng.sample(range(LENGTH), 1 if easy else 3)
    if easy:
        return probs, {tokens[0]: (2.5, 2.5)}
    values = [(1.0, 3.0), (0.5, -1.5), (2.0, 0.0)]
    return probs, dict(zip(tokens, values, strict=True))


def _fade(probs: Tensor, fades: Mapping[int, Window], kind: str = "right") -> Tensor:
    """Return the faded probabilities; `kind` is right or a mistake."""
    steps = probs.shape[0]
    factors = torch.ones(steps, probs.shape[-1])
    for token, (first, last) in fades.items():
        below = steps if kind == "T" else steps - 1
        for t in range(steps):
            part = {"first": 0.0, "last": 1.0, "back": 1 - t / below}.get(kind, t / below)
            factors[t, token] = first + part * (last - first)
    if kind == "clamp":
        factors = factors.clamp(min=0)
    return probs * factors[:, None, None]


def _fade_by(kind: str) -> Callable[..., Tensor]:
    return lambda probs, fades: _fade(probs, fades, kind)


def _only_first(probs: Tensor, fades: Mapping[int, Window]) -> Tensor:
    return _fade(probs, dict(list(fades.items())[:1]))


REWEIGHT: Question = Question(
    id="ps3.reweight",
    title="A fader that moves",
    signature="f(probs (T, heads, pixels, L), fades: dict token -> (first, last)) -> the same "
    "shape",
    hints=(
        "Each token's column is multiplied by its scale at that step; nothing is renormalised.",
        "The scale goes from `first` at step 0 to `last` at step T − 1 in equal parts. How many "
        "parts are there between T steps?",
        "Make a table of ones (T, L) and fill one column a fader (torch.linspace includes both "
        "ends); then give it two axes in the middle, so that it spreads over heads and pixels.",
    ),
    draw=_draw_fade,
    right=_fade,
    read=reader(lambda probs, fades: tuple(probs.shape), "(T, heads, pixels, L)"),
    otherwise=lambda value, args: (
        f"For the faders {dict(args[1])} the columns differ. " + gap(REWEIGHT, value, args)
    ),
    mistakes=(
        Mistake("Nothing changed.", lambda probs, fades: probs.clone(), easy=True),
        Mistake(
            "The rows were renormalised. The paper does not: a stronger word adds to the sum.",
            lambda *args: _normal(_fade(*args)),
            easy=True,
        ),
        Mistake(
            "The scale was added; multiply.",
            lambda probs, fades: probs + _fade(torch.ones_like(probs), fades) - 1,
            easy=True,
        ),
        Mistake(
            "All columns are scaled; only those of the named tokens are.",
            lambda probs, fades: (
                probs * _fade(torch.ones_like(probs), fades)[..., [next(iter(fades))]]
            ),
            easy=True,
        ),
        Mistake("The scale of step 0 is used at all steps.", _fade_by("first")),
        Mistake("The scale of the last step is used at all steps.", _fade_by("last")),
        Mistake("The fader runs backwards: it starts with the first scale.", _fade_by("back")),
        Mistake(
            "The last scale is never reached: there are T − 1 parts between T steps.", _fade_by("T")
        ),
        Mistake(
            "Negative scales were cut off at 0; they push away from the word.", _fade_by("clamp")
        ),
        Mistake("Only the first of the tokens is scaled.", _only_first),
    ),
    done="Faders up, down and below zero, several tokens at once: all columns agree.",
)


QUESTIONS = (SWAP, REFINE, REWEIGHT, GAINS, EDITS)
