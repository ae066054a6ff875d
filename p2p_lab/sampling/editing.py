"""`edit`: another prompt for a run, with the source's attention where the plan asks for it.

With a tape only the target's rows run; without one the source runs beside them through the same
code. Edits of one source whose plans agree on their first steps share those steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from p2p_lab.attention import (
    AttentionTape,
    Controller,
    ControllerState,
    Rows,
    Site,
    find_sites,
)
from p2p_lab.edits import Edit, EditPlan, compile_edits, default_edits
from p2p_lab.models import Conditioning, Denoiser
from p2p_lab.sampling.loop import CancelToken, OnStep, Texts, Watch, bar, session, walk
from p2p_lab.sampling.memory import choose_tape
from p2p_lab.sampling.plain import Record, Settings, check_guidance, split_maps
from p2p_lab.sampling.runs import Run
from p2p_lab.tokens import Prompt

CACHE_BYTES = 256 * 2**20
CACHED_EDITS = 2


def edit(
    source: Run,
    text: str,
    edits: Sequence[Edit] = (),
    *,
    guidance_scale: float | None = None,
    record: Record = "store",
    compat: Any = None,
    reuse: bool = True,
    progress: bool = False,
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
) -> Run:
    """Edit a picture by its text (Prompt-to-Prompt, Hertz et al. 2022, algorithm 1).

    Args:
        source: The run to edit: generated, inverted, or itself an edit.
        text: The target prompt.
        edits: What to change: at most one of `Replace` and `Refine`, any `Reweight` and a
            `LocalBlend`. None named: the default for these two prompts, said in the run's `note`.
        guidance_scale: Guidance of the target; None takes the source's.
        record: "store" keeps mean maps; "tape" also what an edit of this edit needs (made later if
            it is wanted); "none" nothing.
        compat: "reference" reproduces the quirks of the authors' code.
        reuse: Share the first steps with an earlier edit of this source where the plans agree.
        progress: Show a progress bar.
        on_step: Called as on_step(step, total, preview) after each step; may raise `Cancelled`.
        cancel: Anything with `is_set()`, asked before each step.

    Returns:
        A `Run` with its `source` and `plan`.

    Raises:
        AlignmentError: If a word is not in its prompt, or the prompts share none.
        ValueError: If a setting does not fit; before any sampling.
        Cancelled: If the run was cancelled.
    """
    model = model_of(source)
    target, note = model.prompt(text), ""
    if not edits:
        edits, note = default_edits(source.prompt, target)
    plan = compile_edits(edits, source.prompt, target, source.steps, compat=compat)
    scale = source.guidance_scale if guidance_scale is None else check_guidance(guidance_scale)
    watch = Watch(on_step, cancel, progress)
    return apply_plan(
        source, plan, guidance_scale=scale, record=record, reuse=reuse, watch=watch, note=note
    )


def apply_plan(
    source: Run,
    plan: EditPlan,
    *,
    guidance_scale: float,
    record: Record = "store",
    reuse: bool = True,
    watch: Watch = Watch(),  # noqa: B008 - frozen
    note: str = "",
) -> Run:
    """Run a compiled plan on a source; `edit` is this after compiling.

    Raises:
        ValueError: If the plan, the tape or the model do not belong to the source.
    """
    model, target = model_of(source), plan.target
    if target is None or plan.steps != source.steps or plan.length != len(source.prompt):
        raise ValueError(
            f"The plan was compiled for {plan.steps} steps and {plan.length} tokens, the source "
            f"has {source.steps} and {len(source.prompt)}. Compile it for this source."
        )
    source = _with_tape_if_edited(source)
    settings = Settings.of(
        model,
        source.steps,
        guidance_scale,
        source.size,
        record,
        source.sampler,  # type: ignore[arg-type]
    )
    sites = find_sites(model.module, settings.latent_shape[1:])
    tape = _usable_tape(source, plan, model, sites)
    work = _Work(source, plan, target, model, settings, sites, tape)
    with model.lock:
        return work.run(reuse=reuse, watch=watch, note=note)


def model_of(run: Run) -> Denoiser:
    """Return a run's model.

    Raises:
        ValueError: If the run was loaded without one.
    """
    if run.model is None:
        raise ValueError(
            f"This run was loaded without its model ({run.model_name}). Load it with "
            "Run.load(path, model=load(...)) to edit it."
        )
    return run.model


@dataclass(eq=False)
class _Memory:
    """Keep an edit's steps for the next edit of the same source."""

    plan: EditPlan
    guidance_scale: float
    record: Record
    latents: list[Tensor]
    states: list[ControllerState]

    def shared(self, plan: EditPlan, guidance_scale: float, record: Record) -> int:
        """Tell how many first steps this edit shares with another one."""
        if (self.guidance_scale, self.record) != (guidance_scale, record):
            return 0
        return self.plan.shared_prefix(plan)


