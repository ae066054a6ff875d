"""Look into one step of a finished run: its latents, what they are taken to be, and its maps.

Nothing is sampled that is still at hand: the latents of every step are in the trajectory, the maps
of an edit's steps are differences of the running sums that its source keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from p2p_lab.attention import AttentionStore, RunningMaps, blend_level, blend_sites
from p2p_lab.sampling.edit_job import EditCacheEntry
from p2p_lab.sampling.editing import apply_plan, model_of, schedule_of
from p2p_lab.sampling.runs import Run, checked_run
from p2p_lab.sampling.schedules import Schedule


@dataclass(frozen=True, eq=False)
class WordStep:
    """The maps of one target word in one step of an edit.

    Attributes:
        source: The source's map that the mapper P feeds to the word, (h, w).
        target: The target's own map, before the edit.
        used: What made the picture, after the edit.
        source_gain: How much of `source` enters, the largest of the word's tokens.
        target_gain: How much of `target` enters.
    """

    source: Tensor
    target: Tensor
    used: Tensor
    source_gain: float
    target_gain: float


def latents_at(run: Run, step: int) -> tuple[Tensor, Tensor]:
    """Return z_t before a step and the clean latents ẑ_0 that the step takes it for, (C, h, w).

    A first-order step has z = α ẑ_0 + σ ε and z' = α' ẑ_0 + σ' ε, so two latents of the trajectory
    give it: ẑ_0 = (σ' z − σ z') / (α σ' − α' σ). A step of second order leads to an estimate
    continued from the step before, which is taken off again, from the first step on. Where a local
    blend or an inversion's noise map came after the step, this is the estimate that would have led
    to what came out.

    Args:
        run: Any run.
        step: 0 … T − 1.

    Raises:
        ValueError: If there is no such step.
    """
    checked_run(run)
    if not 0 <= step < run.steps:
        raise ValueError(f"There is no step {step}: steps go from 0 to {run.steps - 1}.")
    schedule, path = schedule_of(run), run.trajectory.latents.float()
    now = path[step]
    if schedule.order == 1:
        return now, _led_to(schedule, path, step)
    clean = _led_to(schedule, path, 0)
    for k in range(1, step + 1):
        clean = schedule.of_one_step(_led_to(schedule, path, k), clean, k)
    return now, clean


def _led_to(schedule: Schedule, path: Tensor, step: int) -> Tensor:
    """Return the clean latents that a step on this table leads to."""
    a, b = float(schedule.alpha[step]), float(schedule.sigma[step])
    a_next, b_next = float(schedule.alpha_next[step]), float(schedule.sigma_next[step])
    return (b_next * path[step] - b * path[step + 1]) / (a * b_next - a_next * b)


def pictures_at(run: Run, step: int) -> tuple[Tensor, Tensor]:
    """Return z_t and ẑ_0 of a step, decoded, two pictures (3, H, W).

    Raises:
        ValueError: If there is no such step, or the run was loaded without its model.
    """
    model = model_of(run)
    with model.lock, torch.no_grad():
        pair = torch.stack(latents_at(run, step)).to(model.device, model.dtype)
        noisy, clean = model.decode(pair).cpu()
    return noisy, clean


def maps_at(run: Run, step: int) -> AttentionStore:
    """Return the maps of one step alone, as a store: mean over heads, all sites.

    A run with a tape has them; an edit's are the differences of what its source has kept of it,
    and it is done again where that is no longer at hand.

    Raises:
        ValueError: If there is no such step, or nothing recorded it.
    """
    checked_run(run)
    if run.attention is None or not 0 <= step < run.steps:
        raise ValueError(f"There are no maps of step {step}; the run has {run.steps} steps.")
    store = run.attention
    if store.tape is not None:
        means = {
            name: store.tape.probs(step, site)[..., site.text_keys(_keys(store, name))].mean(dim=0)
            for name, site in store.sites.items()
            if name in store.means and name in store.tape.sites
        }
        return replace(store, means={name: one.float() for name, one in means.items()})
    states = _steps_of(run).states
    number = step - run.trajectory.start
    if number < 0:
        raise ValueError(f"This inversion skipped step {step}; it began at {run.trajectory.start}.")
    now, before = states[number], states[number - 1] if number else None
    return replace(
        store,
        means=_added(now.target, None if before is None else before.target),
        originals=_added(now.original, None if before is None else before.original),
    )


def _added(now: RunningMaps, before: RunningMaps | None) -> dict[str, Tensor]:
    """Return what one step added to the sums of one picture, (pixels, L) a site."""
    last = {} if before is None else before.sums
    return {n: (s - last[n] if n in last else s)[0] for n, s in now.sums.items()}


def _keys(store: AttentionStore, name: str) -> int:
    site = store.sites[name]
    return len(store.prompt) + (site.pixels if site.has_image else 0)


def _steps_of(run: Run) -> EditCacheEntry:
    """Return what an edit recorded after each step.

    Raises:
        ValueError: If it cannot be had.
    """
    if run.source is None or run.plan is None:
        raise ValueError(
            "This run kept no single steps. Make it with record='tape' to look into them."
        )
    for again in (False, True):
        if again:
            apply_plan([run.source], run.plan, guidance_scale=run.guidance_scale)
        kept = run.source.cache.entries
        for entry in kept:
            same = entry.guidance_scale == run.guidance_scale and entry.record != "none"
            if same and entry.plan == run.plan:
                return entry
    raise ValueError(
        "The single steps of this edit are not kept: its source has no tape, or they take too much "
        "memory. Make the source with record='tape', with fewer steps or smaller."
    )


def word_step(run: Run, word: str, step: int, *, occurrence: int | None = None) -> WordStep:
    """Return what an edit does with one word in one step.

        M̂ = g_src · (M_src P) + g_tgt · M_tgt, summed over the word's tokens

    Raises:
        AlignmentError: If the word is not in the target.
        ValueError: If the run is no edit, or its steps are not at hand.
    """
    checked_run(run)
    if run.plan is None or run.source is None:
        raise ValueError("This run is no edit, so nothing was copied in it.")
    tokens = run.prompt.tokens_of(word, occurrence)
    edited, source = maps_at(run, step), maps_at(run.source, step)
    before = edited.token_maps(which="original")[tokens].sum(dim=0)
    mapped = torch.einsum("ihw,ij->jhw", source.token_maps(), run.plan.mapper.float())
    return WordStep(
        source=mapped[tokens].sum(dim=0),
        target=before,
        used=edited.token_maps()[tokens].sum(dim=0),
        source_gain=_largest(run.plan.source_gain[step, tokens]),
        target_gain=_largest(run.plan.target_gain[step, tokens]),
    )


def _largest(gains: Tensor) -> float:
    return float(gains[gains.abs().argmax()])


def mask_level(run: Run) -> Tensor:
    """Return the attention of a local edit's words in the end, (h, w), as a part of its maximum.

    The edit acts where it is above the blend's threshold: `run.masks[-1]`, before a mask of the
    user's own comes in.

    Raises:
        ValueError: If the run has no local edit by words, or its maps were not recorded.
    """
    checked_run(run)
    blend = None if run.plan is None else run.plan.blend
    if blend is None or run.source is None or not (blend.source_tokens or blend.target_tokens):
        raise ValueError("This run has no LocalBlend of words, so there is no mask of words.")
    if run.attention is None or run.source.attention is None:
        raise ValueError("The mask is made of maps, and this run recorded none.")
    sites = blend_sites(run.attention.sites)
    source, target = (
        [store.means[site.name][None] for site in sites]
        for store in (run.source.attention, run.attention)
    )
    latents = run.trajectory.latents
    size = (int(latents.shape[-2]), int(latents.shape[-1]))
    return blend_level(source, target, blend, sites[0].size, size)[0, 0]
