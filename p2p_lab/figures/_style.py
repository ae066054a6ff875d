"""What all figures share: one colour map, plain text, pictures on axes, alternative text.

Figures are made without pyplot: nothing is shown twice, nothing stays open, and worker threads
may draw. A notebook shows a figure that is the last line of a cell.
"""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter
from numpy.typing import NDArray
from PIL import Image

CMAP = "viridis"  # perceptually uniform, and its lightness still rises when printed in grey
DIVERGING = "RdBu_r"  # white at 0, for gains that go below it
DPI = 100
SMALL, NORMAL = 8.0, 9.5  # points
TITLE_WIDTH = 26  # letters before a title is broken
LARGE_PNG = 30_000  # bytes
SMOOTH = 96  # pixels: smaller pictures show their pixels, larger ones are enlarged smoothly

Floats = NDArray[np.float64]


class LabFigure(Figure):
    """A figure with alternative text, which a notebook shows together with the picture."""

    alt: str = ""

    def draw(self, renderer: Any) -> None:
        """Draw the figure with every text as it is written: a "$" is no mathematics."""
        as_written(self)
        super().draw(renderer)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the picture in HTML, where alone its `alt` reaches a reader, and as plain text."""
        shown = picture_html(to_png(self), alt_text(self))
        return {"text/html": shown, "text/plain": f"Figure: {alt_text(self)}"}


Drawn = Figure | Axes


def new_figure(width: float, height: float) -> LabFigure:
    """Return an empty figure of a size in inches, laid out so that no text is cut."""
    figure = LabFigure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG bytes, its alternative text in the file's Description."""
    buffer = io.BytesIO()
    about = {"Description": alt_text(figure), "Software": None}
    figure.draw_without_rendering()  # titles of many lines get their room in a second layout
    figure.savefig(buffer, format="png", metadata=about)
    return buffer.getvalue()


def picture_html(png: bytes, alt: str) -> str:
    """Return a picture as HTML with its alternative text.

    JupyterLab and the HTML export show an `image/png` without `alt`, whatever its metadata say.
    What is large as PNG, photographs and their like, is embedded as JPEG where that is far smaller.
    """
    jpeg = _to_jpeg(png) if len(png) > LARGE_PNG else png
    kind, best = ("jpeg", jpeg) if len(jpeg) < 0.75 * len(png) else ("png", png)
    data = base64.b64encode(best).decode("ascii")
    return (
        f'<img alt="{html.escape(alt, quote=True)}" src="data:image/{kind};base64,{data}" '
        'style="max-width: 100%; height: auto">'
    )


def _to_jpeg(png: bytes) -> bytes:
    """Return a picture as JPEG, its colours as fine as its brightness."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, "jpeg", quality=90, subsampling=0, optimize=True)
    return buffer.getvalue()


def _owner(drawn: Drawn) -> Any:
    """Return the whole figure: itself, or the one that an axes is part of."""
    return drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)


def alt_text(drawn: Drawn) -> str:
    """Return the sentence that says what a figure shows, for who cannot see it."""
    return whole_text(str(getattr(_owner(drawn), "alt", "")))


def as_written(drawn: Drawn) -> None:
    """Have all texts drawn as text, but for the numbers at axes, which may have exponents."""
    axes = drawn.axes if isinstance(drawn, Figure) else [drawn]
    numbers: set[int] = set()
    for axis in (axis for ax in axes for axis in (ax.xaxis, ax.yaxis)):
        if not isinstance(axis.get_major_formatter(), FixedFormatter):  # names that were given
            labels = (*axis.get_ticklabels(which="both"), axis.get_offset_text())
            numbers |= {id(label) for label in labels}
    for text in drawn.findobj(Text):
        if isinstance(text, Text) and id(text) not in numbers:
            text.set_parse_math(False)
            text.set_text(whole_text(text.get_text()))


def whole_text(text: str) -> str:
    """Return a text with "?" for halves of characters, which cannot be drawn or written."""
    return text.encode("utf-8", "replace").decode("utf-8")


def describe(drawn: Drawn, text: str) -> None:
    """Set the alternative text of a figure, or add that of one axes to its figure's."""
    as_written(drawn)
    before = alt_text(drawn) if isinstance(drawn, Axes) else ""
    _owner(drawn).alt = f"{before} {text}".strip()


def axes_or_new(ax: Axes | None, width: float, height: float) -> tuple[Axes, Drawn]:
    """Return the axes to draw on, and what to give back: the axes given, or the new figure."""
    if ax is not None:
        return ax, ax
    figure = new_figure(width, height)
    return figure.add_subplot(), figure


def panels(
    count: int,
    *,
    columns: int,
    size: float,
    rows_each: int = 1,
    beside: float = 0.0,
    lines: int = 1,
) -> tuple[LabFigure, Any]:
    """Return a figure and an array (rows, columns) of empty axes for square panels.

    Args:
        count: Number of panels, or of columns of them where each has several rows.
        columns: The most in a row.
        size: Side of a panel in inches.
        rows_each: Rows that belong together.
        beside: Room at the right in inches, for a colour scale.
        lines: Lines of text below a panel.
    """
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns) * rows_each
    figure = new_figure(size * columns + beside, (size + 0.4 + 0.15 * lines) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    return figure, grid


def to_array(image: Any) -> Floats:
    """Return a picture as (H, W, 3) floats in 0…1, from a Run, PIL, numpy or torch."""
    from p2p_lab.metrics._arrays import to_picture

    array = to_picture(getattr(image, "image", image), "the picture")
    rgb = array if array.shape[-1] == 3 else np.repeat(array[..., :1], 3, -1)
    return np.clip(rgb, 0, 1)  # (H, W, 3)


def say(ax: Axes, title: str, *, below: str = "", width: int = TITLE_WIDTH) -> None:
    """Write a wrapped title above an axes and a line below it, as plain text (no mathematics)."""
    wrapped = "\n".join(textwrap.wrap(title, width) or [""])
    ax.set_title(wrapped, fontsize=NORMAL, parse_math=False)
    if below:
        ax.text(
            0.5, -0.04, below, transform=ax.transAxes, ha="center", va="top",
            fontsize=SMALL, parse_math=False,
        )  # fmt: skip


def draw_pixels(ax: Axes, picture: Floats) -> None:
    """Draw a picture (H, W, 3): a small one by its pixels, a larger one smoothly."""
    large = min(picture.shape[:2]) >= SMOOTH
    ax.imshow(picture, interpolation="bicubic" if large else "nearest")


def show_picture(ax: Axes, image: Any, title: str = "", *, below: str = "") -> None:
    """Draw one picture with its title and the line below it."""
    draw_pixels(ax, to_array(image))
    ax.set_axis_off()
    say(ax, title, below=below)


def evenly(count: int, wanted: int) -> Sequence[int]:
    """Return at most `wanted` indices of `count`, first and last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted)).round()})


def cells(values: Floats) -> Iterator[tuple[int, int, float]]:
    """Yield row, column and value of every cell of a table."""
    for (row, column), value in np.ndenumerate(values):
        yield row, column, float(value)
