"""DDIM inversion: the deterministic sampler run backwards, from the picture to its noise.

    z = α (z' − σ' ε̂)/α' + σ ε̂,    ε̂ = ε(z', t);    models of noise: α = √ᾱ, σ = √(1 − ᾱ)

A step leads from z to z' with the noise predicted *at z*. Run backwards z is what is looked for, so
the noise is predicted at z' instead (Dhariwal and Nichol 2021; Song et al. 2021). The difference is
small as long as ε changes little over a step, which holds without guidance and fails with it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from p2p_lab.inversion.jobs import InversionContext


@torch.no_grad()
def ddim_invert(job: InversionContext, latents: Tensor, *, guidance_scale: float = 1.0) -> Tensor:
    """Measure the way from a picture's latents back to noise.

    Args:
        job: Model, schedule and texts.
        latents: The picture's latents z_0, (1, C, h, w).
        guidance_scale: Guidance on the way back. With 1 the way can be retraced; the reference
            uses 1, and so does every method here.

    Returns:
        Latents from noise to picture, (T + 1, C, h, w); the last are those given.
    """
    schedule, z = job.schedule, latents
    history = [z]
    for step in reversed(range(schedule.steps)):
        job.report.check()
        output = job.predict(z, step, guidance_scale)
        before, z = z, schedule.undo(z, output, step)
        history.append(z)
        job.report.tick(partial(job.preview, before, output, step))
    return torch.cat(history[::-1])  # (T + 1, C, h, w)
