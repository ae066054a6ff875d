"""Laws of generating, editing, and keeping runs."""

from __future__ import annotations

import inspect
import json
import re
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_lab.attention import find_sites
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight, compile_edits
from p2p_lab.models import Denoiser
from p2p_lab.sampling import (
    Cancelled,
    EditCache,
    Run,
    Trajectory,
    apply_plan,
    ddim_step,
    edit,
    edit_many,
    generate,
    generate_many,
    make_schedule,
    noise_of,
    predict_clean,
    tape_budget,
)
from p2p_lab.tokens import AlignmentError
from tests.conftest import scheduler

CAT, DOG = "a cat on grass", "a dog on grass"
STEPS = 5
SWAP = (Replace(cross=(0, 0.6), self_attention=(0, 0.4)),)
EDITS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "replace": (DOG, SWAP),
    "refine": ("a red cat on grass", (Refine(cross=(0.2, 0.8)),)),
    "reweight": (CAT, (Reweight("grass", -2.0),)),
    "own windows": (DOG, (Replace(words={"dog": (0, 0.2)}),)),
    "blend": (DOG, (*SWAP, LocalBlend("cat", "dog", threshold=0.9))),
    "all": (DOG, (*SWAP, Reweight("grass", 2.0, (0.2, 1)), LocalBlend("cat", "dog"))),
}


@pytest.fixture(scope="module")
def cat(sd: Denoiser) -> Run:
    return generate(sd, CAT, seed=3, steps=STEPS)


def near(one: Tensor, two: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((one - two).abs().max() <= tolerance)


def without_tape(run: Run) -> Run:
    return replace(run, tape=None)


def diffusers_picture(model: Any, text: str, **options: Any) -> Tensor:
    """Make a picture with diffusers' own pipeline around the same weights."""
    import diffusers

    parts = {"vae": model.vae, "unet": model.module, "text_encoder": model.text_encoder}
    parts |= {"tokenizer": model.tokenizer}
    parts |= {"scheduler": diffusers.DDIMScheduler.from_config(model.scheduler_config)}
    if hasattr(model, "text_encoder_2"):
        parts |= {"text_encoder_2": model.text_encoder_2, "tokenizer_2": model.tokenizer_2}
        pipe = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        extra = {"safety_checker": None, "feature_extractor": None}
        pipe = diffusers.StableDiffusionPipeline(**parts, **extra, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    picture: Tensor = pipe(text, generator=generator, output_type="pt", **options).images[0]
    return picture


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("name", ["sd_folder", "v_folder", "sdxl_folder"])
def test_a_plain_picture_is_the_pipelines_own_bit_for_bit(
    name: str, scale: float, request: pytest.FixtureRequest
) -> None:
    from p2p_lab.models import load

    model = load(request.getfixturevalue(name), "cpu", torch.float32)
    theirs = diffusers_picture(model, CAT, num_inference_steps=4, guidance_scale=scale)
    ours = generate(model, CAT, seed=3, steps=4, guidance_scale=scale)
    assert torch.equal(ours.pixels, theirs)


def test_a_negative_prompt_and_another_size_are_the_pipelines_own_too(sd32: Denoiser) -> None:
    size = {"height": 24, "width": 40}
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 5.0}
    theirs = diffusers_picture(sd32, CAT, negative_prompt="a red hat", **size, **options)
    ours = generate(
        sd32, CAT, seed=3, steps=3, guidance_scale=5.0, negative="a red hat", size=(24, 40)
    )
    assert ours.size == (24, 40)
    assert torch.equal(ours.pixels, theirs)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++", "dpm++2m"])
def test_samplers_take_the_steps_of_diffusers_schedulers(sampler: str, prediction: str) -> None:
    import diffusers

    config = dict(scheduler(prediction_type=prediction).config)
    theirs: Any = {
        "ddim": lambda: diffusers.DDIMScheduler.from_config(config),
        "euler": lambda: diffusers.EulerDiscreteScheduler.from_config(config),
        "dpm++": lambda: diffusers.DPMSolverMultistepScheduler.from_config(config, solver_order=1),
        "dpm++2m": lambda: diffusers.DPMSolverMultistepScheduler.from_config(config),
    }[sampler]()
    theirs.set_timesteps(6)
    ours = make_schedule(config, sampler, 6)  # type: ignore[arg-type]
    x = y = noise_of(1, (1, 4, 8, 8)) * ours.initial_scale
    assert ours.initial_scale == pytest.approx(float(theirs.init_noise_sigma))
    before: dict[str, Any] = {}
    for step, t in enumerate(theirs.timesteps):
        noise = noise_of(step + 2, x.shape)
        assert torch.allclose(ours.model_input(x, step), theirs.scale_model_input(y, t), atol=1e-6)
        clean = ours.clean(x, noise, step)
        x = ours.advance(x, noise, step, **before)
        before = {"previous": clean} if sampler == "dpm++2m" else {}
        y = theirs.step(noise, t, y).prev_sample
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.floats(0.01, 0.99), after=st.floats(0.01, 0.99), kind=st.sampled_from(["epsilon", "v"])
)
def test_a_ddim_step_with_the_true_noise_lands_on_the_true_path(
    alpha: float, after: float, kind: str
) -> None:
    clean, noise = noise_of(1, (1, 2, 3, 3)).double(), noise_of(2, (1, 2, 3, 3)).double()
    a, b = torch.tensor(alpha, dtype=torch.float64), torch.tensor(after, dtype=torch.float64)
    z = a.sqrt() * clean + (1 - a).sqrt() * noise
    said = noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
    prediction: Any = "epsilon" if kind == "epsilon" else "v_prediction"
    moved = ddim_step(z, said, a, b, prediction=prediction)
    assert torch.allclose(moved, b.sqrt() * clean + (1 - b).sqrt() * noise, atol=1e-9)
    assert torch.allclose(ddim_step(moved, noise, b, a), z, atol=1e-9)
    seen, heard = predict_clean(z, said, a, prediction)
    assert torch.allclose(seen, clean, atol=1e-9) and torch.allclose(heard, noise, atol=1e-9)


