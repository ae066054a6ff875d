"""Edit-friendly DDPM inversion: noise maps that make the stochastic sampler draw the picture.

    z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε̃_t  (independent noise a step),    ξ_t = (z_{t−1} − μ(z_t))/σ_t

(Huberman-Spiegelglas et al. 2023, arXiv 2304.06140, algorithm 1.) The latents of neighbouring steps
are less alike than in sampling, so the maps ξ are larger than plain noise and hold the picture's
layout; reconstruction is exact by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from p2p_lab.inversion.jobs import InversionContext, is_within
from p2p_lab.sampling import noise_of
from p2p_lab.sampling.runs import checked_seed


@dataclass(frozen=True)
class EditFriendly:
    """The settings of edit-friendly inversion; the defaults are the reference's.

    Attributes:
        skip: Share of the schedule that is skipped at the noisy end: 36 of 100 steps.
        source_guidance: Guidance while the maps are measured. None takes 3.5/15 of the edit's
            guidance, the reference's ratio, and no less than 1.
        seed: What the independent noise is drawn from.
    """

    skip: float = 0.36
    source_guidance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_within(self.skip, 0, 1):
            raise ValueError(
                f"skip={self.skip!r} is not possible: give the share of steps to skip, from 0 to "
                "less than 1."
            )
        scale = self.source_guidance
        if scale is not None and not is_within(scale, 1):
            raise ValueError(
                f"source_guidance={scale!r} is not possible: give a number from 1 (no guidance) "
                "on, or None."
            )
        checked_seed(self.seed)

    def start(self, steps: int) -> int:
        """Return the first step that is run."""
        return min(round(self.skip * steps), steps - 1)

    def guidance_for(self, guidance_scale: float) -> float:
        """Return the guidance of the source for an edit at `guidance_scale`."""
        chosen = self.source_guidance
        return max(1.0, guidance_scale * 3.5 / 15) if chosen is None else chosen


@torch.no_grad()
def edit_friendly(
    job: InversionContext, latents: Tensor, options: EditFriendly | None = None
) -> tuple[Tensor, Tensor]:
    """Measure the noise maps of a picture.

    Args:
        job: Model, schedule and texts.
        latents: The picture's latents z_0, (1, C, h, w).
        options: Settings; None takes the reference's.

    Returns:
        Latents from noise to picture, (T + 1, C, h, w), and the noise maps, (T, C, h, w), zero for
        steps that are skipped.
    """
    options = options or EditFriendly()
    schedule, guidance = job.schedule, options.guidance_for(job.guidance_scale)
    history = _noisy(job, latents, options.seed)
    maps = torch.zeros_like(history[:-1])  # (T, C, h, w)
    for step in range(options.start(job.steps), job.steps):
        job.report.check()
        z, after = history[step : step + 1], history[step + 1 : step + 2]
        noise_pred = job.predict(z, step, guidance)
        mean = schedule.advance(z, noise_pred, step, noise=torch.zeros_like(z))
        sigma = _sigma(job, step)
        if sigma > 0:
            maps[step] = ((after - mean) / sigma)[0]
            # As in the reference: go on from what the maps give, so that rounding does not add up.
            history[step + 1] = schedule.advance(z, noise_pred, step, noise=maps[step : step + 1])[
                0
            ]
        job.report.tick(partial(job.preview, z, noise_pred, step))
    return history, maps


def _noisy(job: InversionContext, latents: Tensor, seed: int) -> Tensor:
    """Add independent noise of each step's level to the clean latents, (T + 1, C, h, w)."""
    noise = noise_of(seed, (job.steps, *latents.shape[1:])).to(latents)
    alpha, sigma = (
        level.to(latents.device).view(-1, 1, 1, 1)  # (T, 1, 1, 1)
        for level in (job.schedule.alpha, job.schedule.sigma)
    )
    noisy = alpha * latents + sigma * noise
    return torch.cat([noisy.to(latents.dtype), latents])


def _sigma(job: InversionContext, step: int) -> float:
    """Return the size of a DDPM step's noise: that of `ddim_step` with eta = 1."""
    level, after = job.schedule.alpha_bar[step], job.schedule.alpha_bar_next[step]
    return float(((1 - after) / (1 - level) * (1 - level / after)).clamp_min(0) ** 0.5)
