"""Exercises of lesson 3: the alignment A(j), refinement, and the mask of a local edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, draw, draw_probs, tensor
from p2p_lab.checks.fixtures.aligning import (
    backwards,
    broken_rule,
    by_place,
    heaviest_block,
    largest_weight,
    next_equal,
)


def alignment(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Return A: the source position of each target word, None where the word is new."""
    n, m = len(source), len(target)
    best = [[0] * (m + 1) for _ in range(n + 1)]  # most matches of the first i and j words
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            match = best[i - 1][j - 1] + (source[i - 1] == target[j - 1])
            best[i][j] = max(best[i - 1][j], best[i][j - 1], match)
    partner: list[int | None] = [None] * m
    i, j = n, m
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i
    return partner


_TEXTS = (
    ("a castle", "a castle"),
    ("a castle next to a river", "a castle covered in snow next to a river"),
    ("a cat on a beach", "a pencil sketch of a cat on a beach"),
    ("a red car in a city", "a car in a city"),
    ("a cat in a basket", "a dog in a basket"),
    ("a dog and a cat", "a cat"),
    ("a red car on a beach", "a big car on a beach"),  # as many words, one of them another
    (
        "a big cat near a red car and a house",
        "a cat and a car near a house",
    ),  # difflib's is not the longest
)


def _test_alignment(answer: Callable[..., Any]) -> str:
    for before, after in _TEXTS:
        source, target = before.split(), after.split()
        got = to_partners(call(answer, source, target), target)
        judge_alignment(got, source, target)
    return f"{len(_TEXTS)} prompt pairs: equal words matched, in order, as many as possible."


def to_partners(value: Any, target: Sequence[str]) -> list[int | None]:
    """Return an answer's value as a source position or None for each target word."""
    try:
        got = [None if entry is None or int(entry) < 0 else int(entry) for entry in value]
    except (TypeError, ValueError):
        raise Wrong(
            "It must return a list: for each target word a source position or None."
        ) from None
    if len(got) != len(target):
        raise Wrong(f"It returned {len(got)} entries for {len(target)} target words.")
    return got


def judge_alignment(got: list[int | None], source: Sequence[str], target: Sequence[str]) -> None:
    """Refuse an alignment that pairs unequal words, goes back, or matches too few."""
    where = f'For "{" ".join(source)}" and "{" ".join(target)}" '
    broken = broken_rule(got, source, target)
    if broken:
        raise Wrong(where + broken)
    pairs, most = sum(i is not None for i in got), largest_weight(source, target, {})
    if pairs < most:
        hint = _why(got, source, target)
        raise Wrong(where + f"it matches {pairs} words, {most} can be. {hint}")


def _why(got: list[int | None], source: Sequence[str], target: Sequence[str]) -> str:
    """Name the way in which an alignment with too few pairs was made."""
    if not any(i is not None for i in got):
        return "Nothing is paired: equal words have a partner."
    if got == by_place(source, target, {}):
        return "Only words in the same place are paired; after an inserted word all have moved."
    if got == next_equal(source, target):
        return ("Taking the next equal word blocks later ones: find the longest common "
                "sequence.")  # fmt: skip
    if got == backwards(source, target):
        return "Taking the next equal word from the end blocks earlier ones."
    if got == heaviest_block(source, target):
        return "Taking the longest equal block first (difflib does) can cost other pairs."
    return "Look for the longest common sequence: fill the table of all beginnings."


def refine(source: Tensor, target: Tensor, partner: Sequence[int | None]) -> Tensor:
    """Return M̂: column j is source[:, A(j)] where token j has a partner, else target[:, j]."""
    edited = target.clone()
    for j, i in enumerate(partner):
        if i is not None:
            edited[..., j] = source[..., i]
    return edited


def _test_refine(answer: Callable[..., Any]) -> str:
    source, target = draw_probs(2, 9, 7, seed=3), draw_probs(2, 9, 7, seed=4)
    for partner in ([0, 1, None, None, 2, 3, 4], [0, 2, 3, 4, 5, 6, None], [None] * 7):
        got = tensor(call(answer, source, target, list(partner)), (2, 9, 7), "(heads, pixels, L)")
        edited = refine(source, target, partner)
        same_place = refine(
            source, target, [None if i is None else j for j, i in enumerate(partner)]
        )
        zeros = edited.clone()
        last = edited.clone()
        for j, i in enumerate(partner):
            if i is None:
                zeros[..., j], last[..., j] = 0, source[..., -1]
        agree(
            got,
            edited,
            {
                "It returns the target unchanged: tokens with a partner take the source's map.": (
                    target
                ),
                "Column j takes source column j; it has to take column A(j), where the word stood "
                "in the source.": same_place,
                "New tokens got zeros; they keep the target's own map.": zeros,
                "New tokens took the source's last column (index None or -1); they keep the "
                "target's own map.": last,
                "Source and target are exchanged.": refine(target, source, partner),
                "The rows were renormalised; the paper does not do that.": edited
                / edited.sum(-1, keepdim=True),
            },
            f"For A = {partner} the columns differ.",
        )
    return "Inserted words, dropped words, nothing in common: every column agrees."


