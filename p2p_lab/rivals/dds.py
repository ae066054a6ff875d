"""Delta denoising score: descend along the difference of two denoising scores.

    z ← z − η · (ε̂(z_t, t | target) − ε̂(z^src_t, t | source)),    z_t, z^src_t with the same t and ε

(Hertz et al. 2023, arXiv 2304.07090.) It changes the picture by gradient steps; the
denoiser itself is not differentiated, its weight is left out as in score distillation. The source's
score takes away the blur that a single score brings. Equal prompts with equal guidance give the
source back.
"""

from __future__ import annotations

import random

from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob, check_count, check_number
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def dds(
    source: Run,
    text: str,
    *,
    updates: int = 20,
    rate: float = 0.2,
    skip: float = 0.2,
    source_guidance: float | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by delta denoising score.

    Args:
        source: The run to edit; only its picture and prompt count.
        text: The target prompt.
        updates: Number of gradient steps; the paper takes 200.
        rate: Η, in units of the latents.
        skip: Share of the schedule at the noisy end from which no time t is drawn.
        source_guidance: Guidance under the source prompt; None takes the target's, as the paper.
        guidance_scale: Guidance of the target; None takes the source run's.
        seed: What times and noises are drawn from.
        record: "store" keeps mean maps of the target, "none" nothing.
        on_step: Called as on_step(update, updates, preview) after each; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each update.

    Returns:
        A `Run` with its `source`.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If it was cancelled.
    """
    job = RivalJob.of(
        "DDS", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, before = job.first(skip), job.source_guidance(source_guidance)
    check_number("rate", rate)
    edited, times = job.clean, random.Random(f"dds {seed}")
    for update in job.updates(check_count("updates", updates)):
        step, noise = times.randrange(first, job.total), job.noise(update)
        theirs, ours = job.estimate(
            step,
            Branch(job.levels.noisy(job.clean, noise, step), job.source_text, before),
            Branch(job.levels.noisy(edited, noise, step), job.target_text, job.guidance),
        )
        edited = edited - rate * (ours.noise - theirs.noise)
        job.history[-1] = edited
    last = job.noise(0)
    job.history[:-1] = [job.levels.noisy(edited, last, k) for k in range(job.total)]
    return job.finish(first, f"DDS: {updates} updates.")
