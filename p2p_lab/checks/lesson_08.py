"""Exercises of lesson 8: a cascade of stages, and words that share a softmax with the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import Exercise, Wrong, agree, call, close, draw, draw_probs, tensor


def cascade(
    base: Callable[[str, str], Tensor],
    upscalers: Sequence[Callable[[Tensor, str], Tensor]],
    source: str,
    target: str,
) -> Tensor:
    """Return the large picture: only the base stage is edited, the others enlarge its result."""
    picture = base(source, target)
    for upscale in upscalers:
        picture = upscale(picture, target)
    return picture


_SOURCE, _TARGET = "a cat on a beach", "a dog on a beach"


class _Stages:
    """Stand in for a base model and its upscalers, and write down how they are called."""

    def __init__(self, count: int) -> None:
        self.edited = draw(3, 4, 4, seed=12)
        self.calls: list[tuple[str, int, str]] = []
        self.upscalers = [self._upscaler(n) for n in range(count)]

    def base(self, source: str, target: str) -> Tensor:
        self.calls.append(("base", 4, f"{source} -> {target}"))
        return self.edited.clone()

    def _upscaler(self, n: int) -> Callable[[Tensor, str], Tensor]:
        def upscale(picture: Tensor, prompt: str) -> Tensor:
            self.calls.append((f"stage {n + 1}", picture.shape[-1], prompt))
            return picture.repeat_interleave(2, -1).repeat_interleave(2, -2) + n + 1

        return upscale


def _test_cascade(answer: Callable[..., Any]) -> str:
    for count in (2, 0, 3):
        stages = _Stages(count)
        value = call(answer, stages.base, stages.upscalers, _SOURCE, _TARGET)
        _judge_calls(stages.calls, count)
        right = _Stages(count)
        wanted = cascade(right.base, right.upscalers, _SOURCE, _TARGET)
        got = tensor(value, tuple(wanted.shape), "(3, H, W)")
        agree(got, wanted, {}, f"With {count} stages the picture differs.")
    return "No, two and three stages: the base is edited once and every stage enlarges its result."


def _judge_calls(calls: list[tuple[str, int, str]], count: int) -> None:
    bases = [size for name, _, size in calls if name == "base"]
    stages = [(name, side, size) for name, side, size in calls if name != "base"]
    if len(bases) != 1:
        raise Wrong(f"The base stage runs once, here it ran {len(bases)} times.")
    if bases[0] != f"{_SOURCE} -> {_TARGET}":
        raise Wrong("The base stage takes the source prompt first, then the target prompt.")
    if [name for name, _, _ in stages] != [f"stage {n + 1}" for n in range(count)]:
        names = ", ".join(name for name, _, _ in stages) or "none"
        raise Wrong(f"{count} stages have to run, each once and in order; these ran: {names}.")
    for n, (name, side, size) in enumerate(stages):
        if size != _TARGET:
            raise Wrong(f'{name} got the prompt "{size}"; what it enlarges is the edited picture.')
        if side != 4 * 2**n:
            raise Wrong(f"{name} got a picture of {side} pixels; give it the result before it.")


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
        signature="f(base, upscalers, source, target) -> picture; base(source, target) edits, "
        "upscaler(picture, prompt) enlarges",
        hints=(
            "The edit happens in the base stage only. The others just enlarge what they get.",
            "picture = base(source, target); then for each stage: picture = stage(picture, "
            "target).",
        ),
        reference=cascade,
        test=_test_cascade,
    ),
    Exercise(
        id="08.hybrid",
        title="The words' part of a shared softmax",
        signature="f(source (heads, pixels, L + I), target, mapper (L, L)) -> "
        "(heads, pixels, L + I)",
        hints=(
            "The mapper says how many of the columns are words. Only those are edited.",
            "torch.cat([source[..., :L] @ mapper, target[..., L:]], dim=-1) with L = len(mapper)",
        ),
        reference=hybrid,
        test=_test_hybrid,
    ),
)
