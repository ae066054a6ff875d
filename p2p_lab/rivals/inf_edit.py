"""InfEdit's virtual inversion: consistency sampling in which the source's own noise is known.

    z^src = a z_0 + s ε,    z^tgt = a ẑ^tgt + s ε      with the same fresh noise ε at each step
    ẑ^tgt ← z_0 + (ẑ_0(z^tgt | target) − ẑ_0(z^src | source))

(Xu et al. 2023, arXiv 2312.04965, written in clean estimates: its ε^tgt − ε^src + ε^cons is the
same.) It changes the estimate: the error that the model makes of the source is taken off the
target. Equal prompts with equal guidance give the source back. The paper's attention control, which
is Prompt-to-Prompt's and MasaCtrl's together, is left out.
"""

from __future__ import annotations

from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def inf_edit(
    source: Run,
    text: str,
    *,
    skip: float = 0.2,
    source_guidance: float | None = 1.0,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by InfEdit's virtual inversion.

    Args:
        source: The run to edit; only its picture and prompt count.
        text: The target prompt.
        skip: Share of the schedule that is skipped at the noisy end: the more, the less changes.
        source_guidance: Guidance under the source prompt; None takes the target's.
        guidance_scale: Guidance of the target; None takes the source run's.
        seed: What the noises are drawn from.
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
        "InfEdit", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, before = job.first(skip), job.source_guidance(source_guidance)
    edited = job.clean
    for step in job.steps(first):
        noise = job.noise(step)
        job.history[step] = job.levels.noisy(edited, noise, step)
        theirs, ours = job.estimate(
            step,
            Branch(job.levels.noisy(job.clean, noise, step), job.source_text, before),
            Branch(job.history[step], job.target_text, job.guidance),
        )
        edited = job.clean + ours.clean - theirs.clean
        job.history[step + 1] = edited
    return job.finish(first, f"InfEdit: {job.total - first} of {job.total} steps.")
