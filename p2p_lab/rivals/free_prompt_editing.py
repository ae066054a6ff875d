"""Free-Prompt-Editing: take the source's self-attention maps and leave cross-attention alone.

    M̂_self = M_self of the source,    M̂_cross = M_cross of the target

(Liu et al. 2024, arXiv 2403.03431.) It changes the maps: the shape lies in the
self-attention, and source cross-maps can hold back the new word. In this package it is a plan
without an aligner, so the two prompts need no word in common.
"""

from __future__ import annotations

import math

from p2p_lab.devices import cpu_by_default
from p2p_lab.edits import EditPlan
from p2p_lab.rivals.job import check_count
from p2p_lab.sampling import Run, RunCallbacks, apply_plan
from p2p_lab.sampling.editing import model_of
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record, check_guidance


@cpu_by_default()
def free_prompt_editing(
    source: Run,
    text: str,
    *,
    self_attention: float = 0.8,
    self_pixels: int = 32 * 32,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by Free-Prompt-Editing.

    Args:
        source: The run to edit.
        text: The target prompt.
        self_attention: End of the window from noise in which the maps are taken, in (0, 1].
        self_pixels: Only sites with at most so many positions take them.
        guidance_scale: Guidance of the target; None takes the source's.
        seed: Not used: nothing is drawn.
        record: As in `edit`.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` with its `source` and `plan`.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If it was cancelled.
    """
    if isinstance(self_attention, bool) or not 0 < self_attention <= 1:
        raise ValueError(
            f"self_attention={self_attention!r} is not possible: give the end of a window that "
            "begins at noise, above 0 and up to 1. At 0 nothing would be taken from the source."
        )
    target = model_of(source).prompt(text)
    plan = EditPlan.identity(source.prompt, target, source.steps).with_(
        self_steps=range(math.ceil(self_attention * source.steps)),
        self_pixels=check_count("self_pixels", self_pixels),
    )
    scale = source.guidance_scale if guidance_scale is None else check_guidance(guidance_scale)
    return apply_plan(
        [source],
        plan,
        guidance_scale=scale,
        record=record,
        reuse=False,
        callbacks=RunCallbacks(on_step, cancel),
        note=f"Free-Prompt-Editing: self-attention maps up to {self_attention:g} of the steps.",
    )[0]
