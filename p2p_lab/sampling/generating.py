"""`generate`: a picture from a prompt and a seed, with its attention recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.attention import BatchSlices, Controller, find_sites
from p2p_lab.devices import cpu_by_default
from p2p_lab.models import Denoiser
from p2p_lab.models.denoiser import checked_model
from p2p_lab.sampling.loop import (
    CancelToken,
    GuidedConditioning,
    OnStep,
    RunCallbacks,
    SamplingJob,
)
from p2p_lab.sampling.runs import Run, Trajectory, checked_seed, noise_of
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.sampling.settings import Record, Settings, Size
from p2p_lab.sampling.tape_budget import checked_budget


def generate(
    model: Denoiser,
    text: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    size: Size | None = None,
    record: Record = "tape",
    sampler: Sampler = "ddim",
    latents: Tensor | None = None,
    self_maps: bool = False,
    tape_budget: int | None = None,
    progress: bool = False,
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Make a picture of a text, and keep what is needed to look into it and to edit it.

    Args:
        model: A denoiser, from `load`.
        text: The prompt.
        seed: What the first noise is drawn from; `generate_many` takes several.
        steps: Number of denoising steps T; None takes the model's default.
        guidance_scale: Strength of classifier-free guidance, 1 for none; None: the model's.
        negative: Negative prompt: what guidance leads away from.
        size: Picture size, an int for squares or (height, width); None takes the model's.
        record: "tape" keeps mean maps and what edits need, "store" mean maps, "none" nothing.
            The picture is the same, bit for bit.
        sampler: "ddim", "euler", "dpm++" (first order) or "dpm++2m" (second).
        latents: First noise (1, C, h, w) instead of a draw from the seed.
        self_maps: Keep mean self-attention (up to 16×16 positions) without a tape; with a tape it
            can be computed afterwards.
        tape_budget: Bytes that the tape may take; None is a quarter of the free memory.
        progress: Show a progress bar.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, such as a `threading.Event`, asked before each step.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If the run was cancelled.
    """
    several: Any = seed
    if isinstance(several, (list, tuple, range)) or getattr(several, "ndim", 0) > 0:
        raise ValueError(
            f"seed={seed!r:.80} is several: `generate` makes one picture. Use "
            "generate_many(model, text, seeds), which gives a list of runs."
        )
    return generate_many(
        model,
        text,
        [seed],
        steps=steps,
        guidance_scale=guidance_scale,
        negative=negative,
        size=size,
        record=record,
        sampler=sampler,
        latents=latents,
        self_maps=self_maps,
        tape_budget=tape_budget,
        progress=progress,
        on_step=on_step,
        cancel=cancel,
    )[0]


@cpu_by_default()
def generate_many(  # noqa: D417 - the others are those of `generate`
    model: Denoiser,
    text: str,
    seeds: Iterable[int],
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    size: Size | None = None,
    record: Record = "tape",
    sampler: Sampler = "ddim",
    latents: Tensor | None = None,
    self_maps: bool = False,
    tape_budget: int | None = None,
    progress: bool = False,
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> list[Run]:
    """Make a batch of pictures of a text, one a seed.

    Args:
        model: A denoiser, from `load`.
        text: The prompt.
        seeds: What each picture's first noise is drawn from.
        latents: First noise (B, C, h, w) instead of a draw from the seeds, of which only the
            number counts then. All further arguments are those of `generate`.

    Raises:
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If the run was cancelled.
    """
    prompt = checked_model(model).prompt(text)
    settings = Settings.of(model, steps, guidance_scale, size, record, sampler)
    budget = checked_budget(tape_budget)
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise ValueError(
            f"seeds={seeds!r:.80} is no list: give whole numbers from 0 on, as [1, 2, 3] or "
            "range(3). Use `generate` for one."
        )
    numbers = [checked_seed(seed) for seed in seeds]
    count = len(numbers)
    noise = _first_noise(numbers, latents, settings)
    with model.lock:
        conditioning = GuidedConditioning(
            model.encode_prompt(prompt, settings.size).expand(count),
            model.encode_negative(negative, settings.size).expand(count),
            settings.guidance_scale,
        )
    sites = find_sites(model.module, settings.latent_shape[1:])
    offset = count if conditioning.guided else 0
    controller = Controller(
        sites,
        BatchSlices(source=slice(offset, offset + count)),
        keep=settings.new_tapes(model, sites, count, budget),
        record=record != "none",
        record_self=self_maps and record != "none",
    )
    history = [noise.to(model.device, model.dtype) * settings.schedule.initial_scale]
    pixels = SamplingJob(model, settings.schedule, controller, conditioning, count).run(
        history[0],
        history,
        after_step=lambda _, z: controller.end_step(z, None),
        callbacks=RunCallbacks(on_step, cancel, progress),
    )
    stores = controller.stores(prompt, model.card.map_sites)
    return [
        Run(
            prompt=prompt,
            pixels=pixels[b].cpu(),
            trajectory=Trajectory(torch.stack([z[b] for z in history])),
            negative=negative,
            seed=number if latents is None else None,
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
            attention=stores[b] if settings.record != "none" else None,
            tape=controller.keep[b] if controller.keep else None,
            model=model,
            model_name=model.name,
        )
        for b, number in enumerate(numbers)
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
