"""`edit`: another prompt for a run, with the source's attention where the plan asks for it.

With a tape only the target's rows run; without one the source runs beside them through the same
code. Edits of one source whose plans agree on their first steps share those steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from p2p_lab.attention import AttentionTape, Site, find_sites
from p2p_lab.devices import cpu_by_default
from p2p_lab.edits import Edit, EditPlan, compile_edits, default_edits
from p2p_lab.models import Denoiser
from p2p_lab.sampling.edit_job import EditJob
from p2p_lab.sampling.loop import CancelToken, OnStep, RunCallbacks
from p2p_lab.sampling.runs import Run, checked_run
from p2p_lab.sampling.schedules import Schedule, schedule_for
from p2p_lab.sampling.settings import Record, Settings, check_guidance
from p2p_lab.sampling.tape_budget import USUAL
from p2p_lab.warn import warn_caller


@cpu_by_default()
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
        source: The run to edit: generated, inverted, or itself an edit; `edit_many` takes several.
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
    checked_run(
        source,
        "source",
        "`edit` edits one picture, made by generate or invert. Use edit_many(sources, text, edits) "
        "for several.",
    )
    plan, scale, note = _compiled(source, text, edits, guidance_scale, compat)
    return apply_plan(
        [source],
        plan,
        guidance_scale=scale,
        record=record,
        reuse=reuse,
        callbacks=RunCallbacks(on_step, cancel, progress),
        note=note,
    )[0]


@cpu_by_default()
def edit_many(  # noqa: D417 - the others are those of `edit`
    sources: Iterable[Run],
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
) -> list[Run]:
    """Edit several pictures of one prompt alike, those of one kind as one batch.

    Args:
        sources: The runs to edit, of the same prompt and settings.
        text: The target prompt.
        edits: What to change. All further arguments are those of `edit`.

    Returns:
        A `Run` for each source.

    Raises:
        AlignmentError: If a word is not in its prompt, or the prompts share none.
        ValueError: If a setting does not fit, or the sources differ; before any sampling.
        Cancelled: If the run was cancelled.
    """
    many = isinstance(sources, Iterable) and not isinstance(sources, Run)
    runs = list(sources) if many else []
    if not runs or not all(isinstance(run, Run) for run in runs):
        raise ValueError(
            "There is nothing to edit: sources is a list of Runs, as generate_many gives. "
            "Use `edit` for one."
        )
    plan, scale, note = _compiled(runs[0], text, edits, guidance_scale, compat)
    return apply_plan(
        runs,
        plan,
        guidance_scale=scale,
        record=record,
        reuse=reuse,
        callbacks=RunCallbacks(on_step, cancel, progress),
        note=note,
    )


def _compiled(
    source: Run, text: str, edits: Sequence[Edit], guidance_scale: float | None, compat: Any
) -> tuple[EditPlan, float, str]:
    """Return the plan of an edit, the target's guidance, and what was chosen for the user."""
    target, note = model_of(source).prompt(text), ""
    if not edits:
        edits, note = default_edits(source.prompt, target)
    plan = compile_edits(edits, source.prompt, target, source.steps, compat=compat)
    scale = source.guidance_scale if guidance_scale is None else check_guidance(guidance_scale)
    return plan, scale, note


def apply_plan(
    sources: Sequence[Run],
    plan: EditPlan,
    *,
    guidance_scale: float,
    record: Record = "store",
    reuse: bool = True,
    callbacks: RunCallbacks = RunCallbacks(),  # noqa: B008 - frozen
    note: str = "",
) -> list[Run]:
    """Run a compiled plan on one or several sources; `edit` is this after compiling.

    Raises:
        ValueError: If the plan, the tapes or the model do not belong to the sources.
    """
    model, first = model_of(sources[0]), sources[0]
    if plan.target is None or plan.steps != first.steps or plan.length != len(first.prompt):
        raise ValueError(
            f"The plan was compiled for {plan.steps} steps and {plan.length} tokens, the source "
            f"has {first.steps} and {len(first.prompt)}. Compile it for this source."
        )
    _check_alike(sources)
    with model.lock:
        settings = Settings.of(
            model, first.steps, guidance_scale, first.size, record, first.sampler
        )
        sites = find_sites(model.module, settings.latent_shape[1:])
        plan = reaching(plan, sites)
        assert plan.target is not None
        tapes = [_usable_tape(source, plan, model, sites) for source in sources]
        found: dict[int, Run] = {}
        for batch in _batches(sources, tapes):
            batch_tapes = [tape for tape in (tapes[i] for i in batch) if tape is not None]
            job = EditJob(
                sources=[sources[i] for i in batch],
                plan=plan,
                target=plan.target,
                model=model,
                settings=settings,
                sites=sites,
                tapes=batch_tapes,
            )
            found.update(
                zip(batch, job.run(reuse=reuse, callbacks=callbacks, note=note), strict=True)
            )
        return [found[i] for i in range(len(sources))]


