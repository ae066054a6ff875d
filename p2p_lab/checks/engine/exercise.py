"""What an exercise is, and the tools that its test is written with.

A test calls the answer through `call`, which tells a stub from an answer, an exception from a
value, and notices when an argument was changed. `agree` compares a value with the right one, and
with the values of known mistakes, so that the sentence can name the mistake.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from p2p_lab.checks.engine.answering import Outcome, outcome_of
from p2p_lab.checks.engine.wire import Unsent


class NotAttempted(Exception):
    """The answer is still the stub."""


class Wrong(Exception):
    """What is wrong with an answer, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What is asked of a student, in a lesson or in a problem set.

    Attributes:
        id: The lesson's number or the problem set, and a name, as "02.mapper" or "ps1.words".
        title: What is asked for, in a few words.
        signature: How the answer is called and what it returns, with shapes.
        hints: Two or three sentences, each nearer to the answer.
        right: A right answer.
        graded: Whether it counts for a grade: then its solution is the teacher's to show.
    """

    id: str
    title: str
    signature: str
    hints: tuple[str, ...]
    right: Callable[..., Any]
    graded: ClassVar[bool]

    @abstractmethod
    def test(self, answer: Callable[..., Any]) -> str:
        """Test an answer on inputs that are always the same; return what was checked.

        Raises:
            NotAttempted: If it is a stub.
            Wrong: With what is wrong, in a sentence.
        """


@dataclass(frozen=True, kw_only=True)
class Exercise(Task):
    """One exercise of a lesson; the source of its right answer is the shown solution.

    Attributes:
        difficulty: 1 for a line or two, 2 for a thought of one's own, 3 for a small program.
        minutes: What a reader takes who knows PyTorch basics; an estimate.
        tested_by: Given an answer, raises `Wrong` or `NotAttempted`, or returns what was checked.
    """

    difficulty: Literal[1, 2, 3]
    minutes: int
    tested_by: Callable[[Callable[..., Any]], str]
    graded: ClassVar[bool] = False

    def test(self, answer: Callable[..., Any]) -> str:
        """Test an answer, see `Task.test`."""
        return self.tested_by(answer)

    @property
    def effort(self) -> str:
        """Difficulty and minutes as they stand in the lesson's heading, "●●○ · 8 min"."""
        return f"{'●' * self.difficulty}{'○' * (3 - self.difficulty)} · {self.minutes} min"


def call(answer: Callable[..., Any], *args: Any) -> Any:
    """Call an answer, and return what it returned.

    Raises:
        NotAttempted: If it returned nothing, or raised NotImplementedError.
        Wrong: If it raised something else, or wrote in its arguments.
    """
    return value_of(outcome_of(answer, args))


def value_of(outcome: Outcome) -> Any:
    """Return the value that came of a call.

    Raises:
        NotAttempted: If there is none, since the answer is a stub.
        Wrong: If there is none for another reason.
    """
    if outcome.kind == "nothing":
        raise NotAttempted
    if outcome.kind != "value":
        raise Wrong(outcome.sentence)
    return outcome.value


def tensor(value: Any, shape: tuple[int, ...], axes: str) -> Tensor:
    """Return an answer's value as a float64 tensor of a shape.

    Args:
        value: What the answer returned: a tensor, an array, or nested lists of numbers or tensors.
        shape: The shape it has to have.
        axes: The names of the axes, as "(L, L)", for the sentence.

    Raises:
        Wrong: If it is no array of numbers, has another shape or holds NaN.
    """
    try:
        numbers = _stacked(value).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"It returned {kind_of(value)}, where a tensor of shape {axes} = {shape} is asked for."
        ) from None
    if tuple(numbers.shape) != shape:
        raise Wrong(f"It returned shape {tuple(numbers.shape)}, asked for is {axes} = {shape}.")
    if not bool(torch.isfinite(numbers).all()):
        raise Wrong("It returned numbers that are not finite: look for a division by zero.")
    return numbers


def _stacked(value: Any) -> Tensor:
    """Return nested lists of numbers, arrays or tensors as one tensor."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (list, tuple)) and value:
        return torch.stack([_stacked(part) for part in value])
    return torch.as_tensor(value)


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
        got: The answer's value.
        right: The right value, same shape.
        mistakes: Sentence -> the value that this mistake gives; the first that fits is said.
        otherwise: The sentence for any other difference; the largest one is added to it.
        tolerance: Absolute.

    Raises:
        Wrong: If the values differ.
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


def kind_of(value: Any) -> str:
    """Name a value's kind for a sentence."""
    name = value.name if isinstance(value, Unsent) else type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
