"""`generate`: a picture from a prompt and a seed, with its attention recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, overload

import torch
from torch import Tensor

from p2p_lab.attention import (
    AttentionStore,
    AttentionTape,
    Controller,
    Rows,
    RunningMaps,
    Site,
    find_sites,
)
from p2p_lab.models import Denoiser
from p2p_lab.sampling.loop import CancelToken, OnStep, Texts, Watch, bar, session, walk
from p2p_lab.sampling.memory import choose_tape
from p2p_lab.sampling.runs import Run, Trajectory, noise_of
from p2p_lab.sampling.schedules import Sampler, Schedule, make_schedule
from p2p_lab.tokens import Prompt

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
        schedule = make_schedule(model.scheduler_config, sampler, steps)
        return Settings(steps, scale, full, shape, record, sampler, schedule)


@overload
def generate(
    model: Denoiser,
    text: str,
    *,
    seed: int = ...,
    steps: int | None = ...,
    guidance_scale: float | None = ...,
    negative: str = ...,
    size: Size | None = ...,
    record: Record = ...,
    sampler: Sampler = ...,
    latents: Tensor | None = ...,
    tape_budget: int | None = ...,
    progress: bool = ...,
    on_step: OnStep | None = ...,
    cancel: CancelToken | None = ...,
) -> Run: ...


@overload
def generate(
    model: Denoiser,
    text: str,
    *,
    seed: Sequence[int],
    steps: int | None = ...,
    guidance_scale: float | None = ...,
    negative: str = ...,
    size: Size | None = ...,
    record: Record = ...,
    sampler: Sampler = ...,
    latents: Tensor | None = ...,
    tape_budget: int | None = ...,
    progress: bool = ...,
    on_step: OnStep | None = ...,
    cancel: CancelToken | None = ...,
) -> list[Run]: ...


def generate(
    model: Denoiser,
    text: str,
    *,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    size: Size | None = None,
    record: Record = "tape",
    sampler: Sampler = "ddim",
    latents: Tensor | None = None,
    tape_budget: int | None = None,
    progress: bool = False,
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run | list[Run]:
    """Make a picture of a text, and keep what is needed to look into it and to edit it.

    Args:
        model: A denoiser, from `load`.
        text: The prompt.
        seed: What the first noise is drawn from; several seeds make a batch and give a list.
        steps: Number of denoising steps T; None takes the model's default.
        guidance_scale: Strength of classifier-free guidance, 1 for none; None: the model's.
        negative: Negative prompt: what guidance leads away from.
        size: Picture size, an int for squares or (height, width); None takes the model's.
        record: "tape" keeps mean maps and what edits need, "store" mean maps, "none" nothing.
            The picture is the same, bit for bit.
        sampler: "ddim", "euler" or "dpm++" (first order).
        latents: First noise (1, C, h, w) or (B, C, h, w) instead of a draw from the seeds.
        tape_budget: Bytes that tapes may take; None is a quarter of the free memory.
        progress: Show a progress bar.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, such as a `threading.Event`, asked before each step.

    Returns:
        A `Run`, or a list of them for several seeds.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If the run was cancelled.
    """
    prompt, settings = (
        model.prompt(text),
        Settings.of(model, steps, guidance_scale, size, record, sampler),
    )
    seeds = [seed] if isinstance(seed, int) else list(seed)
    noise = _first_noise(seeds, latents, settings)
    watch = Watch(on_step, cancel, progress)
    runs = _run(model, prompt, negative, seeds, noise, settings, tape_budget, watch)
    return runs[0] if isinstance(seed, int) else runs


def check_guidance(scale: float) -> float:
    """Return the guidance scale if it is a finite number of at least 1.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale < 1:
        raise ValueError(
            f"guidance_scale={scale!r} is not possible: give a number from 1 (no guidance) on. "
            "3 to 10 are usual."
        )
    return scale


def split_maps(
    maps: RunningMaps,
    originals: RunningMaps,
    prompt: Prompt,
    sites: Mapping[str, Site],
    tapes: Sequence[AttentionTape],
    preferred: tuple[str, ...],
    pictures: int,
) -> list[AttentionStore]:
    """Freeze a batch's running maps to one store a picture."""
    return [
        AttentionStore(
            prompt=prompt,
            sites=sites,
            means=maps.of(b),
            originals=originals.of(b),
            tape=tapes[b] if tapes else None,
            preferred=preferred,
        )
        for b in range(pictures)
    ]


def _first_noise(seeds: Sequence[int], latents: Tensor | None, settings: Settings) -> Tensor:
    if not seeds:
        raise ValueError("No seed was given: seed is a whole number or a sequence of them.")
    shape = (1, *settings.latent_shape)
    if latents is None:
        return torch.cat([noise_of(seed, shape) for seed in seeds])  # (B, C, h, w)
    if latents.shape != (len(seeds), *shape[1:]):
        raise ValueError(
            f"latents has shape {tuple(latents.shape)}, expected {(len(seeds), *shape[1:])} for "
            f"{len(seeds)} picture(s) of {settings.size[0]}×{settings.size[1]}."
        )
    if not latents.is_floating_point() or not torch.isfinite(latents).all():
        raise ValueError("latents must be finite floating-point numbers, as torch.randn draws.")
    return latents


def _run(
    model: Denoiser,
    prompt: Prompt,
    negative: str,
    seeds: Sequence[int],
    noise: Tensor,
    settings: Settings,
    tape_budget: int | None,
    watch: Watch,
) -> list[Run]:
    count, steps = len(seeds), settings.steps
    sites = find_sites(model.module, settings.latent_shape[1:])
    tapes: list[AttentionTape] = []
    if settings.record == "tape":
        kept = choose_tape(model, sites, steps, pictures=count, budget=tape_budget)
        tapes = [AttentionTape(model.name, kept, steps) for _ in seeds] if kept else []
    offset = count if settings.guidance_scale > 1 else 0
    rows = Rows(source=slice(offset, offset + count))
    controller = Controller(sites, rows, keep=tapes, record=settings.record != "none")
    schedule = settings.schedule
    latents = noise.to(model.device, model.dtype) * schedule.initial_scale
    with session(model, controller, sites):
        texts = Texts(
            model.encode_prompt(prompt, settings.size).expand(count),
            model.encode_negative(negative, settings.size).expand(count),
            settings.guidance_scale,
        )

        def after_step(_: int, z: Tensor) -> Tensor:
            return controller.end_step(z, None)

        states = walk(
            model, schedule, latents, texts, controller, after_step=after_step, watch=watch
        )
        path = [latents, *bar(states, steps, show=watch.progress)]
        pixels = model.decode(path[-1])
    stores = split_maps(
        controller.state.source, controller.state.original, prompt, sites, tapes,
        model.card.map_sites, count,
    )  # fmt: skip
    return [
        Run(
            prompt=prompt,
            pixels=pixels[b].cpu(),
            trajectory=Trajectory(torch.stack([z[b] for z in path])),
            negative=negative,
            seed=seeds[b],
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
            attention=stores[b] if settings.record != "none" else None,
            tape=tapes[b] if tapes else None,
            model=model,
            model_name=model.name,
        )
        for b in range(count)
    ]
