"""The denoising loop: predict, guide, step, tell the controller.

    ε̂ = ε(z, negative) + s · (ε(z, text) − ε(z, negative))

`generate`, `edit` and `invert` all go through it. The loop owns the step number. It knows nothing
of plans; what happens to the latents after a step is a function that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from p2p_lab.attention import Controller, attached
from p2p_lab.images import to_image
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.models.damage import refuse_damaged
from p2p_lab.sampling.schedules import Schedule

if TYPE_CHECKING:
    from PIL.Image import Image

Preview = Callable[[], "Image"]
OnStep = Callable[[int, int, Preview], None]


class Cancelled(RuntimeError):
    """A run was stopped between two steps."""


class CancelToken(Protocol):
    """Anything that can be asked whether to stop, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether the run should stop."""


@dataclass(frozen=True)
class RunCallbacks:
    """How a run reports and is stopped.

    Attributes:
        on_step: Called after every step with its number, the total, and a function that makes a
            preview. It may raise `Cancelled`.
        cancel: Asked before every step.
        progress: Show a progress bar.
    """

    on_step: OnStep | None = None
    cancel: CancelToken | None = None
    progress: bool = False


@dataclass(frozen=True, eq=False)
class GuidedConditioning:
    """The texts of the conditional rows and of their unconditional partners.

    Attributes:
        positive: One row for each latent in the batch.
        negative: The same number of rows; not used without guidance.
        guidance: Guidance scale s of all rows, or one for each row (B, 1, 1, 1).
        negative_steps: Unconditional embeddings of each step, (T, B, L, D), or None.
    """

    positive: Conditioning
    negative: Conditioning
    guidance: float | Tensor
    negative_steps: Tensor | None = None

    @property
    def guided(self) -> bool:
        """Whether the unconditional rows are needed at all."""
        return isinstance(self.guidance, Tensor) or self.guidance > 1

    def at(self, step: int) -> Conditioning:
        """Return the conditioning of the whole batch at a step: negative rows first."""
        if not self.guided:
            return self.positive
        negative = self.negative
        if self.negative_steps is not None:
            negative = negative.with_tokens(self.negative_steps[step])
        return Conditioning.stack([negative, self.positive])


def predict(
    model: Denoiser,
    schedule: Schedule,
    latents: Tensor,
    conditioning: GuidedConditioning,
    step: int,
) -> Tensor:
    """Predict the noise of one step with classifier-free guidance (Ho and Salimans 2022).

    Args:
        model: The denoiser.
        schedule: The sampler with its times.
        latents: (B, C, h, w).
        conditioning: Conditioning of the B rows.
        step: 0 is the noisiest.

    Returns:
        Guided prediction, (B, C, h, w).
    """
    batch = torch.cat([latents] * 2) if conditioning.guided else latents
    batch = schedule.model_input(batch, step)
    noise_pred = model.predict(batch, schedule.timesteps[step], conditioning.at(step))
    if not conditioning.guided:
        return noise_pred
    negative, positive = noise_pred.chunk(2)
    return negative + conditioning.guidance * (positive - negative)


AfterStep = Callable[[int, Tensor], Tensor]


@dataclass(eq=False)
class SamplingJob:
    """A batch on its way through the schedule: what `generate`, `edit` and `invert` have in common.

    They differ in the rows of their batch, in what the controller does, and in the latents that
    each goes on with after a step.

    Attributes:
        model: The denoiser.
        schedule: The sampler with its times.
        controller: Records, and steers where there is a plan; it is told each step.
        conditioning: The texts of all rows.
        count: Number of pictures B, the last rows of the batch, whose latents are kept.
        noise_maps: Noise added after each step, (T, rows, C, h, w), or None.
        cleans: Clean estimates of the steps so far, which a sampler of second order needs.
    """

    model: Denoiser
    schedule: Schedule
    controller: Controller
    conditioning: GuidedConditioning
    count: int
    noise_maps: Tensor | None = None
    cleans: list[Tensor] = field(default_factory=list)

    def run(
        self,
        latents: Tensor,
        history: list[Tensor],
        *,
        after_step: AfterStep,
        first: int = 0,
        callbacks: RunCallbacks = RunCallbacks(),  # noqa: B008 - frozen
    ) -> Tensor:
        """Denoise step by step, and decode what came out.

        Args:
            latents: All rows before step `first`, (rows, C, h, w).
            history: The pictures' latents up to there, (B, C, h, w) each; those after each step
                are added.
            after_step: Given the step and all rows' new latents, returns those to go on with.
            first: First step to take; T takes none.
            callbacks: How to report, and when to stop.

        Returns:
            Pixels (B, 3, H, W).

        Raises:
            Cancelled: If `callbacks` asks to stop.
            ValueError: If a number becomes NaN or infinite.
        """
        model, schedule, controller = self.model, self.schedule, self.controller
        begun = float(latents.abs().max()) / schedule.initial_scale
        with model.lock, torch.no_grad(), attached(model.module, controller, controller.sites):
            for step in _bar(range(first, schedule.steps), show=callbacks.progress):
                if callbacks.cancel is not None and callbacks.cancel.is_set():
                    raise Cancelled(
                        f"The run was cancelled before step {step} of {schedule.steps}."
                    )
                controller.begin_step(step)
                noise_pred = predict(model, schedule, latents, self.conditioning, step)
                before, latents = latents, self._advance(latents, noise_pred, step)
                latents = after_step(step, latents)
                self._check_finite(latents, begun, step)
                if callbacks.on_step is not None:
                    preview = _previewer(model, schedule, before, noise_pred, step)
                    callbacks.on_step(step, schedule.steps, preview)
                history.append(latents[-self.count :])
            pixels = model.decode(history[-1])
            check_decoded(model, pixels, history[-1])
        return pixels

    def _advance(self, latents: Tensor, noise_pred: Tensor, step: int) -> Tensor:
        """Take the sampler's step."""
        noise = None if self.noise_maps is None else self.noise_maps[step]
        previous = self.cleans[-1] if self.cleans else None
        if self.schedule.order == 2:
            self.cleans.append(self.schedule.clean(latents, noise_pred, step))
        return self.schedule.advance(latents, noise_pred, step, noise=noise, previous=previous)

    def _check_finite(self, latents: Tensor, begun: float, step: int) -> None:
        """Refuse to go on with what is no number, and name what can cause it.

        Args:
            latents: After the step.
            begun: Largest of the first latents, in units of standard noise.
            step: For the message.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        if bool(torch.isfinite(latents).all()):
            return
        refuse_damaged(self.model, "picture")
        plan, guidance = self.controller.plan, torch.as_tensor(self.conditioning.guidance).max()
        gain = 1.0
        if plan is not None:
            gain = float((plan.source_gain.abs() + plan.target_gain.abs()).max())
        raise ValueError(
            f"The numbers grew too large to compute with after step {step}, so there is no "
            f"picture. The settings that can cause it: guidance_scale={float(guidance):.4g}, the "
            f"largest scale of a Reweight {gain:.4g}, the largest of the first latents "
            f"{begun:.4g}, precision {latents.dtype}. Usual are 1 to 20, -10 to 10, 5, and "
            "float32: lower what lies outside, or load the model with dtype=torch.float32."
        )


def check_decoded(model: Denoiser, pixels: Tensor, latents: Tensor) -> None:
    """Refuse pixels that are no numbers, though the latents (B, C, h, w) that made them are.

    Raises:
        ValueError: If a pixel is NaN or infinite.
    """
    if bool(torch.isfinite(pixels).all()):
        return
    refuse_damaged(model, "picture")
    raise ValueError(
        "Numbers that are not finite came up while the picture was decoded, so there is none: its "
        f"latents are too large (up to {float(latents.abs().max()):.4g}; usual are 1 to 10), or "
        f"the autoencoder overflows in {latents.dtype} or is damaged. Lower guidance and weights, "
        "load the model with dtype=torch.float32, or take another copy of it."
    )


def _previewer(
    model: Denoiser, schedule: Schedule, latents: Tensor, noise_pred: Tensor, step: int
) -> Preview:
    """Return a function that draws what the last row of the batch is becoming: decoded ẑ_0."""

    def preview() -> Image:
        return to_image(model.decode(schedule.clean(latents[-1:], noise_pred[-1:], step))[0])

    return preview


def _bar(steps: range, *, show: bool) -> Iterable[int]:
    """Show a progress bar beside the steps, if asked to."""
    if not show:
        return steps
    from tqdm.auto import tqdm

    shown: Iterable[int] = tqdm(steps, desc="denoising")
    return shown
