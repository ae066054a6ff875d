"""What makes a panel's picture, to take along: lines of code, or a link to the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2p_lab.recipes import Recipe
from p2p_lab.recipes.links import to_link
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import code_box


class Sharing:
    """Show and copy the code and the link of the newest final picture.

    Args:
        say: Shows a sentence.
        guard: A context in which errors are shown.
        code: Returns the lines.
        recipe: Returns what made the final picture.
        waits: Returns whether the final picture is still to come.

    Attributes:
        box: What was asked for, hidden before.
        code_button, link_button: Ask for it.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None],
        guard: Callable[[], Any],
        code: Callable[[], str],
        recipe: Callable[[], Recipe],
        waits: Callable[[], bool],
    ) -> None:
        self._say, self._guard, self._waits = say, guard, waits
        self._code, self._recipe = code, recipe
        self._asked: Callable[[], None] | None = None
        self.box = code_box()
        self.code_button = style.button("Copy as code", "Show and copy the lines of this edit")
        self.code_button.on_click(lambda _: self._ask(self._show_code))
        self.link_button = style.button(
            "Open in the page", "Show and copy a link that opens this edit in the page, no Jupyter"
        )
        self.link_button.on_click(lambda _: self._ask(self._show_link))

    def finished(self) -> None:
        """Take away what belongs to an older picture; show what was asked for during a draft."""
        self.box.layout.display = "none"
        if self._asked is not None:
            self._ask(self._asked)

    def _ask(self, show: Callable[[], None]) -> None:
        self._asked = show if self._waits() else None
        if self._asked is None:
            with self._guard():
                show()
        else:
            what = "link" if show == self._show_link else "code"
            self._say(f"The {what} comes with the final picture.")

    def _show_code(self) -> None:
        self._show(self._code())
        self._say("These lines make the same picture.")

    def _show_link(self) -> None:
        self._show(to_link(self._recipe()))
        self._say("This link opens the edit in the page, which `python -m p2p_lab web` shows.")

    def _show(self, text: str) -> None:
        self.box.value = text
        self.box.copies += 1
        self.box.layout.display = "flex"
