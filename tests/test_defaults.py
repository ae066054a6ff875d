"""The law of torch's defaults: whatever device or precision is set, results are the same.

For every public function of the rooms beside sampling the table holds a call; one that is missing
is an error. What sampling itself does is in `test_surroundings`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p2p_lab import (
    checks,
    edits,
    figures,
    judge,
    metrics,
    recipes,
    sampling,
    scenes,
    tokens,
    widgets,
)
from p2p_lab.edits import LocalBlend, Reweight
from p2p_lab.inversion import NullText, invert
from p2p_lab.sampling import Run, edit, generate
from tests.course_students import OTHER_WAY
from tests.test_lesson_exercises import EACH, READ, imports
from tests.worlds import tiny_tokenizer

ROOMS = (
    *("figures", "metrics", "widgets", "checks", "scenes", "judge", "edits", "tokens", "recipes"),
)
SOURCE, TARGET = "a cat on grass", "a dog on grass"
WORLDLY: Any = SimpleNamespace(card=SimpleNamespace(vocabulary={"cat"}))  # as a bundled model


@contextmanager
def default_device() -> Iterator[None]:
    """A default device on which nothing can be computed: what names no device fails there."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def both() -> Iterator[None]:
    with default_device(), default_dtype(torch.float64):
        yield


DEFAULTS: dict[str, Callable[[], Any]] = {
    "a device and float64": both,
    "float16": lambda: default_dtype(torch.float16),
}


@pytest.fixture(scope="module")
def at(sd32: Any) -> Any:
    """What the calls are made with: two pictures, maps, a mask, runs, a plan."""
    rng = np.random.default_rng(0)
    run = generate(sd32, SOURCE, seed=1, steps=2, self_maps=True)
    edited = edit(run, TARGET, [edits.Replace(), Reweight("grass", 2.0), LocalBlend("cat", "dog")])
    inverted = invert(sd32, run.image, SOURCE, method=NullText(inner_steps=1), steps=2)
    prompts = [tokens.Prompt.of(text, tiny_tokenizer()) for text in (SOURCE, TARGET)]
    scene = scenes.sample_scene(3, "small")
    return SimpleNamespace(
        model=sd32,
        run=run,
        edited=edited,
        inverted=inverted,
        a=torch.from_numpy(rng.random((3, 16, 16))).float(),
        b=torch.from_numpy(rng.random((3, 16, 16))).float(),
        array=rng.random((16, 16, 3)),
        heat=torch.from_numpy(rng.random((8, 8))).float(),
        mask=torch.from_numpy(rng.random((16, 16)) > 0.5),
        prompts=prompts,
        alignment=tokens.align_words(*prompts),
        relations=sampling.Relations(prompts[0], (2, 2), torch.eye(len(prompts[0]) + 4)),
        plan=edited.plan,
        scene=scene,
        picture=scenes.render(scene).images[0],
    )


