"""An `EditPlan` as text: a summary, a table of tokens, and the layers that it touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from p2p_lab.edits.parts import BlendPlan, MovePlan
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from p2p_lab.edits.plan import EditPlan


def summary(plan: EditPlan) -> str:
    """Return a line for each thing that the plan does."""
    lines = [f"EditPlan over {plan.steps} steps (0 is the noisiest), {plan.length} tokens"]
    if plan.source is not None and plan.target is not None:
        lines += [f"  source: {plan.source.text!r}", f"  target: {plan.target.text!r}"]
    if plan.toward is not None:
        lines.append(f"  toward: {plan.toward[0].text!r}, {plan.toward[1]:.3g} of the way")
    if plan.is_identity:
        return "\n".join([*lines, "  nothing is changed: the target is generated on its own"])
    lines.append(f"  cross-attention: {_cross_line(plan)}")
    lines.append(f"  self-attention: {_self_line(plan)}")
    lines.append(f"  blend: {_blend_line(plan.blend, plan)}")
    lines += [f"  move: {_move_line(move, plan)}" for move in plan.moves]
    if plan.compat is not None:
        lines.append(f"  compat: {plan.compat}")
    return "\n".join(lines)


class Place(Protocol):
    """An attention layer: its grid of positions, and what it looks at."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its grid."""

    @property
    def has_text(self) -> bool:
        """Whether it looks at the text."""

    @property
    def has_image(self) -> bool:
        """Whether its positions look at one another."""


def touched(plan: EditPlan, sites: Mapping[str, Place]) -> str:
    """Return which layers a plan changes: how many of how many, and their grids."""
    text = [site for site in sites.values() if site.has_text]
    image = [site for site in sites.values() if site.has_image]
    cross = text if any(plan.edits_cross(step) for step in range(plan.steps)) else []
    near = [site for site in image if site.size[0] * site.size[1] <= plan.self_pixels]
    injected = near if plan.self_steps else []
    return (
        f"  text layers changed: {_grids(cross, text)}\n  image layers: {_grids(injected, image)}"
    )


def _grids(some: Sequence[Place], every: Sequence[Place]) -> str:
    sizes = sorted({site.size for site in some})
    named = f" ({', '.join(f'{h}×{w}' for h, w in sizes)})" if sizes else ""
    return f"{len(some) or 'none'} of {len(every)}{named}"


def table(plan: EditPlan) -> str:
    """Return a row for each target token before the padding: source, steps and gains."""
    end = plan.length if plan.target is None else plan.target.end
    rows = [("token", "from the source", "gain source", "gain target")]
    for j in range(end):
        feeds = _feeds(plan, j)
        rows.append(
            (
                _name(plan.target, j),
                " and ".join(_origin(plan, mapper) for mapper, _ in feeds) or "-",
                " and ".join(gain_text(gain) for _, gain in feeds) or "0",
                gain_text(plan.target_gain[:, j]),
            )
        )
    widths = [max(len(row[c]) for row in rows) for c in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    if plan.length > end:
        lines.append(f"(and {plan.length - end} padding tokens)")
    return "\n".join(line.rstrip() for line in lines)


def gain_text(gains: Tensor) -> str:
    """Return the gains of one token over the steps as runs, as "1 in 0-39, 0 in 40-49"."""
    values = [value + 0.0 for value in gains.tolist()]  # + 0.0 turns -0 into 0
    if all(value == values[0] for value in values):
        return f"{values[0]:.4g}"
    runs: list[str] = []
    start = 0
    for step in range(1, len(values) + 1):
        if step == len(values) or values[step] != values[start]:
            runs.append(f"{values[start]:.4g} in {_range_text(range(start, step))}")
            start = step
    return ", ".join(runs)


def _range_text(steps: Sequence[int]) -> str:
    if not steps:
        return "no step"
    return f"{steps[0]}" if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"


def _name(prompt: Prompt | None, token: int) -> str:
    return f"{token}" if prompt is None else f"{token} {prompt.pieces[token]}"


def _feeds(plan: EditPlan, j: int) -> list[tuple[Tensor, Tensor]]:
    """Return the mapper's column and the gains of what feeds a target token from the source."""
    found = [(plan.mapper[:, j], plan.source_gain[:, j])]
    if plan.second is not None:
        found.append((plan.second.mapper[:, j], plan.second.gain[:, j]))
    return [(column, gain) for column, gain in found if bool((gain != 0).any())]


def _origin(plan: EditPlan, column: Tensor) -> str:
    parts = []
    for i in column.nonzero().flatten().tolist():
        share = float(column[i])
        parts.append(("" if share == 1 else f"{share:.3g} x ") + _name(plan.source, i))
    return " + ".join(parts) or "-"


def _cross_line(plan: EditPlan) -> str:
    touched = [step for step in range(plan.steps) if plan.edits_cross(step)]
    if not touched:
        return "unchanged"
    source_gain = plan.source_gain if plan.second is None else plan.source_gain + plan.second.gain
    used = (source_gain != 0).any(dim=0)
    scaled = (source_gain + plan.target_gain != 1).any(dim=0)
    return (
        f"changed in steps {_range_text(touched)}; {int(used.sum())} of {plan.length} tokens "
        f"take the source's map, {int(scaled.sum())} are scaled"
    )


def _self_line(plan: EditPlan) -> str:
    if not plan.self_steps:
        return "unchanged"
    return (
        f"from the source in steps {_range_text(plan.self_steps)} "
        f"at sites of at most {plan.self_pixels} positions"
        + (", as queries and keys where words share it" if plan.joint == "queries" else "")
    )


def _blend_line(blend: BlendPlan | None, plan: EditPlan) -> str:
    if blend is None:
        return "none, the whole picture may change"
    parts = [f"from step {blend.start_step}, threshold {blend.threshold:g}"]
    for label, prompt, tokens in (
        ("source", plan.source, blend.source_tokens),
        ("target", plan.target, blend.target_tokens),
        ("minus source", plan.source, blend.source_subtract),
        ("minus target", plan.target, blend.target_subtract),
    ):
        if tokens:
            parts.append(f"{label} " + " + ".join(_name(prompt, token) for token in tokens))
    if blend.mask is not None:
        parts.append(f"own mask {tuple(blend.mask.shape)}")
    if blend.toward is not None:
        other, share = blend.toward
        parts.append(f"{share:.3g} of the way to ({_blend_line(other, plan)})")
    return ", ".join(parts)


def _move_line(move: MovePlan, plan: EditPlan) -> str:
    words = " + ".join(_name(plan.source, token) for token in move.tokens)
    down, right = move.by
    region = f"its map above {move.threshold:g}"
    if move.mask is not None:
        region = f"own mask {tuple(move.mask.shape)}"
    return (
        f"source {words} by {down:+.3g} down, {right:+.3g} right, {move.scale:.3g} times as "
        f"large, in steps {_range_text(move.steps)}, {region}"
    )
