"""Exercises of lesson 2: word swap, its mapper, its window, and words of unequal length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, draw_probs, tensor

Spans = Sequence[tuple[int, int]]


def mapper(
    source_spans: Sequence[tuple[int, int]], target_spans: Sequence[tuple[int, int]], length: int
) -> Tensor:
    """Return P (L, L): column j says which source tokens feed target token j."""
    P = torch.zeros(length, length)  # noqa: N806 - the paper's letter
    for (a, b), (c, d) in zip(source_spans, target_spans, strict=True):
        if b - a == d - c:
            P[range(a, b), range(c, d)] = 1.0  # as many tokens: one to one
        else:
            P[a:b, c:d] = 1.0 / (b - a)  # else every column is the mean of the word
    return P


# Token ranges of each word: all of one token; one word grows; one shrinks; two words change.
_SPANS: tuple[tuple[Spans, Spans], ...] = (
    ([(1, 2), (2, 3), (3, 4)], [(1, 2), (2, 3), (3, 4)]),
    ([(1, 2), (2, 3), (3, 4)], [(1, 2), (2, 4), (4, 5)]),
    ([(1, 2), (2, 5), (5, 6)], [(1, 2), (2, 3), (3, 4)]),
    ([(1, 3), (3, 4), (4, 6)], [(1, 3), (3, 6), (6, 7)]),
)


def _test_mapper(answer: Callable[..., Any]) -> str:
    length = 10
    for source, target in _SPANS:
        got = tensor(call(answer, list(source), list(target), length), (length,) * 2, "(L, L)")
        right, columns = mapper(source, target, length).double(), slice(1, target[-1][1])
        ones = (right > 0).double()
        rows = right / right.sum(1, keepdim=True).clamp(min=1e-9)
        agree(
            got[:, columns],
            right[:, columns],
            {
                "The mapper is transposed: row i is a source token, column j a target token.": (
                    right.T[:, columns]
                ),
                "It is the identity: it ignores that a word with another number of tokens moves "
                "all later words.": torch.eye(length).double()[:, columns],
                "Words that kept their number of tokens are written at (j, j), as in the published "
                "code: after a word that grew or shrank row and column differ.": (
                    _same_place(source, target, length)[:, columns]
                ),
                "Where one word has several source tokens a column must be their mean: every "
                "column sums to 1.": ones[:, columns],
                "The rows are normalised: the block holds 1/m, m the new word's tokens. It is each "
                "column, one target token, that sums to 1: 1/k, k the old word's.": (
                    rows[:, columns]
                ),
            },
            f"For words at source tokens {list(source)} and target tokens {list(target)} the "
            f"words' columns differ.",
        )
    return "Four pairs of prompts, with words that grow and shrink: every word's column agrees."


def _same_place(source: Spans, target: Spans, length: int) -> Tensor:
    """Return the mapper with ones at (j, j) for all words that kept their number of tokens."""
    P = mapper(source, target, length)  # noqa: N806
    for (a, b), (c, d) in zip(source, target, strict=True):
        if b - a == d - c:
            P[:, c:d] = torch.eye(length)[:, c:d]
    return P.double()


def swap(source: Tensor, target: Tensor, mapper: Tensor, inside: bool) -> Tensor:
    """Return the edited probabilities of one step: the source's inside the window."""
    return source @ mapper if inside else target


def _test_swap(answer: Callable[..., Any]) -> str:
    length = 8
    P = mapper([(1, 2), (2, 3), (3, 4)], [(1, 2), (2, 4), (4, 5)], length)  # noqa: N806
    P[0, 0], P[4:7, 5:8] = 1.0, torch.eye(3)
    source, target = draw_probs(2, 9, length, seed=1), draw_probs(2, 9, length, seed=2)
    shape, axes = (2, 9, length), "(heads, pixels, L)"
    for inside in (True, False):
        got = tensor(call(answer, source, target, P, inside), shape, axes)
        where = "Inside" if inside else "Outside"
        mistakes = {
            "Inside the window it returns the target's own map; take the source's.": target,
            "It returns the source's map without the mapper: its columns belong to the "
            "source's tokens.": source,
            "The mapper is applied transposed: it is source @ mapper.": source @ P.T,
            "It averages source and target; inside the window the source's map is taken whole.": (
                (source @ P + target) / 2
            ),
        }
        outside = {
            "Outside the window it still injects the source; there the target keeps its own map.": (
                source @ P
            )
        }
        agree(
            got,
            source @ P if inside else target,
            mistakes if inside else outside,
            f"{where} the window the probabilities differ.",
        )
    return "Inside the window the mapped source, outside the target's own map."


