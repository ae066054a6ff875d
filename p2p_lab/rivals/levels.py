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

from p2p_lab.models.denoiser import Prediction
from p2p_lab.sampling import predict_clean
from p2p_lab.sampling.flow import Flow
from p2p_lab.sampling.schedules import Ddim, Schedule


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
    """Hold how much of picture and of noise is in the latents before each step.

    Attributes:
        signal: a, (T + 1,).
        noise: s, (T + 1,).
        prediction: What the denoiser predicts.
    """

    signal: Tensor
    noise: Tensor
    prediction: Prediction

    @staticmethod
    def of(schedule: Schedule) -> Levels:
        """Read the levels of a DDIM table or of a flow."""
        if isinstance(schedule, Flow):
            sigmas = schedule.sigmas
            return Levels(1 - sigmas, sigmas, "flow")
        assert isinstance(schedule, Ddim)
        alpha_bar = torch.cat([schedule.alpha_bar, schedule.alpha_bar_next[-1:]])  # (T + 1,)
        return Levels(alpha_bar**0.5, (1 - alpha_bar) ** 0.5, schedule.prediction)

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
        if self.prediction == "flow":
            clean = latents - self.noise[step] * noise_pred
            return Estimate(clean, clean + noise_pred)
        alpha_bar = self.signal[step] ** 2
        return Estimate(*predict_clean(latents, noise_pred, alpha_bar, self.prediction))
