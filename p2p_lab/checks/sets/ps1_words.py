"""Question 1 of problem set 1: which tokens a word has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Wrong
from p2p_lab.checks.engine.question import Args, Mistake, Question
from p2p_lab.checks.fixtures.drawing import Spans, draw_text

Offsets = Sequence[tuple[int, int]]


def words(text: str, offsets: Offsets) -> Spans:
    """Return the token range (first, stop) of each word."""
    return [_range(found.start(), found.end(), offsets) for found in re.finditer(r"\S+", text)]


def _range(start: int, end: int, offsets: Offsets) -> tuple[int, int]:
    inside = [t for t, (a, b) in enumerate(offsets) if a < b and start <= a < end]
    return inside[0], inside[-1] + 1


def _by_spelling(text: str, offsets: Offsets) -> Spans:
    starts = [(text.index(word), len(word)) for word in text.split()]
    return [_range(start, start + size, offsets) for start, size in starts]


def _one_space(text: str, offsets: Offsets) -> Spans:
    """Count one space between words, so that after two of them all places are off."""
    at, found = 0, []
    for word in text.split():
        inside = [t for t, (a, b) in enumerate(offsets) if a < b and at <= a < at + len(word)]
        found.append((inside[0], inside[-1] + 1) if inside else (0, 0))
        at += len(word) + 1
    return found


def _read(value: Any, args: Args) -> Tensor:
    number = len(args[0].split())
    try:
        got = [(int(first), int(stop)) for first, stop in value]
    except (TypeError, ValueError):
        raise Wrong("It must return a list of pairs (first, stop), one for each word.") from None
    if len(got) != number:
        raise Wrong(
            f"For {args[0]!r} it returns {len(got)} ranges; the text has {number} words. Words are "
            "what spaces separate, one or more of them."
        )
    return torch.tensor(got)


def _why(value: Tensor, args: Args) -> str:
    right = words(*args)
    got = [tuple(pair) for pair in value.tolist()]
    n = next((i for i, pair in enumerate(got) if pair != right[i]), 0)
    return f"For {args[0]!r} word {n} has the tokens {right[n]}, not {got[n]}."


WORDS: Question = Question(
    id="ps1.words",
    title="The tokens of each word",
    signature="f(text, offsets: the characters (start, stop) of each token) -> list of "
    "(first, stop), the token range of each word",
    hints=(
        "Special tokens have the offsets (0, 0). Words are what spaces separate; a word may "
        "stand twice, so look at places, not at spellings.",
        "Python's re module can tell where each run of characters that are no spaces begins and "
        "ends.",
        "A token belongs to a word when its characters lie within the word's and there is at least "
        "one of them. The range goes from the first such token to one after the last.",
    ),
    draw=draw_text,
    right=words,
    read=_read,
    otherwise=_why,
    mistakes=(
        Mistake(
            "The last token is left out: a range (first, stop) ends before stop.",
            lambda *args: [(a, b - 1) for a, b in words(*args)],
            easy=True,
        ),
        Mistake(
            "The start token is not counted: the first word begins at token 1.",
            lambda *args: [(a - 1, b - 1) for a, b in words(*args)],
            easy=True,
        ),
        Mistake(
            "Only the first token of each word is taken; a word may have several.",
            lambda *args: [(a, a + 1) for a, _ in words(*args)],
        ),
        Mistake(
            "Each word is given one token, in order; a word may have several.",
            lambda *args: [(n + 1, n + 2) for n in range(len(args[0].split()))],
        ),
        Mistake(
            "A word is found by its spelling, so a word that stands twice is found in its first "
            "place twice.",
            _by_spelling,
        ),
        Mistake(
            "One space is counted between words; there may be two.",
            _one_space,
        ),
    ),
    done="Texts with double spaces and repeated words: every word has its tokens.",
    cases=4,
)
