"""What inversion does: drift from measured latents, null-text's losses, quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from p2p_lab.figures._style import CMAP, NORMAL, Drawn, axes_or_new, describe, say


def show_drift(runs: Mapping[str, Any], pivots: Any, *, ax: Axes | None = None) -> Drawn:
    """Draw how far runs stray from measured latents, step by step.

    The distance at a step is the root mean square difference of the latents: 0 where a run is on
    the measured way.

    Args:
        runs: Runs with their names.
        pivots: The measured latents from noise to picture, (T + 1, C, h, w), as `ddim_invert`
            returns them; the trajectory of a direct inversion holds the same.
        ax: Where to draw; None makes a figure.

    Raises:
        ValueError: If a run has another number of steps.
    """
    axes, drawn = axes_or_new(ax, 5.5, 3.2)
    notes = []
    for colour, (name, run) in zip(_colours(len(runs)), runs.items(), strict=True):
        latents = run.trajectory.latents
        if latents.shape != pivots.shape:
            raise ValueError(
                f"{name} has latents {tuple(latents.shape)} and the measured ones are "
                f"{tuple(pivots.shape)}. Compare runs of the same number of steps."
            )
        apart = (latents.float() - pivots.float()).square().mean(dim=(1, 2, 3)).sqrt().cpu().numpy()
        axes.plot(apart, color=colour, label=name)
        notes.append(f"{name} ends {apart[-1]:.2f} apart")
    axes.set_xlabel("step, from noise to picture")
    axes.set_ylabel("RMS distance of the latents")
    axes.legend(fontsize=NORMAL, frameon=False)
    describe(drawn, f"Distance from the measured latents at each step: {'; '.join(notes)}.")
    return drawn


def show_losses(losses: Sequence[Sequence[float]], *, ax: Axes | None = None) -> Drawn:
    """Draw null-text's losses: a line for each denoising step, one point an update.

    Args:
        losses: For each step its losses, as `NullTextResult.losses`.
        ax: Where to draw; None makes a figure.
    """
    axes, drawn = axes_or_new(ax, 5.5, 3.2)
    at = 0
    for colour, values in zip(_colours(len(losses)), losses, strict=True):
        axes.plot(range(at, at + len(values)), values, ".-", ms=4, lw=1, color=colour)
        at += len(values)
    axes.set_yscale("log")
    axes.set_xlabel("updates, all steps one after the other (dark: noise, light: picture)")
    axes.set_ylabel("loss")
    fell = np.mean([1 - min(values) / values[0] for values in losses if values[0] > 0])
    say(axes, f"each step's loss falls by {fell:.0%} on average", width=60)
    describe(drawn, f"Losses of {len(losses)} steps; each falls by {fell:.0%} on average.")
    return drawn


def show_cost(
    points: Mapping[str, tuple[float, float]],
    *,
    cost: str = "denoiser calls",
    quality: str = "background PSNR after the edit (dB)",
    ax: Axes | None = None,
) -> Drawn:
    """Draw quality against cost, one point a method.

    Args:
        points: Cost and quality of each method by name.
        cost: What the first number is; its axis is logarithmic.
        quality: What the second number is.
        ax: Where to draw; None makes a figure.
    """
    axes, drawn = axes_or_new(ax, 5.5, 3.4)
    for name, (x, y) in points.items():
        axes.plot(x, y, "o", color="C0")
        axes.annotate(
            name, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=NORMAL,
            parse_math=False,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    numbers = "; ".join(f"{name} {y:.1f} at {x:.3g}" for name, (x, y) in points.items())
    describe(drawn, f"{quality} against {cost}: {numbers}.")
    return drawn


def _colours(count: int) -> Any:
    """Return colours from dark to light, the lightest left out."""
    from matplotlib import colormaps

    return colormaps[CMAP](np.linspace(0, 0.85, count))
