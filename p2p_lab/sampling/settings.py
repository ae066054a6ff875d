"""The settings of one call, checked before any sampling."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from p2p_lab.attention import AttentionTape, Site
from p2p_lab.models import Denoiser
from p2p_lab.sampling.schedules import Sampler, Schedule, schedule_for
from p2p_lab.sampling.tape_budget import new_tapes

Record = Literal["tape", "store", "none"]
MOST_PIXELS = 2**16  # a side
Size = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class Settings:
    """The checked settings of one call, with the model's defaults filled in."""

    steps: int
    guidance_scale: float
    size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    record: Record
    sampler: Sampler
    schedule: Schedule

    @staticmethod
    def of(
        model: Denoiser,
        steps: int | None,
        guidance_scale: float | None,
        size: Size | None,
        record: Record,
        sampler: Sampler,
    ) -> Settings:
        """Check settings before any sampling.

        Raises:
            ValueError: With a sentence that says what was wrong, what was got and what to do.
        """
        defaults = model.defaults
        steps = _whole(defaults.steps if steps is None else steps)
        scale = check_guidance(
            defaults.guidance_scale if guidance_scale is None else guidance_scale
        )
        if size is None:
            size = (defaults.height, defaults.width)
        full = _height_and_width(size)
        if record not in get_args(Record):
            raise ValueError(f"record={record!r} is not known; use one of {get_args(Record)}.")
        shape = model.latent_shape(full)
        schedule = schedule_for(model, sampler, steps, shape[1:])
        return Settings(steps, scale, full, shape, record, sampler, schedule)

    def new_tapes(
        self,
        model: Denoiser,
        sites: Mapping[str, Site],
        count: int = 1,
        budget: int | None = None,
    ) -> list[AttentionTape]:
        """Make the empty tapes that are asked for, one a picture; none if they do not fit."""
        if self.record != "tape":
            return []
        return new_tapes(model, sites, self.steps, pictures=count, budget=budget)


def _whole(steps: int) -> int:
    """Return numbers of NumPy and torch as Python's own; what is no whole number as it is."""
    if isinstance(steps, bool):
        return steps
    try:
        return operator.index(steps)
    except (TypeError, ValueError):
        return steps


def check_guidance(scale: float) -> float:
    """Return the guidance scale if it is a finite number of at least 1.

    Raises:
        ValueError: If it is not.
    """
    try:
        number = math.nan if isinstance(scale, (bool, str)) else float(scale)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # arrays; 10**400; tensors
        number = math.nan
    if not math.isfinite(number) or number < 1:
        raise ValueError(
            f"guidance_scale={scale!r:.80} is not possible: give a number from 1 on "
            "(no guidance, which is 0 in diffusers). 3 to 10 are usual."
        )
    return scale if isinstance(scale, (int, float)) else number


def _height_and_width(size: Size) -> tuple[int, int]:
    """Return a size as (height, width); one whole number is a square.

    Raises:
        ValueError: If it is neither.
    """
    parts = size if isinstance(size, (tuple, list)) else (size, size)
    try:
        height, width = (operator.index(part) for part in parts if not isinstance(part, bool))
    except (TypeError, ValueError):
        height = width = 0
    if not (0 < height <= MOST_PIXELS and 0 < width <= MOST_PIXELS):
        raise ValueError(
            f"size={size!r:.80} is not possible: give a whole number of pixels for a square, or "
            "(height, width), both positive multiples of what the model works in."
        )
    return height, width
