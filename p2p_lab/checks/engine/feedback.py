"""How a verdict, a hint and a solution look: the same words as text and as HTML.

The text is deterministic, so that nbval can compare it. The HTML follows the notebook's light or
dark theme, and says its state in words and by a sign, not by colour alone.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

State = Literal["not attempted", "wrong", "right"]

_LOOK = {
    "not attempted": ("○", "#7a7f87"),
    "wrong": ("✕", "#c2410c"),
    "right": ("✓", "#15803d"),
    "hint": ("?", "#1d4ed8"),
    "solution": ("=", "#6d28d9"),
}


@dataclass(frozen=True)
class Feedback:
    """What a check found.

    It is true in a condition when the answer is right, so `assert check(...)` grades.

    Attributes:
        id: The exercise.
        title: What it asks for.
        state: "not attempted", "wrong" or "right".
        message: What was found, in sentences.
        next: What to do next; empty when the answer is right.
    """

    id: str
    title: str
    state: State
    message: str
    next: str = ""

    def __bool__(self) -> bool:
        """Return whether the answer is right."""
        return self.state == "right"

    def __repr__(self) -> str:
        """Return the verdict as text, two or three lines."""
        lines = [f"{self.id}: {self.state}. {self.title}", f"  {self.message}"]
        return "\n".join(lines + ([f"  {self.next}"] if self.next else []))

    def _repr_html_(self) -> str:
        """Return the verdict as a card."""
        return _card(self.state, f"{self.id}: {self.state}", self.title, self.message, self.next)


@dataclass(frozen=True)
class Note:
    """A hint or a solution.

    Attributes:
        id: The exercise.
        kind: "hint" or "solution".
        title: The first line.
        text: A sentence, or source code.
        next: Where to go from here.
    """

    id: str
    kind: Literal["hint", "solution"]
    title: str
    text: str
    next: str = ""

    def __repr__(self) -> str:
        """Return the note as text."""
        body = self.text if self.kind == "solution" else f"  {self.text}"
        return "\n".join([self.title, body] + ([f"  {self.next}"] if self.next else []))

    def _repr_html_(self) -> str:
        """Return the note as a card."""
        return _card(self.kind, self.title, "", self.text, self.next, code=self.kind == "solution")


@dataclass(frozen=True)
class Progress:
    """How far one has come with a lesson's exercises.

    Attributes:
        solved: How many are right.
        asked: How many there are.
        after: The next one, with its title and effort; empty when all are right.
    """

    solved: int
    asked: int
    after: str

    def __repr__(self) -> str:
        """Return a bar of signs and a sentence."""
        bar = "■" * self.solved + "□" * (self.asked - self.solved)
        line = f"{bar} {self.solved} of {self.asked} exercises solved."
        return f"{line} Next: {self.after}." if self.after else line


def _card(look: str, head: str, title: str, message: str, after: str, *, code: bool = False) -> str:
    """Build the HTML of a card; all texts are escaped."""
    sign, colour = _LOOK[look]
    head, title, message, after = (html.escape(text) for text in (head, title, message, after))
    body = (
        f'<pre style="margin:.5em 0 0;overflow-x:auto;white-space:pre">{message}</pre>'
        if code
        else f'<div style="margin-top:.35em">{message}</div>'
    )
    return (
        f'<div role="status" style="border-left:4px solid {colour};padding:.6em 1em;'
        "margin:.4em 0;max-width:46em;line-height:1.45;border-radius:0 4px 4px 0;"
        'background:var(--jp-layout-color1,transparent);color:var(--jp-ui-font-color1,inherit)">'
        f'<span aria-hidden="true" style="color:{colour};font-weight:700;margin-right:.5em">'
        f"{sign}</span><strong>{head}</strong>"
        + (f'<span style="opacity:.75"> · {title}</span>' if title else "")
        + body
        + (f'<div style="margin-top:.35em;opacity:.75">{after}</div>' if after else "")
        + "</div>"
    )
