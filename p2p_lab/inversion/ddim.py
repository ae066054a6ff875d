"""DDIM inversion: the deterministic sampler run backwards, from the picture to its noise.

    z_t = √ᾱ_t (z' − √(1−ᾱ') ε̂)/√ᾱ' + √(1−ᾱ_t) ε̂,    ε̂ = ε(z', t)

A DDIM step leads from z_t to z' with the noise predicted *at z_t*. Run backwards z_t is what is
looked for, so the noise is predicted at z' instead (Dhariwal and Nichol 2021; Song et al. 2021).
The difference is small as long as ε changes little over a step, which holds without guidance and
fails with it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from p2p_lab.inversion.jobs import InversionContext
from p2p_lab.models.denoiser import Prediction
from p2p_lab.sampling import ddim_step, predict_clean


def invert_step(
    latents: Tensor,
    noise_pred: Tensor,
    alpha_bar: Tensor,
    alpha_bar_next: Tensor,
    prediction: Prediction = "epsilon",
) -> Tensor:
    """Undo one DDIM step: from the level ᾱ' it led to, back to ᾱ.

    A velocity is first read as the noise it stands for at the level that the denoiser was told,
    ᾱ; so models that say the same in other terms invert alike. For ε the step is the exact inverse
    of `ddim_step` with the same ε.

    Args:
        latents: z' at level ᾱ', (B, C, h, w).
        noise_pred: What the denoiser says of z' when told the time of ᾱ, same shape.
        alpha_bar: ᾱ, the noisier level to go to, a scalar.
        alpha_bar_next: ᾱ', the present level.
        prediction: What the denoiser predicts.

    Returns:
        z at level ᾱ, same shape.
    """
    _, noise = predict_clean(latents, noise_pred, alpha_bar, prediction)
    return ddim_step(latents, noise, alpha_bar_next, alpha_bar)


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
    schedule, z = job.ddim, latents
    history = [z]
    for step in reversed(range(schedule.steps)):
        job.report.check()
        noise_pred = job.predict(z, step, guidance_scale)
        before, level = z, schedule.alpha_bar[step]
        z = invert_step(z, noise_pred, level, schedule.alpha_bar_next[step], schedule.prediction)
        history.append(z)
        job.report.tick(partial(job.preview, before, noise_pred, level))
    return torch.cat(history[::-1])  # (T + 1, C, h, w)
