"""What the rivals share: checked settings, guided estimates, and a `Run` in the end.

A rival asks the denoiser for estimates of picture and noise in one or several latents at a step,
each under a text and a guidance, and says where its edit has led. The maps of the edited row are
recorded as in any other run. This file knows no method.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from p2p_lab.attention import BatchSlices, Controller, Site, attached, find_sites
from p2p_lab.attention.tap import AttentionHandler
from p2p_lab.images import to_image
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.rivals.levels import Estimate, Levels
from p2p_lab.sampling import Cancelled, Run, RunCallbacks, Trajectory, noise_of
from p2p_lab.sampling.editing import model_of
from p2p_lab.sampling.loop import CancelToken, OnStep
from p2p_lab.sampling.runs import EditCache, checked_seed
from p2p_lab.sampling.settings import Record, Settings, check_guidance
from p2p_lab.tokens import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


class Branch(NamedTuple):
    """One question to the denoiser: latents (1, C, h, w) under a text, with a guidance scale."""

    latents: Tensor
    text: Conditioning
    guidance: float


@dataclass(eq=False)
class RivalJob:
    """Do one edit by a rival's rule, whose settings were checked before.

    Attributes:
        name: The method's name, for messages.
        source: The run to edit.
        model: Its denoiser.
        target: The target prompt.
        settings: Steps, guidance, schedule, what to record.
        sites: The denoiser's attention layers.
        levels: Noise levels of the steps.
        source_text: The source prompt, encoded: one row.
        target_text: The target prompt.
        negative: The negative prompt.
        seed: What noise is drawn from.
        callbacks: How to report, and when to stop.
        history: Latents before each step and after the last one, (1, C, h, w) each.
        controller: Records the maps of the edited row; made with the first estimate.
    """

    name: str
    source: Run
    model: Denoiser
    target: Prompt
    settings: Settings
    sites: Mapping[str, Site]
    levels: Levels
    source_text: Conditioning
    target_text: Conditioning
    negative: Conditioning
    seed: int
    callbacks: RunCallbacks
    history: list[Tensor] = field(default_factory=list)
    controller: Controller | None = None

    @staticmethod
    def of(
        name: str,
        source: Run,
        text: str,
        *,
        guidance_scale: float | None,
        seed: int = 0,
        record: Record,
        on_step: OnStep | None,
        cancel: CancelToken | None,
    ) -> RivalJob:
        """Check an edit's settings and encode its texts; nothing is sampled yet.

        Raises:
            ValueError: If the run has no model, or a setting does not fit.
        """
        model = model_of(source)
        if record == "tape":
            raise ValueError(f"{name} keeps no tape: record='store' or 'none' is possible.")
        scale = source.guidance_scale if guidance_scale is None else guidance_scale
        settings = Settings.of(model, source.steps, scale, source.size, record, "ddim")
        job = RivalJob(
            name=name,
            source=source,
            model=model,
            target=model.prompt(text),
            settings=settings,
            sites=find_sites(model.module, settings.latent_shape[1:]),
            levels=Levels.of(settings.schedule),
            source_text=model.encode_prompt(source.prompt, source.size),
            target_text=model.encode_prompt(model.prompt(text), source.size),
            negative=model.encode_negative(source.negative, source.size),
            seed=checked_seed(seed),
            callbacks=RunCallbacks(on_step, cancel),
        )
        noise = job.noise(0)
        job.history = [job.levels.noisy(job.clean, noise, k) for k in range(job.total)]
        job.history.append(job.clean)
        return job

    @property
    def total(self) -> int:
        """Number of steps T of the schedule."""
        return self.settings.steps

    @property
    def guidance(self) -> float:
        """Guidance of the target."""
        return self.settings.guidance_scale

    @property
    def clean(self) -> Tensor:
        """Return the source's latents z_0, (1, C, h, w)."""
        return self.source.trajectory.latents[-1:].to(self.model.device, self.model.dtype)

    def measured(self, step: int) -> Tensor:
        """Return the source's own latents before a step, (1, C, h, w)."""
        latents = self.source.trajectory.latents[step : step + 1]
        return latents.to(self.model.device, self.model.dtype)

    def noise(self, number: int) -> Tensor:
        """Draw standard noise, (1, C, h, w): another one for each number and seed."""
        seed = random.Random(f"{self.seed} {number}").getrandbits(62)
        noise = noise_of(seed, (1, *self.settings.latent_shape))
        return noise.to(self.model.device, self.model.dtype)

    def first(self, skip: float) -> int:
        """Return the first step that is run, if so large a share of the schedule is skipped.

        Raises:
            ValueError: If it is not from 0 to less than 1.
        """
        return min(round(check_share("skip", skip) * self.total), self.total - 1)

    def source_guidance(self, scale: float | None) -> float:
        """Return the source's guidance; None is the target's."""
        return self.guidance if scale is None else check_guidance(scale)

    def steps(self, first: int = 0) -> Iterator[int]:
        """Count the steps from `first`; between two of them ask whether to stop.

        Raises:
            Cancelled: If it was cancelled.
        """
        for step in range(first, self.total):
            self._check(step, self.total)
            yield step
            self._report(step, self.total, self.history[step + 1])

    def updates(self, count: int) -> Iterator[int]:
        """Count updates of the last latents, at whatever noise levels the method takes.

        Raises:
            Cancelled: If it was cancelled.
        """
        for update in range(count):
            self._check(update, count)
            yield update
            self._report(update, count, self.history[-1])

    def _check(self, step: int, total: int) -> None:
        if self.callbacks.cancel is not None and self.callbacks.cancel.is_set():
            raise Cancelled(f"{self.name} was cancelled before step {step} of {total}.")

    def _report(self, step: int, total: int, latents: Tensor) -> None:
        if self.controller is not None:
            self.controller.end_step(latents, None)
        if self.callbacks.on_step is not None:
            self.callbacks.on_step(step, total, self._preview(latents))

    @torch.no_grad()
    def estimate(
        self, step: int, *branches: Branch, steered_by: AttentionHandler | None = None
    ) -> list[Estimate]:
        """Estimate picture and noise in each branch's latents, with guidance.

        The rows are the negatives of the guided branches, then all branches; the last one is the
        edited picture, whose maps are recorded.

        Args:
            step: 0 is the noisiest.
            branches: What to ask.
            steered_by: What acts on the attention; None records only.
        """
        guided = [branch for branch in branches if branch.guidance > 1]
        rows = [*guided, *branches]
        texts = [self.negative] * len(guided) + [branch.text for branch in branches]
        handler = steered_by or self.recorder(len(rows))
        latents, time = torch.cat([row.latents for row in rows]), self.settings.schedule.timesteps
        with self.model.lock, attached(self.model.module, handler, self.sites):
            self.begin(step)
            predicted = self.model.predict(latents, time[step], Conditioning.stack(texts))
        negatives, found = iter(predicted[: len(guided), None]), []
        for branch, positive in zip(branches, predicted[len(guided) :, None], strict=True):
            if branch.guidance > 1:
                negative = next(negatives)  # (1, C, h, w)
                positive = negative + branch.guidance * (positive - negative)
            found.append(self.levels.split(branch.latents, positive, step))
        return found

    def begin(self, step: int) -> None:
        """Set the recorder's current step."""
        if self.controller is not None:
            self.controller.begin_step(step)

    def recorder(self, rows: int) -> Controller:
        """Return what records the last of so many rows; the same one at every step."""
        if self.controller is None:
            last = BatchSlices(source=slice(rows - 1, rows))
            wanted = self.settings.record != "none"
            self.controller = Controller(self.sites, last, record=wanted)
        return self.controller

    def finish(self, first: int, note: str) -> Run:
        """Decode where the edit has led, and freeze it.

        The trajectory holds noisy latents of the edited picture at every level, so the result can
        be edited again: it is pinned, as an inversion's is.

        Args:
            first: The first step that was run.
            note: What was done, in a sentence.

        Raises:
            ValueError: If the numbers grew too large to compute with.
        """
        latents, recorded = self.history[-1], self.settings.record != "none"
        with self.model.lock, torch.no_grad():
            pixels = self.model.decode(latents)
        if not (torch.isfinite(latents).all() and torch.isfinite(pixels).all()):
            raise ValueError(
                f"{self.name} led to numbers too large to compute with, so there is no picture. "
                f"Lower guidance_scale={self.guidance:g} or the method's own strength."
            )
        stores = self.controller.stores(self.target, self.model.card.map_sites) if (
            recorded and self.controller is not None
        ) else [None]  # fmt: skip
        return replace(
            self.source,
            prompt=self.target,
            pixels=pixels[0].cpu(),
            trajectory=Trajectory(torch.cat(self.history), pinned=True, start=first),
            guidance_scale=self.guidance,
            sampler="ddim",
            attention=stores[0],
            tape=None,
            plan=None,
            source=self.source,
            masks=None,
            note=note,
            cache=EditCache(),
        )

    def _preview(self, latents: Tensor) -> Any:
        def preview() -> Image:
            with self.model.lock, torch.no_grad():
                return to_image(self.model.decode(latents)[0])

        return preview