def edit_rows(probs: Tensor, mapper: Tensor) -> Tensor:
    """Return the batch's probabilities (4, heads, pixels, L) after the edit.

    Rows: unconditional source, unconditional target, conditional source, conditional target.
    """
    edited = probs.clone()
    edited[3] = probs[2] @ mapper  # the target with its text, and no other row
    return edited


def _test_rows(answer: Callable[..., Any]) -> str:
    for seed, length in enumerate((5, 7)):
        P = torch.eye(length)  # noqa: N806
        P[:, [1, 2]] = P[:, [2, 1]]
        probs = draw_probs(4, 2, 9, length, seed=seed)
        got = tensor(call(answer, probs, P), (4, 2, 9, length), "(4, heads, pixels, L)")
        agree(got, edit_rows(probs, P), _rows_mistakes(probs, P), "The batch's rows differ.")
    return "Two batches: the target's conditional row is edited, the three others are as before."


def _rows_mistakes(probs: Tensor, P: Tensor) -> dict[str, Tensor]:  # noqa: N803
    """Return what common mistakes give, by what to say of them."""
    mapped = probs @ P

    def taking(**rows: Tensor) -> Tensor:
        edited = probs.clone()
        for name, value in rows.items():
            edited[int(name[1:])] = value
        return edited

    return {
        "Nothing is edited: row 3, the target with its text, takes the maps of row 2.": probs,
        "All rows were edited. Rows 0 and 1 read the empty prompt, and row 2 is the source, which "
        "must stay what it was: edit row 3 alone.": mapped[2:3].expand(4, -1, -1, -1),
        "Every row was mapped. The mapper belongs to row 3 alone.": mapped,
        "Both conditional rows were edited. Row 2 is the source: changed there, it is no longer "
        "the picture that the edit should keep.": taking(r2=mapped[2], r3=mapped[2]),
        "Both rows of the target were edited. Row 1 reads the empty prompt: guidance leads away "
        "from it, and it has no words to keep in place.": taking(r1=mapped[0], r3=mapped[2]),
        "The unconditional row of the target was edited, row 1. The words of the prompt are in "
        "row 3.": taking(r1=mapped[0]),
        "Row 1 got the maps. The target with its text is row 3; row 1 reads the empty "
        "prompt.": taking(r1=mapped[2]),
        "The maps come from an unconditional row, which reads no word of the prompt. Take row "
        "2.": taking(r3=mapped[0]),
        "The maps went the wrong way: the source took the target's. Row 3 takes those of row "
        "2.": taking(r2=mapped[3]),
        "The mapper was left out: column j of row 3 is the column of its partner.": taking(
            r3=probs[2]
        ),
    }


def window_steps(window: tuple[float, float], steps: int) -> range:
    """Return the steps of a window that is given in fractions of the schedule."""
    start, end = window
    return range(round(start * steps), round(end * steps))


_WINDOWS = (
    ((0.0, 0.8), 50),
    ((0.2, 0.6), 20),
    ((0.0, 1.0), 10),
    ((0.4, 0.4), 10),
    ((0.0, 0.29), 100),  # 0.29 · 100 is 28.999999999999996
    ((0.33, 0.66), 10),
)


def _test_window(answer: Callable[..., Any]) -> str:
    for window, steps in _WINDOWS:
        got = call(answer, window, steps)
        try:
            answered = [int(step) for step in got]
        except (TypeError, ValueError):
            raise Wrong(
                f"It must return steps, as range(0, 8) or a list, got a {type(got).__name__}."
            ) from None
        _judge_steps(answered, window, steps)
    return f"{len(_WINDOWS)} windows: the right steps, also for an empty and a whole one."


def _judge_steps(got: list[int], window: tuple[float, float], steps: int) -> None:
    right = list(window_steps(window, steps))
    if got == right:
        return
    where = f"For the window {window} of {steps} steps "
    if got == list(range(int(window[0] * steps), int(window[1] * steps))):
        raise Wrong(
            where + f"the edges are cut off, {window[1]} · {steps} = {window[1] * steps}. "
            "Round to the nearest step."
        )
    if got == [*right, (right[-1] if right else round(window[1] * steps) - 1) + 1]:
        raise Wrong(where + "the end is counted in. A window ends before its last edge.")
    if got == list(range(math.ceil(window[0] * steps), math.ceil(window[1] * steps))):
        raise Wrong(where + "the edges are rounded up. Round to the nearest step.")
    if got == list(range(right[-1] + 1 if right else 0)):
        raise Wrong(where + "the window begins at step 0; it begins at its start.")
    if sorted(steps - 1 - step for step in got) == right:
        raise Wrong(where + "time runs the wrong way: step 0 is the noisiest, the fraction 0.")
    raise Wrong(where + f"it returned {len(got)} steps {_ends(got)}, right are {_ends(right)}.")


