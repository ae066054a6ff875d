"""Question 4 of problem set 3: the two tables of gains that a whole edit is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.question import Args, Mistake, Question, two

Window = tuple[float, float]
LENGTH = 7


def flags(rng: random.Random, number: int) -> Tensor:
    """Draw yes and no for each token, both at least once."""
    flags = [True, False] + [rng.random() < 0.5 for _ in range(number - 2)]
    rng.shuffle(flags)
    return torch.tensor(flags)


def _draw_gains(rng: random.Random, easy: bool) -> Args:
    steps = rng.choice([8, 12] if easy else [7, 9, 10, 11])
    window = (0.0, 0.5 if easy else rng.choice([0.3, 0.4, 0.65, 0.75]))
    matched = flags(rng, LENGTH)
    yes, no = matched.nonzero().flatten().tolist(), (~matched).nonzero().flatten().tolist()
    if easy:
        return matched, steps, window, {}, {}
    word_windows = {rng.choice(yes): (rng.choice([0.15, 0.25, 0.35]), 0.95)}
    return matched, steps, window, word_windows, {rng.choice(yes): 2.0, rng.choice(no): -1.0}


def _gains(
    matched: Tensor,
    steps: int,
    window: Window,
    word_windows: Mapping[int, Window],
    faders: Mapping[int, float],
    *,
    edge: Callable[[float], int] = round,
    more: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return source and target gain, (T, L) each; `edge` and `more` are known mistakes."""
    source, target = torch.zeros(steps, len(matched)), torch.ones(steps, len(matched))
    for j in range(len(matched)):
        start, end = word_windows.get(j, window)
        for t in range(edge(start * steps), min(edge(end * steps) + more, steps)):
            if matched[j]:
                source[t, j], target[t, j] = 1, 0
        source[:, j] *= faders.get(j, 1.0)
        target[:, j] *= faders.get(j, 1.0)
    return source, target


def _parts(source: Callable[..., Any], target: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: (source(*args)[0], target(*args)[1])


def _plain(m: Tensor, T: int, w: Window, word_windows: Any, faders: Any) -> Any:  # noqa: N803
    return _gains(m, T, w, word_windows, {})


def _edge(**how: Any) -> Callable[..., Any]:
    return lambda *args: _gains(*args, **how)


GAINS: Question = Question(
    id="ps3.gains",
    title="A plan's gains",
    signature="f(matched (L,) bool, steps, window, own: dict token -> window, faders: dict "
    "token -> scale) -> source_gain (T, L), target_gain (T, L)",
    hints=(
        "Start with zeros and ones. A matched token exchanges them at the steps of its window.",
        "The steps of a window (a, b) go from a·T to b·T, both rounded to the nearest whole "
        "number, the last one excluded; a token in `own` has its own window.",
        "A fader comes last: it multiplies the token's column in both tables, at all steps, also "
        "where the token is new.",
    ),
    draw=_draw_gains,
    right=_gains,
    read=lambda value, args: two(
        value,
        ((args[1], len(args[0])), (args[1], len(args[0]))),
        "source_gain and target_gain (T, L) each",
    ),
    otherwise=lambda value, args: (
        f"For {args[1]} steps, the window {args[2]}, own windows {args[3]} and the faders "
        f"{args[4]} the gains differ."
    ),
    mistakes=(
        Mistake("The two gains are exchanged.", lambda *args: _gains(*args)[::-1], easy=True),
        Mistake(
            "New tokens have no partner: their gains are 0 and 1 at every step.",
            lambda m, *rest: _gains(torch.ones_like(m), *rest),
            easy=True,
        ),
        Mistake(
            "The last step is counted in; a window ends before round(b·T).",
            _edge(more=1),
            easy=True,
        ),
        Mistake(
            "The window is turned round: the source's maps are taken outside of it.",
            lambda m, T, w, word_windows, faders: _gains(
                m, T, (w[1], 1.0), {j: (0.0, a) for j, (a, b) in word_windows.items()}, faders
            ),
            easy=True,
        ),
        Mistake("The edges were cut off with int(); round to the nearest step.", _edge(edge=int)),
        Mistake("The edges were rounded up; round to the nearest step.", _edge(edge=math.ceil)),
        Mistake("The faders are missing.", _plain),
        Mistake(
            "A fader scales both gains: here only the source's is scaled.", _parts(_gains, _plain)
        ),
        Mistake(
            "A fader scales both gains: here only the target's is scaled.", _parts(_plain, _gains)
        ),
        Mistake(
            "The tokens' own windows are not used.",
            lambda m, T, w, word_windows, faders: _gains(m, T, w, {}, faders),
        ),
        Mistake(
            "A fader acts at every step; here it acts inside the window alone.",
            lambda m, T, w, word_windows, faders: tuple(
                torch.where(
                    _gains(torch.ones_like(m), T, w, word_windows, {})[0] > 0, with_, without
                )
                for with_, without in zip(
                    _gains(m, T, w, word_windows, faders),
                    _gains(m, T, w, word_windows, {}),
                    strict=True,
                )
            ),
        ),
    ),
    done="Plans: windows, words with windows of their own, and faders agree.",
    cases=5,
)
