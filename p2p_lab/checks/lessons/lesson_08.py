"""Exercises of lesson 8: a cascade of stages, and words that share a softmax with the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import (
    Exercise,
    Wrong,
    agree,
    call,
    close,
    draw,
    draw_probs,
    tensor,
)


def cascade(
    base: Callable[[str, str], tuple[Tensor, Tensor]],
    upscalers: Sequence[Callable[[Tensor, str, int], Tensor]],
    source: str,
    target: str,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return the large source and the large edit: each stage draws both from the same noise.

    Only the base stage is edited. Were the seeds of a later stage different, its invented detail
    would differ all over, and nobody could say what the edit changed.
    """
    before, after = base(source, target)
    for upscale in upscalers:
        before, after = upscale(before, source, seed), upscale(after, target, seed)
    return before, after


_SOURCE, _TARGET, _SEED = "a cat on a beach", "a dog on a beach", 5


class _Stages:
    """A base model's and its upscalers' stand-in, which writes down how it is called."""

    def __init__(self, count: int) -> None:
        self.pair = draw(3, 4, 4, seed=12), draw(3, 4, 4, seed=13)
        self.bases: list[tuple[str, str]] = []
        self.calls: list[tuple[int, Tensor, str, int]] = []
        self.upscalers = [self._upscaler(n) for n in range(count)]

    def base(self, source: str, target: str) -> tuple[Tensor, Tensor]:
        self.bases.append((source, target))
        return self.pair[0].clone(), self.pair[1].clone()

    def _upscaler(self, n: int) -> Callable[[Tensor, str, int], Tensor]:
        def upscale(picture: Tensor, prompt: str, seed: int) -> Tensor:
            self.calls.append((n, picture.detach().clone(), prompt, seed))
            return picture.repeat_interleave(2, -1).repeat_interleave(2, -2) + n + 1

        return upscale


def _test_cascade(answer: Callable[..., Any]) -> str:
    for count in (2, 0, 3):
        stages = _Stages(count)
        value = call(answer, stages.base, stages.upscalers, _SOURCE, _TARGET, _SEED)
        _judge_bases(stages.bases)
        right = _Stages(count)
        wanted = cascade(right.base, right.upscalers, _SOURCE, _TARGET, _SEED)
        _judge_calls(stages.calls, right.calls, count)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise Wrong("It must return two pictures: the large source and the large edit.")
        got = [tensor(one, tuple(wanted[0].shape), "(3, H, W)") for one in value]
        if close(got[0], wanted[1]) and close(got[1], wanted[0]):
            raise Wrong("The two pictures are exchanged: the source first, then the edit.")
        for one, other, name in zip(got, wanted, ("source", "edit"), strict=True):
            agree(one, other, {}, f"With {count} stages the large {name} differs.")
    return "No, two and three stages: one edit in the base, and every stage draws both alike."


def _judge_bases(bases: list[tuple[str, str]]) -> None:
    if len(bases) != 1:
        raise Wrong(f"The base stage runs once, here it ran {len(bases)} times.")
    if bases[0] != (_SOURCE, _TARGET):
        raise Wrong("The base stage takes the source prompt first, then the target prompt.")


def _judge_calls(
    calls: list[tuple[int, Tensor, str, int]],
    wanted: list[tuple[int, Tensor, str, int]],
    count: int,
) -> None:
    """Refuse stages that are left out, given the wrong picture, the wrong prompt or other noise."""
    runs = [n for n, *_ in calls]
    if sorted(runs) != sorted(n for n, *_ in wanted):
        names = ", ".join(f"stage {n + 1}" for n in runs) or "none"
        raise Wrong(f"{count} stages have to run, each for both pictures; these ran: {names}.")
    if len({seed for *_, seed in calls}) > 1:
        raise Wrong("The source and the edit were enlarged from different noise, so all invented "
                    "detail differs. Give every call the same seed.")  # fmt: skip
    if any(seed != _SEED for *_, seed in calls):
        raise Wrong(f"The seed is not the one that was given, {_SEED}.")
    for n, picture, prompt, _ in calls:
        fits = [p for m, x, p, _ in wanted if m == n and x.shape == picture.shape
                and close(x.double(), picture)]  # fmt: skip
        if not fits:
            raise Wrong(f"stage {n + 1} got a picture of {picture.shape[-1]} pixels that is not "
                        "the result before it.")  # fmt: skip
        if prompt not in fits:
            raise Wrong(f'stage {n + 1} got the prompt "{prompt}" with the other picture: each '
                        "picture is drawn with its own prompt.")  # fmt: skip


