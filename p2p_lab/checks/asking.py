"""`check`, `hint` and `solution`: find an exercise, run its test, say what came out."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from functools import cache
from importlib import import_module
from typing import Any

import torch

from p2p_lab.checks.exercise import Exercise, NotAttempted, Wrong, kind_of
from p2p_lab.checks.feedback import Feedback, Note

_LESSONS = 8
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
    rooms = [import_module(f"p2p_lab.checks.lesson_{n:02}") for n in range(_LESSONS)]
    return {exercise.id: exercise for room in rooms for exercise in room.EXERCISES}


def check(exercise_id: str, answer: Any) -> Feedback:
    """Test an answer by what it does, and say what was found.

    Args:
        exercise_id: as "02.mapper".
        answer: the function that you wrote, without brackets.

    Returns:
        A `Feedback`, shown at the end of a cell; true in a condition when the answer is right.

    Raises:
        KeyError: there is no such exercise.
    """
    exercise = _find(exercise_id)
    try:
        message = exercise.test(_callable(answer, exercise))
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
    """Return the first or the second hint of an exercise.

    Raises:
        KeyError: there is no such exercise.
        ValueError: there is no such hint.
    """
    exercise = _find(exercise_id)
    if isinstance(number, bool) or number not in (1, 2):
        raise ValueError(f"There are two hints, 1 and 2; got {number!r}.")
    after = f'solution("{exercise.id}")' if number == 2 else f'hint("{exercise.id}", 2)'
    return Note(
        exercise.id,
        "hint",
        f"{exercise.id}: hint {number} of 2",
        exercise.hints[number - 1],
        f"Next: {after}",
    )


def solution(exercise_id: str) -> Note:
    """Return the source of a right answer.

    Raises:
        KeyError: there is no such exercise.
    """
    exercise = _find(exercise_id)
    code = textwrap.dedent(inspect.getsource(exercise.reference)).rstrip()
    code = re.sub(r"\s*# noqa[^\n]*", "", code)
    imports = [line for name, line in _IMPORTS if re.search(rf"\b{name}\b", code)]
    text = "\n".join([*imports, "", "", code]) if imports else code
    return Note(exercise.id, "solution", f"{exercise.id}: one solution", text)


def _find(exercise_id: str) -> Exercise:
    known = exercises()
    if exercise_id in known:
        return known[exercise_id]
    near = difflib.get_close_matches(str(exercise_id), known, n=1, cutoff=0.4)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    raise KeyError(f"There is no exercise {exercise_id!r}. {meant}There are: {', '.join(known)}.")


def _callable(answer: Any, exercise: Exercise) -> Any:
    if answer is None or answer is ...:
        raise NotAttempted
    if not callable(answer) or isinstance(answer, torch.Tensor):
        raise Wrong(
            f"A check takes the function itself, without brackets: "
            f'check("{exercise.id}", your_function). It got {kind_of(answer)}.'
        )
    return answer
