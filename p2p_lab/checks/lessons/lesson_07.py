"""Exercises of lesson 7: steps that fit a budget, rows that an edit costs, a softmax of halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, draw, kind_of, tensor


def steps_that_fit(allowed: int, once: int, per_step: int) -> int:
    """Return the largest number of steps whose tape takes at most `allowed` bytes."""
    return max(0, (allowed - once) // per_step)


def _test_steps(answer: Callable[..., Any]) -> str:
    cases = (
        (10_000, 1_500, 400),
        (10_000, 1_500, 450),  # 18.9 steps: the nearest whole number is one too many
        (10_000, 400, 320),
        (1_000, 200, 400),
        (500, 600, 100),
        (10**9, 5 * 10**6, 43 * 10**6),
    )
    for allowed, once, each in cases:
        got = _whole(call(answer, allowed, once, each), "steps")
        right = steps_that_fit(allowed, once, each)
        _name(
            got,
            right,
            {
                "What the text's keys take, once, is left out.": allowed // each,
                "The text's keys are counted at each step; they are kept once.": max(
                    0, allowed // (once + each)
                ),
                "It is rounded to the nearest; a part of a step does not fit: round down.": max(
                    0, round((allowed - once) / each)
                ),
                "A part of a step does not fit: round down.": max(0, -(-(allowed - once) // each)),
                "If not even the text's keys fit, no step does: 0.": (allowed - once) // each,
            },
            f"With {allowed} bytes allowed, {once} once and {each} a step",
        )
    return "Wide, exact, tight and impossible budgets: all agree."


def rows_of_edits(count: int, steps: int, taped: bool) -> int:
    """Return the U-Net rows of one source and `count` edits of it, under guidance."""
    return 2 * steps + count * steps * (2 if taped else 4)


def _test_rows(answer: Callable[..., Any]) -> str:
    for count, steps, taped in ((3, 7, True), (3, 7, False), (1, 20, True), (10, 50, False)):
        got = _whole(call(answer, count, steps, taped), "rows")
        right, other = (rows_of_edits(count, steps, how) for how in (taped, not taped))
        mistakes = {
            "The source itself is missing: it is drawn once, first.": right - 2 * steps,
            "Guidance doubles every row: an unconditional one beside each.": right // 2,
            "The source is drawn without guidance here; it needs two rows a step, too.": (
                right - steps
            ),
        }
        turned = (
            "With a tape the source does not run again: two rows a step."
            if taped
            else "Without a tape source and target run together: four rows a step."
        )
        situation = f"For {count} edits of {steps} steps, tape {taped},"
        _name(got, right, {**mistakes, turned: other}, situation)
    return "One edit and many, with a tape and without: all agree."


def half_probs(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √d) of float16 queries and keys, in float16, without overflow."""
    scores = q.float() @ k.float().T / q.shape[-1] ** 0.5  # (pixels, K), float32
    probs: Tensor = scores.softmax(dim=-1)
    return probs.to(q.dtype)


def _test_half(answer: Callable[..., Any]) -> str:
    for seed, size in ((3, 1.0), (4, 300.0)):
        q, k = (size * draw(n, 16, seed=seed + n) for n in (6, 5))
        q, k = q.half(), k.half()
        got = call(answer, q, k)
        if isinstance(got, Tensor) and not bool(torch.isfinite(got.float()).all()):
            raise Wrong(
                "Large scores overflow: they were computed in float16, whose largest number is "
                "65504. Go to float32 before q kᵀ."
            )
        if isinstance(got, Tensor) and got.dtype != torch.float16:
            raise Wrong(
                f"It returned {got.dtype}; the values it is multiplied with are float16, so go "
                "back to q.dtype at the end."
            )
        wide, root = q.float() @ k.float().T, q.shape[-1] ** 0.5
        agree(
            tensor(got, (6, 5), "(pixels, K)"),
            half_probs(q, k),
            {
                "The scores are not divided by √d.": wide.softmax(-1),
                "The scores are divided by d, not by √d.": (wide / root**2).softmax(-1),
                "The softmax runs over the positions; each position shares out 1 among the keys.": (
                    (wide / root).softmax(0)
                ),
            },
            "The probabilities differ.",
            tolerance=2e-3,
        )
    return "Small scores and scores beyond float16: finite, right, and float16 again."


def _whole(value: Any, what: str) -> int:
    """Return a whole number.

    Raises:
        Wrong: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong(f"It returned {kind_of(value)} ({value!r:.20}); a whole number of {what}, int.")
    return value


def _name(got: int, right: int, mistakes: dict[str, int], case: str) -> None:
    """Raise the sentence of the mistake that gives this number."""
    if got == right:
        return
    for sentence, value in mistakes.items():
        if value == got:
            raise Wrong(sentence)
    raise Wrong(f"{case} it returned {got}, and {right} is right.")


EXERCISES = (
    Exercise(
        id="07.steps",
        title="How many steps fit?",
        difficulty=1,
        minutes=3,
        signature="f(allowed, once, per_step), all in bytes -> int",
        hints=(
            "First pay what is kept once. How often does one step go into what is left?",
            "(allowed - once) // per_step, but never below 0.",
        ),
        right=steps_that_fit,
        tested_by=_test_steps,
    ),
    Exercise(
        id="07.rows",
        title="How many rows does an edit cost?",
        difficulty=2,
        minutes=5,
        signature="f(count, steps, taped: bool) -> int: the rows that the U-Net computes for the "
        "source, drawn once, and for `count` edits of it, all with guidance",
        hints=(
            "The source costs 2 rows a step in both cases: it is drawn once, first.",
            "An edit costs 2 rows a step from the tape; without it source and target run "
            "together: 4.",
        ),
        right=rows_of_edits,
        tested_by=_test_rows,
    ),
    Exercise(
        id="07.half",
        title="A softmax of half-precision numbers",
        difficulty=2,
        minutes=5,
        signature="f(q (pixels, d), k (K, d)), both float16 -> (pixels, K), float16",
        hints=(
            "The scores overflow, not the probabilities. Which of them may be float16?",
            "scores = q.float() @ k.float().T / √d; softmax over the keys; then .to(q.dtype).",
        ),
        right=half_probs,
        tested_by=_test_half,
    ),
)
