"""FlowEdit: go from the picture along the difference of two velocities; no inversion.

    Z^src = (1 − σ) X + σ N,    Z^tgt = Z + Z^src − X
    Z ← Z + (σ' − σ) · mean over N of (V(Z^tgt, σ | target) − V(Z^src, σ | source)),    Z_start = X

(Kulikov et al. 2024, arXiv 2412.08629, algorithm 1; its n_max is T (1 − skip), its n_min is 0.) A
model of noise is a flow after rescaling (`levels`), so the same lines serve it. It changes the
velocity; equal prompts with equal guidance give the source back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.devices import cpu_by_default
from p2p_lab.rivals.job import Branch, RivalJob, check_count
from p2p_lab.sampling import Run
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.settings import Record


@cpu_by_default()
def flow_edit(
    source: Run,
    text: str,
    *,
    skip: float = 0.3,
    source_guidance: float | None = 1.5,
    average: int = 1,
    guidance_scale: float | None = None,
    seed: int = 0,
    record: Record = "store",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by FlowEdit.

    Args:
        source: The run to edit; only its picture and prompt count.
        text: The target prompt.
        skip: Share of the schedule that is skipped at the noisy end: the more, the less changes.
        source_guidance: Guidance under the source prompt; None takes the target's.
        average: Number of noises N over which the difference is averaged at each step.
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
        "FlowEdit", source, text, guidance_scale=guidance_scale, seed=seed, record=record,
        on_step=on_step, cancel=cancel,
    )  # fmt: skip
    first, before = job.first(skip), job.source_guidance(source_guidance)
    average = check_count("average", average)
    edited = job.clean
    for step in job.steps(first):
        pairs = [noisy_pair(job, edited, step, average * step + i) for i in range(average)]
        moves = [_difference(job, step, pair, before) for pair in pairs]
        job.history[step] = pairs[-1][1]
        edited = edited + ahead(job, step) * torch.stack(moves).mean(0)
        job.history[step + 1] = edited
    return job.finish(first, f"FlowEdit: {job.total - first} of {job.total} steps.")


def noisy_pair(job: RivalJob, edited: Tensor, step: int, number: int) -> tuple[Tensor, Tensor]:
    """Return Z^src and Z^tgt of one noise N, as the denoiser takes them, (1, C, h, w) each.

    Z^tgt = Z + Z^src − X = (1 − σ) X + σ N + (Z − X), times the latents' width a + s.
    """
    before = job.levels.noisy(job.clean, job.noise(number), step)
    return before, before + job.levels.width(step) * (edited - job.clean)


def ahead(job: RivalJob, step: int) -> float:
    """Return σ' − σ: how far a step leads along the flow, below 0."""
    return job.levels.share(step + 1) - job.levels.share(step)


def _difference(
    job: RivalJob, step: int, pair: tuple[Tensor, Tensor], source_guidance: float
) -> Tensor:
    """Return V(Z^tgt | target) − V(Z^src | source)."""
    theirs, ours = job.estimate(
        step,
        Branch(pair[0], job.source_text, source_guidance),
        Branch(pair[1], job.target_text, job.guidance),
    )
    return ours.velocity - theirs.velocity
