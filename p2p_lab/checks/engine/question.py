"""What a question of a problem set is: inputs drawn from a seed, and mistakes that they separate.

    cases = cases_of(question, seed, easy)     # drawn until every named mistake is refused
    judge(question, answer, seed, easy) -> what was checked, or Wrong, or NotAttempted

The same judge serves the visible test (the student's own seed) and the hidden one (a secret seed).
A mistake is code that makes it: so a case on which it gives the right value can be seen and another
one be drawn, and an answer with the same values is told its sentence. A mistake costs everybody the
same: the easy cases either all forgive it or do not.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from p2p_lab.checks.engine.answering import outcome_of, resolved
from p2p_lab.checks.engine.exercise import Task, Wrong, close, tensor, value_of
from p2p_lab.checks.engine.watching import Rules

Answer = Callable[..., Any]
Args = tuple[Any, ...]
_TRIES = 3000


@dataclass(frozen=True)
class Mistake:
    """A mistake that students make, as code.

    Attributes:
        sentence: What is told to an answer that makes it.
        answer: A function that makes it.
        easy: Whether the easy cases refuse it too. If not, all of them let it pass.
    """

    sentence: str
    answer: Answer
    easy: bool = False


@dataclass(frozen=True, kw_only=True)
class Question(Task):
    """One question of a problem set: three hints, none of which is its code.

    Attributes:
        draw: Given a source of random numbers and whether to be easy, returns one case's arguments.
        read: Given what an answer returned and the arguments, returns it as a tensor, or raises
            `Wrong` where its form is wrong.
        otherwise: Given the arguments, the sentence for a mistake that has no name.
        mistakes: The named mistakes. Easy cases are refused by those that say so.
        done: What was checked, told to a right answer.
        cases: How many cases at least.
        accept: Given a value and the arguments, returns whether it is right, where more than one
            value is; by default it must be that of `right`.
        tolerance: Absolute, for the comparison with the right value.
        rules: Which library code an answer may run; None for any.
        drive: How the answer is called, where it is no plain function.
    """

    draw: Callable[[random.Random, bool], Args]
    read: Callable[[Any, Args], Tensor]
    otherwise: Callable[[Tensor, Args], str]
    mistakes: tuple[Mistake, ...]
    done: str
    cases: int = 3
    accept: Callable[[Tensor, Args], bool] | None = None
    tolerance: float = 1e-4
    rules: Rules | None = Rules()
    drive: Answer | None = None
    graded: ClassVar[bool] = True

    def test(self, answer: Answer) -> str:
        """Judge an answer in full, see `Task.test`."""
        return self.judge(answer, 0, False)

    def judge(self, answer: Answer, seed: int, easy: bool) -> str:
        """Judge an answer on the inputs of a seed.

        Raises:
            NotAttempted: If it is a stub.
            Wrong: With what is wrong, in a sentence.
        """
        first = self.draw(random.Random(seed), easy)
        self.read(self.value(answer, first), first)  # a stub is known before much is drawn
        cases = cases_of(self, seed, easy)
        values = [self.read(self.value(answer, case.args), case.args) for case in cases]
        bad = [n for n, case in enumerate(cases) if not is_right(self, values[n], case)]
        if not bad:
            return self.done
        for mistake in self.mistakes:
            made = (value_by(self, mistake.answer, case.args) for case in cases)
            if all(_alike(value, other, self) for value, other in zip(values, made, strict=True)):
                raise Wrong(mistake.sentence)
        value, case = values[bad[0]], cases[bad[0]]
        for mistake in self.mistakes:  # on one case is enough where there is nothing better
            if _alike(value, value_by(self, mistake.answer, case.args), self):
                raise Wrong(mistake.sentence)
        raise Wrong(self.otherwise(value, case.args))

    def value(self, answer: Answer, args: Args) -> Any:
        """Return what an answer returns, wherever it runs."""
        ask = getattr(answer, "ask", None)
        if ask is not None:  # it lives in another process
            return value_of(ask(self.id, tuple(args)))
        return value_of(outcome_of(answer, tuple(args), self.rules, self.drive))


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one call, and the right value for them."""

    args: Args
    right: Tensor