def blend_mask(maps: Tensor, threshold: float) -> Tensor:
    """Return where the picture may change, (h, w), from maps (sites, tokens, h, w)."""
    heat = maps.sum(dim=1).mean(dim=0)  # a word is all its tokens; then the mean of the sites
    heat = F.max_pool2d(heat[None, None], kernel_size=3, stride=1, padding=1)[0, 0]
    return heat / heat.max() > threshold


def _mask_of(heat: Tensor) -> Tensor:
    """Return the mask (h, w) of a map whose sites and tokens were combined in some way."""
    pooled = F.max_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]
    return (pooled / pooled.max() > 0.4).double()


def _test_blend(answer: Callable[..., Any]) -> str:
    for seed, size in ((1, (8, 12)), (2, (12, 8)), (0, (8, 8))):
        maps = 0.02 * draw(3, 2, *size, seed=seed).abs() ** 3
        got = tensor(call(answer, maps, 0.4), size, "(h, w)")
        if not bool(((got == 0) | (got == 1)).all()):
            raise Wrong("A mask holds 0 and 1 (or False and True). Compare with the threshold.")
        heat = maps.sum(1).mean(0)
        pooled = F.max_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]
        spread = (pooled - pooled.min()) / (pooled.max() - pooled.min())
        one = F.max_pool2d(maps[:, 0].mean(0)[None, None], 3, stride=1, padding=1)[0, 0]
        agree(
            got,
            pooled / pooled.max() > 0.4,
            {
                "The map is not divided by its maximum, so nothing reaches the threshold.": (
                    (pooled > 0.4).double()
                ),
                "The 3×3 max-pool is missing: the mask has holes and no margin.": (
                    (heat / heat.max() > 0.4).double()
                ),
                "The mask is turned round: 1 is where the edit may change the picture.": (
                    (pooled / pooled.max() <= 0.4).double()
                ),
                "The minimum is subtracted before dividing; only divide by the maximum.": (
                    (spread > 0.4).double()
                ),
                "The largest site is taken at each place; it is the mean of the sites.": _mask_of(
                    maps.sum(1).amax(0)
                ),
                "The mean over the tokens' maximum is taken; a word is the sum of its tokens.": (
                    _mask_of(maps.amax(1).mean(0))
                ),
                "The sites are multiplied; take their mean.": _mask_of(maps.sum(1).prod(0)),
                "Each site is divided by its maximum before the mean; divide once, at the end.": (
                    _mask_of((maps.sum(1) / maps.sum(1).amax((1, 2), keepdim=True)).mean(0))
                ),
                "Only the first token is used; a word is the sum of its tokens.": (
                    (one / one.max() > 0.4).double()
                ),
            },
            "The mask differs.",
        )
    return "Three sizes: the mask agrees in every position."


EXERCISES = (
    Exercise(
        id="03.refine",
        title="Refinement",
        difficulty=1,
        minutes=4,
        signature="f(source (heads, pixels, L), target, partner: list of int or None) -> "
        "(heads, pixels, L)",
        hints=(
            "Start from a copy of the target and replace the columns that have a partner.",
            "edited[..., j] = source[..., partner[j]] where partner[j] is not None.",
        ),
        right=refine,
        tested_by=_test_refine,
    ),
    Exercise(
        id="03.blend",
        title="The mask of a local edit",
        difficulty=2,
        minutes=7,
        signature="f(maps (sites, tokens, h, w), threshold) -> mask (h, w)",
        hints=(
            "Sum the tokens, average the sites, 3×3 max-pool, divide by the maximum, compare.",
            "F.max_pool2d(heat[None, None], kernel_size=3, stride=1, padding=1)[0, 0]",
        ),
        right=blend_mask,
        tested_by=_test_blend,
    ),
    Exercise(
        id="03.alignment",
        title="The alignment A(j)",
        difficulty=3,
        minutes=12,
        signature="f(source: list of words, target: list of words) -> list; for each target word "
        "its source position, or None",
        hints=(
            "Match equal words, in order, as many as possible: the longest common sequence. Fill "
            "a table best[i][j] for the first i and j words.",
            "best[i][j] = max(best[i-1][j], best[i][j-1], best[i-1][j-1] + (words are equal)); "
            "then walk back from the corner and note a pair at each diagonal step.",
        ),
        right=alignment,
        tested_by=_test_alignment,
    ),
)
