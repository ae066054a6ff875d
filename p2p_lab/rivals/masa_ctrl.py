"""MasaCtrl: the target asks, and finds its answers in the source: mutual self-attention.

    softmax(q_tgt k_srcᵀ/√d) v_src      from step S and layer L on, else the target's own

(Cao et al. 2023, arXiv 2304.08465.) It changes keys and values: texture and colour come
from the source while the layout, which the target's first steps and queries make, is free. So it is
made for changes of pose, and works against changes of colour.
"""

from __future__ import annotations

import math

from p2p_lab.attention.handlers import Taking, late_sites
from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob, check_along, check_share
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def masa_ctrl(
    source: Run,
    text: str,
    *,
    start: float = 0.1,
    layers: float = 0.6,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by MasaCtrl.

    Args:
        source: The run to edit; its own latents are followed.
        text: The target prompt.
        start: Share of the schedule after which keys and values are taken: S/T; 4 of 50 is usual.
        layers: Share of the self-attention layers, in the order of use, that keep their own: L of
            all; 10 of 16 is usual.
        guidance_scale: Guidance of the target; None takes the source's.
        seed: Not used: nothing is drawn.
        record: "store" keeps mean maps of the target, "none" nothing.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` with its `source`.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If it was cancelled.
    """
    job = RivalJob.of(
        "MasaCtrl", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first = check_along(job)
    begin = math.ceil(check_share("start", start) * job.total)
    sites = late_sites(job.sites, check_share("layers", layers))
    guided = job.guidance > 1
    pairs = {1: 0, 3: 2} if guided else {1: 0}  # rows: [negatives of both,] source, target
    recorder = job.recorder(4 if guided else 2)
    job.history[: first + 1] = [job.measured(k) for k in range(first + 1)]
    for step in job.steps(first):
        _, found = job.estimate(
            step,
            Branch(job.measured(step), job.source_text, job.guidance),
            Branch(job.history[step], job.target_text, job.guidance),
            steered_by=Taking(recorder, ("key", "value"), pairs, sites if step >= begin else ()),
        )
        job.history[step + 1] = job.levels.noisy(found.clean, found.noise, step + 1)
    return job.finish(first, f"MasaCtrl: keys and values of {len(sites)} layers from step {begin}.")
