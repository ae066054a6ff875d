"""The noise levels of a sampler's steps, in one form for models of noise and for flows.

    z_t = a_t z_0 + s_t ε,    models of noise: a = √ᾱ, s = √(1 − ᾱ);    flows: a = 1 − σ, s = σ

A variance-preserving process is a flow after rescaling: z/(a + s) = (1 − σ) z_0 + σ ε with
σ = s/(a + s), and its velocity is ε̂ − ẑ_0 (Liu et al. 2022, arXiv 2209.03003, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from p2p_lab.sampling import Schedule


class Estimate(NamedTuple):
    """What the denoiser sees in noisy latents.

    Attributes:
        clean: ẑ_0, (1, C, h, w).
        noise: ε̂, same shape.
    """

    clean: Tensor
    noise: Tensor

    @property
    def velocity(self) -> Tensor:
        """Return ε̂ − ẑ_0, the velocity of the flow from the picture to its noise."""
        return self.noise - self.clean


@dataclass(frozen=True, eq=False)
class Levels:
    """How much of picture and of noise is in the latents before each step.

    Attributes:
        signal: The factor a, (T + 1,).
        noise: The factor s, (T + 1,).
        schedule: The table that they are read from.
    """

    signal: Tensor
    noise: Tensor
    schedule: Schedule

    @staticmethod
    def of(schedule: Schedule) -> Levels:
        """Read the levels of a table, DDIM's or a flow's."""
        signal = torch.cat([schedule.alpha, schedule.alpha_next[-1:]])  # (T + 1,)
        noise = torch.cat([schedule.sigma, schedule.sigma_next[-1:]])
        return Levels(signal, noise, schedule)

    def share(self, step: int) -> float:
        """Return σ = s/(a + s) before a step, the time of the flow: 1 for noise.

        It is 0 after the last step: what is decoded counts as clean, also where a model of noise
        (Stable Diffusion) ends at a level a little below 1.
        """
        if step == len(self.signal) - 1:
            return 0.0
        return float(self.noise[step] / (self.signal[step] + self.noise[step]))

    def width(self, step: int) -> float:
        """Return a + s before a step: the latents' size, in units of the flow's."""
        return float(self.signal[step] + self.noise[step])

    def noisy(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return a z_0 + s ε as it is before a step, same shape."""
        return (self.signal[step] * clean + self.noise[step] * noise).to(clean.dtype)

    def split(self, latents: Tensor, noise_pred: Tensor, step: int) -> Estimate:
        """Return what the denoiser's prediction says of picture and noise in the latents."""
        return Estimate(*self.schedule.split(latents, noise_pred, step))
