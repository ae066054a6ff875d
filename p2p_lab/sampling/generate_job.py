"""`generate`: a picture from a prompt and a seed, with its attention recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from p2p_lab.attention import AttentionTape, BatchSlices, Controller, Site, attached, find_sites
from p2p_lab.devices import cpu_by_default
from p2p_lab.models import Denoiser
from p2p_lab.sampling.loop import (
    CancelToken,
    GuidedConditioning,
    OnStep,
    RunCallbacks,
    bar,
    check_finite,
    denoise,
)
from p2p_lab.sampling.runs import Run, Trajectory, checked_seed, noise_of
from p2p_lab.sampling.schedules import Sampler
from p2p_lab.sampling.settings import Record, Settings, Size
from p2p_lab.sampling.tape_budget import new_tapes
from p2p_lab.tokens import Prompt


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
    self_maps: bool = ...,
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
    self_maps: bool = ...,
    tape_budget: int | None = ...,
    progress: bool = ...,
    on_step: OnStep | None = ...,
    cancel: CancelToken | None = ...,
) -> list[Run]: ...


@cpu_by_default()
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
    self_maps: bool = False,
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
        sampler: "ddim", "euler", "dpm++" (first order) or "dpm++2m" (second).
        latents: First noise (1, C, h, w) or (B, C, h, w) instead of a draw from the seeds, of which
            only the number counts then.
        self_maps: Keep mean self-attention (up to 16×16 positions) without a tape; with a tape it
            can be computed afterwards.
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
    prompt = model.prompt(text)
    settings = Settings.of(model, steps, guidance_scale, size, record, sampler)
    alone, seeds = seeds_of(seed)
    job = GenerateJob(
        model=model,
        prompt=prompt,
        negative=negative,
        seeds=[None] * len(seeds) if latents is not None else [*seeds],
        noise=_first_noise(seeds, latents, settings),
        settings=settings,
        self_maps=self_maps,
        tape_budget=tape_budget,
    )
    runs = job.run(RunCallbacks(on_step, cancel, progress))
    return runs[0] if alone else runs


def seeds_of(seed: Any) -> tuple[bool, list[int]]:
    """Return whether one picture is asked for, and the seeds as plain numbers.

    Raises:
        ValueError: If it is neither a seed nor a list of seeds.
    """
    several = isinstance(seed, (list, tuple, range)) or getattr(seed, "ndim", 0) == 1
    return not several, [checked_seed(one) for one in (seed if several else [seed])]


@dataclass(eq=False)
class GenerateJob:
    """Do one call of `generate`, whose settings were checked before."""

    model: Denoiser
    prompt: Prompt
    negative: str
    seeds: list[int | None]
    noise: Tensor
    settings: Settings
    self_maps: bool
    tape_budget: int | None

    def run(self, callbacks: RunCallbacks) -> list[Run]:
        """Draw the pictures and freeze what was recorded."""
        model, settings, count = self.model, self.settings, len(self.seeds)
        sites = find_sites(model.module, settings.latent_shape[1:])
        offset = count if settings.guidance_scale > 1 else 0
        controller = Controller(
            sites,
            BatchSlices(source=slice(offset, offset + count)),
            keep=self._tapes(sites),
            record=settings.record != "none",
            record_self=self.self_maps and settings.record != "none",
        )
        latents = self.noise.to(model.device, model.dtype) * settings.schedule.initial_scale
        with model.lock, torch.no_grad(), attached(model.module, controller, sites):
            steps = denoise(
                model,
                settings.schedule,
                latents,
                self._conditioning(),
                controller,
                after_step=lambda _, z: controller.end_step(z, None),
                callbacks=callbacks,
            )
            history = [latents, *bar(steps, settings.steps, show=callbacks.progress)]
            pixels = model.decode(history[-1])
            begun = float(self.noise.abs().max())
            check_finite(pixels, begun, self._conditioning(), controller, "while decoding")
        return self._results(controller, history, pixels)

    def _tapes(self, sites: dict[str, Site]) -> list[AttentionTape]:
        settings, count = self.settings, len(self.seeds)
        if settings.record != "tape":
            return []
        budget = self.tape_budget
        return new_tapes(self.model, sites, settings.steps, pictures=count, budget=budget)

    def _conditioning(self) -> GuidedConditioning:
        count, size = len(self.seeds), self.settings.size
        return GuidedConditioning(
            self.model.encode_prompt(self.prompt, size).expand(count),
            self.model.encode_negative(self.negative, size).expand(count),
            self.settings.guidance_scale,
        )

    def _results(self, controller: Controller, history: list[Tensor], pixels: Tensor) -> list[Run]:
        model, settings, tapes = self.model, self.settings, controller.keep
        stores = controller.stores(self.prompt, model.card.map_sites)
        return [
            Run(
                prompt=self.prompt,
                pixels=pixels[b].cpu(),
                trajectory=Trajectory(torch.stack([z[b] for z in history])),
                negative=self.negative,
                seed=seed,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                attention=stores[b] if settings.record != "none" else None,
                tape=tapes[b] if tapes else None,
                model=model,
                model_name=model.name,
            )
            for b, seed in enumerate(self.seeds)
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