CALLS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "figures": {
        "alt_text": lambda at: figures.alt_text(figures.show_map(at.heat)),
        "frame_changes": lambda at: figures.frame_changes([at.run, at.edited]),
        "overlay": lambda at: figures.overlay(at.a, at.heat),
        "picture_html": lambda at: figures.picture_html(b"png", "a picture"),
        "show_alignment": lambda at: figures.show_alignment(at.alignment),
        "show_blend": lambda at: figures.show_blend(at.edited),
        "show_cost": lambda at: figures.show_cost({"one": (1.0, 2.0)}, cost="s", quality="dB"),
        "show_drift": lambda at: figures.show_drift({"ddim": at.run}, at.run.trajectory.latents),
        "show_edit": lambda at: figures.show_edit(at.run, at.run, at.edited),
        "show_frames": lambda at: figures.show_frames([at.run, at.edited]),
        "show_losses": lambda at: figures.show_losses([[1.0, 0.5], [0.5]]),
        "show_map": lambda at: figures.show_map(at.heat, title="cat"),
        "show_maps": lambda at: figures.show_maps(at.run),
        "show_pictures": lambda at: figures.show_pictures([at.a, at.run], ["one", "two"]),
        "show_plan": lambda at: figures.show_plan(at.plan),
        "show_guidance": lambda at: figures.show_guidance(at.a, at.b, 3.0),
        "show_relations": lambda at: figures.show_relations(at.relations),
        "show_row": lambda at: figures.show_row(at.run, (2, 3)),
        "show_sweep": lambda at: figures.show_sweep([at.a, at.b], [0, 1], name="τ", source=at.a),
        "show_trajectory": lambda at: figures.show_trajectory(at.run),
        "to_gif": lambda at: figures.to_gif([at.run, at.edited]),
        "to_png": lambda at: figures.to_png(figures.show_map(at.heat)),
        "upsample": lambda at: figures.upsample(at.heat, 16, 16),
    },
    "metrics": {
        **{
            name: lambda at, name=name: getattr(metrics, name)(at.a, at.b, at.mask)  # type: ignore[misc]
            for name in metrics.__all__
            if name.startswith(("background", "foreground"))
        },
        **{
            name: lambda at, name=name: getattr(metrics, name)(at.a, at.b)  # type: ignore[misc]
            for name in ("mse", "psnr", "ssim", "ssim_map")
        },
        "structure_distance": lambda at: metrics.structure_distance(at.a, at.b),
        "edit_summary": lambda at: metrics.edit_summary(at.a, at.b, at.a, at.mask),
        "mask_iou": lambda at: metrics.mask_iou(at.mask, at.mask.roll(1, 0)),
        "pointing_accuracy": lambda at: metrics.pointing_accuracy([at.heat], [at.heat > 0.5]),
        "rank_correlation": lambda at: metrics.rank_correlation(at.heat, at.heat.T),
    },
    "widgets": {
        "AttentionExplorer": lambda at: widgets.AttentionExplorer(at.run).figure(),
        "EditPanel": lambda at: (
            widgets.EditPanel(at.model, SOURCE, TARGET, seed=1, steps=2, threaded=False).edited
        ),
        "InversionPanel": lambda at: repr(
            widgets.InversionPanel(at.model, at.run.image, SOURCE, steps=2, threaded=False)
        ),
        "StepPanel": lambda at: repr(widgets.StepPanel(at.edited)),
        "Guess": lambda at: repr(widgets.guess("02.radical", ["one", "two"])),
        "guess": lambda at: repr(widgets.guess("02.radical", ["one", "two"])),
        "guesses": lambda at: repr(widgets.guesses("02")),
    },
    "checks": {
        "allow_hints": lambda at: checks.allow_hints(3),
        "check": lambda at: [right(*one[1:], path=one[0]) for one in EACH],
        "exercises": lambda at: len(checks.exercises()),
        "grade": lambda at: outcome(lambda: checks.grade("ps1.words", len, "a student")),
        "hint": lambda at: str(checks.hint("02.mapper", 1)),
        "progress": lambda at: checks.progress("00b").asked,
        "questions": lambda at: [answered(one) for one in checks.questions()],
        "seed_of": lambda at: checks.seed_of("a student", "ps1"),
        "solution": lambda at: str(checks.solution("02.mapper")),
    },
    "scenes": {
        "caption": lambda at: scenes.caption(at.scene).text,
        "held_out": lambda at: scenes.held_out("cat", "crown"),
        "nearest": lambda at: scenes.nearest("cta", ("cat", "dog")),
        "parse": lambda at: repr(scenes.parse("a cat in a field", seed=2)),
        "render": lambda at: scenes.render([at.scene, at.scene], 32).images,
        "sample_scene": lambda at: repr(scenes.sample_scene(5, "full")),
        "scene_pairs": lambda at: scenes.scene_pairs(at.scene),
    },
    "recipes": {
        "Recipe": lambda at: recipes.Recipe(SOURCE, TARGET, steps=2).apply(at.run),
        "fader_words": lambda at: recipes.fader_words(at.run.prompt),
        "listed": lambda at: recipes.listed("cat, dog"),
        "page_address": lambda at: recipes.page_address(),
        "read_recipe": lambda at: repr(
            recipes.read_recipe(recipes.Recipe(SOURCE, TARGET).to_json())
        ),
        "recipe_of": lambda at: repr(
            recipes.recipe_of(at.run, TARGET, [Reweight("dog", 2)], base=recipes.Recipe("", ""))
        ),
        "to_code": lambda at: recipes.to_code(recipes.Recipe(SOURCE, TARGET), [Reweight("dog", 2)]),
        "to_link": lambda at: recipes.to_link(recipes.Recipe(SOURCE, TARGET)),
    },
    "judge": {
        "captioner_of": lambda at: judge.captioner_of(WORLDLY)(at.picture),
        "load_judge": lambda at: [
            judge.load_judge().read(at.picture).probabilities,
            judge.load_judge().holds(at.picture, at.scene),
            judge.load_judge().suggest(at.picture),
        ],
    },
    "edits": {
        "between": lambda at: edits.between(
            *(edits.compile_edits([edits.Replace(cross=(0, t))], *at.prompts, 4) for t in (0.5, 1)),
            0.5,
        ),
        "compile_edits": lambda at: edits.compile_edits(
            [edits.Replace(), Reweight("grass", 2.0), LocalBlend("cat", "dog")], *at.prompts, 4
        ),
        "default_edits": lambda at: repr(edits.default_edits(*at.prompts)),
        "mix_cross": lambda at: edits.mix_cross(
            torch.ones(1, 2, 4, len(at.plan.target), device="cpu", dtype=torch.float32),
            torch.ones(1, 2, 4, len(at.plan.target), device="cpu", dtype=torch.float32),
            at.plan,
            0,
        ),
    },
    "tokens": {
        "align_tokens": lambda at: tokens.align_tokens(*at.prompts).mapper,
        "align_words": lambda at: tokens.align_words(*at.prompts).mapper,
        "ids_that_fit": lambda at: tokens.ids_that_fit(SOURCE, tiny_tokenizer(), 16),
        "no_common_word": lambda at: tokens.no_common_word(*at.prompts),
        "reference_tokens_of": lambda at: tokens.reference_tokens_of(at.prompts[0], "cat"),
        "align_by_hand": lambda at: tokens.align_by_hand(at.alignment, [(1, 2)]).mapper,
        "links_of": lambda at: tokens.links_of(at.alignment),
        "word_blocks": lambda at: repr(tokens.word_blocks(*at.prompts)),
    },
}


