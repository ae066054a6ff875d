"""Tables of times and noise levels: DDIM, Euler and DPM-Solver++ of first and second order.

A step of first order needs the latents before it and nothing else, so a run can be taken up at any
step; one of second order needs the clean estimate of the step before as well. The tables are those
of diffusers' schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Prediction
from p2p_lab.sampling.flow import is_flow, make_flow
from p2p_lab.sampling.steps import (
    ddim_step,
    dynamic_threshold,
    euler_step,
    multistep,
    predict_clean,
    spacing,
)

_FEW = 15  # steps below which diffusers takes the last one of first order
Sampler = Literal["ddim", "euler", "dpm++", "dpm++2m"]


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
        threshold: Quantile and largest value of `dynamic_threshold`, or None.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_next: Tensor
    prediction: Prediction = "epsilon"
    clip: float | None = None
    threshold: tuple[float, float] | None = None

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
            threshold=self.threshold,
        )

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""
        return predict_clean(latents, noise_pred, self.alpha_bar[step], self.prediction)[0]


@dataclass(frozen=True, eq=False)
class Multistep(Ddim):
    """Hold the table of second-order DPM-Solver++ (2M).

    Attributes:
        settles: Whether the last step is of first order, as where it ends at the clean latents.
    """

    settles: bool = True

    def advance(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        step: int,
        *,
        noise: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Take step number `step`; without the `previous` clean estimate one of first order.

        Raises:
            ValueError: If noise is given: this sampler has no stochastic form here.
        """
        if noise is not None:
            raise ValueError("Noise maps need the DDIM sampler; use sampler='ddim'.")
        if previous is None or (self.settles and step == self.steps - 1):
            return super().advance(latents, noise_pred, step)
        levels = self.alpha_bar[step - 1], self.alpha_bar[step], self.alpha_bar_next[step]
        wide = torch.promote_types(latents.dtype, torch.float32)
        clean = self.clean(latents.to(wide), noise_pred.to(wide), step)
        return multistep(latents.to(wide), clean, previous.to(wide), levels).to(latents.dtype)

    def of_one_step(self, estimate: Tensor, previous: Tensor | None, step: int) -> Tensor:
        """Return a step's clean estimate, given the one that `advance` continued it to."""
        if previous is None or (self.settles and step == self.steps - 1):
            return estimate
        part = 0.5 / self._ratio(step)
        return (estimate + part * previous) / (1 + part)

    def _ratio(self, step: int) -> Tensor:
        levels = self.alpha_bar[step - 1], self.alpha_bar[step], self.alpha_bar_next[step]
        return spacing(*levels)

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents, within the threshold that the model was trained with."""
        clean = super().clean(latents, noise_pred, step)
        return clean if self.threshold is None else dynamic_threshold(clean, *self.threshold)


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
        # Half precision overflows where a schedule ends at pure noise: σ is 4096 there.
        wide = latents.to(torch.promote_types(latents.dtype, torch.float32))
        clean = self.clean(wide, noise_pred, step)
        new = euler_step(wide, clean, self.sigmas[step], self.sigmas[step + 1])
        return new.to(latents.dtype)

    def clean(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Estimate the clean latents from the present ones."""
        alpha_bar = 1 / (self.sigmas[step] ** 2 + 1)
        z = self.model_input(latents, step)
        return predict_clean(z, noise_pred, alpha_bar, self.prediction)[0]


def make_schedule(
    config: Mapping[str, Any], sampler: Sampler, steps: int, grid: tuple[int, int] | None = None
) -> Schedule:
    """Build a sampler's table for a model.

    Args:
        config: The model's scheduler settings.
        sampler: "ddim", "euler", "dpm++" (first order) or "dpm++2m" (second order). For a
            flow-matching model the first two are one and the same.
        steps: Number of steps T.
        grid: Height and width of the latents; some flow-matching models need it.

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
    if is_flow(config):
        if sampler.startswith("dpm++"):
            raise ValueError(
                f"{sampler=} is for models of noise, and this is a flow-matching model. "
                "Use 'euler' or 'ddim', which are the same step there."
            )
        return make_flow(config, steps, grid)
    if config.get("thresholding") and config.get("space") != "pixels":
        raise ValueError(
            "This model's scheduler uses dynamic thresholding, which is not supported in latent "
            "space. Set thresholding to false in its scheduler_config.json."
        )
    config = {name: value for name, value in config.items() if name != "space"}
    make: dict[str, Callable[[Mapping[str, Any], int], Schedule]]
    make = {"ddim": _ddim, "euler": _euler, "dpm++": _dpm, "dpm++2m": _dpm2}
    try:
        return make[sampler](config, steps)
    except (ValueError, NotImplementedError, ImportError, IndexError) as error:
        raise ValueError(
            f"steps={steps} with sampler={sampler!r} is not possible with this model's scheduler "
            f"settings: {str(error).strip() or type(error).__name__} Try other steps or another "
            "sampler."
        ) from error


def _ddim(config: Mapping[str, Any], steps: int) -> Ddim:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(config))
    scheduler.set_timesteps(steps)
    if int(scheduler.timesteps.max()) >= scheduler.config.num_train_timesteps:
        raise ValueError(
            f"its table of {steps} steps begins at time {int(scheduler.timesteps.max())}, and the "
            f"model was trained on times up to {scheduler.config.num_train_timesteps - 1} "
            f"(steps_offset={scheduler.config.steps_offset}); take fewer steps."
        )
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
        threshold=_threshold(scheduler.config),
    )


def _threshold(config: Any) -> tuple[float, float] | None:
    if not config.thresholding:
        return None
    return float(config.dynamic_thresholding_ratio), float(config.sample_max_value)


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
    _, table = _dpm_table(config, steps, 1)
    return Ddim(**table)


def _dpm2(config: Mapping[str, Any], steps: int) -> Multistep:
    found, table = _dpm_table(config, steps, 2)
    settles = steps < _FEW or found.euler_at_final or found.final_sigmas_type == "zero"
    return Multistep(**table, settles=settles)


def _dpm_table(config: Mapping[str, Any], steps: int, order: int) -> tuple[Any, dict[str, Any]]:
    """Return diffusers' settings for DPM-Solver++ of an order, and its table."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(
        dict(config), solver_order=order, solver_type="midpoint", algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(steps)
    alpha_bar = 1 / (scheduler.sigmas**2 + 1)
    return scheduler.config, {
        "timesteps": scheduler.timesteps,
        "alpha_bar": alpha_bar[:-1],
        "alpha_bar_next": alpha_bar[1:],
        "prediction": scheduler.config.prediction_type,
        "threshold": _threshold(scheduler.config),
    }
