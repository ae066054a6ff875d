"""Null-text inversion: tune the empty prompt, step by step, until guidance retraces the picture.

    ∅_t = argmin ‖ z̃_{t−1}(z̄_t, ∅) − z*_{t−1} ‖²    (Mokady et al. 2022, arXiv 2211.09794, eq. 3)

z* are the latents that DDIM inversion measured (the pivots), z̃ is one guided DDIM step from where
the steps before have led. Only the embedding of the negative row is tuned; the weights stay as
they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from p2p_lab.inversion.jobs import InversionContext, is_within
from p2p_lab.models.damage import refuse_damaged


@dataclass(frozen=True)
class NullText:
    """The settings of null-text inversion; the defaults are the reference's.

    Attributes:
        inner_steps: Adam steps at most, for each denoising step.
        learning_rate: Adam's rate at the first step; it falls to half of this at the last one.
        goal: A step is done when its loss is below this plus `goal_growth`.
        goal_growth: What the goal gains over the whole schedule.
        checkpointing: Compute activations again on the way back instead of keeping them: a third
            of the memory for about a third more time (`null_text_memory` tells how much).
    """

    inner_steps: int = 10
    learning_rate: float = 1e-2
    goal: float = 1e-5
    goal_growth: float = 1e-3
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.inner_steps, Integral) and is_within(self.inner_steps, 0)):
            raise ValueError(
                f"inner_steps={self.inner_steps!r} is not possible: give a whole number of Adam's "
                "steps, from 0 on."
            )
        rate, goal, growth = self.learning_rate, self.goal, self.goal_growth
        possible = is_within(rate, 0) and rate > 0 and is_within(goal, 0)
        if not (possible and is_within(growth, -sys.float_info.max)):
            raise ValueError(
                "Null-text inversion needs learning_rate > 0, goal ≥ 0 and a goal_growth, all "
                f"finite, got {rate!r}, {goal!r} and {growth!r}."
            )

    def check(self, guidance_scale: float) -> None:
        """Raise if there is no guidance, so that the negative row plays no part."""
        if guidance_scale <= 1:
            raise ValueError(
                "Null-text inversion tunes what guidance leads away from, and guidance_scale="
                f"{guidance_scale} is none. Give one above 1, or use method='ddim'."
            )

    def rate_at(self, step: int, steps: int) -> float:
        """Return Adam's rate at a step: the reference's 1e-2 · (1 − i/100) for 50 steps."""
        return self.learning_rate * (1 - 0.5 * step / steps)

    def goal_at(self, step: int, steps: int) -> float:
        """Return the loss that is good enough: the reference's 1e-5 + 2e-5 · i for 50 steps."""
        return self.goal + self.goal_growth * step / steps


@dataclass(frozen=True, eq=False)
class NullTextResult:
    """What null-text inversion found.

    Attributes:
        embeds: The tuned embedding of the negative row at each step, (T, L, D).
        losses: For each step, the loss before every update and after the last one.
        latents: Where the guided steps lead with them, (T + 1, C, h, w).
    """

    embeds: Tensor
    losses: tuple[tuple[float, ...], ...]
    latents: Tensor


def null_text(
    job: InversionContext, pivots: Tensor, options: NullText | None = None
) -> NullTextResult:
    """Tune the negative embedding of every step so that guided sampling follows the pivots.

    Args:
        job: Model, schedule, texts, and the guidance to tune for.
        pivots: What `ddim_invert` measured, (T + 1, C, h, w).
        options: Settings; None takes the reference's.

    Raises:
        ValueError: If there is no guidance, so that the negative row plays no part.
    """
    options = options or NullText()
    options.check(job.guidance_scale)
    z, embed = pivots[:1], job.negative.tokens.to(_wide(job))
    history, embeds, losses = [z], [], []
    with checkpointing(job.model.module, on=options.checkpointing):
        for step in range(job.steps):
            best = _tune(job, z, embed, pivots[step + 1 : step + 2], step, options)
            z, embed = best.latents, best.embed
            history.append(z)
            embeds.append(embed)
            losses.append(tuple(best.losses))
            job.report.tick(partial(job.preview, best.before, best.noise_pred, step))
    return NullTextResult(torch.cat(embeds), tuple(losses), torch.cat(history))


