"""`grade`: the check of a problem set's test cell, which fails the cell unless the answer is right.

    >>> grade("ps1.words", words, STUDENT)
    ps1.words: right. The tokens of each word

A cell that fails loses its points, so a question is split over several cells: easy cases, the
student's own seed, hidden seeds. Before an answer is looked at, a known wrong one must be refused:
that finds checks that were overwritten, and a torch whose comparisons were.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

from p2p_lab.checks.asking import find_question, verdict
from p2p_lab.checks.exercise import Wrong
from p2p_lab.checks.feedback import Feedback
from p2p_lab.checks.question import Question, seed_of


class NotRight(AssertionError):
    """Say that an answer gets no points in this cell, and why."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentences alone: the lines of the package say nothing about the answer."""
        return [f"{type(self).__name__}: {self}"]


def grade(
    question_id: str, answer: Any, student: str, *, easy: bool = False, salt: str = ""
) -> None:
    """Test an answer on a student's own inputs; print the verdict, or fail the cell.

    Args:
        question_id: as "ps1.words".
        answer: the function that was written, without brackets.
        student: the student's id: the inputs are drawn from it.
        easy: take the easy cases only.
        salt: another text gives other inputs; hidden tests have their own.

    Raises:
        NotRight: the answer is missing or wrong, or the checks were changed.
        KeyError: there is no such question.
    """
    question = find_question(question_id)
    seed = seed_of(student, question_id, salt)
    with _quiet():
        _refuse_control(question, seed)
        found = verdict(question, answer, lambda given: question.judge(given, seed, easy))
    if not isinstance(found, Feedback) or found.state != "right":
        raise NotRight(str(found))
    print(found)


def _refuse_control(question: Question, seed: int) -> None:
    """Make sure that a known wrong answer is still refused."""
    try:
        question.judge(question.control, seed, True)
    except Wrong:
        return
    raise NotRight(
        f"{question.id}: the check let a known wrong answer pass, so something in this notebook "
        "has changed p2p_lab or torch. Restart the kernel, and do not assign to their names."
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep warnings and stderr away: nbgrader takes any text there for a failed test."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
