"""Who looks at whom where one softmax runs over text and image: a table of shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from p2p_lab.figures._style import CMAP, NORMAL, SMALL, Drawn, axes_or_new, cells, describe
from p2p_lab.figures.plans import label_axis

if TYPE_CHECKING:
    from p2p_lab.sampling import Relations


def show_relations(relations: Relations, ax: Axes | None = None) -> Drawn:
    """Draw how words, padding and picture share their attention among each other.

    A row is who looks (the mean of a word's tokens, or of all places), a column is what is looked
    at (all of its members together). The number in a cell is the share; a row sums to 1.

    Args:
        relations: From `relations_at`, for models whose text asks too.
        ax: Where to draw; None makes a figure.
    """
    names, shares = relations.table()
    table = shares.double().numpy()
    side = 0.55 * len(names)
    ax, drawn = axes_or_new(ax, 1.6 + side, 1.3 + 0.7 * side)
    ax.imshow(table, cmap=CMAP, vmin=0, vmax=1, aspect="auto")
    for row, column, share in cells(table):
        colour = "black" if share > 0.6 else "white"
        ax.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, size=SMALL)
    label_axis(ax.xaxis, names, rotation=60)
    label_axis(ax.yaxis, names)
    ax.set_xlabel("looked at", fontsize=NORMAL)
    ax.set_ylabel("who looks", fontsize=NORMAL)
    ax.set_title("share of attention, 0 (dark) … 1 (light)", fontsize=NORMAL)
    to_words = 1 - table[-1, -1]
    describe(
        drawn,
        f'Attention among the words of "{relations.prompt.text}" and the picture. '
        f"The picture gives {to_words:.0%} to the text; the words give it "
        f"{table[:-1, -1].min():.0%} to {table[:-1, -1].max():.0%}.",
    )
    return drawn
