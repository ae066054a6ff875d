"""FlowSlider: FlowEdit with a strength, by scaling what steers and not what holds.

    V(Z^tgt | target) − V(Z^src | source)
      = [V(Z^tgt | source) − V(Z^src | source)]  +  s · [V(Z^tgt | target) − V(Z^tgt | source)]
         fidelity: holds the source                  steering: leads to the target, strength s

(Endo et al. 2026, arXiv 2604.02088.) The two terms are nearly orthogonal, so s changes how far the
edit goes and not what it keeps. s = 1 is FlowEdit, s = 0 the source. The rival of `Reweight`.
"""

from __future__ import annotations

from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.flow_edit import ahead, noisy_pair
from p2p_lab.rivals.job import Branch, RivalJob, check_number
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def flow_slider(
    source: Run,
    text: str,
    *,
    strength: float = 1.0,
    skip: float = 0.3,
    source_guidance: float | None = 1.5,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by FlowSlider.

    Args:
        source: The run to edit; only its picture and prompt count.
        text: The target prompt.
        strength: s, from 0 on; 1 is FlowEdit.
        skip: Share of the schedule that is skipped at the noisy end.
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
        "FlowSlider", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, before = job.first(skip), job.source_guidance(source_guidance)
    check_number("strength", strength)
    edited = job.clean
    for step in job.steps(first):
        theirs, job.history[step] = noisy_pair(job, edited, step, step)
        held, still, led = job.estimate(
            step,
            Branch(theirs, job.source_text, before),
            Branch(job.history[step], job.source_text, before),
            Branch(job.history[step], job.target_text, job.guidance),
        )
        fidelity = still.velocity - held.velocity
        steering = led.velocity - still.velocity
        edited = edited + ahead(job, step) * (fidelity + strength * steering)
        job.history[step + 1] = edited
    return job.finish(first, f"FlowSlider at strength {strength:g}.")