def reaching(plan: EditPlan, sites: Mapping[str, Site]) -> EditPlan:
    """Return the plan with a limit of self-attention that this model's sites can meet.

    Large models have no site as small as the paper's 16×16 (SDXL at 1024² begins at 32×32), so the
    usual limit would take nothing from the source. It is raised to their smallest level, and said.
    """
    sizes = [site.pixels for site in sites.values() if site.has_image]
    if not (plan.self_steps and plan.self_pixels and sizes) or min(sizes) <= plan.self_pixels:
        return plan
    smallest = min(sizes)
    if plan.self_pixels != USUAL:
        warn_caller(
            f"The edit takes no self-attention from the source: self_pixels={plan.self_pixels}, "
            f"and this model's smallest site has {smallest} positions. Use self_pixels={smallest}."
        )
        return plan
    warn_caller(
        f"This model's smallest self-attention has {smallest} positions, so self_pixels={smallest} "
        f"is taken in place of {plan.self_pixels}, which would reach nothing."
    )
    return plan.with_(self_pixels=smallest)


def model_of(run: Run) -> Denoiser:
    """Return a run's model.

    Raises:
        ValueError: If the run was loaded without one, or is no run.
    """
    checked_run(run)
    if run.model is None:
        raise ValueError(
            f"This run was loaded without its model ({run.model_name}). Load it with "
            "Run.load(path, model=load(...)) to edit it."
        )
    return run.model


def schedule_of(run: Run) -> Schedule:
    """Return the table that a run was sampled on.

    Raises:
        ValueError: If the run was loaded without its model.
    """
    h, w = run.trajectory.latents.shape[-2:]
    return schedule_for(model_of(run), run.sampler, run.steps, (h, w))


def _check_alike(sources: Sequence[Run]) -> None:
    """Raise if one plan cannot serve all runs."""
    for name in ("model", "prompt", "steps", "size", "guidance_scale", "sampler"):
        values = [getattr(run, name) for run in sources]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"Runs edited together must agree in prompt and settings; {name} differs: "
                f"{values!r:.200}. Edit them one by one."
            )


def _batches(
    sources: Sequence[Run], tapes: Sequence[AttentionTape | None]
) -> Iterable[Sequence[int]]:
    """Sort runs into batches that go through the same computation, as positions in the list.

    A run with a tape and one that runs beside its target cannot share a batch, nor can runs of
    different kinds of inversion: each would be computed otherwise than alone.
    """
    batches: dict[tuple[object, ...], list[int]] = {}
    for i, (run, tape) in enumerate(zip(sources, tapes, strict=True)):
        path = run.trajectory
        extra = path.negative_embeds is None, path.noise_maps is None
        kind = (tape is None, path.pinned, path.start, *extra, run.negative)
        batches.setdefault(kind, []).append(i)
    return batches.values()


def _tape_of(source: Run) -> AttentionTape | None:
    """Return the source's tape; an edit without one is run again for it, once.

    Its attention was made by a plan from another run, so it cannot simply run beside the target.
    """
    if source.plan is None or source.tape is not None:
        return source.tape
    if source.source is None:
        raise ValueError(
            "This run is an edit, and neither its tape nor its own source is at hand. Edit with "
            "record='tape' before saving, or save the run with its source."
        )
    if source.cache.tape is None:
        again = apply_plan(
            [source.source], source.plan, guidance_scale=source.guidance_scale, record="tape"
        )[0]
        if again.tape is None:
            raise ValueError(
                "Editing an edit needs its tape, which does not fit in memory. Put both changes in "
                "one edit of the first picture, or take fewer steps."
            )
        source.cache.tape = again.tape
    return source.cache.tape


def _usable_tape(
    source: Run, plan: EditPlan, model: Denoiser, sites: dict[str, Site]
) -> AttentionTape | None:
    """Return the source's tape if it has all that the plan needs; None for a joint run.

    Raises:
        ValueError: If the tape was made by another model or with other steps.
    """
    tape = _tape_of(source)
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
        warn_caller(
            f"The tape keeps no self-attention of {len(missing)} large site(s) that this edit "
            "injects, so the source runs beside the target. Lower self_pixels to avoid it."
        )
        return None
    if missing:
        raise ValueError(
            "This source is an edit whose tape keeps no self-attention as large as self_pixels="
            f"{plan.self_pixels} asks for. Lower self_pixels."
        )
    return tape
