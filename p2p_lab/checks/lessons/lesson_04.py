"""Exercises of lesson 4: the fader, its composition with refinement, and negative weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, draw, draw_probs, tensor


def reweight(probs: Tensor, tokens: Sequence[int], scale: float) -> Tensor:
    """Return the probabilities with the columns of some tokens multiplied by scale."""
    scaled = probs.clone()
    scaled[..., list(tokens)] *= scale
    return scaled


def _test_reweight(answer: Callable[..., Any]) -> str:
    probs = draw_probs(2, 6, 6, seed=5)
    for tokens, scale in (([3], 2.0), ([1, 2], 0.5), ([4], 0.0), ([2], -1.5)):
        got = tensor(call(answer, probs, tokens, scale), (2, 6, 6), "(heads, pixels, L)")
        right = reweight(probs, tokens, scale)
        rows = probs.clone()
        rows[:, tokens] *= scale
        agree(
            got,
            right,
            {
                "The rows were renormalised. The paper does not: a strong word adds to the sum.": (
                    right / right.sum(-1, keepdim=True)
                ),
                "All columns are scaled; only those of the word are.": probs * scale,
                "The pixels' rows were scaled: the tokens are the last axis.": rows,
                "Only the first token of the word is scaled; it may have several.": reweight(
                    probs, tokens[:1], scale
                ),
                "The scale was added; multiply.": probs
                + scale * torch.isin(torch.arange(6), torch.tensor(tokens)),
                "Nothing changed.": probs,
            },
            f"For scale {scale} on tokens {tokens} the probabilities differ.",
        )
    return "Up, down, off and negative, words of one and two tokens: all agree."


def compose(
    matched: Tensor, inside: Tensor, tokens: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gains (source, target), each (T, L), of a refinement with one fader on top."""
    takes = inside[:, None] & matched[None, :]  # (T, L): where the source's map is taken
    source_gain, target_gain = takes.float(), (~takes).float()
    source_gain[:, list(tokens)] *= scale
    target_gain[:, list(tokens)] *= scale
    return source_gain, target_gain


def _test_compose(answer: Callable[..., Any]) -> str:
    matched = torch.tensor([True, True, False, True, False, True])
    inside = torch.tensor([True, True, True, False, False])
    for tokens, scale in (([3], 2.0), ([2], 0.0), ([3, 4], -1.0)):
        got = call(answer, matched, inside, tokens, scale)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong("It must return two tensors: source_gain, target_gain.")
        both = torch.cat([tensor(gain, (5, 6), "(T, L)") for gain in got], dim=1)  # (T, 2L)
        plain = compose(matched, inside, tokens, 1.0)
        right = compose(matched, inside, tokens, scale)
        always = compose(matched, torch.ones_like(inside), tokens, scale)
        everyone = compose(torch.ones_like(matched), inside, tokens, scale)
        agree(
            both,
            torch.cat(right, dim=1),
            {
                "The fader is missing: the word's gains are not scaled.": torch.cat(plain, 1),
                "Only the source's gain is scaled: outside the window, and where a word is new, "
                "the fader does nothing.": torch.cat([right[0], plain[1]], 1),
                "Only the target's gain is scaled: inside the window the fader does nothing.": (
                    torch.cat([plain[0], right[1]], 1)
                ),
                "The two gains are exchanged: inside the window a matched token takes the "
                "source's.": torch.cat(right[::-1], 1),
                "The window is ignored: outside it every token takes the target's map.": (
                    torch.cat(always, 1)
                ),
                "New tokens have no partner to take from: their source gain is 0, their target "
                "gain 1.": torch.cat(everyone, 1),
            },
            f"For scale {scale} on tokens {tokens} the gains differ.",
        )
    return "Matched and new words, inside and outside the window: both gains agree."


def change_of_output(probs: Tensor, values: Tensor, token: int, scale: float) -> Tensor:
    """Return output(scale) − output(1) of the attention, (pixels, d)."""
    return (scale - 1) * probs[:, token, None] * values[token]


def _test_negative(answer: Callable[..., Any]) -> str:
    probs, values, token = draw_probs(9, 5, seed=6), draw(5, 4, seed=7), 2
    part = probs[:, token, None] * values[token]
    for scale in (1.0, 0.0, -1.0, -2.5, 3.0):
        got = tensor(call(answer, probs, values, token, scale), (9, 4), "(pixels, d)")
        scaled = reweight(probs, [token], scale)
        normal = scaled / scaled.sum(-1, keepdim=True)
        agree(
            got,
            change_of_output(probs, values, token, scale),
            {
                "This is the whole output, not its change from scale 1.": scaled @ values,
                "At scale 1 nothing changes: the factor is scale − 1.": scale * part,
                "The sign is turned round: it is output(scale) minus output(1).": (
                    (1 - scale) * part
                ),
                "The rows were renormalised, so all other words change too; they do not.": (
                    (normal - probs) @ values
                ),
            },
            f"At scale {scale} the change differs.",
        )
    return "Scales 1, 0, −1, −2.5 and 3: below 0 the word's value is subtracted, as it should be."


EXERCISES = (
    Exercise(
        id="04.reweight",
        title="The fader",
        difficulty=1,
        minutes=3,
        signature="f(probs (heads, pixels, L), tokens: list of int, scale) -> (heads, pixels, L)",
        hints=(
            "Multiply the word's columns; all others stay, and rows are not renormalised.",
            "scaled = probs.clone(); scaled[..., tokens] *= scale",
        ),
        right=reweight,
        tested_by=_test_reweight,
    ),
    Exercise(
        id="04.compose",
        title="A fader on top of a refinement",
        difficulty=2,
        minutes=8,
        signature="f(matched (L,) bool, inside (T,) bool, tokens, scale) -> (source_gain (T, L), "
        "target_gain (T, L))",
        hints=(
            "Refinement alone has gains (1, 0) where a matched token is inside the window, else "
            "(0, 1). The fader multiplies both gains of its word.",
            "takes = inside[:, None] & matched; the gains are takes and ~takes as floats; then "
            "both[:, tokens] *= scale.",
        ),
        right=compose,
        tested_by=_test_compose,
    ),
    Exercise(
        id="04.negative",
        title="What a negative weight does",
        difficulty=2,
        minutes=6,
        signature="f(probs (pixels, L), values (L, d), token, scale) -> output(scale) − output(1), "
        "(pixels, d)",
        hints=(
            "The output is Σ_j M[:, j] v_j. Only one term of the sum changes.",
            "(scale − 1) · M[:, token] · v_token, one row for each pixel.",
        ),
        right=change_of_output,
        tested_by=_test_negative,
    ),
)
