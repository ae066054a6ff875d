"""Pictures of what will be done, before any sampling: the alignment and the plan of an edit.

    M̂ₜ[:, j] = g_src[t, j] · (M_src,ₜ · P)[:, j] + g_tgt[t, j] · M_tgt,ₜ[:, j]

`show_alignment` draws P, `show_plan` the two gains over the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from p2p_lab.edits import EditPlan
from p2p_lab.figures._style import (
    CMAP,
    DIVERGING,
    NORMAL,
    SMALL,
    Drawn,
    Floats,
    LabFigure,
    axes_or_new,
    cells,
    describe,
    new_figure,
)
from p2p_lab.tokens.alignment import check_alignment
from p2p_lab.tokens.prompt import check_prompts

if TYPE_CHECKING:
    from p2p_lab.tokens import Alignment, Prompt

MOST_TOKENS = 40


def _table(values: Any) -> Floats:
    return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values)


def show_alignment(alignment: Alignment, ax: Axes | None = None) -> Drawn:
    """Draw the mapper P: which source token (row) feeds which target token (column).

    A target token without a source partner keeps its own attention; its column is hatched and
    marked "new". Padding is left out. The number in a cell is its share; a column sums to 1.

    Raises:
        TypeError: If something else is given in its place.
    """
    check_alignment(alignment)
    source, target = alignment.source, alignment.target
    table = _table(alignment.mapper)[: source.end, : target.end]  # (L_src, L_tgt)
    ax, drawn = axes_or_new(ax, 1.6 + 0.42 * target.end, 1.3 + 0.36 * source.end)
    ax.imshow(table, cmap=CMAP, vmin=0, vmax=1, aspect="auto")
    for row, column, share in cells(table):
        if share > 0:
            colour = "black" if share > 0.6 else "white"
            ax.text(column, row, f"{share:.2g}", ha="center", va="center", color=colour, size=SMALL)
    new = [j for j in range(target.end) if not bool(alignment.matched[j])]
    for j in new:
        ax.add_patch(Rectangle((j - 0.5, -0.5), 1, source.end, fill=False, hatch="//", ec="white"))
    names = [p + (" (new)" if j in new else "") for j, p in enumerate(target.pieces[: target.end])]
    label_axis(ax.xaxis, names, rotation=60)
    label_axis(ax.yaxis, list(source.pieces[: source.end]))
    ax.set_xlabel("target token", fontsize=NORMAL)
    ax.set_ylabel("source token", fontsize=NORMAL)
    ax.set_title("mapper P, 0 (dark) … 1 (light)", fontsize=NORMAL)
    fed = ", ".join(target.pieces[j] for j in new) or "none"
    describe(
        drawn,
        f'Alignment of "{source.text}" (rows) with "{target.text}" (columns), '
        f"{target.end - len(new)} of {target.end} target tokens fed by the source; new: {fed}.",
    )
    return drawn


def label_axis(axis: Any, names: list[str], *, rotation: float = 0) -> None:
    """Label every token of an axis, as plain text."""
    axis.set_ticks(range(len(names)), labels=names, fontsize=SMALL, rotation=rotation)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)
        if rotation:
            label.set(ha="right", rotation_mode="anchor")


def show_plan(plan: EditPlan, target: Prompt | None = None) -> LabFigure:
    """Draw the gains of a plan, tokens by steps, and below them the self-attention and blend spans.

    Args:
        plan: An `EditPlan`.
        target: The target `Prompt`, for the tokens' names; by default the plan's own if it has one.

    Raises:
        TypeError: If something else is given in their place.
    """
    _check_plan(plan, target)
    target = target if target is not None else plan.target
    gains = [_table(plan.source_gain), _table(plan.target_gain)]  # (T, L) each
    steps, length = gains[0].shape
    shown = min(length if target is None else target.end, MOST_TOKENS)
    names = [str(j) for j in range(shown)] if target is None else list(target.pieces[:shown])
    low = min(0.0, *(float(g[:, :shown].min()) for g in gains))
    high = max(1.0, *(float(g[:, :shown].max()) for g in gains))
    colours = CMAP
    if low < 0:  # then 0, "switched off", has a colour of its own: white, in the middle
        colours, high = DIVERGING, max(-low, high)
        low = -high
    figure = new_figure(9.5, 1.9 + 0.2 * shown)
    grid = figure.subplots(2, 2, sharex=True, height_ratios=[shown, 2.6])
    titles = ("gain of the source's map", "gain of the target's own map")
    for ax, gain, title in zip(grid[0], gains, titles, strict=True):
        image = ax.imshow(gain[:, :shown].T, cmap=colours, vmin=low, vmax=high, aspect="auto")
        ax.set_title(title, fontsize=NORMAL)
        label_axis(ax.yaxis, names if ax is grid[0][0] else [])
    bar = figure.colorbar(image, ax=grid[0], pad=0.01)
    bar.set_label(f"gain, {low:g} … {high:g}{', white is 0' if low < 0 else ''}", fontsize=SMALL)
    spans = _spans(plan, steps)
    for ax in grid[1]:
        _draw_spans(ax, spans, steps)
    describe(figure, _plan_alt(gains[0][:, :shown], names, spans))
    return figure


def _check_plan(plan: Any, target: Any) -> None:
    if not isinstance(plan, EditPlan):
        raise TypeError(
            f"plan is a {type(plan).__name__}, not an EditPlan: an edited run has one, run.plan, "
            "and compile_edits makes one."
        )
    if target is not None:
        check_prompts(target=target)


def _spans(plan: EditPlan, steps: int) -> list[tuple[str, int, int]]:
    """Return name, first step and end of what is not a gain."""
    first, end = plan.self_steps.start, plan.self_steps.stop
    spans = [(f"self-attention ≤ {plan.self_pixels} px", first, max(first, end))]
    if plan.blend is not None:
        spans.append(("local blend", plan.blend.start_step, steps))
    for move in plan.moves:
        names = [str(j) if plan.source is None else plan.source.pieces[j] for j in move.tokens]
        spans.append((f"move {' '.join(names)}", move.steps.start, move.steps.stop))
    return spans


def _draw_spans(ax: Axes, spans: list[tuple[str, int, int]], steps: int) -> None:
    """Draw each span as a bar over the steps, with its name inside or beside it."""
    for row, (name, start, end) in enumerate(spans):
        ax.barh(row, end - start, left=start - 0.5, height=0.7, color="0.75", edgecolor="0.3")
        label = name if end > start else f"{name}: never"
        ax.text(-0.3, row, label, fontsize=SMALL, va="center", ha="left")
    ax.set(xlim=(-0.5, steps - 0.5), ylim=(len(spans) - 0.4, -0.6), yticks=[])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step, from noise (left) to image (right)", fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)


def _plan_alt(gain: Floats, names: list[str], spans: list[tuple[str, int, int]]) -> str:
    """Return the plan in words: how many tokens take the source's map, and when."""
    used = [(name, np.flatnonzero(gain[:, j])) for j, name in enumerate(names)]
    used = [(name, on) for name, on in used if on.size]
    text = f"Plan of an edit over {len(gain)} steps: {len(used)} of {len(names)} tokens take the "
    text += "source's map"
    if used:
        first, last = min(int(on[0]) for _, on in used), max(int(on[-1]) for _, on in used)
        text += f" between steps {first} and {last}"
    bars = [f"{name} in steps {a} to {b - 1}" for name, a, b in spans if b > a]
    return "; ".join([text, *bars]) + "."
