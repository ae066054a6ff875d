"""The parts of panels that live in the browser: word map, code box, drop box and the keys.

They are anywidget modules with inline JavaScript. Python sends data once; hovering, blending and
copying happen in the browser, without a round trip. Texts enter the page as text, never as HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

try:
    import anywidget
except ImportError:  # without it panels use core widgets alone
    anywidget: Any = None  # type: ignore[no-redef]

_HERE = Path(__file__).parent
Base: Any = object if anywidget is None else anywidget.AnyWidget


def has_browser_parts() -> bool:
    """Tell whether the JavaScript parts can be used."""
    return anywidget is not None


class WordMap(Base):  # type: ignore[misc]
    """Show a picture lit by the map of the word that is hovered, focused or pinned.

    Traits:
        picture: the picture, a data URL.
        alt: what it shows.
        labels: the words; a map of positions has none and is hovered in the picture.
        notes: a line to read out for each map.
        maps: all maps, 8 bits a cell, each scaled to its own maximum.
        rows, columns: cells of a map.
        peaks: the maximum of each map.
        outlines: a data URL of each word's true outline, or "".
        look: "light" lights the picture, "heat" paints the map over it.
        shared: whether all maps share one scale, the loudest word's.
        pinned: the word that stays when nothing is hovered, −1 for none.
    """

    _esm = (_HERE / "word_map.js").read_text(encoding="utf-8")
    _css = (_HERE / "word_map.css").read_text(encoding="utf-8")
    picture = traitlets.Unicode().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    maps = traitlets.Bytes().tag(sync=True)
    rows = traitlets.Int(1).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    peaks = traitlets.List(traitlets.Float()).tag(sync=True)
    outlines = traitlets.List(traitlets.Unicode()).tag(sync=True)
    look = traitlets.Unicode("light").tag(sync=True)
    shared = traitlets.Bool(False).tag(sync=True)
    pinned = traitlets.Int(-1).tag(sync=True)


class CodeBox(Base):  # type: ignore[misc]
    """Show lines of code, and put them on the clipboard when they come and on a button."""

    _esm = (_HERE / "code_box.js").read_text(encoding="utf-8")
    value = traitlets.Unicode().tag(sync=True)


class DropBox(Base):  # type: ignore[misc]
    """Take a file that is dropped on it; `content` holds its bytes."""

    _esm = (_HERE / "drop_box.js").read_text(encoding="utf-8")
    content = traitlets.Bytes().tag(sync=True, from_json=lambda sent, _: bytes(sent))


class KeyGuard(Base):  # type: ignore[misc]
    """Keep the plain keys that are pressed in a panel from the notebook's shortcuts."""

    _esm = (_HERE / "keys.js").read_text(encoding="utf-8")


def key_guard() -> list[Any]:
    """Return the invisible part that guards a panel's keys; nothing without anywidget."""
    return [] if anywidget is None else [KeyGuard(layout=widgets.Layout(display="none"))]


def drop_box() -> list[Any]:
    """Return a place to drop a file on; nothing without anywidget."""
    return [] if anywidget is None else [DropBox(layout=widgets.Layout(width="auto", margin="0"))]


def code_box() -> Any:
    """Return a hidden box for code with a `value`; without anywidget a plain text area."""
    hidden = widgets.Layout(display="none", width="100%")
    if anywidget is None:
        return widgets.Textarea(layout=hidden, rows=14)
    return CodeBox(layout=hidden)
