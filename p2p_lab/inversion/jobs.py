"""What is the same at every step of one inversion, and how it reports and is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from p2p_lab.edits.places import is_number
from p2p_lab.images import to_image
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.sampling import (
    Cancelled,
    GuidedConditioning,
    RunCallbacks,
    predict,
)
from p2p_lab.sampling.schedules import Schedule
from p2p_lab.sampling.settings import Settings
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


def is_within(value: Any, low: float, below: float = math.inf) -> bool:
    """Return whether a setting is one finite number from `low` to less than `below`."""
    return is_number(value) and bool(low <= value < below)


@dataclass(eq=False)
class Report:
    """Count the steps of all parts of an inversion, tell them on, and ask whether to stop.

    Attributes:
        total: Steps of all parts together.
        watch: How to report, and when to stop.
        done: Steps done.
    """

    total: int = 0
    callbacks: RunCallbacks = field(default_factory=RunCallbacks)
    done: int = 0
    _bar: Any = None

    def check(self) -> None:
        """Raise `Cancelled` if the inversion is to stop."""
        if self.callbacks.cancel is not None and self.callbacks.cancel.is_set():
            raise Cancelled(f"The inversion was cancelled at step {self.done} of {self.total}.")

    def tick(self, preview: Callable[[], Image]) -> None:
        """Report that a step is done, with a function that draws what the picture now is."""
        if self.callbacks.progress:
            self._advance_bar()
        self.done += 1
        if self.callbacks.on_step is not None:
            self.callbacks.on_step(self.done - 1, self.total, preview)

    def part(self) -> RunCallbacks:
        """Return a watch for one part, whose steps count on from here."""
        return RunCallbacks(lambda step, total, preview: self.tick(preview), self.callbacks.cancel)

    def _advance_bar(self) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.total, desc="inverting")
        self._bar.update()
        if self._bar.n >= self.total:
            self._bar.close()


@dataclass(frozen=True, eq=False)
class InversionContext:
    """What is the same at every step of one inversion.

    Attributes:
        model: The denoiser.
        schedule: The DDIM table.
        positive: The source prompt, one row.
        negative: The negative prompt, one row.
        guidance_scale: Guidance of the reconstruction and of later edits.
        report: Counts and tells the steps.
    """

    model: Denoiser
    schedule: Schedule
    positive: Conditioning
    negative: Conditioning
    guidance_scale: float
    report: Report = field(default_factory=Report)

    @staticmethod
    def of(
        model: Denoiser,
        text: str | Prompt,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative: str = "",
        size: tuple[int, int] | None = None,
        report: Report | None = None,
    ) -> InversionContext:
        """Gather a job; what is not named is the model's default.

        Raises:
            ValueError: If the prompt or the number of steps does not fit the model.
        """
        settings = Settings.of(model, steps, guidance_scale, size, "none", "ddim")
        prompt = model.prompt(text) if isinstance(text, str) else text
        return InversionContext(
            model,
            settings.schedule,
            model.encode_prompt(prompt, settings.size),
            model.encode_negative(negative, settings.size),
            settings.guidance_scale,
            report or Report(),
        )

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.schedule.steps

    def conditioning(self, guidance_scale: float) -> GuidedConditioning:
        """Return the texts of one row at a guidance scale."""
        return GuidedConditioning(self.positive, self.negative, guidance_scale)

    def predict(self, latents: Tensor, step: int, guidance_scale: float = 1.0) -> Tensor:
        """Predict the noise (or velocity) of latents (1, C, h, w) at a step."""
        return predict(self.model, self.schedule, latents, self.conditioning(guidance_scale), step)

    def preview(self, latents: Tensor, output: Tensor, step: int) -> Image:
        """Draw ẑ_0: what the denoiser takes the picture to be in latents (1, C, h, w) at a step."""
        with torch.no_grad():
            return to_image(self.model.decode(self.schedule.clean(latents, output, step))[0])
