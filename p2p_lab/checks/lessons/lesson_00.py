"""Exercises of lesson 0: what differs between two prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2p_lab.checks.engine.exercise import Exercise, Wrong, call


def differing_words(source: str, target: str) -> list[tuple[str, str]]:
    """Return the swapped words of two prompts with equally many words."""
    pairs = zip(source.split(), target.split(), strict=True)
    return [(old, new) for old, new in pairs if old != new]


_CASES = (
    ("a cat on a beach", "a dog on a beach"),
    ("a red car in a city", "a blue bicycle in a city"),
    ("a car next to a red car", "a car next to a red bus"),  # "car" stands in both prompts
    ("a dog and a cat", "a cat and a dog"),  # the same words in another order
    ("a snowy castle", "a snowy castle"),
)


def _test_words(answer: Callable[..., Any]) -> str:
    for source, target in _CASES:
        got, right = call(answer, source, target), differing_words(source, target)
        _judge_words(_pairs(got, source, target), right, source, target)
    return f"{len(_CASES)} prompt pairs, with repeated and reordered words: all pairs found."


def _pairs(value: Any, source: str, target: str) -> list[tuple[str, str]]:
    if isinstance(value, (set, frozenset)):
        raise Wrong(
            f'For "{source}" and "{target}" it returned a set, which has no order: asked for is a '
            f"list, in the order of the prompt."
        )
    try:
        pairs = [tuple(pair) for pair in value]
    except TypeError:
        pairs = [()]
    if any(len(pair) != 2 or not all(isinstance(w, str) for w in pair) for pair in pairs):
        raise Wrong(
            f'For "{source}" and "{target}" it returned {str(value)[:60]}, asked for is a list '
            f'of pairs, as [("cat", "dog")].'
        )
    return [(str(old), str(new)) for old, new in pairs]


def _judge_words(
    got: list[tuple[str, str]], right: list[tuple[str, str]], source: str, target: str
) -> None:
    where = f'For "{source}" and "{target}" '
    if got == right:
        return
    if got == [(new, old) for old, new in right]:
        raise Wrong(where + "the pairs are turned round: the source's word comes first.")
    if sorted(got) == sorted(right):
        raise Wrong(where + "the pairs are right but not in the order of the prompt.")
    equal = [pair for pair in got if pair[0] == pair[1]]
    if equal:
        raise Wrong(where + f"it lists {equal[0]}, a word that did not change.")
    if len(got) < len(right):
        raise Wrong(
            where + f"it finds {len(got)} of {len(right)} swaps. A word may also stand elsewhere "
            f"in the other prompt: compare place by place."
        )
    raise Wrong(where + f"it returned {got}, right is {right}.")


EXERCISES = (
    Exercise(
        id="00.words",
        title="Which words differ?",
        difficulty=1,
        minutes=5,
        signature="f(source: str, target: str) -> list of (old, new) pairs",
        hints=(
            "Split both prompts in words and walk through them side by side.",
            "zip(source.split(), target.split()) gives the pairs; keep those that differ.",
        ),
        right=differing_words,
        tested_by=_test_words,
    ),
)
