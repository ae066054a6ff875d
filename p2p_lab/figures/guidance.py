"""Guidance as an arrow: from the empty prompt's prediction towards the text's, and beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from p2p_lab.figures._style import SMALL, Drawn, axes_or_new, describe, say


def _numbers(values: Any) -> NDArray[np.float64]:
    """Return a tensor or an array as numbers."""
    found = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(found, dtype=np.float64)


def show_guidance(negative: Any, positive: Any, scale: float, *, ax: Axes | None = None) -> Drawn:
    """Draw classifier-free guidance for one position, in two of its channels.

    An arrow leads from the prediction for the empty prompt to that for the text; guidance goes on
    in the same direction, `scale` times as far (Ho and Salimans 2022).

    Args:
        negative: Predictions for the empty prompt, (C, h, w).
        positive: Predictions for the text, (C, h, w).
        scale: Guidance scale s.
        ax: Where to draw; None makes a figure.
    """
    first, second = (_numbers(value) for value in (negative, positive))
    difference = second - first  # (C, h, w)
    row, column = np.unravel_index(np.square(difference).sum(0).argmax(), first.shape[1:])
    a, b = np.argsort(-np.abs(difference[:, row, column]))[:2]
    start = first[[a, b], row, column]
    step = difference[[a, b], row, column]
    axes, drawn = axes_or_new(ax, 4.2, 3.6)
    ends = {f"s = {s:g}": start + s * step for s in sorted({0.0, 1.0, float(scale)})}
    far = start + scale * step
    arrow = {"arrowstyle": "->", "color": "0.5", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=tuple(far), xytext=tuple(start), arrowprops=arrow)
    names = {"s = 0": "empty prompt", "s = 1": "the text"}
    for (label, (x, y)), colour in zip(ends.items(), ("0.4", "#2c6fbb", "#c0392b"), strict=False):
        axes.plot([x], [y], "o", color=colour)
        text = f"{label}: {names.get(label, 'guided')}"
        axes.annotate(text, (x, y), **_beside(x, start, far))
    axes.set_xlabel(f"channel {a}")
    axes.set_ylabel(f"channel {b}")
    axes.margins(0.5)
    say(axes, f"the prediction at position ({row}, {column})", width=60)
    length = float(np.linalg.norm(step))
    describe(
        drawn,
        f"Guidance at position ({row}, {column}): the text moves the prediction by {length:.2f}, "
        f"guidance {scale:g} by {scale * length:.2f} in the same direction.",
    )
    return drawn


def _beside(x: float, start: Any, far: Any) -> dict[str, Any]:
    """Return where a point's label goes: to the middle, on a side that the arrow leaves free."""
    right = x < (start[0] + far[0]) / 2
    rising = (far[0] - start[0]) * (far[1] - start[1]) > 0
    above = right != rising
    return {
        "xytext": (6 if right else -6, 6 if above else -6),
        "textcoords": "offset points",
        "ha": "left" if right else "right",
        "va": "bottom" if above else "top",
        "fontsize": SMALL,
    }
