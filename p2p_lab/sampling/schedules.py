"""Steps through noise: DDIM, Euler and first-order DPM-Solver++ as pure functions of one step.

    z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε

All three are first order: a step needs the latents before it and nothing else, so a run can be
taken up at any step. The tables of times and noise levels are those of diffusers' schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

Sampler = Literal["ddim", "euler", "dpm++"]
Prediction = Literal["epsilon", "v_prediction", "sample"]


def predict_clean(
    latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, prediction: Prediction = "epsilon"
) -> tuple[Tensor, Tensor]:
    """Split noisy latents into the clean latents and the noise that the denoiser sees in them.

    epsilon: ẑ_0 = (z − √(1−ᾱ) ε̂)/√ᾱ.  v: ẑ_0 = √ᾱ z − √(1−ᾱ) v̂,  ε̂ = √ᾱ v̂ + √(1−ᾱ) z
    (Salimans and Ho 2022, arXiv 2202.00512).

    Args:
        latents: z_t, (B, C, h, w).
        noise_pred: What the denoiser said, same shape.
        alpha_bar: ᾱ_t, a scalar.
        prediction: What it predicts.

    Returns:
        ẑ_0 and ε̂, same shape.
    """
    beta_bar = 1 - alpha_bar
    if prediction == "epsilon":
        return (latents - beta_bar**0.5 * noise_pred) / alpha_bar**0.5, noise_pred
    if prediction == "v_prediction":
        clean = alpha_bar**0.5 * latents - beta_bar**0.5 * noise_pred
        return clean, alpha_bar**0.5 * noise_pred + beta_bar**0.5 * latents
    return noise_pred, (latents - alpha_bar**0.5 * noise_pred) / beta_bar**0.5


def ddim_step(
    latents: Tensor,
    noise_pred: Tensor,
    alpha_bar: Tensor,
    alpha_bar_next: Tensor,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    noise: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Take one DDIM step from noise level ᾱ to ᾱ' (Song et al. 2021, eq. 12).

        z' = √ᾱ' ẑ_0 + √(1 − ᾱ' − σ²) ε̂ + σ ξ,    σ = η √((1−ᾱ')/(1−ᾱ)) √(1 − ᾱ/ᾱ')

    With η = 0 it is deterministic and, with ᾱ' < ᾱ, runs backwards: that is DDIM inversion.

    Args:
        latents: z, (B, C, h, w).
        noise_pred: What the denoiser said after guidance, same shape.
        alpha_bar: ᾱ at the present noise level, a scalar.
        alpha_bar_next: ᾱ' at the level to go to.
        prediction: What the denoiser predicts.
        eta: 0 for DDIM, 1 for DDPM's noise.
        noise: ξ, same shape as latents; needed if eta > 0.
        clip: Clamp ẑ_0 to ±clip, for models that were trained so.

    Returns:
        z', same shape.

    Raises:
        ValueError: If eta > 0 and no noise is given.
    """
    clean, direction = predict_clean(latents, noise_pred, alpha_bar, prediction)
    if clip is not None:
        clean = clean.clamp(-clip, clip)
    if eta == 0:
        return alpha_bar_next**0.5 * clean + (1 - alpha_bar_next) ** 0.5 * direction
    if noise is None:
        raise ValueError(f"A step with eta={eta} adds noise; pass noise of the latents' shape.")
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * variance.clamp_min(0) ** 0.5
    ahead = (1 - alpha_bar_next - sigma**2).clamp_min(0) ** 0.5 * direction
    return alpha_bar_next**0.5 * clean + ahead + sigma * noise


def euler_step(latents: Tensor, clean: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Take one Euler step of the probability-flow equation (Karras et al. 2022, algorithm 1).

        x' = x + (σ' − σ) (x − x̂_0)/σ,    x = z/√ᾱ,  σ = √(1−ᾱ)/√ᾱ

    Args:
        latents: x, (B, C, h, w).
        clean: x̂_0, same shape.
        sigma: Present noise level, a scalar.
        sigma_next: Level to go to.

    Returns:
        x', same shape.
    """
    return latents + (sigma_next - sigma) * (latents - clean) / sigma


class Schedule(Protocol):
    """Describe a sampler with its table of times."""

    @property
    def timesteps(self) -> Tensor:
        """Tell the model time of each step, (T,)."""

    @property
    def steps(self) -> int:
        """Tell the number of steps T."""

    @property
    def initial_scale(self) -> float:
        """Tell the size of the first latents, in units of standard noise."""

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Scale the latents as the denoiser expects them."""

    def advance(
        self, latents: Tensor, noise_pred: Tensor, step: int, *, noise: Tensor | None = None
    ) -> Tensor:
        """Take step number `step`, 0 being the noisiest; with `noise` a DDPM step (eta = 1)."""

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""