def cases_of(question: Question, seed: int, easy: bool) -> list[Case]:
    """Draw the cases of a seed until each mistake that is to be refused is.

    Raises:
        RuntimeError: If no such cases come up: the question is not well posed.
    """
    kept: list[Case] = []
    rng = random.Random(f"{question.id} {seed} {easy}")
    left = [mistake for mistake in question.mistakes if mistake.easy or not easy]
    spared = [mistake for mistake in question.mistakes if easy and not mistake.easy]
    for _ in range(_TRIES):
        case = _drawn(question, rng, easy)
        if case is None or any(refused(question, mistake, case) for mistake in spared):
            continue
        found = [mistake for mistake in left if refused(question, mistake, case)]
        if found or len(kept) < question.cases:
            kept.append(case)
            left = [mistake for mistake in left if mistake not in found]
        if not left and len(kept) >= question.cases:
            return kept
    names = "; ".join(mistake.sentence for mistake in left)
    raise RuntimeError(f"{question.id}, seed {seed}: nothing was drawn that refuses: {names}")


def _drawn(question: Question, rng: random.Random, easy: bool) -> Case | None:
    """Draw one case; None where not even the right answer is good enough."""
    args = question.draw(rng, easy)
    right = value_by(question, question.right, args)
    assert right is not None, f"{question.id}: the right answer failed"
    case = Case(args, right)
    return case if is_right(question, right, case) else None


def refused(question: Question, mistake: Mistake, case: Case) -> bool:
    """Return whether a mistake is seen on one case."""
    value = value_by(question, mistake.answer, case.args)
    return value is None or not is_right(question, value, case)


def value_by(question: Question, answer: Answer, args: Args) -> Tensor | None:
    """Return the value of one of our own answers, None where it has no proper one."""
    try:
        values = resolved(args)
        made = answer(*values) if question.drive is None else question.drive(answer, *values)
        return question.read(made, args)
    except Exception:  # a mistake may fail on an input altogether
        return None


def is_right(question: Question, value: Tensor, case: Case) -> bool:
    """Return whether a value is right."""
    if question.accept is not None:
        return question.accept(value, case.args)
    return _alike(value, case.right, question)


def _alike(value: Tensor, other: Tensor | None, question: Question) -> bool:
    same = other is not None and value.shape == other.shape
    return same and close(value, other, question.tolerance)  # type: ignore[arg-type]


def gap(question: Question, value: Tensor, args: Args) -> str:
    """Return how far a value is from the right one, in words."""
    right = value_by(question, question.right, args)
    far = float((value.double() - right.double()).abs().max()) if right is not None else 0.0
    return f"The largest difference is {far:.2g}."


def reader(shape: Callable[..., tuple[int, ...]], axes: str) -> Callable[[Any, Args], Tensor]:
    """Return a `read` for one tensor, whose shape follows from the arguments."""

    def read(value: Any, args: Args) -> Tensor:
        return tensor(value, shape(*args), axes)

    return read


def two(value: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]], axes: str) -> Tensor:
    """Return two tensors of an answer, flat, one behind the other.

    Raises:
        Wrong: If there are not two, or one has another shape.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong(f"It must return two tensors: {axes}.")
    parts = [tensor(part, shape, axes) for part, shape in zip(value, shapes, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def seed_of(student: str, what: str, salt: str = "") -> int:
    """Return the seed of a student for one thing: 31 bits of a hash of all three.

    Args:
        student: The id that the teacher knows the student by; case and outer spaces do not count.
        what: The question, as "ps1.words".
        salt: What makes a hidden test's inputs differ from the visible one's.
    """
    text = "\n".join([student.strip().lower(), what, salt])
    return (
        int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:4], "big") >> 1
    )
