"""Questions of problem set 3: the three operators, a plan's gains, and edits that beat a target."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import Wrong, agree, call, draw_probs, tensor
from p2p_lab.checks.question import Question
from p2p_lab.checks.targets import judge_edits
from p2p_lab.edits import Replace

Answer = Callable[..., Any]
Window = tuple[float, float]
SHAPE, AXES, LENGTH = (2, 9, 7), "(heads, pixels, L)", 7


def _flags(rng: random.Random, number: int) -> Tensor:
    """Draw yes and no for each token, both at least once."""
    flags = [True, False] + [rng.random() < 0.5 for _ in range(number - 2)]
    rng.shuffle(flags)
    return torch.tensor(flags)


def _mapper(rng: random.Random) -> Tensor:
    """Draw a mapper in which one word shrinks from two tokens to one, so later ones move."""
    P = torch.zeros(LENGTH, LENGTH)  # noqa: N806 - the paper's letter
    at = rng.randrange(LENGTH - 2)
    for j in range(LENGTH - 1):
        rows = [j] if j < at else [j, j + 1] if j == at else [j + 1]
        P[rows, j] = 1.0 / len(rows)
    return P


def _judge_swap(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for n in range(3):
        P = _mapper(rng)  # noqa: N806
        inside = torch.ones(LENGTH, dtype=torch.bool) if easy else _flags(rng, LENGTH)
        source, target = (draw_probs(*SHAPE, seed=seed + 10 * n + i) for i in (1, 2))
        got = tensor(call(answer, source, target, P, inside), SHAPE, AXES)
        mapped = source @ P
        agree(
            got,
            torch.where(inside, mapped, target),
            {
                "It returns the source's columns without the mapper.": torch.where(
                    inside, source, target
                ),
                "The mapper is applied transposed: it is source @ mapper.": torch.where(
                    inside, source @ P.T, target
                ),
                "The windows are not used: a token outside its window keeps the target's map.": (
                    mapped
                ),
                "The windows are turned round: inside, the source's map is taken.": torch.where(
                    inside, target, mapped
                ),
                "Columns outside their window became zero; they keep the target's map.": (
                    mapped * inside
                ),
                "The rows were renormalised; the paper does not do that.": _normal(
                    torch.where(inside, mapped, target)
                ),
            },
            f"With the tokens {inside.nonzero().flatten().tolist()} inside, the columns differ.",
        )
    return "Three swaps: each token takes the source's map inside its window, its own outside."


def _normal(probs: Tensor) -> Tensor:
    return probs / probs.sum(-1, keepdim=True)


def _judge_refine(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for n in range(3):
        fresh = set() if easy else set(rng.sample(range(1, LENGTH), 2))
        left = iter(range(LENGTH))
        partner = [None if j in fresh else next(left) for j in range(LENGTH)]
        if easy:
            partner = [*partner[1:], None]
        source, target = (draw_probs(*SHAPE, seed=seed + 10 * n + i) for i in (3, 4))
        got = tensor(call(answer, source, target, list(partner)), SHAPE, AXES)
        right = _refined(source, target, partner)
        zeros, last = right.clone(), right.clone()
        for j, i in enumerate(partner):
            if i is None:
                zeros[..., j], last[..., j] = 0, source[..., -1]
        places = [None if i is None else j for j, i in enumerate(partner)]
        agree(
            got,
            right,
            {
                "It returns the target unchanged.": target,
                "Column j takes source column j; it has to take column A(j).": _refined(
                    source, target, places
                ),
                "New tokens got zeros; they keep the target's own map.": zeros,
                "New tokens took the source's last column (index None or -1).": last,
                "Source and target are exchanged.": _refined(target, source, partner),
                "The rows were renormalised; the paper does not do that.": _normal(right),
            },
            f"For A = {partner} the columns differ.",
        )
    return "Three alignments: old tokens take A(j)'s map, new ones keep their own."


def _refined(source: Tensor, target: Tensor, partner: list[int | None]) -> Tensor:
    columns = [target[..., j] if i is None else source[..., i] for j, i in enumerate(partner)]
    return torch.stack(columns, dim=-1)


def _judge_reweight(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for n in range(3):
        probs = draw_probs(*SHAPE, seed=seed + n)
        tokens = rng.sample(range(LENGTH), 1 if easy else 3)
        values = [2.5] if easy else [2.0, 0.0, -1.5]
        scales = dict(zip(tokens, values, strict=True))
        got = tensor(call(answer, probs, dict(scales)), SHAPE, AXES)
        factors = torch.ones(LENGTH)
        for token, scale in scales.items():
            factors[token] = scale
        first = torch.ones(LENGTH)
        first[tokens[0]] = scales[tokens[0]]
        agree(
            got,
            probs * factors,
            {
                "The rows were renormalised. The paper does not: a louder word adds to the sum.": (
                    probs * factors / (probs * factors).sum(-1, keepdim=True)
                ),
                "Negative scales were cut off at 0; they push away from the word.": (
                    probs * factors.clamp(min=0)
                ),
                "Only the first of the words is scaled.": probs * first,
                "The scale was added; multiply.": probs + factors - 1,
                "Nothing changed.": probs,
            },
            f"For the scales {scales} the columns differ.",
        )
    return "Up, off and below zero, several words at once: all columns agree."


def _steps(window: Window, steps: int) -> range:
    return range(round(window[0] * steps), round(window[1] * steps))


def _gains(
    matched: Tensor,
    steps: int,
    window: Window,
    own: Mapping[int, Window],
    faders: Mapping[int, float],
) -> Tensor:
    """Return source and target gain, side by side, (T, 2L)."""
    source, target = torch.zeros(steps, len(matched)), torch.ones(steps, len(matched))
    for j in range(len(matched)):
        for t in _steps(own.get(j, window), steps):
            if matched[j]:
                source[t, j], target[t, j] = 1, 0
        source[:, j] *= faders.get(j, 1.0)
        target[:, j] *= faders.get(j, 1.0)
    return torch.cat([source, target], dim=1)


def _judge_gains(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for _ in range(4):
        steps, window = rng.choice([8, 10, 12]), (0.0, rng.choice([0.5, 0.75]))
        matched = _flags(rng, LENGTH)
        yes, no = matched.nonzero().flatten().tolist(), (~matched).nonzero().flatten().tolist()
        own = {} if easy else {rng.choice(yes): (0.25, 1.0)}
        faders = {} if easy else {rng.choice(yes): 2.0, rng.choice(no): -1.0}
        got = call(answer, matched, steps, window, dict(own), dict(faders))
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong("It must return two tensors: source_gain and target_gain, (T, L) each.")
        both = torch.cat([tensor(part, (steps, LENGTH), "(T, L)") for part in got], dim=1)
        source, target = _gains(matched, steps, window, own, {}).chunk(2, dim=1)
        scaled = _gains(matched, steps, window, own, faders).chunk(2, dim=1)
        agree(
            both,
            torch.cat(scaled, dim=1),
            {
                "The faders are missing.": torch.cat([source, target], 1),
                "A fader scales both gains: here only the source's is scaled.": torch.cat(
                    [scaled[0], target], 1
                ),
                "A fader scales both gains: here only the target's is scaled.": torch.cat(
                    [source, scaled[1]], 1
                ),
                "The words' own windows are not used.": _gains(matched, steps, window, {}, faders),
                "New tokens have no partner: their gains are 0 and 1 at every step.": _gains(
                    torch.ones_like(matched), steps, window, own, faders
                ),
                "The two gains are exchanged.": torch.cat(scaled[::-1], 1),
            },
            f"For {steps} steps, the window {window}, {own} and the faders {faders} they differ.",
        )
    return "Four plans: windows, words with windows of their own, and faders agree."


QUESTIONS = (
    Question(
        id="ps3.swap",
        title="The swap operator",
        signature="f(source (heads, pixels, L), target, mapper (L, L), inside (L,) bool) -> "
        "(heads, pixels, L)",
        hints=(
            "Inside its window a token takes its column of M · P, outside its own.",
            "torch.where(inside, source @ mapper, target)",
        ),
        judge=_judge_swap,
        control=lambda source, target, mapper, inside: torch.zeros_like(target),
    ),
    Question(
        id="ps3.refine",
        title="The refinement operator",
        signature="f(source (heads, pixels, L), target, partner: list of int or None) -> "
        "(heads, pixels, L)",
        hints=(
            "Column j of the result is the source's column A(j), or the target's own.",
            "Start with target.clone(), and set [..., j] = source[..., partner[j]] where it is not "
            "None.",
        ),
        judge=_judge_refine,
        control=lambda source, target, partner: torch.zeros_like(target),
    ),
    Question(
        id="ps3.reweight",
        title="The fader operator",
        signature="f(probs (heads, pixels, L), scales: dict token -> scale) -> (heads, pixels, L)",
        hints=(
            "Each token's column is multiplied by its scale; nothing is renormalised.",
            "A vector of ones (L,) with the scales filled in multiplies all columns at once.",
        ),
        judge=_judge_reweight,
        control=lambda probs, scales: torch.zeros_like(probs),
    ),
    Question(
        id="ps3.gains",
        title="A plan's gains",
        signature="f(matched (L,) bool, steps, window, own: dict token -> window, faders: dict "
        "token -> scale) -> source_gain (T, L), target_gain (T, L)",
        hints=(
            "Start with zeros and ones. A matched token swaps them at the steps of its window.",
            "Steps of a window: round(start * T) to round(end * T), the end excluded. A fader "
            "multiplies the token's column of both gains at all steps.",
        ),
        judge=_judge_gains,
        control=lambda matched, steps, window, own, faders: (
            torch.zeros(steps, len(matched)),
            torch.zeros(steps, len(matched)),
        ),
    ),
    Question(
        id="ps3.edits",
        title="Edits that beat a target",
        signature="f(old, new) -> list of p2p_lab edits that turn the object old into new and "
        "leave the rest of the picture alone",
        hints=(
            "A swap with its windows, and something that keeps the background where neither word "
            "looks.",
            "[Replace(...), LocalBlend(old, new, threshold=...)]: a short self-attention window "
            "frees the shape.",
        ),
        judge=judge_edits,
        control=lambda old, new: [Replace(cross=(0, 0), self_attention=(0, 0))],  # the free edit
    ),
)
