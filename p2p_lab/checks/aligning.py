"""Alignments of two lists of words, right ones and wrong ones, and what is wrong with one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

Partners = list[int | None]
Words = Sequence[str]


def heaviest(source: Words, target: Words, weight: Mapping[str, int]) -> Partners:
    """Return the alignment of equal words, in order, with the largest total weight."""
    n, m = len(source), len(target)
    best = _table(source, target, weight)
    partner: Partners = [None] * m
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


def _table(source: Words, target: Words, weight: Mapping[str, int]) -> list[list[int]]:
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, old in enumerate(source):
        for j, new in enumerate(target):
            pair = best[i][j] + (weight.get(old, 1) if old == new else 0)
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], pair)
    return best


def next_equal(source: Words, target: Words) -> Partners:
    """Let each word take the next equal one: an early pair blocks later ones."""
    at, found = 0, []  # type: tuple[int, Partners]
    for word in target:
        later = [i for i in range(at, len(source)) if source[i] == word]
        found.append(later[0] if later else None)
        at = later[0] + 1 if later else at
    return found


def backwards(source: Words, target: Words) -> Partners:
    """Let each word take the next equal one, from the end on."""
    last = len(source) - 1
    found = next_equal(source[::-1], target[::-1])
    return [None if i is None else last - i for i in found[::-1]]


def first_equal(source: Words, target: Words) -> Partners:
    """Let each word take the first equal one, used or not."""
    return [source.index(word) if word in source else None for word in target]


def by_place(source: Words, target: Words, weight: Mapping[str, int]) -> Partners:
    """Pair the equal words that stand in the same place."""
    return [j if j < len(source) and source[j] == word else None for j, word in enumerate(target)]


def pairs_when_equally_long(source: Words, target: Words, weight: Mapping[str, int]) -> Partners:
    """Pair place by place, equal or not, where both prompts are equally long."""
    if len(source) == len(target):
        return list(range(len(target)))
    return heaviest(source, target, weight)


def heaviest_block(source: Words, target: Words) -> Partners:
    """Return the alignment of difflib: longest equal block first, then what is left beside it."""
    found: Partners = [None] * len(target)
    matcher = difflib.SequenceMatcher(None, source, target, autojunk=False)
    for i, j, size in matcher.get_matching_blocks():
        for n in range(size):
            found[j + n] = i + n
    return found


def why_no_alignment(got: Partners, source: Words, target: Words, weight: Mapping[str, int]) -> str:
    """Return what is wrong with an alignment, as a sentence; empty when it is right."""
    where = f'For "{" ".join(source)}" and "{" ".join(target)}" '
    broken = broken_rule(got, source, target)
    if broken:
        return where + broken
    total = sum(weight.get(source[i], 1) for i in got if i is not None)
    most = largest_weight(source, target, weight)
    if total == most:
        return ""
    if len(set(weight.values())) <= 1:
        pairs = sum(i is not None for i in got)
        return where + f"it pairs {pairs}, {most} can be paired without breaking the order."
    return where + f"its pairs weigh {total}, {most} is possible; the weights are {dict(weight)}."


def largest_weight(source: Words, target: Words, weight: Mapping[str, int]) -> int:
    """Return the largest total weight of an alignment; a word that is not named weighs 1."""
    return _table(source, target, weight)[-1][-1]


def broken_rule(got: Partners, source: Words, target: Words) -> str:
    """Return which rule of an alignment is broken, as a sentence; empty when none is."""
    last = -1
    used = set()
    for j, i in enumerate(got):
        if i is None:
            continue
        if i >= len(source):
            return f"A({j}) = {i}, but the source has {len(source)} words."
        if source[i] != target[j]:
            return (f'A({j}) = {i} pairs "{source[i]}" with "{target[j]}". A new or substituted '
                    "word has no partner: None.")  # fmt: skip
        if i in used:
            return f'source word {i}, "{source[i]}", is used twice.'
        if i < last:
            return f"the partners go back from {last} to {i}; keep the order."
        last = i
        used.add(i)
    return ""
