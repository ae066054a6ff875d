"""Where an edit acts: windows as steps, words as tokens, and the sentences for wrong ones."""

from __future__ import annotations

import math
from typing import Any

from p2p_lab.edits.plan import EditPlan, Window
from p2p_lab.tokens import AlignmentError, Prompt, reference_tokens_of


def check_window(name: str, window: Window) -> None:
    """Refuse anything but two fractions (start, end) with 0 <= start <= end <= 1.

    Raises:
        ValueError: If the window is something else.
    """
    try:
        start, end = window
    except (TypeError, ValueError):
        start = end = math.nan
    if not (is_number(start) and is_number(end) and 0 <= start <= end <= 1):
        raise ValueError(
            f"{name} is a window (start, end) in fractions of the schedule, 0 is noise and 1 the "
            f"image, with 0 <= start <= end <= 1; got {window!r}. (0, 0.8) acts in the first 80 %."
        )


def window_steps(window: Window, steps: int) -> range:
    """Return the steps of a window: both edges rounded to the nearest step, halves up."""
    return range(nearest_step(window[0] * steps), nearest_step(window[1] * steps))


def nearest_step(number: float) -> int:
    """Return the nearest whole number, halves up, unmoved by the last bits of 0.29 * 100."""
    return math.floor(round(number, 9) + 0.5)


def self_steps_of(window: Window, plan: EditPlan) -> range:
    """Return the steps of a self-attention window; the authors' code truncates both edges."""
    if plan.compat is None:
        return window_steps(window, plan.steps)
    return range(*(int(edge * plan.steps) for edge in window))


def cross_steps(window: Window, plan: EditPlan) -> range:
    """Return the steps of a cross-attention window.

    The authors' code truncates on a table of T + 1 rows, of which a run of T steps reads the
    first T; `compat="reference"` does the same.
    """
    if plan.compat is None:
        return window_steps(window, plan.steps)
    start, end = (min(int(edge * (plan.steps + 1)), plan.steps) for edge in window)
    return range(start, end)


def word_and_place(word: Any) -> tuple[str, int | None]:
    """Return a word and which of its places is meant: "cat" is all of them, ("cat", 1) the second.

    Raises:
        ValueError: If it is neither.
    """
    text, place = word if isinstance(word, tuple) and len(word) == 2 else (word, None)
    whole = place is None or (isinstance(place, int) and not isinstance(place, bool))
    if not isinstance(text, str) or not whole:
        raise ValueError(
            'A word is named by its text, as "cat", or with the number of its place from 0, as '
            f'("cat", 1); got {word!r:.80}.'
        )
    return text, place


def tokens_in(
    prompt: Prompt, word: str, plan: EditPlan, where: str, occurrence: int | None = None
) -> list[int]:
    """Return the tokens of a word for a plan; `where` says in an error who asked.

    Raises:
        AlignmentError: If the word is not in the prompt.
    """
    if plan.compat == "reference":
        return reference_tokens_of(prompt, word)
    try:
        return prompt.tokens_of(word, occurrence)
    except AlignmentError as error:
        raise AlignmentError(f"{where}: {error}") from None


def is_number(value: Any) -> bool:
    """Return whether a value is one finite number."""
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # arrays; 10**400; tensors
        return False