def hybrid(source: Tensor, target: Tensor, mapper: Tensor) -> Tensor:
    """Return (heads, pixels, L + I): the source's columns of words, the target's of the picture."""
    words = len(mapper)
    return torch.cat([source[..., :words] @ mapper, target[..., words:]], dim=-1)


def _test_hybrid(answer: Callable[..., Any]) -> str:
    for seed, (words, pixels) in enumerate(((4, 9), (6, 4), (3, 16))):
        source, target = (
            draw_probs(2, pixels, words + pixels, seed=seed + 9 * k) for k in range(2)
        )
        mapper = torch.eye(words)[:, torch.randperm(words, generator=_numbers(seed))]
        mapper[:, -1] = 1 / words  # a word that is fed by several
        got = tensor(
            call(answer, source, target, mapper), tuple(target.shape), "(heads, pixels, L + I)"
        )
        right = hybrid(source, target, mapper)
        mistakes = _hybrid_mistakes(source, target, mapper)
        others = {say: value for say, value in mistakes.items() if not close(value, right)}
        agree(got, right, others, f"With {words} tokens and {pixels} positions it differs.")
    return "Three sizes, one word fed by several: the words' part agrees, the picture's is its own."


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _hybrid_mistakes(source: Tensor, target: Tensor, mapper: Tensor) -> dict[str, Tensor]:
    n = len(mapper)
    kept = target[..., n:]
    edited = hybrid(source, target, mapper)
    return {
        "The picture's columns are the source's too: the target keeps its own.": torch.cat(
            [source[..., :n] @ mapper, source[..., n:]], -1
        ),
        "The words' columns are the target's still: they come from the source.": target,
        "The mapper is turned round: the words' columns are source @ P.": torch.cat(
            [source[..., :n] @ mapper.T, kept], -1
        ),
        "The mapper is not used: token j takes the column of its partner.": torch.cat(
            [source[..., :n], kept], -1
        ),
        "The rows were renormalised; here as in the paper they are not.": edited
        / edited.sum(-1, keepdim=True),
    }


EXERCISES = (
    Exercise(
        id="08.cascade",
        title="An edit in a cascade",
        difficulty=2,
        minutes=6,
        signature="f(base, upscalers, source, target, seed) -> (large source, large edit); "
        "base(source, target) -> (small source, small edit), upscaler(picture, prompt, seed) -> "
        "picture",
        hints=(
            "The edit happens in the base stage only. What must be the same in the two calls of a "
            "later stage, so that the two large pictures can be compared?",
            "before, after = base(source, target); then for each stage: before = stage(before, "
            "source, seed), after = stage(after, target, seed).",
        ),
        right=cascade,
        tested_by=_test_cascade,
    ),
    Exercise(
        id="08.hybrid",
        title="The words' part of a shared softmax",
        difficulty=2,
        minutes=5,
        signature="f(source (heads, pixels, L + I), target, mapper (L, L)) -> "
        "(heads, pixels, L + I)",
        hints=(
            "The mapper says how many of the columns are words. Only those are edited.",
            "torch.cat([source[..., :L] @ mapper, target[..., L:]], dim=-1) with L = len(mapper)",
        ),
        right=hybrid,
        tested_by=_test_hybrid,
    ),
)
