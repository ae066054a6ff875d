"""How panels look: one style sheet, and builders for the controls that all of them use.

The style follows the notebook's light or dark theme through JupyterLab's variables, with plain
colours where those are missing (Colab, VS Code). Whatever comes from a user is escaped here before
it becomes HTML.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

CSS = (Path(__file__).parent / "panel.css").read_text(encoding="utf-8")
PICTURE = "17.2em"  # width of a picture: two and a column of controls fill a panel


def style_sheet() -> Any:
    """Return the invisible widget that carries the style."""
    return widgets.HTML(f"<style>{CSS}</style>", layout=widgets.Layout(display="none"))


def head(text: str, note: str = "") -> Any:
    """Return a small heading with a note beside it."""
    beside = f" &nbsp;<b>{html.escape(note)}</b>" if note else ""
    return widgets.HTML(f'<div class="p2p-head">{html.escape(text)}{beside}</div>')


def row(*children: Any, **layout: str) -> Any:
    """Return children side by side; they wrap where the notebook is narrow."""
    settings = {"flex_flow": "row wrap", "align_items": "center", "width": "100%", **layout}
    return widgets.HBox(children, layout=widgets.Layout(**settings))


def column(*children: Any, **layout: str) -> Any:
    """Return children below one another."""
    return widgets.VBox(children, layout=widgets.Layout(**{"width": "100%", **layout}))


def text(label: str, value: str, *, flex: str = "1 1 20em") -> Any:
    """Return a text field that reports when Enter is pressed or it is left."""
    return widgets.Text(
        value=value,
        description=label,
        continuous_update=False,
        style={"description_width": "4.5em"},
        layout=widgets.Layout(flex=flex, width="auto"),
    )


def slider(label: str, value: float, low: float, high: float, step: float = 0.05) -> Any:
    """Return a horizontal slider with its value beside it."""
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        continuous_update=False,
        readout_format=".2f",
        style={"description_width": "5em"},
        layout=widgets.Layout(width="100%"),
    )


def fader(word: str, value: float) -> Any:
    """Return a vertical fader of one word; 1 is as it was."""
    return widgets.FloatSlider(
        value=value,
        min=-2.0,
        max=4.0,
        step=0.1,
        description=word,
        orientation="vertical",
        continuous_update=False,
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


def picture_layout() -> Any:
    """Return the layout of one of two pictures side by side."""
    return widgets.Layout(width=PICTURE, flex=f"0 1 {PICTURE}", margin="0")


def status_html(message: str, *, error: bool = False) -> str:
    """Return a status line, which a screen reader speaks when it changes."""
    kind = " p2p-error" if error else ""
    return f'<div class="p2p-status{kind}" role="status" aria-live="polite">{_text(message)}</div>'


def figure_html(
    image: Image.Image | None, alt: str, caption: str, note: str = "", *, old: bool = False
) -> str:
    """Return a picture with alternative text and caption; without a picture, an empty frame.

    Args:
        image: the picture.
        alt: what it shows.
        caption: the line below it.
        note: a second, quieter line: the numbers.
        old: pale, because a newer one is being made.
    """
    below = f"<figcaption>{_text(caption)}<br><span>{_text(note) or '&nbsp;'}</span></figcaption>"
    if image is None:
        return (
            f'<figure class="p2p-figure"><div class="p2p-empty">{_text(alt)}</div>{below}</figure>'
        )
    pale = ' class="p2p-old"' if old else ""
    return (
        f'<figure class="p2p-figure"><img{pale} alt="{_text(alt)}" src="{data_url(image)}" '
        f'style="--p2p-ratio:{image.width}/{image.height}">{below}</figure>'
    )


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
