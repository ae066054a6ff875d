"""Inversion of flow-matching models: Euler's steps taken backwards, from the picture to its noise.

    z = z' + (σ − σ') v̂(z', σ)

This is what DDIM inversion is for models of noise, and it bears the same name here: the velocity at
z is looked for and the one at z' is taken. The published inversions of the other kinds rest on the
noise model and its guidance; what is known to carry over is "direct", which pins the source.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from p2p_lab.inversion.jobs import InversionContext
from p2p_lab.sampling.flow import Flow
from p2p_lab.sampling.steps import flow_step

DEFINED = ("ddim", "direct")
_WHY = {
    "negative-prompt": "was derived for models of noise under guidance",
    "null-text": "tunes the empty prompt of models of noise under guidance",
    "edit-friendly": "measures the noise maps of a stochastic sampler, and a flow's takes none",
}


def check_flow_method(name: str, model: str) -> None:
    """Refuse an inversion that is not defined for flow-matching models.

    Raises:
        ValueError: With the reason, and what to use instead.
    """
    if name not in DEFINED:
        raise ValueError(
            f"method={name!r} {_WHY[name]}; {model} is a flow-matching model. Use method='direct', "
            "or 'ddim', which here is Euler's step taken backwards."
        )


@torch.no_grad()
def flow_invert(job: InversionContext, latents: Tensor) -> Tensor:
    """Measure the way from a picture's latents back to noise, without guidance.

    Args:
        job: Model, schedule and texts.
        latents: The picture's latents z_0, (1, C, h, w).

    Returns:
        Latents from noise to picture, (T + 1, C, h, w); the last are those given.
    """
    schedule, z = job.schedule, latents
    assert isinstance(schedule, Flow)
    history = [z]
    for step in reversed(range(schedule.steps)):
        job.report.check()
        velocity = job.predict(z, step)
        before, z = z, flow_step(z, velocity, schedule.sigmas[step + 1], schedule.sigmas[step])
        history.append(z)
        job.report.tick(partial(job.show, schedule.clean(before, velocity, step)))
    return torch.cat(history[::-1])  # (T + 1, C, h, w)
