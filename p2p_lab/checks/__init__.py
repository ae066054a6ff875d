"""Instant feedback on the lessons' exercises.

    >>> check("02.mapper", mapper)
    02.mapper: wrong. The word-to-word mapper
      The mapper is transposed: row i is a source token, column j a target token.
      Stuck? hint("02.mapper", 1)

Three states: not attempted, wrong with a sentence that says what is wrong, right. A check runs the
answer on inputs of its own and compares what comes back; it never reads the answer's text. The
questions of the problem sets are checked in the same way, and `grade` is their test cells' form of
it. The room may use every other one; none uses it.
"""

from p2p_lab.checks.engine.asking import (
    allow_hints,
    check,
    exercises,
    hint,
    progress,
    questions,
    solution,
)
from p2p_lab.checks.engine.exercise import Exercise
from p2p_lab.checks.engine.feedback import Feedback, Note, Progress, State
from p2p_lab.checks.engine.grading import NotRight, grade
from p2p_lab.checks.engine.question import Question, seed_of

__all__ = [
    "Exercise",
    "Feedback",
    "NotRight",
    "Note",
    "Progress",
    "Question",
    "State",
    "allow_hints",
    "check",
    "exercises",
    "grade",
    "hint",
    "progress",
    "questions",
    "seed_of",
    "solution",
]
