"""A sampler's table of times and noise levels, and its step: DDIM, Euler, DPM-Solver++, flows.

    z = α ẑ_0 + σ ε̂        the denoiser splits noisy latents into picture and noise
    z' = α' ẑ_0 + σ' ε̂     the step puts them together again, with less noise

A sampler of first order is its table of α and σ alone: α² + σ² = 1 for DDIM and DPM-Solver++
(Lu et al. 2022, arXiv 2211.01095, section 4), α = 1 for Euler as diffusers writes it, α = 1 − σ for
flows (Liu et al. 2022, arXiv 2209.03003), whose velocity is ε − z_0. Such a run can be taken up at
any step; second order needs the clean estimate of the step before as well. The tables are those of
diffusers' schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from p2p_lab.models.denoiser import Denoiser, Prediction, ScheduleRules
from p2p_lab.sampling.steps import ddim_step, dynamic_threshold, multistep, spacing, split

_FEW = 15  # steps below which diffusers takes the last one of first order
_PLAIN = ScheduleRules()
Sampler = Literal["ddim", "euler", "dpm++", "dpm++2m"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A sampler: model time and noise level of each step, and how a step is taken.

    Attributes:
        timesteps: Model time of each step, (T,).
        alpha, sigma: How much of picture and noise is in the latents before each step, (T,).
        alpha_next, sigma_next: The same after each step, (T,).
        prediction: What the denoiser predicts.
        order: 1, or 2 for DPM-Solver++ (2M).
        settles: Whether the last step of second order is taken as one of first order.
        scaled: Whether the denoiser is given the latents over √(α² + σ²).
        initial_scale: Size of the first latents, in units of standard noise.
        clip: Clamp of the clean latents to ±clip, or None.
        threshold: Quantile and largest value of `dynamic_threshold`, or None.
    """

    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    alpha_next: Tensor
    sigma_next: Tensor
    prediction: Prediction = "epsilon"
    order: int = 1
    settles: bool = True
    scaled: bool = False
    initial_scale: float = 1.0
    clip: float | None = None
    threshold: tuple[float, float] | None = None

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.timesteps)

    @property
    def is_flow(self) -> bool:
        """Whether it is the table of a flow-matching model."""
        return self.prediction == "flow"

    @property
    def alpha_bar(self) -> Tensor:
        """ᾱ = α² before each step, (T,), for models of noise."""
        return self.alpha**2

    @property
    def alpha_bar_next(self) -> Tensor:
        """ᾱ after each step, (T,)."""
        return self.alpha_next**2

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """Return the latents as the denoiser expects them."""
        return latents / self._scale(step) if self.scaled else latents

    def split(self, latents: Tensor, output: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the clean latents ẑ_0 and the noise ε̂ that the denoiser sees before a step.

        Args:
            latents: z, (B, C, h, w).
            output: What the denoiser predicts, after guidance, same shape.
            step: 0 is the noisiest.
        """
        alpha, sigma = self.alpha[step], self.sigma[step]
        if self.scaled:
            scale = self._scale(step)
            latents, alpha, sigma = latents / scale, alpha / scale, sigma / scale
        return split(latents, output, alpha, sigma, self.prediction)

    def clean(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """Estimate the clean latents ẑ_0, within the bounds that the model was trained with."""
        return self._bounded(self.split(latents, output, step)[0])

    def advance(
        self,
        latents: Tensor,
        output: Tensor,
        step: int,
        *,
        noise: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Take a step.

        Args:
            latents: z before it, (B, C, h, w).
            output: What the denoiser predicts, after guidance, same shape.
            step: 0 is the noisiest.
            noise: Take a DDPM step (η = 1) with this noise, same shape.
            previous: The clean estimate of the step before, for a sampler of second order; without
                it the step is one of first order.

        Returns:
            z' after it, same shape.

        Raises:
            ValueError: If noise is given and the sampler has no stochastic form here.
        """
        if noise is not None:
            return self._stochastic(latents, output, step, noise)
        wide = latents.to(self._precision(latents))
        if self.is_flow:  # the same sum as below, written as diffusers does: the last bit counts
            change = self.sigma_next[step] - self.sigma[step]
            return (wide + change * output).to(output.dtype)
        clean, direction = self.split(wide, output, step)
        clean = self._bounded(clean)
        if self._is_second(step, previous):
            assert previous is not None
            return multistep(wide, clean, previous.to(wide), self._levels(step)).to(latents.dtype)
        return (self.alpha_next[step] * clean + self.sigma_next[step] * direction).to(latents.dtype)

    def undo(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """Return z before a step that led to z', from what the denoiser says of z'.

            z = α ẑ_0 + σ ε̂,    ẑ_0 = (z' − σ' ε̂)/α'

        What a model of noise predicts is read as the noise it stands for at the level that it was
        told, so models that say the same in other terms are inverted alike; a flow's velocity is
        read at the level of z', where it is the step taken backwards.

        Args:
            latents: z' after the step, (B, C, h, w).
            output: What the denoiser predicts of z' when told the step's time, same shape.
            step: 0 is the noisiest.
        """
        after = self.alpha_next[step], self.sigma_next[step]
        level = after if self.is_flow else (self.alpha[step], self.sigma[step])
        _, noise = split(latents, output, *level, self.prediction)
        clean = (latents - after[1] * noise) / after[0]
        return self.alpha[step] * clean + self.sigma[step] * noise

    def of_one_step(self, estimate: Tensor, previous: Tensor | None, step: int) -> Tensor:
        """Return a step's clean estimate, given the one that `advance` continued it to."""
        if not self._is_second(step, previous):
            return estimate
        assert previous is not None
        part = 0.5 / spacing(*self._levels(step))
        return (estimate + part * previous) / (1 + part)

    def _stochastic(self, latents: Tensor, output: Tensor, step: int, noise: Tensor) -> Tensor:
        if self.is_flow:
            raise ValueError(
                "Noise maps belong to models of noise; a flow-matching model takes none."
            )
        if self.scaled or self.order == 2:
            raise ValueError("Noise maps need the DDIM sampler; use sampler='ddim'.")
        return ddim_step(
            latents,
            output,
            self.alpha_bar[step],
            self.alpha_bar_next[step],
            prediction=self.prediction,
            eta=1.0,
            noise=noise,
            clip=self.clip,
            threshold=self.threshold,
        )

    def _bounded(self, clean: Tensor) -> Tensor:
        if self.threshold is not None:
            return dynamic_threshold(clean, *self.threshold)
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def _scale(self, step: int) -> Tensor:
        return (self.alpha[step] ** 2 + self.sigma[step] ** 2) ** 0.5

    def _precision(self, latents: Tensor) -> torch.dtype:
        """Return float32 or wider where half precision would overflow (σ up to 4096) or be poor."""
        wide = self.scaled or self.is_flow or self.order == 2
        return torch.promote_types(latents.dtype, torch.float32) if wide else latents.dtype

    def _is_second(self, step: int, previous: Tensor | None) -> bool:
        """Whether a step is one of second order."""
        last = self.settles and step == self.steps - 1
        return self.order == 2 and previous is not None and not last

    def _levels(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ᾱ before the last step, now, and after this one."""
        return self.alpha_bar[step - 1], self.alpha_bar[step], self.alpha_bar_next[step]


def schedule_for(model: Denoiser, sampler: Sampler, steps: int, grid: tuple[int, int]) -> Schedule:
    """Build the table on which a model is sampled; arguments and errors of `make_schedule`."""
    return make_schedule(model.scheduler_config, sampler, steps, grid, model.schedule_rules)


def make_schedule(
    config: Mapping[str, Any],
    sampler: Sampler,
    steps: int,
    grid: tuple[int, int] | None = None,
    rules: ScheduleRules = _PLAIN,
) -> Schedule:
    """Build a sampler's table.

    Args:
        config: The model's scheduler settings.
        sampler: "ddim", "euler", "dpm++" (first order) or "dpm++2m" (second order). For a
            flow-matching model the first two are one and the same.
        steps: Number of steps T.
        grid: Height and width of the latents; some flow-matching models need it.
        rules: What the model's family asks beside its settings.

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
        return _flow(config, steps, grid, rules)
    if config.get("thresholding") and not rules.pixels:
        raise ValueError(
            "This model's scheduler uses dynamic thresholding, which is not supported in latent "
            "space. Set thresholding to false in its scheduler_config.json."
        )
    make: dict[str, Callable[[Mapping[str, Any], int], Schedule]]
    make = {"ddim": _ddim, "euler": _euler, "dpm++": _dpm, "dpm++2m": partial(_dpm, order=2)}
    try:
        return make[sampler](config, steps)
    except (ValueError, NotImplementedError, ImportError, IndexError) as error:
        raise ValueError(
            f"steps={steps} with sampler={sampler!r} is not possible with this model's scheduler "
            f"settings: {str(error).strip() or type(error).__name__} Try other steps or another "
            "sampler."
        ) from error


def is_flow(config: Mapping[str, Any]) -> bool:
    """Return whether a model is a flow-matching one, by its scheduler settings."""
    return str(config.get("_class_name", "")).startswith("FlowMatch")


def _of_noise(
    scheduler: Any, alpha_bar: Tensor, alpha_bar_next: Tensor, **options: Any
) -> Schedule:
    """Return the table of a model of noise, α = √ᾱ and σ = √(1 − ᾱ), with diffusers' settings."""
    config = scheduler.config
    threshold = (float(config.dynamic_thresholding_ratio), float(config.sample_max_value))
    return Schedule(
        timesteps=scheduler.timesteps,
        alpha=alpha_bar**0.5,
        sigma=(1 - alpha_bar) ** 0.5,
        alpha_next=alpha_bar_next**0.5,
        sigma_next=(1 - alpha_bar_next) ** 0.5,
        prediction=config.prediction_type,
        threshold=threshold if config.thresholding else None,
        **options,
    )


def _ddim(config: Mapping[str, Any], steps: int) -> Schedule:
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
    last = [levels[t] if t >= 0 else scheduler.final_alpha_cumprod for t in after]
    clip = scheduler.config.clip_sample_range if scheduler.config.clip_sample else None
    return _of_noise(scheduler, levels[scheduler.timesteps], torch.stack(last), clip=clip)


def _euler(config: Mapping[str, Any], steps: int) -> Schedule:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config(dict(config))
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas
    return Schedule(
        timesteps=scheduler.timesteps,
        alpha=torch.ones_like(sigmas[:-1]),
        sigma=sigmas[:-1],
        alpha_next=torch.ones_like(sigmas[1:]),
        sigma_next=sigmas[1:],
        prediction=scheduler.config.prediction_type,
        scaled=True,
        initial_scale=float(scheduler.init_noise_sigma),
    )


def _dpm(config: Mapping[str, Any], steps: int, order: int = 1) -> Schedule:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(
        dict(config), solver_order=order, solver_type="midpoint", algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(steps)
    alpha_bar, found = 1 / (scheduler.sigmas**2 + 1), scheduler.config
    settles = steps < _FEW or found.euler_at_final or found.final_sigmas_type == "zero"
    return _of_noise(scheduler, alpha_bar[:-1], alpha_bar[1:], order=order, settles=settles)


def _flow(
    config: Mapping[str, Any], steps: int, grid: tuple[int, int] | None, rules: ScheduleRules
) -> Schedule:
    """Build the table of a flow; the grid decides where settings ask for a dynamic shift.

    Raises:
        ValueError: If the settings ask for what is not supported.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind = str(config.get("_class_name"))
    if kind != "FlowMatchEulerDiscreteScheduler" or config.get("stochastic_sampling"):
        raise ValueError(
            f"The scheduler {kind} with these settings is not supported for flow-matching models. "
            "Use a FlowMatchEulerDiscreteScheduler without stochastic sampling."
        )
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    even = np.linspace(1.0, 1 / steps, steps) if rules.even else None
    shift = _shift(config, grid, rules.patch) if config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(steps, sigmas=even, mu=shift)
    sigma, sigma_next = scheduler.sigmas[:-1], scheduler.sigmas[1:]
    return Schedule(
        scheduler.timesteps, 1 - sigma, sigma, 1 - sigma_next, sigma_next, prediction="flow"
    )


def _shift(config: Mapping[str, Any], grid: tuple[int, int] | None, patch: int) -> float:
    """Return how far the table is shifted towards noise: the more, the larger the picture."""
    if grid is None:
        raise ValueError("This model's steps depend on the picture's size; give its latents' size.")
    positions = (grid[0] // patch) * (grid[1] // patch)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (many - few)
    return float(positions * slope + (least - slope * few))