def check_gradients(module: nn.Module, name: str) -> None:
    """Refuse weights that no gradient can pass.

    Raises:
        ValueError: If they were made in torch's inference mode.
    """
    if any(weight.is_inference() for weight in module.parameters()):
        raise ValueError(
            f"The weights of {name} were made inside torch.inference_mode(), so null-text "
            "inversion has no gradients. Make the pipeline outside of it, or use method='direct'."
        )


def null_text_step(
    job: InversionContext, latents: Tensor, positive_pred: Tensor, embed: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Take one guided DDIM step with a negative embedding of one's own; it has a gradient.

    Args:
        job: Model, schedule and guidance.
        latents: z̄_t, (1, C, h, w).
        positive_pred: What the denoiser says with the prompt, same shape.
        embed: The negative row's embedding, (1, L, D).
        step: 0 is the noisiest.

    Returns:
        z̃_{t−1} and the guided prediction, same shape as the latents.
    """
    schedule = job.schedule
    row = job.negative.with_tokens(embed.to(latents.dtype))
    z = schedule.model_input(latents, step)
    negative_pred = job.model.predict(z, schedule.timesteps[step], row)
    noise_pred = negative_pred + job.guidance_scale * (positive_pred - negative_pred)
    return schedule.advance(latents, noise_pred, step), noise_pred


@dataclass(eq=False)
class _Best:
    """The best embedding of one step so far, and what it leads to."""

    before: Tensor
    loss: float
    embed: Tensor
    latents: Tensor
    noise_pred: Tensor
    losses: list[float]


def _tune(
    job: InversionContext,
    latents: Tensor,
    embed: Tensor,
    pivot: Tensor,
    step: int,
    options: NullText,
) -> _Best:
    """Tune one step's embedding with Adam.

    The reference updates first and asks for the goal afterwards, and keeps the last embedding. Here
    the goal is asked for first and the best one is kept, so the loss can only fall.
    """
    with torch.no_grad():
        positive_pred = job.predict(latents, step)
    variable = embed.clone().requires_grad_(True)
    adam = torch.optim.Adam([variable], lr=options.rate_at(step, job.steps))
    best = _Best(latents, float("inf"), embed, latents, positive_pred, [])
    for inner in range(options.inner_steps + 1):
        job.report.check()
        last = inner == options.inner_steps
        with torch.set_grad_enabled(not last):
            z, noise_pred = null_text_step(job, latents, positive_pred, variable, step)
            error = (z - pivot).to(variable.dtype).square()
        loss = float(error.detach().mean())
        best.losses.append(loss)
        if loss < best.loss:
            best.loss, best.embed = loss, variable.detach().clone()
            best.latents, best.noise_pred = z.detach(), noise_pred.detach()
        if last or loss < options.goal_at(step, job.steps):
            break
        # The sum's gradient is not lost in half precision, as that of the mean would be.
        (gradient,) = torch.autograd.grad(error.sum(), variable)
        variable.grad = gradient / error.numel()
        adam.step()
    if best.loss == float("inf"):
        refuse_damaged(job.model, "inversion")
        raise ValueError(
            f"Null-text inversion met numbers that are not finite at step {step}: the model "
            "overflows in this precision. Load it with dtype=torch.float32 or torch.bfloat16."
        )
    return best


@contextmanager
def checkpointing(module: nn.Module, *, on: bool) -> Iterator[None]:
    """Let a denoiser compute its activations again on the way back, inside the block."""
    host: Any = module
    if not on or getattr(host, "is_gradient_checkpointing", False):
        yield
        return
    host.enable_gradient_checkpointing()
    try:
        yield
    finally:
        host.disable_gradient_checkpointing()


def _wide(job: InversionContext) -> torch.dtype:
    """Return the precision of the embedding while it is tuned: float32 or wider."""
    return torch.promote_types(job.model.dtype, torch.float32)