@dataclass(eq=False)
class _Work:
    """Do one edit: the parts that `apply_plan` has checked, and the loop."""

    source: Run
    plan: EditPlan
    target: Prompt
    model: Denoiser
    settings: Settings
    sites: dict[str, Site]
    tape: AttentionTape | None

    def run(self, *, reuse: bool, watch: Watch, note: str) -> Run:
        keep = self._tapes_to_write()
        controller = Controller(
            self.sites,
            self._rows(),
            plan=self.plan,
            tapes=[self.tape] if self.tape is not None else [],
            keep=keep,
            record=self.settings.record != "none",
        )
        share = reuse and not keep and self.tape is not None
        first, path, states = self._resume(controller) if share else self._start()
        with session(self.model, controller, self.sites):
            path = self._walk(controller, path, states if share else None, first, watch)
            pixels = self.model.decode(path[-1][None])
        if share:
            self._remember(path, states)
        return self._result(controller, path, pixels, keep, note)

    def _walk(
        self,
        controller: Controller,
        path: list[Tensor],
        states: list[ControllerState] | None,
        first: int,
        watch: Watch,
    ) -> list[Tensor]:
        """Run the steps from `first`, and return the target's latents after each, (C, h, w)."""
        trajectory, joint = self.source.trajectory, self.tape is None
        start = path[-1][None].to(self.model.device)
        latents = torch.cat([trajectory.latents[first][None].to(start), start]) if joint else start

        def after_step(step: int, z: Tensor) -> Tensor:
            kept = trajectory.latents[step + 1][None].to(z)
            before = z[:1] if joint and not trajectory.pinned else kept
            new = controller.end_step(z[-1:], before)
            if states is not None:
                states.append(controller.state.copy())
            return torch.cat([before, new]) if joint else new

        steps = walk(
            self.model,
            self.settings.schedule,
            latents,
            self._texts(joint=joint),
            controller,
            after_step=after_step,
            first=first,
            noise_maps=_batch(trajectory.noise_maps, latents),
            watch=watch,
        )
        return path + [z[-1] for z in bar(steps, self.plan.steps - first, show=watch.progress)]

    def _texts(self, *, joint: bool) -> Texts:
        """Encode the rows' texts: the target's, after the source's in a joint run."""
        model, settings, source = self.model, self.settings, self.source
        positive = model.encode_prompt(self.target, settings.size)
        negative = model.encode_negative(source.negative, settings.size)
        embeds = source.trajectory.negative_embeds
        steps = None if embeds is None else embeds[:, None].to(positive.tokens)  # (T, 1, L, D)
        if not joint:
            return Texts(positive, negative, settings.guidance_scale, steps)
        positive = Conditioning.stack([model.encode_prompt(source.prompt, settings.size), positive])
        scale: float | Tensor = settings.guidance_scale
        if source.guidance_scale != scale:
            scale = torch.tensor([source.guidance_scale, settings.guidance_scale])
            scale = scale.to(positive.tokens).view(-1, 1, 1, 1)
        steps = None if steps is None else steps.expand(-1, 2, -1, -1)
        return Texts(positive, negative.expand(2), scale, steps)

    def _rows(self) -> Rows:
        joint = self.tape is None
        both = joint and self.source.guidance_scale != self.settings.guidance_scale
        guided = both or self.settings.guidance_scale > 1
        if not joint:
            return Rows(target=slice(1, 2) if guided else slice(0, 1))
        offset = 2 if guided else 0
        return Rows(slice(offset, offset + 1), slice(offset + 1, offset + 2))

    def _start(self) -> tuple[int, list[Tensor], list[ControllerState]]:
        """Start from the source's first latents."""
        trajectory = self.source.trajectory
        return trajectory.start, list(trajectory.latents[: trajectory.start + 1]), []

    def _resume(self, controller: Controller) -> tuple[int, list[Tensor], list[ControllerState]]:
        """Start where this plan parts from the earlier edit that shares most steps with it."""
        settings, start = self.settings, self.source.trajectory.start
        memories: list[_Memory] = self.source.cache.get("edits", [])
        best, steps = None, start
        for memory in memories:
            shared = memory.shared(self.plan, settings.guidance_scale, settings.record)
            if shared > steps:
                best, steps = memory, shared
        if best is None:
            return self._start()
        states = best.states[: steps - start]
        controller.state = states[-1].copy()
        return steps, best.latents[: steps + 1], list(states)

    def _remember(self, path: list[Tensor], states: list[ControllerState]) -> None:
        """Keep this edit's steps with the source, the newest first, if they are not too large."""
        if sum(state.nbytes for state in states) > CACHE_BYTES:
            return
        settings = self.settings
        memory = _Memory(self.plan, settings.guidance_scale, settings.record, path, states)
        memories = self.source.cache.get("edits", [])
        self.source.cache["edits"] = [memory, *memories][:CACHED_EDITS]

    def _tapes_to_write(self) -> list[AttentionTape]:
        if self.settings.record != "tape":
            return []
        kept = choose_tape(self.model, self.sites, self.plan.steps)
        return [AttentionTape(self.model.name, kept, self.plan.steps)] if kept else []

    def _result(
        self,
        controller: Controller,
        path: list[Tensor],
        pixels: Tensor,
        keep: list[AttentionTape],
        note: str,
    ) -> Run:
        state, settings, source = controller.state, self.settings, self.source
        store = split_maps(
            state.target, state.original, self.target, self.sites, keep,
            self.model.card.map_sites, 1,
        )[0]  # fmt: skip
        return Run(
            prompt=self.target,
            pixels=pixels[0].cpu(),
            trajectory=replace(
                source.trajectory, latents=torch.stack([z.to(path[-1]) for z in path]), pinned=False
            ),
            negative=source.negative,
            seed=source.seed,
            guidance_scale=settings.guidance_scale,
            sampler=source.sampler,
            attention=store if settings.record != "none" else None,
            tape=keep[0] if keep else None,
            plan=self.plan,
            source=source,
            masks=torch.cat(state.masks) if state.masks else None,
            note=note,
            model=self.model,
            model_name=self.model.name,
        )