def _ends(steps: list[int]) -> str:
    return f"{steps[0]} … {steps[-1]}" if steps else "none"


def unequal(columns: Tensor, m: int) -> Tensor:
    """Return the columns (pixels, m) of the new word from those (pixels, k) of the old one."""
    if columns.shape[-1] == m:
        return columns.clone()
    total = columns.sum(dim=-1, keepdim=True)  # all the attention that the old word had
    return total.expand(-1, m) / m


def _test_unequal(answer: Callable[..., Any]) -> str:
    for k, m in ((3, 2), (1, 2), (2, 2), (2, 1), (1, 3)):
        old = draw_probs(12, 8, seed=k)[:, :k]
        got = tensor(call(answer, old, m), (12, m), "(pixels, m)")
        total = old.sum(-1, keepdim=True).expand(-1, m)
        case = f"from {k} to {m} token(s)"
        agree(
            got,
            unequal(old, m),
            {
                f"{case}: with as many tokens it goes one to one, without mixing.": total / m,
                f"{case}: every new token gets the whole word, so the word gets {m} times as much. "
                f"Share it out: divide by m.": total,
                f"{case}: every new token gets the mean of the old ones, so the word's total "
                f"attention changes. Add the k columns and divide by m.": total / k,
                f"{case}: the first column alone is used.": old[:, :1].expand(-1, m),
            },
            f"{case}: the columns differ.",
        )
    return "One to two, two to one, three to two: the word keeps its total attention."


EXERCISES = (
    Exercise(
        id="02.mapper",
        title="The word-to-word mapper",
        difficulty=2,
        minutes=8,
        signature="f(source_spans, target_spans, length) -> P (L, L); the i-th word of the target "
        "takes the place of the i-th of the source (columns of no word are not looked at)",
        hints=(
            "Walk through the words in pairs. P[i, j] is how much source token i feeds target "
            "token j.",
            "With as many tokens set ones along the diagonal of the block; else fill the block "
            "P[a:b, c:d] with 1 / (b - a), so that each column sums to 1.",
        ),
        right=mapper,
        tested_by=_test_mapper,
    ),
    Exercise(
        id="02.swap",
        title="Inject the source's maps",
        difficulty=1,
        minutes=3,
        signature="f(source (heads, pixels, L), target, mapper (L, L), inside: bool) -> "
        "(heads, pixels, L)",
        hints=(
            "Inside the window the edited map is M · P; outside it is the target's own.",
            "return source @ mapper if inside else target",
        ),
        right=swap,
        tested_by=_test_swap,
    ),
    Exercise(
        id="02.rows",
        title="Which row is edited?",
        difficulty=2,
        minutes=5,
        signature="f(probs (4, heads, pixels, L), mapper (L, L)) -> (4, heads, pixels, L); rows "
        "[uncond source, uncond target, cond source, cond target]",
        hints=(
            "Which of the four rows read the words of a prompt? Which of those draws the new "
            "picture?",
            "Rows 0 and 1 read the empty prompt, row 2 draws the source. They must come out as "
            "they went in.",
            "edited = probs.clone(), then edited[3] = probs[2] @ mapper.",
        ),
        right=edit_rows,
        tested_by=_test_rows,
    ),
    Exercise(
        id="02.window",
        title="The steps of a window",
        difficulty=1,
        minutes=4,
        signature="f(window (start, end) as fractions, steps: int) -> range of steps, from "
        "round(start · steps) to round(end · steps), the last one excluded",
        hints=(
            "Multiply both fractions by the number of steps; 0 is noise and the first step.",
            "range(round(start * steps), round(end * steps))",
        ),
        right=window_steps,
        tested_by=_test_window,
    ),
    Exercise(
        id="02.unequal",
        title="One word becomes two tokens",
        difficulty=2,
        minutes=5,
        signature="f(columns (pixels, k), m: int) -> (pixels, m)",
        hints=(
            "The word as a whole should get as much attention as before.",
            "Add the k columns and give each of the m new tokens (1/m) of the sum; k = m goes one "
            "to one.",
        ),
        right=unequal,
        tested_by=_test_unequal,
    ),
)