def test_a_stochastic_step_is_that_of_diffusers() -> None:
    theirs = scheduler()
    theirs.set_timesteps(5)
    ours = make_schedule(theirs.config, "ddim", 5)
    z, said, noise = (noise_of(n, (1, 4, 8, 8)) for n in (1, 2, 3))
    t = theirs.timesteps[2]
    expected = theirs.step(said, t, z, eta=1.0, variance_noise=noise).prev_sample
    assert torch.allclose(ours.advance(z, said, 2, noise=noise), expected, atol=1e-5)
    with pytest.raises(ValueError, match="pass noise"):
        ddim_step(z, said, torch.tensor(0.5), torch.tensor(0.6), eta=1.0)


@pytest.mark.parametrize("record", ["tape", "store", "none"])
def test_recording_does_not_change_a_picture_by_a_bit(sd32: Denoiser, record: Any) -> None:
    plain = generate(sd32, CAT, seed=3, steps=3, record="none")
    watched = generate(sd32, CAT, seed=3, steps=3, record=record, self_maps=True)
    assert torch.equal(plain.pixels, watched.pixels)
    assert (watched.attention is None) == (record == "none")
    assert (watched.tape is None) == (record != "tape")


def test_the_same_seed_gives_the_same_picture_alone_and_in_a_batch(sd: Denoiser) -> None:
    one = generate(sd, CAT, seed=4, steps=3)
    again = generate(sd, CAT, seed=4, steps=3)
    batch = generate_many(sd, CAT, [9, 4], steps=3)
    assert torch.equal(one.pixels, again.pixels)
    assert near(batch[1].pixels, one.pixels)
    assert batch[1].seed == 4 and not near(batch[0].pixels, one.pixels, 1e-4)
    assert batch[1].attention is not None and one.attention is not None
    assert near(batch[1].attention.map("cat"), one.attention.map("cat"), 1e-6)