def right(exercise_id: str, name: str, code: str, path: Any) -> str:
    space: dict[str, Any] = {}
    exec(imports(READ[path]), space)
    exec(code, space)
    return str(checks.check(exercise_id, space[name]))


def answered(question_id: str) -> list[str]:
    """Return what is said to an answer that is wrong, and to one that is right."""
    said = [str(checks.check(question_id, lambda *_, **__: None))]
    name = question_id.partition(".")[2]
    if name in OTHER_WAY:
        space: dict[str, Any] = {"torch": torch}
        exec(OTHER_WAY[name], space)
        said.append(str(checks.check(question_id, space[name])))
    return said


def outcome(act: Callable[[], Any]) -> str:
    try:
        return str(act())
    except checks.NotRight as error:
        return str(error)


def plain(value: Any) -> Any:
    """Return a result as bytes, text and numbers that can be compared."""
    if isinstance(value, Run):
        return plain(value.pixels)
    if isinstance(value, edits.EditPlan):
        return value.to_json()
    if isinstance(value, Tensor):
        return str(value.dtype), value.cpu().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tobytes()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "savefig") or hasattr(value, "figure"):
        drawn, picture = getattr(value, "figure", value), io.BytesIO()
        drawn.savefig(picture, format="raw", dpi=30)
        return picture.getvalue()
    return repr(value)


def test_the_table_has_a_call_for_every_public_function() -> None:
    for room in ROOMS:
        public = import_module(f"p2p_lab.{room}").__all__
        functions = {n for n in public if not n[0].isupper()}
        assert functions <= set(CALLS[room]), room
    assert set(widgets.__all__) == set(CALLS["widgets"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("room", ROOMS)
def test_torchs_default_device_and_precision_change_no_result(room: str, at: Any) -> None:
    failed = []
    for name, call in CALLS[room].items():
        wanted = plain(call(at))
        for default, session in DEFAULTS.items():
            try:
                with session():
                    found = call(at)
                if plain(found) != wanted:
                    failed.append(f"{name} under {default}: another result")
            except Exception as error:
                failed.append(f"{name} under {default}: {type(error).__name__}: {error!s:.200}")
    assert not failed, "\n".join(failed)
