"""What an exercise is, and the tools that its test is written with.

A test calls the answer through `call`, which tells a stub from an answer, an exception from a
value, and notices when an argument was changed. `agree` compares a value with the right one, and
with the values of known mistakes, so that the sentence can name the mistake.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NotAttempted(Exception):
    """Say that the answer is still the stub."""


class Wrong(Exception):
    """Say in a sentence what is wrong with an answer."""


@dataclass(frozen=True)
class Exercise:
    """Hold one exercise: how it is tested, two hints and a reference answer.

    Attributes:
        id: the lesson's number and a name, as "02.mapper".
        title: what is asked for, in a few words.
        signature: how the answer is called and what it returns, with shapes.
        hints: two sentences, the second one nearly gives it away.
        reference: a right answer; its source is the shown solution.
        test: given an answer, raises `Wrong` or `NotAttempted`, or returns what was checked.
    """

    id: str
    title: str
    signature: str
    hints: tuple[str, str]
    reference: Callable[..., Any]
    test: Callable[[Callable[..., Any]], str]


def call(answer: Callable[..., Any], *args: Any) -> Any:
    """Call an answer, and return what it returned.

    Raises:
        NotAttempted: it returned nothing, or raised NotImplementedError.
        Wrong: it raised something else, or wrote in its arguments.
    """
    given = copy.deepcopy(args)
    try:
        value = answer(*args)
    except NotImplementedError:
        raise NotAttempted from None
    except Exception as error:  # a student's code may raise anything
        raise Wrong(_raised(answer, error)) from None
    if not all(_same(old, new) for old, new in zip(given, args, strict=True)):
        raise Wrong(
            "It changed one of its arguments in place. Build a new tensor (start with .clone()) "
            "and return that: the caller still needs the old one."
        )
    if value is None or value is ...:
        raise NotAttempted
    return value


def tensor(value: Any, shape: tuple[int, ...], axes: str) -> Tensor:
    """Return an answer's value as a float64 tensor of a shape.

    Args:
        value: what the answer returned: a tensor, an array or nested lists.
        shape: the shape it has to have.
        axes: the names of the axes, as "(L, L)", for the sentence.

    Raises:
        Wrong: it is no array of numbers, has another shape or holds NaN.
    """
    try:
        numbers = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
        numbers = numbers.to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"It returned {kind_of(value)}, where a tensor of shape {axes} = {shape} is asked for."
        ) from None
    if tuple(numbers.shape) != shape:
        raise Wrong(f"It returned shape {tuple(numbers.shape)}, asked for is {axes} = {shape}.")
    if not bool(torch.isfinite(numbers).all()):
        raise Wrong("It returned numbers that are not finite: look for a division by zero.")
    return numbers


def agree(
    got: Tensor,
    right: Tensor,
    mistakes: Mapping[str, Tensor | Callable[[], Tensor]],
    otherwise: str,
    *,
    tolerance: float = 1e-5,
) -> None:
    """Compare with the right value, then with those of known mistakes.

    Args:
        got: the answer's value.
        right: the right value, same shape.
        mistakes: sentence -> the value that this mistake gives; the first that fits is said.
        otherwise: the sentence for any other difference; the largest one is added to it.
        tolerance: absolute.

    Raises:
        Wrong: the values differ.
    """
    right = right.to(torch.float64)
    if close(got, right, tolerance):
        return
    for sentence, value in mistakes.items():
        wrong = value() if callable(value) else value
        if wrong.shape == got.shape and close(got, wrong.to(torch.float64), tolerance):
            raise Wrong(sentence)
    raise Wrong(f"{otherwise} The largest difference is {float((got - right).abs().max()):.2g}.")


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Return whether two tensors agree within an absolute tolerance, or to five digits."""
    return bool(torch.allclose(one.double(), other.double(), rtol=1e-5, atol=tolerance))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_probs(*shape: int, seed: int = 0) -> Tensor:
    """Draw probabilities: softmax of normal numbers over the last axis."""
    return (2 * draw(*shape, seed=seed)).softmax(dim=-1)


def _same(old: Any, new: Any) -> bool:
    """Return whether an argument is as it was; what has no equality counts as unchanged."""
    if isinstance(old, Tensor):
        return isinstance(new, Tensor) and old.shape == new.shape and bool(torch.equal(old, new))
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    return not isinstance(old, (dict, set, str, int, float)) or bool(old == new)


def kind_of(value: Any) -> str:
    """Name a value's kind for a sentence."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _raised(answer: Any, error: Exception) -> str:
    """Say what an answer raised, and in which of its lines."""
    said = re.sub(r" at 0x[0-9a-f]+", "", str(error)).strip().splitlines()
    text = f"It raised {type(error).__name__}{': ' + said[0][:160] if said else ''}"
    function = answer if hasattr(answer, "__code__") else type(answer).__call__
    code = getattr(function, "__code__", None)
    lines = [
        line - frame.f_code.co_firstlineno + 1
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code is code
    ]
    return f"{text.rstrip('.')}" + (f", in line {lines[-1]} of your function." if lines else ".")
