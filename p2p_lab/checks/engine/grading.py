"""`grade`: the check of a problem set's test cell, which fails the cell unless the answer is right.

    >>> grade("ps1.words", words, STUDENT)
    ps1.words: right. The tokens of each word

A cell that fails loses its points, so a question is split over several cells: easy cases, the
student's own seed, hidden seeds. While a problem set is graded these cells are not run in the
student's process: `graded` is, where the secret of the hidden seeds and the right answers are, and
the student's process is sent the inputs alone.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from p2p_lab.checks.engine.answering import Outcome
from p2p_lab.checks.engine.asking import find_question, verdict
from p2p_lab.checks.engine.feedback import Feedback
from p2p_lab.checks.engine.question import seed_of


class NotRight(AssertionError):
    """An answer gets no points in this cell; the message says why."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentences alone: the lines of the package say nothing about the answer."""
        return [f"{type(self).__name__}: {self}"]


class Elsewhere:
    """An answer that lives in another process.

    Attributes:
        ask: Given a question's id and arguments, has the answer called there and returns what
            came of it.
    """

    def __init__(self, ask: Callable[[str, tuple[Any, ...]], Outcome]) -> None:
        """Keep the way to ask."""
        self.ask = ask

    def __call__(self, *args: Any) -> Any:
        """Refuse: only `ask` reaches the answer."""
        raise TypeError("An answer in another process is asked, not called.")


def grade(
    question_id: str, answer: Any, student: str, *, easy: bool = False, hidden: bool = False
) -> None:
    """Test an answer on a student's own inputs; print the verdict, or fail the cell.

    Args:
        question_id: As "ps1.words".
        answer: The function that was written, without brackets.
        student: The student's id: the inputs are drawn from it.
        easy: Take the easy cases only.
        hidden: A test on inputs that only the teacher's computer knows; here it does nothing.

    Raises:
        NotRight: If the answer is missing or wrong.
        KeyError: If there is no such question.
    """
    find_question(question_id)
    if hidden:
        print(f"{question_id}: the hidden inputs are drawn when your teacher grades.")
        return
    found = graded(question_id, answer, student, easy=easy)
    if found.state != "right":
        raise NotRight(str(found))
    print(found)


def graded(
    question_id: str, answer: Any, student: str, *, easy: bool = False, secret: str = ""
) -> Feedback:
    """Return the verdict on an answer, here or elsewhere.

    Args:
        question_id: As "ps1.words".
        answer: The function, or an `Elsewhere`.
        student: The student's id.
        easy: Take the easy cases only.
        secret: The text that hidden inputs are drawn with; empty for the visible ones.
    """
    question = find_question(question_id)
    seed = seed_of(student, question_id, secret)
    with _quiet():
        return verdict(question, answer, lambda args: question.judge(args, seed, easy))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and stderr away: nbgrader takes any text there for a failed test."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
