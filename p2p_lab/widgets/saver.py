"""What a panel has shown, to choose from and to write to files: a strip, a GIF, a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from p2p_lab.recipes import Recipe
from p2p_lab.widgets import style
from p2p_lab.widgets.export import Frame, save_gif, save_strip

MOST_FRAMES = 12


class Saver:
    """Keep the newest pictures of a panel, and write those that are ticked.

    Args:
        say: Shows a sentence.
        recipe: Returns what the shown picture was made with.
        reopen: Sets the panel to a recipe.
        guard: A context in which errors are shown.

    Attributes:
        frames: The pictures, the source first.
        box: The widget.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None],
        recipe: Callable[[], Recipe],
        reopen: Callable[[Recipe], None],
        guard: Callable[[], Any],
    ) -> None:
        self._say, self._recipe, self._reopen, self._guard = say, recipe, reopen, guard
        self.frames: list[Frame] = []
        self._ticks: dict[Frame, Any] = {}
        self._list = style.column()
        self.recipe_button = style.button("Save recipe", "Write the settings to a JSON file")
        self.strip_button = style.button("PNG strip", "Write the ticked pictures side by side")
        self.gif_button = style.button("GIF", "Write the ticked pictures one after another")
        self.open_button = widgets.FileUpload(
            accept=".json", multiple=False, description="Open a recipe",
            layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.recipe_button.on_click(lambda _: self._save("recipe"))
        self.strip_button.on_click(lambda _: self._save("strip"))
        self.gif_button.on_click(lambda _: self._save("gif"))
        self.open_button.observe(lambda _: self._open(), "value")
        self.box = style.column(
            style.row(self.recipe_button, self.open_button, self.strip_button, self.gif_button),
            style.head("Pictures so far", "those that are ticked go into the strip and the GIF"),
            self._list,
        )

    @property
    def chosen(self) -> list[Frame]:
        """Return the pictures that are ticked."""
        return [frame for frame in self.frames if self._ticks[frame].value]

    def add(self, first: Frame, frame: Frame) -> None:
        """Add a picture after its source; those of another source go."""
        same = bool(self.frames) and self.frames[0] == first
        kept = [one for one in self.frames[1:] if one != frame] if same else []
        self.frames = [first, *[*kept, frame][-(MOST_FRAMES - 1) :]]
        self._ticks = {one: self._ticks.get(one) or _tick(one) for one in self.frames}
        self._list.children = tuple(
            style.row(style.thumbnail(one.image), self._ticks[one], flex_flow="row nowrap")
            for one in self.frames
        )

    def _save(self, what: str) -> None:
        with self._guard():
            recipe = self._recipe()
            if what == "recipe":
                path = recipe.save()
                self._say(
                    f"Saved {path}. Open it here again, or with EditPanel.from_recipe('{path}')."
                )
                return
            if not self.chosen:
                raise ValueError("No picture is ticked below. Tick those that you want to save.")
            path = (save_strip if what == "strip" else save_gif)(self.chosen)
            self._say(f"Saved {path}")

    def _open(self) -> None:
        found = uploaded(self.open_button.value)
        if found is None:
            return
        with self._guard():
            name, content = found
            try:
                recipe = Recipe.from_json(content.decode("utf-8", errors="replace"))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            self._reopen(recipe)


def _tick(frame: Frame) -> Any:
    return widgets.Checkbox(
        value=True,
        description=f"{frame.caption} · {frame.note}",
        indent=False,
        layout=widgets.Layout(width="auto"),
    )


def uploaded(value: Any) -> tuple[str, bytes] | None:
    """Return name and bytes of an uploaded file, as ipywidgets 7 (a dict) or 8 (a tuple) has it."""
    if isinstance(value, dict):
        entries = [(name, entry["content"]) for name, entry in value.items()]
    else:
        entries = [(entry.get("name", "the file"), entry["content"]) for entry in value or ()]
    return (str(entries[-1][0]), bytes(entries[-1][1])) if entries else None