def test_the_library_leaves_the_global_random_state_alone(sd: Denoiser) -> None:
    before = torch.random.get_rng_state()
    generate(sd, CAT, seed=4, steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_from_the_tape_equals_the_joint_run(cat: Run, name: str) -> None:
    text, edits = EDITS[name]
    replay = edit(cat, text, edits, reuse=False)
    joint = edit(without_tape(cat), text, edits)
    assert near(replay.pixels, joint.pixels)
    assert near(replay.trajectory.latents, joint.trajectory.latents)
    assert not near(replay.pixels, cat.pixels, 1e-4)
    assert replay.attention is not None and joint.attention is not None
    for site, mean in joint.attention.means.items():
        assert near(replay.attention.means[site], mean)
        assert near(replay.attention.originals[site], joint.attention.originals[site])
    if joint.masks is not None and replay.masks is not None:
        assert torch.equal(replay.masks, joint.masks)


def test_the_source_of_a_joint_edit_is_not_disturbed(cat: Run) -> None:
    """With no window open the target of a joint edit is the plain picture of its own prompt."""
    closed = (Replace(cross=(0, 0), self_attention=(0, 0)),)
    plain = generate(cat.model, DOG, seed=3, steps=STEPS)  # type: ignore[arg-type]
    assert near(edit(without_tape(cat), DOG, closed).pixels, plain.pixels)
    assert torch.equal(edit(cat, DOG, closed).pixels, plain.pixels)


def test_taking_everything_from_the_source_gives_the_source(cat: Run) -> None:
    whole = (Refine(cross=(0, 1), self_attention=(0, 1)),)
    assert near(edit(cat, CAT, whole).pixels, cat.pixels)


def test_outside_the_mask_the_latents_stay_those_of_the_source(cat: Run) -> None:
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    run = edit(cat, DOG, (*SWAP, LocalBlend(mask=mask, start=0)))
    assert run.masks is not None and run.masks.shape == (STEPS, 16, 16)
    assert torch.equal(run.masks[0], torch.cat([torch.zeros(16, 8), torch.ones(16, 8)], 1).double())
    ours, theirs = run.trajectory.latents, cat.trajectory.latents
    assert near(ours[..., :8], theirs[..., :8])
    assert not near(ours[-1][..., 8:], theirs[-1][..., 8:], 1e-3)


FADERS = {
    "a longer window": ((Replace(cross=(0, 0.4)),), (Replace(cross=(0, 0.8)),)),
    "a fader with a window": ((*SWAP, Reweight("grass", 1.5, (0.6, 1))), SWAP),
    "another self window": (
        (Replace(self_attention=(0, 0.2)),),
        (Replace(self_attention=(0, 0.6)),),
    ),
    "a blend that moved": (
        (*SWAP, LocalBlend("cat", "dog", start=0.6, threshold=0.5)),
        (*SWAP, LocalBlend("cat", "dog", start=0.6, threshold=0.9)),
    ),
}


@pytest.mark.parametrize("record", ["store", "none"])
def test_adding_or_dropping_a_blend_equals_the_edit_from_scratch(sd: Denoiser, record: Any) -> None:
    source = generate(sd, CAT, seed=3, steps=STEPS)
    late = (Replace(cross=(0.2, 0.4)), LocalBlend("cat", "dog", start=0.6, threshold=0.9))
    for edits in (late[:1], late, late[:1]):
        shared = edit(source, DOG, edits, record=record)
        scratch = edit(source, DOG, edits, record=record, reuse=False)
        assert torch.equal(shared.pixels, scratch.pixels)
        assert (shared.masks is None) == (len(edits) == 1)


@pytest.mark.parametrize("start", [0, 2])
def test_a_blend_has_a_mask_for_every_step_also_for_steps_that_were_not_run(
    sd: Denoiser, start: int
) -> None:
    """Masks are read by step number: skipped steps let the edit act everywhere, as does no mask."""
    source = generate(sd, CAT, seed=3, steps=STEPS)
    path = replace(source.trajectory, start=start)  # as after an inversion that skips steps
    source = replace(source, trajectory=path, cache=EditCache())
    own = torch.zeros(16, 16)
    own[:, 8:] = 1
    edit(source, DOG, (*SWAP, LocalBlend(mask=own, start=0.6)))
    ran: list[int] = []
    taken = edit(
        source,
        DOG,
        (*SWAP, LocalBlend(mask=1 - own, start=0.6)),
        on_step=lambda step, *_: ran.append(step),
    )
    assert ran == [3, 4]  # the steps before the blend begins are shared
    assert taken.masks is not None and taken.masks.shape == (STEPS, 16, 16)
    assert (taken.masks[:3] == 1).all()
    assert torch.equal(taken.masks[3:], (1 - own).double().expand(2, 16, 16))
    assert edit(source, DOG, SWAP).masks is None


@pytest.mark.parametrize("name", list(FADERS))
def test_an_edit_that_shares_steps_equals_the_edit_from_scratch(sd: Denoiser, name: str) -> None:
    first, second = FADERS[name]
    source = generate(sd, CAT, seed=3, steps=STEPS)
    edit(source, DOG, first)
    ran: list[int] = []
    shared = edit(source, DOG, second, on_step=lambda step, *_: ran.append(step))
    scratch = edit(source, DOG, second, reuse=False)
    assert 0 < len(ran) < STEPS
    assert torch.equal(shared.pixels, scratch.pixels)
    assert torch.equal(shared.trajectory.latents, scratch.trajectory.latents)
    assert shared.attention is not None and scratch.attention is not None
    for site in scratch.attention.means:
        assert torch.equal(shared.attention.means[site], scratch.attention.means[site])
        assert torch.equal(shared.attention.originals[site], scratch.attention.originals[site])
    if scratch.masks is not None and shared.masks is not None:
        assert torch.equal(shared.masks, scratch.masks)


def test_the_same_edit_again_runs_no_step(sd: Denoiser) -> None:
    source = generate(sd, CAT, seed=3, steps=STEPS)
    first = edit(source, DOG, SWAP)
    ran: list[int] = []
    again = edit(source, DOG, SWAP, on_step=lambda step, *_: ran.append(step))
    assert ran == [] and torch.equal(first.pixels, again.pixels)
    other = edit(source, DOG, SWAP, guidance_scale=2.0, on_step=lambda step, *_: ran.append(step))
    assert len(ran) == STEPS and not near(other.pixels, first.pixels, 1e-4)


def test_only_the_newest_edits_are_remembered(sd: Denoiser) -> None:
    source = generate(sd, CAT, seed=3, steps=1)
    for scale in (1.0, 2.0, 3.0):
        edit(source, CAT, [Reweight("cat", scale)])
    assert len(source.cache.entries) == 2


def test_several_seeds_are_edited_in_one_batch_as_one_by_one(sd: Denoiser) -> None:
    sources = generate_many(sd, CAT, [3, 8], steps=3)
    text, edits = EDITS["all"]
    singles = [edit(source, text, edits, record="none") for source in sources]
    for group in (sources, [without_tape(run) for run in sources]):
        batch = edit_many(group, text, edits)
        for run, source, alone in zip(batch, sources, singles, strict=True):
            assert near(run.pixels, alone.pixels)
            assert run.seed == source.seed and run.masks is not None and alone.masks is not None
            assert near(run.masks, alone.masks)


def mixed_sources(sd: Denoiser) -> dict[str, Run]:
    """Runs of one prompt that came about in every way, some with a tape and some without."""
    from p2p_lab.inversion import NullText, invert

    plain = generate(sd, CAT, seed=3, steps=4)
    photo = generate(sd, DOG, seed=9, steps=4).image
    quick = NullText(inner_steps=1)
    methods: tuple[Any, ...] = ("direct", "ddim", "negative-prompt", "edit-friendly", quick)
    found = {"taped": plain, "untaped": without_tape(generate(sd, CAT, seed=8, steps=4))}
    for method in methods:
        found[str(method)] = invert(sd, photo, CAT, method=method, steps=4, guidance_scale=7.5)
    found["direct, untaped"] = without_tape(found["direct"])
    other = generate(sd, DOG, seed=5, steps=4)
    for record in ("store", "tape"):
        found[f"edit, {record}"] = edit(other, CAT, SWAP, record=record)
    return found


def test_runs_of_all_kinds_edited_together_equal_the_single_edits(sd: Denoiser) -> None:
    sources = mixed_sources(sd)
    text, edits = EDITS["all"]
    together = edit_many(sources.values(), text, edits)
    for (name, source), run in zip(sources.items(), together, strict=True):
        alone = edit(source, text, edits, reuse=False)
        assert near(run.pixels, alone.pixels), name
        assert near(run.trajectory.latents, alone.trajectory.latents), name
        assert run.seed == source.seed and run.negative == source.negative


def test_runs_that_differ_are_not_edited_together(sd: Denoiser, cat: Run) -> None:
    other = generate(sd, "a red cat on grass", seed=3, steps=STEPS)
    with pytest.raises(ValueError, match="prompt differs"):
        edit_many([cat, other], DOG)
    for nothing in ([], cat, [None]):
        with pytest.raises(ValueError, match="nothing to edit"):
            edit_many(nothing, DOG)  # type: ignore[arg-type]


def test_warnings_of_the_engine_name_the_line_that_asked(
    sd: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape_budget, "_noted", set())
    with pytest.warns(UserWarning, match="none is kept") as said:
        generate(sd, CAT, seed=3, steps=2, tape_budget=1)
    cat = generate(sd, CAT, seed=3, steps=2)
    with pytest.warns(UserWarning, match="takes no self-attention") as more:
        edit(cat, DOG, [Replace(self_pixels=1)])
    assert {one.filename for one in (*said, *more)} == {__file__}


@pytest.mark.parametrize(("one", "many"), [(generate, generate_many), (edit, edit_many)])
def test_one_and_several_take_the_same_options_and_refuse_unknown_ones(one: Any, many: Any) -> None:
    options = [
        {
            n: p.default
            for n, p in inspect.signature(f).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        }
        for f in (one, many)
    ]
    options[0].pop("seed", None)
    assert options[0] == options[1]
    with pytest.raises(TypeError, match="stepz"):
        many(None, CAT, [], stepz=3)


def test_one_and_several_are_asked_for_by_their_names(sd: Denoiser, cat: Run) -> None:
    for several in ([1, 2], range(2), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="generate_many"):
            generate(sd, CAT, seed=several)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Use `generate`"):
        generate_many(sd, CAT, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="No seed"):
        generate_many(sd, CAT, [])
    with pytest.raises(ValueError, match="edit_many"):
        edit([cat, cat], DOG)  # type: ignore[arg-type]


def test_an_edit_can_be_edited_again_with_and_without_its_tape(cat: Run) -> None:
    text, edits = EDITS["all"]
    taped = edit(cat, text, edits, record="tape")
    plain = edit(cat, text, edits)
    assert taped.tape is not None and plain.tape is None
    assert near(taped.pixels, plain.pixels)
    one = edit(taped, "a red dog on grass")
    two = edit(plain, "a red dog on grass")
    assert near(one.pixels, two.pixels)
    whole = (Refine(cross=(0, 1), self_attention=(0, 1)),)
    keeps = edit(cat, DOG, SWAP, record="tape")
    assert near(edit(keeps, DOG, whole).pixels, keeps.pixels)


def test_without_named_edits_a_default_is_chosen_and_said(cat: Run) -> None:
    run = edit(cat, DOG)
    assert "Replace" in run.note and run.plan is not None
    assert near(run.pixels, edit(cat, DOG, (Replace(),), reuse=False).pixels)


def test_source_and_target_may_have_their_own_guidance(cat: Run) -> None:
    replay = edit(cat, DOG, SWAP, guidance_scale=3.0)
    joint = edit(without_tape(cat), DOG, SWAP, guidance_scale=3.0)
    assert near(replay.pixels, joint.pixels) and replay.guidance_scale == 3.0
    free = edit(cat, DOG, SWAP, guidance_scale=1.0)
    assert near(free.pixels, edit(without_tape(cat), DOG, SWAP, guidance_scale=1.0).pixels)


@pytest.mark.parametrize("sampler", ["euler", "dpm++"])
def test_edits_work_with_every_sampler(sd: Denoiser, sampler: Any) -> None:
    run = generate(sd, CAT, seed=3, steps=4, sampler=sampler)
    replay, joint = edit(run, DOG, SWAP), edit(without_tape(run), DOG, SWAP)
    assert near(replay.pixels, joint.pixels) and replay.sampler == sampler


@pytest.mark.parametrize("name", ["v_folder", "sdxl_folder"])
def test_edits_work_on_velocity_models_and_sdxl(name: str, request: Any) -> None:
    from p2p_lab.models import load

    model = load(request.getfixturevalue(name), "cpu", torch.float64)
    run = generate(model, CAT, seed=3, steps=3)
    replay, joint = edit(run, DOG, SWAP), edit(without_tape(run), DOG, SWAP)
    assert near(replay.pixels, joint.pixels)
    assert run.attention is not None and run.attention.map("cat").shape == (16, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_pictures_that_are_not_black(sd_folder: Path, dtype: Any) -> None:
    from p2p_lab.models import load

    model = load(sd_folder, "cpu", dtype)
    text, edits = EDITS["all"]
    run = generate(model, CAT, seed=3, steps=3)
    changed = edit(run, text, edits)
    for one in (run, changed):
        assert one.pixels.dtype == torch.float32 and torch.isfinite(one.pixels).all()
        assert one.pixels.std() > 0.01
        assert one.attention is not None
        assert all(m.dtype == torch.float32 for m in one.attention.means.values())
    assert run.tape is not None
    assert all(e.query.dtype == dtype for e in run.tape.entries.values())  # type: ignore[union-attr]


def test_a_pinned_source_gives_the_edit_its_measured_latents(cat: Run) -> None:
    """Direct inversion: a joint run equals the tape of the measured trajectory."""
    pinned = replace(cat, trajectory=replace(cat.trajectory, pinned=True))
    text, edits = EDITS["blend"]
    assert near(edit(pinned, text, edits).pixels, edit(without_tape(pinned), text, edits).pixels)
    moved = cat.trajectory.latents + 0.3
    off = replace(without_tape(pinned), trajectory=Trajectory(moved, pinned=True))
    mask = LocalBlend(mask=torch.zeros(8, 8), start=0)
    assert near(edit(off, DOG, (*SWAP, mask)).trajectory.latents, moved)


def test_negative_embeddings_of_each_step_are_used(sd: Denoiser, cat: Run) -> None:
    tokens = sd.encode_negative("a red hat", cat.size).tokens
    optimised = replace(
        cat, trajectory=replace(cat.trajectory, negative_embeds=tokens.repeat(STEPS, 1, 1))
    )
    written = replace(cat, negative="a red hat")
    one, two = edit(optimised, DOG, SWAP), edit(written, DOG, SWAP)
    assert near(one.pixels, two.pixels)
    joint = edit(without_tape(optimised), DOG, SWAP)
    assert near(joint.pixels, edit(without_tape(written), DOG, SWAP).pixels)


def test_noise_maps_and_skipped_steps_are_used(sd: Denoiser, cat: Run) -> None:
    maps = noise_of(5, (STEPS, 4, 16, 16)).double()
    path = replace(cat.trajectory, noise_maps=maps, start=2)
    source = replace(without_tape(cat), trajectory=path)
    ran: list[int] = []
    run = edit(source, DOG, SWAP, on_step=lambda step, *_: ran.append(step))
    assert ran == [2, 3, 4]
    assert torch.equal(run.trajectory.latents[:3], cat.trajectory.latents[:3])
    quiet = edit(replace(source, trajectory=replace(path, noise_maps=None)), DOG, SWAP)
    assert not near(run.pixels, quiet.pixels, 1e-4)


def test_a_tape_over_budget_gives_way_to_the_joint_run_and_says_so_once(sd: Denoiser) -> None:
    tape_budget._noted.clear()
    with pytest.warns(UserWarning, match=r"would take \d+ MiB.*source again beside"):
        run = generate(sd, CAT, seed=3, steps=3, tape_budget=1000)
    assert run.tape is None and run.attention is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(sd, CAT, seed=3, steps=3, tape_budget=1000)
    assert near(
        edit(run, DOG, SWAP).pixels, edit(generate(sd, CAT, seed=3, steps=3), DOG, SWAP).pixels
    )


def test_a_tape_that_an_accelerator_cannot_hold_is_kept_in_the_hosts_memory(
    sd: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, host = torch.device("meta"), torch.device("cpu")
    model: Any = SimpleNamespace(
        device=elsewhere, dtype=torch.float16, name="m", prompt=lambda _: range(16)
    )
    sites = find_sites(sd.module, (8, 8))
    need = tape_budget.tape_size(model, sites, 3)
    room = {elsewhere: 4 * need, host: 4 * need}
    monkeypatch.setattr(tape_budget, "free_memory", room.__getitem__)

    def homes(**budget: Any) -> list[torch.device | None]:
        return [tape.home for tape in tape_budget.new_tapes(model, sites, 3, **budget)]

    assert homes() == [elsewhere] and homes(budget=need) == [elsewhere]
    room[elsewhere] = 0
    assert homes() == [host] and homes(budget=need) == [host]
    room[host] = 0
    assert homes(budget=need) == [host]
    tape_budget._noted.clear()
    with pytest.warns(UserWarning, match="none is kept"):
        assert homes() == []


def test_a_tape_without_large_self_maps_is_used_until_they_are_asked_for(
    sd: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape_budget, "LARGE", 64)
    run = generate(sd, CAT, seed=3, steps=3)
    wide = (Replace(self_pixels=256, self_attention=(0, 1)),)
    with pytest.warns(UserWarning, match="Lower self_pixels"):
        shown = edit(run, DOG, wide)
    assert near(shown.pixels, edit(without_tape(run), DOG, wide).pixels)


def test_the_stores_memory_is_flat_in_the_steps_and_the_tapes_linear(sd: Denoiser) -> None:
    short, long = (generate(sd, CAT, seed=3, steps=n) for n in (2, 6))
    for run in (short, long):
        assert run.attention is not None and run.tape is not None
        sites = run.tape.sites
        assert run.tape.nbytes == tape_budget.tape_size(sd, sites, run.steps)
    assert short.attention.nbytes == long.attention.nbytes  # type: ignore[union-attr]


def test_a_saved_run_comes_back_equal_and_can_be_edited(cat: Run, tmp_path: Path) -> None:
    text, edits = EDITS["all"]
    run = edit(cat, text, edits, record="tape")
    path = run.save(tmp_path / "deep" / "dog.safetensors")
    back = Run.load(path, cat.model)
    assert torch.equal(back.pixels, run.pixels) and back.prompt == run.prompt
    assert back.plan == run.plan and back.note == run.note and back.seed == run.seed
    assert torch.equal(back.trajectory.latents, run.trajectory.latents)
    assert back.masks is not None and torch.equal(back.masks, run.masks)  # type: ignore[arg-type]
    assert back.attention is not None and run.attention is not None
    for which in ("edited", "original"):
        one, two = (r.attention.map("dog", which=which) for r in (back, run))  # type: ignore
        assert torch.equal(one, two)
    assert torch.equal(back.attention.map("dog", step=1), run.attention.map("dog", step=1))
    assert back.source is not None and torch.equal(back.source.pixels, cat.pixels)
    assert near(
        edit(back, "a red dog on grass").pixels, edit(run, "a red dog on grass").pixels, 1e-12
    )
    assert sorted(p.name for p in path.parent.iterdir()) == ["dog.safetensors"]


def test_a_run_saved_without_tape_is_small_and_edits_jointly(cat: Run, tmp_path: Path) -> None:
    whole, small = cat.save(tmp_path / "a"), cat.save(tmp_path / "b", tape=False)
    assert small.stat().st_size < whole.stat().st_size / 3
    back = Run.load(small, cat.model)
    assert back.tape is None
    assert near(edit(back, DOG, SWAP).pixels, edit(cat, DOG, SWAP, reuse=False).pixels)


def test_a_failed_save_leaves_the_old_file_whole(
    cat: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    path = cat.save(tmp_path / "cat")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        cat.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_runs_are_refused(cat: Run, sd32: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        Run.load(tmp_path / "nothing")
    (tmp_path / "junk").write_bytes(b"not a run at all")
    with pytest.raises(ValueError, match="not a saved run"):
        Run.load(tmp_path / "junk")
    path = cat.save(tmp_path / "cat")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        Run.load(tmp_path / "cut")
    other = replace(sd32, name="another")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="made by 'tiny-sd', the model given is 'another'"):
        Run.load(path, other)
    with pytest.raises(ValueError, match="loaded without its model"):
        edit(Run.load(path), DOG)


def test_a_run_shows_its_picture_and_its_escaped_prompt(sd: Denoiser) -> None:
    run = generate(sd, "a cat on <b>grass", seed=1, steps=1)
    shown = run._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown
    assert 'alt="Picture of: a cat' in shown and "data:image/png;base64," in shown
    assert run.image.size == (32, 32) and run.array.shape == (32, 32, 3)
    assert "seed=1" in repr(run)


def test_steps_report_in_order_with_previews_that_approach_the_picture(cat: Run) -> None:
    import numpy as np

    seen: list[tuple[int, int, Any]] = []

    def look(step: int, total: int, preview: Any) -> None:
        seen.append((step, total, np.asarray(preview(), dtype=float)))

    run = edit(cat, DOG, SWAP, reuse=False, on_step=look)
    assert [(step, total) for step, total, _ in seen] == [(n, STEPS) for n in range(STEPS)]
    last = np.asarray(run.image, dtype=float)
    errors = [abs(image - last).mean() for *_, image in seen]
    assert errors[-1] < errors[0]
    plain = edit(cat, DOG, SWAP, reuse=False)
    assert torch.equal(plain.pixels, run.pixels)


def test_a_cancelled_run_stops_and_leaves_the_model_clean(sd: Denoiser, cat: Run) -> None:
    processors = dict(sd.module.attn_processors)
    stop = threading.Event()
    steps: list[int] = []

    def count(step: int, *_: Any) -> None:
        steps.append(step)
        if step == 1:
            stop.set()

    with pytest.raises(Cancelled, match="before step 2 of 5"):
        generate(sd, CAT, steps=STEPS, cancel=stop, on_step=count)
    assert steps == [0, 1]

    def refuse(*_: Any) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        edit(cat, DOG, SWAP, reuse=False, on_step=refuse)
    assert dict(sd.module.attn_processors) == processors
    assert torch.equal(generate(sd, CAT, seed=3, steps=STEPS).pixels, cat.pixels)


def test_a_run_cancelled_in_a_worker_thread_frees_the_model(sd: Denoiser) -> None:
    stop, caught = threading.Event(), []

    def work() -> None:
        try:
            generate(sd, CAT, steps=50, cancel=stop, on_step=lambda *_: stop.set())
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=30)
    assert len(caught) == 1
    assert sd.lock.acquire(blocking=False)
    sd.lock.release()


def test_two_runs_at_once_on_one_model_are_serialised_not_mixed(sd: Denoiser, cat: Run) -> None:
    apart = [generate(sd, text, seed=5, steps=4) for text in (CAT, DOG)]
    together: dict[str, Run] = {}

    def work(text: str) -> None:
        together[text] = generate(sd, text, seed=5, steps=4)

    threads = [threading.Thread(target=work, args=(text,)) for text in (CAT, DOG)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in apart:
        two = together[one.prompt.text]
        assert torch.equal(one.pixels, two.pixels)
        assert one.attention is not None and two.attention is not None
        for site, mean in one.attention.means.items():
            assert torch.equal(mean, two.attention.means[site])


def test_a_progress_bar_is_shown_only_on_request(sd: Denoiser, capsys: Any) -> None:
    generate(sd, CAT, steps=2)
    assert capsys.readouterr().err == ""
    generate(sd, CAT, steps=2, progress=True)
    assert "2/2" in capsys.readouterr().err


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "from 1 to 1000"),
    "half a step": ({"steps": 2.5}, "whole number"),
    "too many steps": ({"steps": 1001}, "from 1 to 1000"),
    "odd size": ({"size": (33, 32)}, "33×32 does not fit.*multiples of 2"),
    "no size": ({"size": 0}, "positive multiples"),
    "nan guidance": ({"guidance_scale": float("nan")}, "number from 1"),
    "low guidance": ({"guidance_scale": 0.5}, "1 on \\(no guidance"),
    "record": ({"record": "all"}, "use one of"),
    "sampler": ({"sampler": "pndm"}, "use one of"),
    "seed": ({"seed": -1}, "whole number from 0"),
    "a list of seeds": ({"seed": [1, 2]}, "generate_many"),
    "latents": ({"latents": torch.zeros(1, 4, 8, 8)}, r"expected \(1, 4, 16, 16\)"),
    "nan latents": ({"latents": torch.full((1, 4, 16, 16), torch.nan)}, "finite"),
    "integer latents": ({"latents": torch.zeros(1, 4, 16, 16).long()}, "floating-point"),
    "a budget of no number": ({"tape_budget": float("nan")}, "tape_budget=nan .*number of bytes"),
    "a budget below nothing": ({"tape_budget": -1}, "tape_budget=-1"),
    "a budget in words": ({"tape_budget": "1GB"}, "tape_budget='1GB'"),
}


BAD |= {
    "a seed with a point": ({"seed": 1.0}, "whole number from 0"),
    "no seed at all": ({"seed": None}, "whole number from 0"),
    "a seed that is text": ({"seed": "7"}, "whole number from 0"),
    "a seed that is a yes": ({"seed": True}, "whole number from 0"),
    "a table of seeds": ({"seed": np.zeros((2, 2), int)}, "is several"),
    "a seed beyond all": ({"seed": 10**400}, "whole number from 0"),
    "a generator": ({"seed": torch.Generator()}, "whole number from 0"),
    "half a size": ({"size": (64,)}, r"\(height, width\)"),
    "a size of three": ({"size": (64, 64, 3)}, r"\(height, width\)"),
    "a size beyond all": ({"size": 10**400}, r"\(height, width\)"),
    "a size that is text": ({"size": "64"}, r"\(height, width\)"),
    "guidance beyond all": ({"guidance_scale": 10**400}, "number from 1"),
    "guidance as text": ({"guidance_scale": "7"}, "number from 1"),
}


@pytest.mark.parametrize("seed", [np.int64(4), np.uint8(4), torch.tensor(4), np.array(4)])
def test_whole_numbers_of_numpy_and_torch_are_seeds(sd: Denoiser, seed: Any) -> None:
    wanted = generate(sd, CAT, seed=4, steps=1)
    run = generate(sd, CAT, seed=seed, steps=1)
    assert isinstance(run, Run) and type(run.seed) is int
    assert torch.equal(run.pixels, wanted.pixels)
    batch = generate_many(sd, CAT, np.array([4, 9]), steps=1)
    assert [one.seed for one in batch] == [4, 9]


def test_a_run_from_given_noise_has_no_seed(sd: Denoiser) -> None:
    noise = noise_of(5, (1, 4, 16, 16))
    run = generate(sd, CAT, latents=noise, steps=1)
    assert run.seed is None and torch.equal(run.pixels, generate(sd, CAT, seed=5, steps=1).pixels)


@pytest.mark.parametrize("name", ["guidance", "latents", "scale", "negative scale", "small"])
def test_finite_in_is_finite_out_or_an_error_that_names_the_setting(
    sd32: Denoiser, name: str
) -> None:
    options: dict[str, dict[str, Any]] = {
        "guidance": {"guidance_scale": 1e30},
        "latents": {"latents": noise_of(1, (1, 4, 16, 16)) * 1e30},
        "small": {"latents": noise_of(1, (1, 4, 16, 16)) * 1e-30},
    }
    said = {"guidance": "guidance_scale=1e", "latents": "first latents [1-9]"}
    try:
        run = generate(sd32, CAT, steps=3, **options.get(name, {}))
        if "scale" in name:
            how = [Reweight("grass", -1e30 if "negative" in name else 1e30)]
            run = edit(run, CAT, how)
        assert torch.isfinite(run.pixels).all()
    except ValueError as error:
        assert "grew too large" in str(error)
        assert re.search(said.get(name, "Reweight 1e"), str(error))
    assert torch.isfinite(generate(sd32, CAT, steps=1).pixels).all()  # the model is as it was


@pytest.mark.parametrize("part", ["module", "text_encoder", "vae"])
def test_weights_that_are_not_finite_are_called_damaged_and_no_setting_is_blamed(
    sd32: Any, part: str
) -> None:
    from p2p_lab.inversion import invert

    weight = dict(getattr(sd32, part).named_parameters())
    name = [n for n in weight if n.endswith("bias")][-1]
    kept = weight[name].detach().clone()
    seen = generate(sd32, CAT, steps=1)
    try:
        weight[name].data.fill_(float("nan"))
        with pytest.raises(ValueError, match=rf"no picture, .*damaged \({part}\.{name} is not f"):
            generate(sd32, CAT, steps=2)
        for method in ("direct", "null-text"):
            with pytest.raises(ValueError, match=rf"damaged \({part}\.{name} is not finite"):
                invert(sd32, seen.image, CAT, steps=2, method=method)  # type: ignore[arg-type]
    finally:
        weight[name].data.copy_(kept)
    assert torch.equal(generate(sd32, CAT, steps=1).pixels, seen.pixels)


def test_the_default_precision_of_torch_does_not_change_a_picture(
    sd32: Denoiser,
) -> None:
    from p2p_lab.edits import Move
    from p2p_lab.inversion import invert
    from p2p_lab.scenes import render, sample_scene

    def everything() -> list[Tensor]:
        run = generate(sd32, CAT, seed=3, steps=3)
        fence = LocalBlend("cat", "dog", threshold=0.9, mask=torch.ones(4, 4).tolist())
        edited = edit(run, DOG, [*SWAP, fence], guidance_scale=3.0, reuse=False)
        joint = edit(without_tape(run), CAT, [Move("cat", (0, 0.2), threshold=0.7)])
        photo = invert(sd32, run.image, CAT, method="edit-friendly", steps=3)
        scene = render([sample_scene(4)], 64).images
        runs = [run, edited, joint, photo]
        return [scene, *(one.pixels for one in runs), noise_of(3, (2, 2))]

    usual = everything()
    torch.set_default_dtype(torch.float64)
    try:
        changed = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, two in zip(usual, changed, strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)


@pytest.mark.parametrize("name", list(BAD))
def test_bad_settings_are_refused_before_any_sampling(sd: Denoiser, name: str) -> None:
    options, sentence = BAD[name]
    ran: list[int] = []
    with pytest.raises(ValueError, match=sentence):
        generate(sd, CAT, **{"steps": 2, **options}, on_step=lambda *_: ran.append(1))
    assert ran == []


def test_prompts_that_are_too_long_are_refused_with_the_number_too_many(sd: Denoiser) -> None:
    with pytest.raises(ValueError, match="4 token"):
        generate(sd, "a cat " * 9, steps=2)


def test_words_that_are_not_there_are_refused(cat: Run) -> None:
    with pytest.raises(AlignmentError, match="zebra"):
        edit(cat, DOG, [Reweight("zebra", 2.0)])
    with pytest.raises(ValueError, match="recorded no maps"):
        replace(cat, attention=None).map("cat")


def test_tapes_of_another_model_size_or_length_are_refused(sd: Denoiser, cat: Run) -> None:
    assert cat.tape is not None
    foreign = replace(cat, tape=replace(cat.tape, model="another"))
    with pytest.raises(ValueError, match="made by 'another' and the model is 'tiny-sd'"):
        edit(foreign, DOG)
    other = generate(sd, CAT, seed=3, steps=STEPS, size=(24, 32))
    with pytest.raises(ValueError, match="another size"):
        edit(replace(cat, tape=other.tape), DOG)
    short = generate(sd, CAT, seed=3, steps=2)
    with pytest.raises(ValueError, match="tape has 2 steps and the source 5"):
        edit(replace(cat, tape=short.tape), DOG)
    plan = compile_edits(SWAP, cat.prompt, sd.prompt(DOG), 3)
    with pytest.raises(ValueError, match="compiled for 3 steps"):
        apply_plan([cat], plan, guidance_scale=7.5)


def test_a_scheduler_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match="thresholding"):
        make_schedule({**scheduler().config, "thresholding": True}, "ddim", 5)


def test_the_metadata_of_a_saved_run_is_json(cat: Run, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(cat.save(tmp_path / "cat")), framework="pt") as file:
        fields = json.loads(file.metadata()["p2p_lab"])
    assert fields["runs"][0]["prompt"]["text"] == CAT and fields["format"] == 2


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_edit_of_any_two_prompts_crashes_or_gives_nan(sd: Denoiser, data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(["a", "cat", "dog", "red", "snowy", "polar"]), max_size=4)
    window = st.tuples(st.floats(0, 0.5), st.floats(0.5, 1))
    one, two = " ".join(["the", *data.draw(words)]), " ".join(["the", *data.draw(words)])
    source = generate(sd, one, seed=data.draw(st.integers(0, 99)), steps=2)
    aligner = data.draw(st.sampled_from([Replace, Refine]))
    edits = [
        aligner(cross=data.draw(window), self_attention=data.draw(window)),
        Reweight("the", data.draw(st.floats(-4, 4)), data.draw(window)),
        LocalBlend("the", "the", threshold=data.draw(st.floats(0, 1))),
    ]
    run = edit(source, two, edits)
    joint = edit(without_tape(source), two, edits)
    assert torch.isfinite(run.pixels).all()
    assert near(run.pixels, joint.pixels, 1e-6)


def test_a_run_owns_its_tape_and_its_maps_read_that_one(sd: Denoiser) -> None:
    """Also after the tape was taken away or another one was set; an edit's source is the run."""
    run = generate(sd, CAT, seed=3, steps=3)
    assert run.attention is not None and run.attention.tape is run.tape is not None
    bare = replace(run, tape=None)
    assert bare.attention is not None and bare.attention.tape is None
    with pytest.raises(ValueError, match="kept no single steps"):
        bare.map("cat", step=0)
    first = edit(run, DOG, SWAP, record="store")
    second = edit(first, CAT, SWAP)
    assert second.source is first and first.tape is None
    assert first.cache.tape is not None
    assert near(second.pixels, edit(first, CAT, SWAP, reuse=False).pixels)


@pytest.mark.parametrize("steps", [3, 16])
def test_second_order_steps_are_the_pipelines_own_and_are_edited_as_first_order_ones(
    steps: int, sd: Denoiser, tmp_path: Path
) -> None:
    """Record, an edit from the tape, the joint run, a shared beginning, a saved source."""
    import diffusers

    settings: Any = {"seed": 4, "steps": steps, "guidance_scale": 3.0, "sampler": "dpm++2m"}
    run = generate(sd, CAT, **settings)
    plain = generate(sd, CAT, record="none", **settings)
    assert torch.equal(run.pixels, plain.pixels)
    model: Any = sd
    pipe = diffusers.StableDiffusionPipeline(
        vae=model.vae,
        unet=model.module,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(dict(sd.scheduler_config)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        CAT,
        latents=noise_of(4, (1, 4, 16, 16)).double(),
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="latent",
    ).images[0]
    assert torch.allclose(run.trajectory.latents[-1], theirs, atol=1e-5)
    edits = [Replace(cross=(0, 0.75)), LocalBlend("cat", "dog")]
    taped, joint = edit(run, DOG, edits), edit(plain, DOG, edits)
    assert torch.allclose(taped.trajectory.latents, joint.trajectory.latents, atol=1e-9)
    later = [Replace(cross=(0, 1)), LocalBlend("cat", "dog")]
    shared, fresh = edit(run, DOG, later), edit(run, DOG, later, reuse=False)
    assert torch.allclose(shared.trajectory.latents, fresh.trajectory.latents, atol=1e-12)
    again = edit(Run.load(run.save(tmp_path / "run"), sd), DOG, edits)
    assert torch.equal(again.pixels, taped.pixels)
