"""The parts of panels that live in the browser: word map, stage, comparison, code box, keys.

They are anywidget modules with inline JavaScript. Python sends data once; hovering, blending,
comparing and copying happen in the browser, without a round trip. Texts enter the page as text,
never as HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

_HERE = Path(__file__).parent


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _bytes() -> Any:
    """Return a trait of bytes; the browser sends them as a memoryview."""
    return traitlets.Bytes().tag(sync=True, from_json=lambda sent, _: bytes(sent or b""))


class WordMap(anywidget.AnyWidget):
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
        shared: whether all maps share one scale, the strongest word's.
        pinned: the word that stays when nothing is hovered, −1 for none.
        row_labels, row_maps: words, special tokens and padding, and the maps of all of them, 16
            bits a cell, 65535 for a share of 1: what one place looks at.
        asked: the place whose row is shown, row · columns + column, −1 for none.
    """

    _esm = _file("word_map.js")
    _css = _file("word_map.css")
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
    row_labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    row_maps = traitlets.Bytes().tag(sync=True)
    asked = traitlets.Int(-1).tag(sync=True)


class Stage(anywidget.AnyWidget):
    """Show a picture to work on: a local edit's mask, one to paint, or an object to drag.

    Traits:
        picture, alt: the picture, a data URL, and what it shows.
        tool: "mask" shows where `level` is above `threshold`; "paint" paints `painted`; "move"
            drags `region`.
        rows, columns: cells of the three grids, one byte each.
        level, threshold: the words' attention, 255 at its maximum, and from where on it counts.
        painted, brush: where was painted (255), and the brush's radius in cells.
        region: the cells of the object (255).
        down, right, scale: where it was taken to, in parts of the picture, and how large it is now.
    """

    _esm = _file("stage.js")
    _css = _file("stage.css")
    picture = traitlets.Unicode().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    tool = traitlets.Unicode("mask").tag(sync=True)
    rows = traitlets.Int(1).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    level = _bytes()
    threshold = traitlets.Float(0.3).tag(sync=True)
    painted = _bytes()
    brush = traitlets.Float(1.5).tag(sync=True)
    region = _bytes()
    down = traitlets.Float(0.0).tag(sync=True)
    right = traitlets.Float(0.0).tag(sync=True)
    scale = traitlets.Float(1.0).tag(sync=True)


class Compare(anywidget.AnyWidget):
    """Show two pictures in one frame with a line between them, or four times what differs.

    Traits:
        pictures, names: data URLs of all pictures that can be compared, and what they are called.
        left, right: which two.
        at: where the line stands, a part of the width.
        change: whether to show what differs.
    """

    _esm = _file("compare.js")
    _css = _file("compare.css")
    pictures = traitlets.List(traitlets.Unicode()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    left = traitlets.Int(0).tag(sync=True)
    right = traitlets.Int(1).tag(sync=True)
    at = traitlets.Float(0.5).tag(sync=True)
    change = traitlets.Bool(False).tag(sync=True)


class Grid(anywidget.AnyWidget):
    """Show an alignment as a table of buttons that can be pressed.

    Traits:
        rows, columns: the tokens of source and target.
        links: pairs (row, column) that are pressed.
    """

    _esm = _file("grid.js")
    _css = _file("grid.css")
    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    links: Any = traitlets.List().tag(sync=True)


class GuessButtons(anywidget.AnyWidget):
    """Show the answers of a question as buttons; `chosen` is −1 until one is pressed."""

    _esm = _file("guess.js")
    _css = _file("guess.css")
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)


class CodeBox(anywidget.AnyWidget):
    """Show lines of code; put them on the clipboard whenever `copies` rises, and on a button."""

    _esm = _file("code_box.js")
    value = traitlets.Unicode().tag(sync=True)
    copies = traitlets.Int(0).tag(sync=True)


class DropBox(anywidget.AnyWidget):
    """Take a file that is dropped anywhere on its panel; `name` and then `content` come."""

    _esm = _file("drop_box.js")
    name = traitlets.Unicode().tag(sync=True)
    content = _bytes()
    count = traitlets.Int(0).tag(sync=True)


class KeyGuard(anywidget.AnyWidget):
    """Keep the plain keys that are pressed in a panel from the notebook's shortcuts.

    Trait `shown` counts how often a front end has drawn the panel: none has where a notebook is
    run without one.
    """

    _esm = _file("keys.js")
    shown = traitlets.Int(0).tag(sync=True)


def key_guard() -> Any:
    """Return the invisible part that guards a panel's keys."""
    return KeyGuard(layout=widgets.Layout(display="none"))


def code_box() -> Any:
    """Return a hidden box for code."""
    return CodeBox(layout=widgets.Layout(display="none", width="100%"))
