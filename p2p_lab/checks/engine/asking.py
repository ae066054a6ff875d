"""`check`, `hint`, `solution`, `progress`: find an exercise, run its test, say what came out."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch

from p2p_lab.checks.engine.exercise import Exercise, NotAttempted, Task, Wrong, kind_of
from p2p_lab.checks.engine.feedback import Feedback, Note, Progress
from p2p_lab.checks.engine.question import Question
from p2p_lab.devices import usual_defaults

_LESSONS = ("00", "00b", "01", "02", "03", "04", "05", "06", "07", "08", "09")
_PROBLEM_SETS = 4
_allowed = [3]  # hints of a graded question
_solved: set[str] = set()  # ids that were checked and found right since Python started
_IMPORTS = (
    ("Callable", "from collections.abc import Callable"),
    ("Sequence", "from collections.abc import Sequence"),
    ("Any", "from typing import Any"),
    ("torch", "import torch"),
    ("F", "import torch.nn.functional as F"),
    ("Tensor", "from torch import Tensor"),
)


@cache
def exercises() -> dict[str, Exercise]:
    """Return all exercises by id, in the order of the lessons."""
    rooms = [import_module(f"p2p_lab.checks.lessons.lesson_{name}") for name in _LESSONS]
    return {exercise.id: exercise for room in rooms for exercise in room.EXERCISES}


@cache
def questions() -> dict[str, Question]:
    """Return all questions of the problem sets by id, in order."""
    rooms = [import_module(f"p2p_lab.checks.sets.ps{n}") for n in range(1, _PROBLEM_SETS + 1)]
    return {question.id: question for room in rooms for question in room.QUESTIONS}


def check(exercise_id: str, answer: Any) -> Feedback:
    """Test an answer by what it does, and say what was found.

    Args:
        exercise_id: As "02.mapper", or a question of a problem set, as "ps1.words".
        answer: The function that you wrote, without brackets.

    Returns:
        A `Feedback`, shown at the end of a cell; true in a condition when the answer is right.
        A right answer counts in `progress`.

    Raises:
        KeyError: If there is no such exercise.
    """
    exercise = _find(exercise_id)
    found = verdict(exercise, answer, exercise.test)
    if found:
        _solved.add(exercise.id)
    return found


@usual_defaults()
def verdict(exercise: Task, answer: Any, test: Callable[[Callable[..., Any]], str]) -> Feedback:
    """Run one test of an exercise on an answer, and say what came out."""
    try:
        message = test(_callable(answer, exercise))
    except NotAttempted:
        return Feedback(
            exercise.id,
            exercise.title,
            "not attempted",
            f"Nothing came back yet. Write {exercise.signature}, and return the result.",
            f'A first step: hint("{exercise.id}", 1)',
        )
    except Wrong as error:
        stuck = f'Stuck? hint("{exercise.id}", 1)'
        return Feedback(exercise.id, exercise.title, "wrong", str(error), stuck)
    return Feedback(exercise.id, exercise.title, "right", message)


def hint(exercise_id: str, number: int = 1) -> Note:
    """Return one of the hints of an exercise: two or three in a lesson, three in a problem set.

    Raises:
        KeyError: If there is no such exercise.
        ValueError: If there is no such hint, or the course allows fewer.
    """
    exercise = _find(exercise_id)
    graded, most = exercise.graded, len(exercise.hints)
    if isinstance(number, bool) or number not in range(1, most + 1):
        raise ValueError(f"{exercise.id} has hints 1 to {most}; got {number!r}.")
    allowed = min(_allowed[0], most) if graded else most
    if number > allowed:
        raise ValueError(
            f"This course allows {allowed} hint(s) for the questions of problem sets; ask your "
            "teacher."
        )
    return Note(
        exercise.id,
        "hint",
        f"{exercise.id}: hint {number} of {allowed}",
        exercise.hints[number - 1],
        _after(exercise.id, number, allowed, graded),
    )


def _after(exercise_id: str, number: int, allowed: int, graded: bool) -> str:
    """Return where to go from a hint."""
    if number < allowed:
        return f'Next: hint("{exercise_id}", {number + 1})'
    return "" if graded else f'Next: solution("{exercise_id}")'


def allow_hints(number: int) -> None:
    """Set how many hints a question of a problem set has here, 0 to 3.

    Raises:
        ValueError: If the number is another one.
    """
    if isinstance(number, bool) or number not in range(4):
        raise ValueError(f"allow_hints takes 0, 1, 2 or 3; got {number!r}.")
    _allowed[0] = number


def solution(exercise_id: str) -> Note:
    """Return the source of a right answer.

    Raises:
        KeyError: If there is no such exercise.
        ValueError: If it is a question of a problem set: its answers are graded.
    """
    exercise = _find(exercise_id)
    if exercise.graded:
        raise ValueError(
            f"{exercise.id} belongs to a problem set, so its solution is your teacher's. There are "
            f'hints: hint("{exercise.id}", 1) and on.'
        )
    code = textwrap.dedent(inspect.getsource(exercise.right)).rstrip()
    code = re.sub(r"\s*# noqa[^\n]*", "", code)
    imports = [line for name, line in _IMPORTS if re.search(rf"\b{name}\b", code)]
    text = "\n".join([*imports, "", "", code]) if imports else code
    return Note(exercise.id, "solution", f"{exercise.id}: one solution", text)


def progress(lesson: str = "") -> Progress:
    """Return how many exercises of a lesson are solved, in this notebook, since it was started.

    Args:
        lesson: Its number, as "02"; "" takes all lessons.

    Raises:
        ValueError: If there is no such lesson.
    """
    if lesson and lesson not in _LESSONS:
        raise ValueError(f"There is no lesson {lesson!r}. There are: {', '.join(_LESSONS)}.")
    asked = [one for one in exercises().values() if lesson in ("", one.id.split(".")[0])]
    left = [one for one in asked if one.id not in _solved]
    after = f"{left[0].id}, {left[0].title} ({left[0].effort})" if left else ""
    return Progress(len(asked) - len(left), len(asked), after)


def find_question(question_id: str) -> Question:
    """Return a question of a problem set.

    Raises:
        KeyError: If there is no such question.
    """
    found = _find(question_id)
    if not isinstance(found, Question):
        raise KeyError(f"{question_id!r} is an exercise of a lesson; problem sets are ps1 to ps4.")
    return found


def _find(exercise_id: str) -> Task:
    if exercise_id in exercises():
        return exercises()[exercise_id]
    known: dict[str, Task] = {**exercises(), **questions()}
    if exercise_id in known:
        return known[exercise_id]
    near = difflib.get_close_matches(str(exercise_id), known, n=1, cutoff=0.4)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    raise KeyError(f"There is no exercise {exercise_id!r}. {meant}There are: {', '.join(known)}.")


def _callable(answer: Any, exercise: Task) -> Any:
    if answer is None or answer is ...:
        raise NotAttempted
    if not callable(answer) or isinstance(answer, torch.Tensor):
        raise Wrong(
            f"A check takes the function itself, without brackets: "
            f'check("{exercise.id}", your_function). It got {kind_of(answer)}.'
        )
    return answer
