"""SDEdit: noise the picture half-way and draw it again under the new prompt.

    z_k = a_k z_0 + s_k ε,    then DDIM's steps k … T − 1 under the target prompt

(Meng et al. 2021, arXiv 2108.01073, algorithm 1; its strength t_0 is 1 − skip.) It changes the
noise alone: nothing else is taken from the source, so the same prompt does not give it back.
"""

from __future__ import annotations

from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def sdedit(
    source: Run,
    text: str,
    *,
    skip: float = 0.5,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by SDEdit.

    Args:
        source: The run to edit.
        text: The target prompt.
        skip: Share of the schedule that is skipped at the noisy end: the more, the less changes.
        guidance_scale: Guidance of the target; None takes the source's.
        seed: What the noise is drawn from.
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
        "SDEdit", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, levels = job.first(skip), job.levels
    for step in job.steps(first):
        branch = Branch(job.history[step], job.target_text, job.guidance)
        (found,) = job.estimate(step, branch)
        job.history[step + 1] = levels.noisy(found.clean, found.noise, step + 1)
    return job.finish(first, f"SDEdit: steps {first} to {job.total - 1} drawn again.")
