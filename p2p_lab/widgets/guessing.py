"""Guesses that commit: choose an answer before the result is shown, and count at the end.

    >>> guess("02.radical", ["the old animal again", "the new animal", "mush"])
    >>> guesses("02")
    You guessed 1 of 1 right: 02.radical.

In a notebook with a kernel the answers are buttons, and the output of the next code cell stays
hidden until one is pressed. Without a kernel they are read as text, and nothing is hidden.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from p2p_lab.widgets import style
from p2p_lab.widgets.browser import GuessButtons, key_guard
from p2p_lab.widgets.panel import VIEW

# The right answer of each question, counted from 0. What is right was measured in its lesson.
ANSWERS = {
    "00.seed": 1,
    "00b.asked": 2,
    "01.early": 2,
    "02.radical": 1,
    "02.window": 0,
    "03.lazy": 1,
    "03.values": 1,
    "04.layout": 1,
    "04.muted": 1,
    "05.background": 3,
    "06.resolution": 1,
    "06.sharp": 2,
    "06.move": 0,
    "06.morph": 0,
    "07.bytes": 2,
    "08.share": 2,
    "09.kept": 1,
}

_asked: dict[str, Guess] = {}


class Guess:
    """One question with its answers.

    Attributes:
        id: The lesson's number and a name.
        options: The answers.
        buttons: The widget's part with the answers; `chosen` is −1 until one is pressed.
        box: The widget.
    """

    def __init__(self, question: str, options: Sequence[str]) -> None:
        self.id, self.options = question, tuple(options)
        self.buttons = GuessButtons(options=list(self.options))
        self.box: Any = widgets.VBox([style.style_sheet(), key_guard(), self.buttons])
        self.box.add_class("p2p-bare")
        self.box.add_class("p2p")

    @property
    def chosen(self) -> int | None:
        """Return which answer was chosen, from 0; None before that."""
        index = int(self.buttons.chosen)
        return index if index >= 0 else None

    @property
    def right(self) -> bool | None:
        """Return whether the guess was right; None before it was made."""
        return None if self.chosen is None else self.chosen == ANSWERS[self.id]

    def __repr__(self) -> str:
        """Return the answers as text, the same whatever was chosen."""
        return "\n".join(f"({chr(97 + i)}) {text}" for i, text in enumerate(self.options))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return buttons, a list and text together; the notebook takes the best it can show."""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self.options)
        data: dict[str, Any] = {
            "text/plain": repr(self),
            "text/html": f'<ol type="a">{items}</ol>',
        }
        model_id = getattr(self.box, "model_id", None)
        if model_id:
            data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": model_id}
        return data


def guess(question: str, options: Sequence[str]) -> Guess:
    """Ask for a guess, and hide the next cell's output until one is made.

    Args:
        question: The lesson's number and a name, as "02.radical".
        options: The answers, in the order of the lesson's text.

    Returns:
        A `Guess`, shown at the end of a cell.

    Raises:
        KeyError: If there is no such question.
        ValueError: If the right answer is not among so few options.
    """
    if question not in ANSWERS:
        raise KeyError(f"There is no question {question!r}. There are: {', '.join(ANSWERS)}.")
    if isinstance(options, str) or len(options) <= ANSWERS[question]:
        raise ValueError(
            f"{question} has at least {ANSWERS[question] + 1} answers, got {options!r:.100}. Give "
            "all of them, in a list."
        )
    _asked[question] = Guess(question, options)
    return _asked[question]


class Tally:
    """How many guesses were right, as a line."""

    def __init__(self, asked: Sequence[Guess]) -> None:
        self.right = [one.id for one in asked if one.right]
        self.wrong = [one.id for one in asked if one.right is False]
        self.open = [one.id for one in asked if one.right is None]

    def __repr__(self) -> str:
        """Return the line."""
        made = len(self.right) + len(self.wrong)
        if not made:
            return "You have not guessed yet: the buttons stand beside the questions."
        line = f"You guessed {len(self.right)} of {made} right"
        line += f": {', '.join(self.right)}." if self.right else "."
        if self.wrong:
            line += f" Look again at {', '.join(self.wrong)}."
        return line + (f" Not guessed: {', '.join(self.open)}." if self.open else "")


def guesses(lesson: str = "") -> Tally:
    """Return how many guesses of a lesson were right so far.

    Args:
        lesson: Its number, as "02"; "" takes all.
    """
    found = [one for one in _asked.values() if lesson in ("", one.id.split(".")[0])]
    return Tally(found)
