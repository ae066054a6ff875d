"""One edit at work: rows, conditioning, the loop, and the steps it shares with earlier edits.

Rows are [negatives, targets] with tapes and [negatives, sources, targets] without.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from p2p_lab.attention import (
    AttentionTape,
    BatchSlices,
    Controller,
    ControllerState,
    Site,
)
from p2p_lab.edits import EditPlan
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.sampling.loop import AfterStep, GuidedConditioning, RunCallbacks, SamplingJob
from p2p_lab.sampling.move_masks import resolve_move_masks
from p2p_lab.sampling.runs import EditCache, Run
from p2p_lab.sampling.settings import Record, Settings
from p2p_lab.tokens import Prompt

CACHE_BYTES = 256 * 2**20
CACHED_EDITS = 2


@dataclass(eq=False)
class EditCacheEntry:
    """Keep an edit's steps for the next edit of the same source.

    Attributes:
        plan: What was done.
        guidance_scale: With which guidance.
        record: With which records.
        latents: Before the first step and after each, (1, C, h, w).
        states: What the controller had recorded after each step.
        cleans: The clean estimates of the steps, if the sampler is of second order.
    """

    plan: EditPlan
    guidance_scale: float
    record: Record
    latents: list[Tensor]
    states: list[ControllerState]
    cleans: list[Tensor]

    def shared(self, plan: EditPlan, guidance_scale: float, record: Record) -> int:
        """Return how many first steps this edit shares with another one.

        A blend needs the source's maps from the first step on, which an edit without one does
        not compute.
        """
        if (self.guidance_scale, self.record) != (guidance_scale, record):
            return 0
        if (self.plan.blend is None) != (plan.blend is None):
            return 0
        return self.plan.shared_prefix(plan)


@dataclass(eq=False)
class EditJob:
    """Do one edit of a batch of sources, whose settings were checked before.

    Attributes:
        sources: The runs to edit, alike in everything but the seed.
        plan: The compiled edit.
        target: The target prompt.
        model: The denoiser.
        settings: Steps, guidance, sampler, what to record.
        sites: The denoiser's sites.
        tapes: One a source, or none: then the sources run beside the targets.
        cleans: The clean estimates of the steps, if the sampler is of second order.
    """

    sources: list[Run]
    plan: EditPlan
    target: Prompt
    model: Denoiser
    settings: Settings
    sites: dict[str, Site]
    tapes: list[AttentionTape]
    cleans: list[Tensor] = field(default_factory=list)

    @property
    def runs_sources(self) -> bool:
        """Whether the sources run beside the targets, for want of tapes."""
        return not self.tapes

    @property
    def count(self) -> int:
        """Number of pictures B."""
        return len(self.sources)

    def run(self, *, reuse: bool, callbacks: RunCallbacks, note: str) -> list[Run]:
        """Run the edit and freeze what came out."""
        keep = self.settings.new_tapes(self.model, self.sites, self.count)
        conditioning = self._conditioning()
        controller = Controller(
            self.sites,
            self._rows(conditioning),
            plan=resolve_move_masks(self.plan, self.sources) if self.plan.moves else self.plan,
            tapes=self.tapes,
            keep=keep,
            record=self.settings.record != "none",
        )
        share = reuse and not keep and not self.runs_sources and self.count == 1
        first, history, states = self._resume(controller) if share else self._start()
        measured = self._stacked("latents")
        assert measured is not None
        job = SamplingJob(
            self.model,
            self.settings.schedule,
            controller,
            conditioning,
            self.count,
            self._noise_maps(),
            self.cleans,
        )
        pixels = job.run(
            torch.cat([measured[first], history[-1]]) if self.runs_sources else history[-1],
            history,
            after_step=self._after_step(controller, measured, states if share else None),
            first=first,
            callbacks=callbacks,
        )
        if share:
            self._remember(history, states)
        return self._results(controller, history, pixels, note)

    def _after_step(
        self, controller: Controller, measured: Tensor, states: list[ControllerState] | None
    ) -> AfterStep:
        """Return what holds the sources on their way and lets the controller blend."""
        count, pinned = self.count, self.sources[0].trajectory.pinned

        def after_step(step: int, z: Tensor) -> Tensor:
            before = z[:count] if self.runs_sources and not pinned else measured[step + 1]
            new = controller.end_step(z[-count:], before)
            if states is not None:
                states.append(controller.state.copy())
            return torch.cat([before, new]) if self.runs_sources else new

        return after_step

    def _noise_maps(self) -> Tensor | None:
        """Return the noise added after each step to all rows, (T, rows, C, h, w)."""
        noise = self._stacked("noise_maps")
        return torch.cat([noise] * 2, dim=1) if noise is not None and self.runs_sources else noise

    def _conditioning(self) -> GuidedConditioning:
        """Encode the rows' texts: the targets', after the sources' in a joint run."""
        model, settings, source = self.model, self.settings, self.sources[0]
        positive = encode_target(model, self.plan, settings.size).expand(self.count)
        negative = model.encode_negative(source.negative, settings.size).expand(self.count)
        steps = self._stacked("negative_embeds")
        if not self.runs_sources:
            return GuidedConditioning(positive, negative, settings.guidance_scale, steps)
        source_text = model.encode_prompt(source.prompt, settings.size).expand(self.count)
        scale: float | Tensor = settings.guidance_scale
        if source.guidance_scale != scale:
            scales = [source.guidance_scale] * self.count + [settings.guidance_scale] * self.count
            scale = (
                torch.tensor(scales, dtype=torch.float32, device="cpu")
                .to(positive.tokens)
                .view(-1, 1, 1, 1)
            )
        return GuidedConditioning(
            Conditioning.stack([source_text, positive]),
            Conditioning.stack([negative, negative]),
            scale,
            None if steps is None else torch.cat([steps, steps], dim=1),
        )

    def _rows(self, conditioning: GuidedConditioning) -> BatchSlices:
        n, offset = self.count, conditioning.positive.tokens.shape[0] if conditioning.guided else 0
        if not self.runs_sources:
            return BatchSlices(target=slice(offset, offset + n))
        return BatchSlices(slice(offset, offset + n), slice(offset + n, offset + 2 * n))

    def _stacked(self, name: str) -> Tensor | None:
        """Put one tensor of all sources' trajectories side by side: axis 1 counts pictures."""
        parts = [getattr(source.trajectory, name) for source in self.sources]
        if parts[0] is None:
            return None
        return torch.stack(parts, dim=1).to(self.model.device, self.model.dtype)

    def _start(self) -> tuple[int, list[Tensor], list[ControllerState]]:
        """Start from the sources' first latents."""
        first = self.sources[0].trajectory.start
        measured = self._stacked("latents")
        assert measured is not None
        return first, list(measured[: first + 1]), []

    def _resume(self, controller: Controller) -> tuple[int, list[Tensor], list[ControllerState]]:
        """Start where this plan parts from the earlier edit that shares most steps with it."""
        settings, source = self.settings, self.sources[0]
        start = source.trajectory.start
        best, steps = None, start
        for entry in source.cache.entries:
            shared = entry.shared(self.plan, settings.guidance_scale, settings.record)
            if shared > steps:
                best, steps = entry, shared
        if best is None:
            return self._start()
        states = best.states[: steps - start]
        controller.state = states[-1].copy()
        self.cleans = best.cleans[: steps - start]
        return steps, best.latents[: steps + 1], list(states)

    def _remember(self, history: list[Tensor], states: list[ControllerState]) -> None:
        """Keep this edit's steps with the source, the newest first, if they are not too large."""
        if sum(state.nbytes for state in states) > CACHE_BYTES:
            return
        settings, cache = self.settings, self.sources[0].cache
        entry = EditCacheEntry(
            self.plan, settings.guidance_scale, settings.record, history, states, self.cleans
        )
        cache.entries = [entry, *cache.entries][:CACHED_EDITS]

    def _masks(self, recorded: list[Tensor]) -> list[Tensor]:
        """Return the blend's mask of every step; steps that were skipped had none."""
        if self.plan.blend is None or not recorded:
            return []
        return [torch.ones_like(recorded[-1])] * (self.plan.steps - len(recorded)) + recorded

    def _results(
        self,
        controller: Controller,
        history: list[Tensor],
        pixels: Tensor,
        note: str,
    ) -> list[Run]:
        settings, recorded = self.settings, self.settings.record != "none"
        stores = controller.stores(self.target, self.model.card.map_sites)
        masks, keep = self._masks(controller.state.masks), controller.keep
        return [
            replace(
                source,
                prompt=self.target,
                pixels=pixels[b].cpu(),
                trajectory=replace(
                    source.trajectory,
                    latents=torch.stack([z[b] for z in history]),
                    pinned=False,
                ),
                guidance_scale=settings.guidance_scale,
                attention=stores[b] if recorded else None,
                tape=keep[b] if keep else None,
                plan=self.plan,
                source=source,
                masks=torch.stack([mask[b] for mask in masks]) if masks else None,
                note=note,
                cache=EditCache(),
            )
            for b, source in enumerate(self.sources)
        ]


def encode_target(model: Denoiser, plan: EditPlan, size: tuple[int, int]) -> Conditioning:
    """Encode a plan's target prompt, (1, L, D); between two prompts their embeddings are mixed."""
    assert plan.target is not None
    here = model.encode_prompt(plan.target, size)
    if plan.toward is None:
        return here
    other, share = plan.toward
    there = model.encode_prompt(other, size)
    mask = here.mask if here.mask is None or there.mask is None else here.mask | there.mask
    pooled = here.pooled
    if here.pooled is not None and there.pooled is not None:
        pooled = torch.lerp(here.pooled, there.pooled, share)
    return replace(
        here, tokens=torch.lerp(here.tokens, there.tokens, share), pooled=pooled, mask=mask
    )