@dataclass(frozen=True, eq=False)
class Ddim:
    """Hold the DDIM table: model time and noise level of each step.

    First-order DPM-Solver++ takes the same step on another table (Lu et al. 2022, arXiv
    2211.01095, section 4), so it is this class too.

    Attributes:
        timesteps: Model time of each step, (T,).
        alpha_bar: ᾱ before each step, (T,).
        alpha_bar_next: ᾱ after each step, (T,).
        prediction: What the denoiser predicts.
        clip: Clamp of the clean latents, or None.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_next: Tensor
    prediction: Prediction = "epsilon"
    clip: float | None = None

    @property
    def steps(self) -> int:
        """Tell the number of steps T."""
        return len(self.timesteps)

    @property
    def initial_scale(self) -> float:
        """Tell the size of the first latents: 1."""
        return 1.0

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Return the latents as they are."""
        return latents

    def advance(
        self, latents: Tensor, noise_pred: Tensor, step: int, *, noise: Tensor | None = None
    ) -> Tensor:
        """Take step number `step`; with `noise` a DDPM step (eta = 1)."""
        return ddim_step(
            latents,
            noise_pred,
            self.alpha_bar[step],
            self.alpha_bar_next[step],
            prediction=self.prediction,
            eta=0.0 if noise is None else 1.0,
            noise=noise,
            clip=self.clip,
        )

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""
        return predict_clean(latents, noise_pred, self.alpha_bar[step], self.prediction)[0]


@dataclass(frozen=True, eq=False)
class Euler:
    """Hold the Euler table. Its latents are x = z/√ᾱ, as in diffusers.

    Attributes:
        timesteps: Model time of each step, (T,).
        sigmas: Noise levels, (T + 1,), the last one 0.
        initial_scale: Size of the first latents, in units of standard noise.
        prediction: What the denoiser predicts.
    """

    timesteps: Tensor
    sigmas: Tensor
    initial_scale: float
    prediction: Prediction = "epsilon"

    @property
    def steps(self) -> int:
        """Tell the number of steps T."""
        return len(self.timesteps)

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Return z = x/√(1 + σ²)."""
        return latents / (self.sigmas[step] ** 2 + 1) ** 0.5

    def advance(
        self, latents: Tensor, noise_pred: Tensor, step: int, *, noise: Tensor | None = None
    ) -> Tensor:
        """Take step number `step`.

        Raises:
            ValueError: If noise is given: this sampler has no stochastic form here.
        """
        if noise is not None:
            raise ValueError("Noise maps need the DDIM sampler; use sampler='ddim'.")
        clean = self.clean(latents, noise_pred, step)
        return euler_step(latents, clean, self.sigmas[step], self.sigmas[step + 1])

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""
        alpha_bar = 1 / (self.sigmas[step] ** 2 + 1)
        z = self.model_input(latents, step)
        return predict_clean(z, noise_pred, alpha_bar, self.prediction)[0]


def make_schedule(config: Mapping[str, Any], sampler: Sampler, steps: int) -> Schedule:
    """Build a sampler's table for a model.

    Args:
        config: The model's scheduler settings.
        sampler: "ddim", "euler", or "dpm++" (first order).
        steps: Number of steps T.

    Raises:
        ValueError: If the sampler is not known or the number of steps does not fit the model.
    """
    if sampler not in get_args(Sampler):
        raise ValueError(f"sampler={sampler!r} is not known; use one of {get_args(Sampler)}.")
    trained = int(config.get("num_train_timesteps", 1000))
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= trained:
        raise ValueError(
            f"steps={steps!r} is not possible: give a whole number from 1 to {trained}, the number "
            "of noise levels that the model was trained on. 20 to 50 are usual."
        )
    if config.get("thresholding"):
        raise ValueError(
            "This model's scheduler uses dynamic thresholding, which is not supported in latent "
            "space. Set thresholding to false in its scheduler_config.json."
        )
    make: dict[str, Callable[[Mapping[str, Any], int], Schedule]]
    make = {"ddim": _ddim, "euler": _euler, "dpm++": _dpm}
    return make[sampler](config, steps)


def _ddim(config: Mapping[str, Any], steps: int) -> Ddim:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(config))
    scheduler.set_timesteps(steps)
    stride = scheduler.config.num_train_timesteps // steps
    levels = scheduler.alphas_cumprod
    after = [int(t) - stride for t in scheduler.timesteps]
    return Ddim(
        timesteps=scheduler.timesteps,
        alpha_bar=levels[scheduler.timesteps],
        alpha_bar_next=torch.stack(
            [levels[t] if t >= 0 else scheduler.final_alpha_cumprod for t in after]
        ),
        prediction=scheduler.config.prediction_type,
        clip=scheduler.config.clip_sample_range if scheduler.config.clip_sample else None,
    )


def _euler(config: Mapping[str, Any], steps: int) -> Euler:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config(dict(config))
    scheduler.set_timesteps(steps)
    return Euler(
        timesteps=scheduler.timesteps,
        sigmas=scheduler.sigmas,
        initial_scale=float(scheduler.init_noise_sigma),
        prediction=scheduler.config.prediction_type,
    )


def _dpm(config: Mapping[str, Any], steps: int) -> Ddim:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(
        dict(config), solver_order=1, algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(steps)
    alpha_bar = 1 / (scheduler.sigmas**2 + 1)
    return Ddim(
        timesteps=scheduler.timesteps,
        alpha_bar=alpha_bar[:-1],
        alpha_bar_next=alpha_bar[1:],
        prediction=scheduler.config.prediction_type,
    )
