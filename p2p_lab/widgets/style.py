"""How panels look: one style sheet, and builders for the controls that all of them use.

The style follows the notebook's light or dark theme through JupyterLab's variables, with plain
colours where those are missing (Colab, VS Code). Whatever comes from a user is escaped here before
it becomes HTML.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

CSS = (Path(__file__).parent / "panel.css").read_text(encoding="utf-8")
PICTURE = "20em"  # most width of a picture: three fill a panel


def style_sheet() -> Any:
    """Return the invisible widget that carries the style."""
    return widgets.HTML(f"<style>{CSS}</style>", layout=widgets.Layout(display="none"))


def head(text: str, note: str = "") -> Any:
    """Return a small heading with a note beside it."""
    beside = f" &nbsp;<b>{html.escape(note)}</b>" if note else ""
    return widgets.HTML(f'<div class="p2p-head">{html.escape(text)}{beside}</div>')


def note(text: str) -> Any:
    """Return a quiet line of text."""
    return widgets.HTML(note_html([text]))


def row(*children: Any, **layout: str) -> Any:
    """Return children side by side; they wrap where the notebook is narrow."""
    settings = {"flex_flow": "row wrap", "align_items": "center", "width": "100%", **layout}
    return widgets.HBox(children, layout=widgets.Layout(**settings))


def column(*children: Any, **layout: str) -> Any:
    """Return children below one another."""
    return widgets.VBox(children, layout=widgets.Layout(**{"width": "100%", **layout}))


def text(label: str, value: str, *, flex: str = "1 1 20em", at_once: bool = False) -> Any:
    """Return a text field that reports each key, or only when Enter is pressed or it is left.

    Raises:
        ValueError: If what it is to hold is no text.
    """
    if not isinstance(value, str):
        raise ValueError(
            f"The field “{label}” holds a text, such as 'a cat in a field'; got a "
            f"{type(value).__name__}."
        )
    return widgets.Text(
        value=value,
        description=label,
        continuous_update=at_once,
        style={"description_width": "4.5em"},
        layout=widgets.Layout(flex=flex, width="auto"),
    )


def slider(label: str, value: float, low: float, high: float, step: float = 0.05) -> Any:
    """Return a horizontal slider with its value beside it; it reports while it is dragged."""
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        continuous_update=True,
        readout_format=".2f",
        style={"description_width": "5em"},
        layout=widgets.Layout(width="100%"),
    )


def fader(word: str, value: float) -> Any:
    """Return a vertical fader of one word; 1 is as it was. It reports while it is dragged."""
    return widgets.FloatSlider(
        value=value,
        min=-2.0,
        max=4.0,
        step=0.1,
        description=word,
        orientation="vertical",
        continuous_update=True,
        readout_format=".1f",
    )


def button(label: str, tip: str, *, icon: str = "", kind: str = "", width: str = "auto") -> Any:
    """Return a button."""
    return widgets.Button(
        description=label,
        tooltip=tip,
        icon=icon,
        button_style=kind,
        layout=widgets.Layout(width=width, flex="0 0 auto"),
    )


class Folds:
    """A row of buttons, each of which opens and closes a box below.

    Args:
        boxes: What can be opened, by name.
        opened: Called after a box was opened.
    """

    def __init__(self, boxes: Mapping[str, Any], opened: Callable[[], None]) -> None:
        self._boxes, self._opened = dict(boxes), opened
        self.buttons = {
            name: widgets.ToggleButton(
                value=False, description=name, layout=widgets.Layout(width="auto")
            )
            for name in boxes
        }
        for name, button in self.buttons.items():
            button.observe(lambda _, name=name: self._toggled(name), "value")
            self._boxes[name].layout.display = "none"
            self._boxes[name].add_class("p2p-fold")
        self.bar = row(*self.buttons.values())
        self.bar.add_class("p2p-bar")
        self.box = column(self.bar, *self._boxes.values())

    def is_open(self, name: str) -> bool:
        """Return whether a box is open."""
        return bool(self.buttons[name].value)

    def open(self, name: str) -> None:
        """Open a box."""
        self.buttons[name].value = True

    def _toggled(self, name: str) -> None:
        self._boxes[name].layout.display = None if self.is_open(name) else "none"
        if self.is_open(name):
            self._opened()


def picture_layout() -> Any:
    """Return the layout of one of three pictures side by side."""
    return widgets.Layout(width="auto", flex="1 1 11em", max_width=PICTURE, margin="0")


def status_html(message: str, *, error: bool = False) -> str:
    """Return a status line, which a screen reader speaks when it changes."""
    kind = " p2p-error" if error else ""
    return f'<div class="p2p-status{kind}" role="status" aria-live="polite">{_text(message)}</div>'


def figure_html(
    image: Image.Image | None,
    alt: str,
    caption: str,
    note: str = "",
    *,
    old: bool = False,
    lit: bool = False,
) -> str:
    """Return a picture with alternative text and caption; without a picture, an empty frame.

    Args:
        image: The picture.
        alt: What it shows.
        caption: The line below it.
        note: A second, quieter line: the numbers.
        old: Pale, because a newer one is being made.
        lit: Framed, because it is the one that counts.
    """
    below = f"<figcaption>{_text(caption)}<br><span>{_text(note) or '&nbsp;'}</span></figcaption>"
    if image is None:
        return (
            f'<figure class="p2p-figure"><div class="p2p-empty">{_text(alt)}</div>{below}</figure>'
        )
    kinds = " ".join(["p2p-old"] * old + ["p2p-lit"] * lit)
    pale = f' class="{kinds}"' if kinds else ""
    return (
        f'<figure class="p2p-figure"><img{pale} alt="{_text(alt)}" src="{data_url(image)}" '
        f'style="--p2p-ratio:{image.width}/{image.height}">{below}</figure>'
    )


def thumbnail(image: Image.Image) -> Any:
    """Return a very small picture; what it shows is said beside it."""
    html_text = f'<img class="p2p-thumb" alt="" src="{data_url(image)}">'
    return widgets.HTML(html_text, layout=widgets.Layout(flex="0 0 auto"))


def data_url(image: Image.Image) -> str:
    """Return a picture as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def note_html(lines: Sequence[str]) -> str:
    """Return quiet lines of text."""
    return f'<div class="p2p-note">{"<br>".join(_text(line) for line in lines)}</div>'


def _text(value: str) -> str:
    return html.escape(value, quote=True)
