"""What happened on the way from noise to image: the trajectory, and the mask of a local blend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from p2p_lab.figures._style import (
    LabFigure,
    describe,
    draw_pixels,
    evenly,
    panels,
    say,
    show_picture,
)
from p2p_lab.figures.maps import overlay
from p2p_lab.sampling.runs import checked_run

if TYPE_CHECKING:
    from p2p_lab.models import Denoiser
    from p2p_lab.sampling import Run


def _decoded(run: Run, model: Denoiser, steps: list[int]) -> list[Tensor]:
    """Decode the latents of some steps of a run, one (3, H, W) picture each."""
    latents = run.trajectory.latents
    return [model.decode(latents[i][None].to(model.device, model.dtype))[0] for i in steps]


def show_trajectory(run: Run, *, columns: int = 7) -> LabFigure:
    """Draw the latents of a run at some steps, decoded; an edit is drawn below its source.

    Below each picture of an edit stands how far its latents are from the source's at that step,
    the root mean square difference: zero at first, since both begin with one noise.

    Args:
        run: A `Run` with its model.
        columns: How many steps to show, first and last among them.

    Raises:
        ValueError: If the run was loaded without its model, which is needed to decode.
    """
    checked_run(run)
    if run.model is None:
        raise ValueError(
            "Latents can only be drawn with the model that decodes them, and this run was loaded "
            "without it. Load it with Run.load(path, model)."
        )
    rows = [run] if run.source is None else [run.source, run]
    steps = list(evenly(run.steps + 1, columns))
    figure, grid = panels(len(steps) * len(rows), columns=len(steps), size=1.5)
    for axes, one in zip(grid, rows, strict=True):
        for ax, step, picture in zip(axes, steps, _decoded(one, run.model, steps), strict=True):
            below = f"apart {_apart(one, step):.2f}" if one.source is not None else ""
            show_picture(ax, picture, f"step {step}" if one is rows[0] else "", below=below)
    title = f'"{run.prompt.text}"'
    if run.source is not None:
        title += (
            f' below its source "{run.source.prompt.text}", in the end {_apart(run, -1):.2f} apart'
        )
    describe(figure, f"Decoded latents from noise to image at {len(steps)} steps: {title}.")
    return figure


def _apart(run: Run, step: int) -> float:
    """Return the root mean square difference of a run's and its source's latents at a step."""
    assert run.source is not None
    ours, theirs = run.trajectory.latents[step], run.source.trajectory.latents[step]
    return float((ours.float() - theirs.float()).square().mean().sqrt())


def show_blend(run: Run, *, columns: int = 7) -> LabFigure:
    """Draw where a local blend let the edit change the picture, at some steps.

    z* ← z + mask · (z* − z): bright is where the edit acts, dark where the source stays.

    Args:
        run: An edited `Run` whose plan has a `LocalBlend`.
        columns: How many steps to show, first and last among them.

    Raises:
        ValueError: If the run has no masks.
    """
    checked_run(run)
    if run.masks is None or run.plan is None or run.plan.blend is None:
        raise ValueError(
            "This run has no masks: it was not made with a LocalBlend. Add "
            "LocalBlend(source_words, target_words) to the edits."
        )
    masks = [np.asarray(mask.detach().float().cpu()) for mask in run.masks]
    steps = list(evenly(len(masks), columns))
    figure, grid = panels(len(steps), columns=len(steps), size=1.5)
    for ax, step in zip(grid.flat, steps, strict=True):
        draw_pixels(ax, overlay(run, masks[step], top=1.0))
        say(ax, f"step {step}", below=f"area {masks[step].mean():.0%}")
    describe(
        figure,
        f"Mask of the local blend at {len(steps)} of {len(masks)} steps; it acts from step "
        f"{run.plan.blend.start_step} and in the end leaves {masks[-1].mean():.0%} of the picture "
        "to the edit.",
    )
    return figure
