"""Pictures beside pictures, with their numbers: one edit, a sweep of edits."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from p2p_lab.figures._style import (
    TITLE_WIDTH,
    LabFigure,
    describe,
    new_figure,
    panels,
    show_picture,
    to_array,
)
from p2p_lab.metrics import edit_summary, psnr

Picture = Any  # a Run, a PIL image, a numpy array (H, W, C) or a torch tensor (C, H, W)


def _text(run: Any) -> str:
    """Return the prompt of a Run, nothing for a bare picture."""
    prompt = getattr(run, "prompt", "")
    return str(getattr(prompt, "text", prompt))


def show_edit(
    source: Picture,
    plain: Picture,
    edited: Picture,
    *,
    mask: Any = None,
    titles: Sequence[str] = ("source", "re-prompt, same seed", "edit"),
) -> LabFigure:
    """Draw source | plain re-prompt of the same seed | edit, with what each kept of the source.

    Args:
        source: The source, as a Run or a picture.
        plain: The target prompt's picture from the same seed without control: what one would get
            by just writing the other prompt. It is what the edit has to be better than.
        edited: The edit.
        mask: (H, W), the object that was to change: the numbers then count the background only,
            and its outline is drawn.
        titles: Three titles; the prompts of Runs are written below them.
    """
    three = [to_array(picture) for picture in (source, plain, edited)]
    summary = edit_summary(three[0], three[1], three[2], mask)
    kept = "background" if mask is not None else "picture"
    numbers = [
        f"{kept} {_decibels(summary.kept_psnr_plain)}, changed {summary.changed_plain:.0%}",
        f"{kept} {_decibels(summary.kept_psnr)}, changed {summary.changed:.0%}",
    ]
    below = [_lines(_text(source)), *map(_lines, numbers, (_text(plain), _text(edited)))]
    figure, grid = panels(3, columns=3, size=2.6)
    figure.set_figheight(figure.get_figheight() + 0.16 * max(text.count("\n") for text in below))
    for ax, picture, title, text in zip(grid.flat, three, titles, below, strict=True):
        show_picture(ax, picture, title, below=text)
        ax.set_anchor("N")
        if mask is not None:
            ax.contour(to_array(mask)[..., 0], levels=[0.5], colors="white", linewidths=0.8)
    prompts = f' of "{_text(source)}" to "{_text(edited)}"' if _text(source) else ""
    describe(figure, f"Source, plain re-prompt and edit{prompts}. {summary.verdict}")
    return figure


def _decibels(value: float) -> str:
    """Write a PSNR; an infinite one means that nothing differs."""
    return "identical" if value == float("inf") else f"{value:.1f} dB"


def _lines(*texts: str) -> str:
    """Return the texts wrapped, one under the other."""
    return "\n".join(line for text in texts for line in textwrap.wrap(text, 40))


def show_sweep(
    pictures: Sequence[Picture],
    values: Sequence[Any],
    *,
    name: str = "",
    source: Picture | None = None,
    columns: int = 8,
) -> LabFigure:
    """Draw a row of edits as one number changes: a window's end τ, a fader, a seed.

    Args:
        pictures: The edits, as Runs or pictures.
        values: The number of each, written above it.
        name: What the number is, as "τ cross".
        source: The source; each picture then says how much it differs from it, PSNR in dB.
        columns: Pictures a row.

    Raises:
        ValueError: If there are not as many values as pictures, or none.
    """
    if len(pictures) != len(values) or not pictures:
        raise ValueError(
            f"A sweep needs one value a picture and at least one, got {len(pictures)} pictures "
            f"and {len(values)} values."
        )
    figure, grid = panels(len(pictures), columns=columns, size=1.5)
    numbers = [psnr(to_array(source), to_array(p)) for p in pictures] if source is not None else []
    for i, (ax, picture, value) in enumerate(zip(grid.flat, pictures, values, strict=False)):
        below = _decibels(numbers[i]) if numbers else ""
        show_picture(ax, picture, f"{name} {_short(value)}".strip(), below=below)
    ends = f"{_short(values[0])} to {_short(values[-1])}"
    distances = (
        f" PSNR to the source from {_decibels(numbers[0])} to {_decibels(numbers[-1])}."
        if numbers
        else ""
    )
    describe(figure, f"{len(pictures)} edits as {name or 'a value'} goes from {ends}.{distances}")
    return figure


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_pictures(
    pictures: Sequence[Picture], titles: Sequence[str] = (), *, columns: int = 5
) -> LabFigure:
    """Draw pictures side by side, with their titles (by default the prompts of Runs).

    Args:
        pictures: Runs or pictures.
        titles: One for each.
        columns: At most this many in a row; rows are filled evenly.

    Raises:
        ValueError: If there are no pictures, or not as many titles.
    """
    names = list(titles) or [_text(p) for p in pictures]
    if len(names) != len(pictures) or not names:
        raise ValueError(f"Give one title a picture, got {len(pictures)} and {len(names)}.")
    rows = math.ceil(len(names) / max(1, columns))
    wide = math.ceil(len(names) / rows)
    lines = max(len(textwrap.wrap(name, TITLE_WIDTH)) for name in names)
    figure = new_figure(2.3 * wide, (2.36 + 0.2 * lines) * rows)
    for i, (picture, title) in enumerate(zip(pictures, names, strict=True)):
        show_picture(figure.add_subplot(rows, wide, i + 1), picture, title)
    describe(figure, "Pictures side by side: " + "; ".join(n or "untitled" for n in names) + ".")
    return figure
