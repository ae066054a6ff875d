"""The settings of one call, checked before any sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from p2p_lab.models import Denoiser
from p2p_lab.sampling.schedules import Sampler, Schedule, make_schedule

Record = Literal["tape", "store", "none"]
Size = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class Settings:
    """Hold the checked settings of one call, with the model's defaults filled in."""

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
        usual = model.defaults
        steps = usual.steps if steps is None else steps
        scale = check_guidance(usual.guidance_scale if guidance_scale is None else guidance_scale)
        if size is None:
            size = (usual.height, usual.width)
        full = (size, size) if isinstance(size, int) else (size[0], size[1])
        if record not in get_args(Record):
            raise ValueError(f"record={record!r} is not known; use one of {get_args(Record)}.")
        shape = model.latent_shape(full)
        schedule = make_schedule(model.scheduler_config, sampler, steps, shape[1:])
        return Settings(steps, scale, full, shape, record, sampler, schedule)


def check_guidance(scale: float) -> float:
    """Return the guidance scale if it is a finite number of at least 1.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale < 1:
        raise ValueError(
            f"guidance_scale={scale!r} is not possible: give a number from 1 on "
            "(no guidance, which is 0 in diffusers). 3 to 10 are usual."
        )
    return scale