def _batch(noise_maps: Tensor | None, latents: Tensor) -> Tensor | None:
    """Give every row of the batch the same noise maps, (T, B, C, h, w)."""
    if noise_maps is None:
        return None
    return noise_maps[:, None].to(latents).expand(-1, latents.shape[0], -1, -1, -1)


def _with_tape_if_edited(source: Run) -> Run:
    """Return the source; if it is an edit without tape, its own edit is run again to get one.

    Its attention was made by a plan from another run, so it cannot simply run beside the target.
    """
    if source.plan is None or source.tape is not None:
        return source
    if source.source is None:
        raise ValueError(
            "This run is an edit, and neither its tape nor its own source is at hand. Edit with "
            "record='tape' before saving, or save the run with its source."
        )
    if "taped" not in source.cache:
        again = apply_plan(
            source.source, source.plan, guidance_scale=source.guidance_scale, record="tape"
        )
        if again.tape is None:
            raise ValueError(
                "Editing an edit needs its tape, which does not fit in memory. Put both changes in "
                "one edit of the first picture, or take fewer steps."
            )
        source.cache["taped"] = again
    taped: Run = source.cache["taped"]
    return replace(source, tape=taped.tape)


def _usable_tape(
    source: Run, plan: EditPlan, model: Denoiser, sites: dict[str, Site]
) -> AttentionTape | None:
    """Return the source's tape if it has all that the plan needs; None for a joint run.

    Raises:
        ValueError: If the tape was made by another model or with other steps.
    """
    tape = source.tape
    if tape is None:
        return None
    if tape.model != model.name or any(sites.get(n) != s for n, s in tape.sites.items()):
        raise ValueError(
            f"The tape was made by {tape.model!r} and the model is {model.name!r}, or the picture "
            "has another size. Generate the source again with this model."
        )
    if tape.steps != source.steps:
        raise ValueError(
            f"The tape has {tape.steps} steps and the source {source.steps}. Generate it again."
        )
    needed = {
        n for n, s in sites.items() if s.has_image and s.pixels <= plan.self_pixels
    } if plan.self_steps else set()  # fmt: skip
    missing = needed - set(tape.sites)
    if missing and source.plan is None:
        warnings.warn(
            f"The tape keeps no self-attention of {len(missing)} large site(s) that this edit "
            "injects, so the source runs beside the target. Lower self_pixels to avoid it.",
            stacklevel=4,
        )
        return None
    if missing:
        raise ValueError(
            "This source is an edit whose tape keeps no self-attention as large as self_pixels="
            f"{plan.self_pixels} asks for. Lower self_pixels."
        )
    return tape