def check_share(name: str, value: float) -> float:
    """Return a share of the schedule if it is one.

    Raises:
        ValueError: If it is not from 0 to less than 1.
    """
    if not 0 <= value < 1:
        raise ValueError(
            f"{name}={value!r} is not possible: give a share of the schedule, from 0 to below 1."
        )
    return value


def check_end(name: str, value: float) -> float:
    """Return the end of a window that begins at noise, if it is one; 0 is no window.

    Raises:
        ValueError: If it is not from 0 to 1.
    """
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} is not possible: give the end of a window, 0 to 1.")
    return value


def check_number(name: str, value: float, least: float = 0.0) -> float:
    """Return a setting if it is a finite number of at least so much.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not math.isfinite(value) or value < least:
        raise ValueError(f"{name}={value!r} is not possible: give a number from {least:g} on.")
    return value


def check_count(name: str, value: int) -> int:
    """Return a setting if it is a whole number of at least 1.

    Raises:
        ValueError: If it is not.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}={value!r} is not possible: give a whole number from 1 on.")
    return count


def check_along(job: RivalJob) -> int:
    """Return the source's first step, for methods that go along the source's own latents.

    Raises:
        ValueError: If the source was drawn by another sampler than DDIM's.
    """
    if job.source.sampler != "ddim" and not job.levels.schedule.is_flow:
        raise ValueError(
            f"{job.name} goes along the source's own latents in DDIM's steps, and this source was "
            f"drawn with sampler={job.source.sampler!r}. Generate it with sampler='ddim'."
        )
    return job.source.trajectory.start
