"""Laws that hold for every family of denoisers, each opened from a saved pipeline.

Every test fills a cell of the table in docs/backbones.md, family × feature, which
`tools/families.py` makes.
"""

from __future__ import annotations

import inspect
import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from p2p_lab import (
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    compile_edits,
    edit,
    generate,
    invert,
    load,
)
from p2p_lab.attention import find_sites
from p2p_lab.codec import decode
from p2p_lab.inversion import NullText, to_tensor
from p2p_lab.models import ModelError
from p2p_lab.models.living import Living
from p2p_lab.sampling import EditCache, Run, apply_plan, predict_clean, schedule_for
from p2p_lab.sampling.peak_memory import peak_memory
from p2p_lab.sampling.tape_budget import tape_size
from p2p_lab.tokens import Prompt, align_tokens, align_words
from tests.family_pipelines import FAMILIES, SEED, STEPS, pipeline_picture, save_if_upscaler

CAT, DOG = "a cat on grass", "a dog on grass"
SWAP = Replace(cross=(0, 0.75), self_attention=(0, 0.5))
EDITS: dict[str, tuple[str, list[Any]]] = {
    "replace": (DOG, [SWAP]),
    "refine": ("a red cat on grass", [Refine(cross=(0, 0.75), self_attention=(0, 0.5))]),
    "reweight": (CAT, [Reweight("grass", -2.0)]),
    "local blend": (DOG, [SWAP, LocalBlend("cat", "dog", threshold=0.9)]),
}
INVERSIONS = ["ddim", "negative-prompt", "null-text", "direct", "edit-friendly"]
KEYS = list(FAMILIES)

Test = Callable[..., None]


def covers(feature: str) -> Callable[[Test], Test]:
    """Say which column of the table a test fills."""

    def mark(test: Test) -> Test:
        test.feature = feature  # type: ignore[attr-defined]
        return test

    return mark


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Open a family's tiny pipeline, which is saved once, in a precision; each is opened once."""
    folder = tmp_path_factory.mktemp("families")
    models: dict[Any, Any] = {}

    def get(key: str, dtype: torch.dtype = torch.float64) -> Any:
        if not (folder / key).is_dir():
            FAMILIES[key].save(folder / key)
        if (key, dtype) not in models:
            models[key, dtype] = load(folder / key, "cpu", dtype)
            models[key, "folder"] = folder / key
        return models[key, dtype]

    get.models = models  # type: ignore[attr-defined]
    return get


@pytest.fixture(params=KEYS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def source(opened: Any) -> Callable[[str], Run]:
    """A picture of each family in float64, with its tape; made once."""
    runs: dict[str, Run] = {}

    def get(key: str) -> Run:
        if key not in runs:
            runs[key] = picture(opened(key), key)
        return runs[key]

    return get


def picture(model: Any, key: str, **options: Any) -> Run:
    settings = {"seed": SEED, "steps": STEPS, "guidance_scale": FAMILIES[key].scale, **options}
    return generate(model, CAT, **settings)


def near(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).abs().max() < 1e-7)  # maps are shown in float32


def apart(one: Run, two: Run) -> float:
    return float((one.trajectory.latents - two.trajectory.latents).abs().max())


def processors(model: Any) -> list[Any]:
    names = find_sites(model.module, (8, 8))
    return [model.module.get_submodule(name).processor for name in names]


@covers("load")
def test_a_plain_picture_is_the_pipelines_own_bit_for_bit(family: str, opened: Any) -> None:
    model = opened(family, torch.float32)
    theirs = pipeline_picture(opened.models[family, "folder"], model, CAT, FAMILIES[family])
    ours = picture(model, family, record="none").pixels
    assert theirs.std() > 0.01
    assert torch.equal(ours, theirs)


def test_a_models_scheduler_settings_are_those_of_diffusers_own_class(
    family: str, opened: Any
) -> None:
    settings = opened(family).scheduler_config
    kind = getattr(diffusers, settings["_class_name"])
    known = {*inspect.signature(kind.__init__).parameters, "clip_sample", "steps_offset"}
    assert {name for name in settings if not name.startswith("_")} <= known


@covers("record")
def test_recording_does_not_change_a_picture_and_finds_each_word(family: str, opened: Any) -> None:
    model = opened(family, torch.float32)
    taped, plain = (picture(model, family, record=record) for record in ("tape", "none"))
    assert torch.equal(taped.pixels, plain.pixels)
    assert taped.attention is not None and taped.tape is not None
    for word in ("cat", "grass"):
        heat = taped.map(word)
        assert heat.ndim == 2 and bool((heat > 0).all()) and float(heat.std()) > 0
    assert not torch.equal(taped.map("cat"), taped.map("grass"))


@covers("record")
def test_the_tapes_size_is_known_before_it_is_taken(family: str, source: Any) -> None:
    tape = source(family).tape
    assert tape.nbytes == tape_size(source(family).model, tape.sites, STEPS)


@covers("record")
def test_the_identity_plan_changes_no_bit(family: str, opened: Any) -> None:
    run = picture(opened(family, torch.float32), family)
    plan = compile_edits([], run.prompt, run.prompt, STEPS)
    again = apply_plan([run], plan, guidance_scale=run.guidance_scale)[0]
    assert torch.equal(again.pixels, run.pixels)


def test_half_precision_draws_and_edits_on_every_family(family: str, opened: Any) -> None:
    run = picture(opened(family, torch.float16), family, steps=2)
    dog = edit(run, DOG, [SWAP])
    for one in (run, dog):
        assert one.pixels.dtype == torch.float32 and one.pixels.isfinite().all()
        assert float(one.pixels.std()) > 0.01


@covers("replace")
def test_a_swapped_word_gets_the_map_of_the_word_it_replaces(family: str, source: Any) -> None:
    run = source(family)
    swapped = edit(run, DOG, [Replace(cross=(0, 1), self_attention=(0, 0))])
    assert near(swapped.map("dog"), run.map("cat"))
    assert not near(swapped.map("dog", which="original"), run.map("cat"))


@covers("refine")
def test_a_refined_prompt_keeps_the_maps_of_old_words(family: str, source: Any) -> None:
    run = source(family)
    refined = edit(run, "a red cat on grass", [Refine(cross=(0, 1), self_attention=(0, 0))])
    assert near(refined.map("cat"), run.map("cat"))
    assert near(refined.map("grass"), run.map("grass"))
    assert bool((refined.map("red") > 0).all())


@covers("reweight")
def test_a_fader_scales_the_map_of_its_word_alone(family: str, source: Any) -> None:
    run = source(family)
    louder = edit(run, CAT, [Reweight("grass", -2.0), Refine((0, 1), (0, 0))])
    assert near(louder.map("grass"), -2 * run.map("grass"))
    assert near(louder.map("cat"), run.map("cat"))


@covers("local blend")
def test_outside_the_mask_the_latents_stay_those_of_the_source(family: str, source: Any) -> None:
    run = source(family)
    for threshold in (0.9, 0.99, 0.999):  # random maps are even, some more than others
        blended = edit(run, DOG, [SWAP, LocalBlend("cat", "dog", threshold=threshold, start=0)])
        assert blended.masks is not None
        last = blended.masks[-1]
        if float(last.mean()) < 1:
            break
    assert 0 < float(last.mean()) < 1
    difference = (blended.trajectory.latents[-1] - run.trajectory.latents[-1]).abs()
    assert float((difference * (1 - last)).max()) == 0
    assert float((difference * last).max()) > 0


@covers("cached source")
@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_from_the_tape_equals_the_joint_run(family: str, name: str, source: Any) -> None:
    run, (text, edits) = source(family), EDITS[name]
    cached, joint = (
        edit(run, text, edits),
        edit(replace(run, tape=None, cache=EditCache()), text, edits),
    )
    plain = edit(run, text, [Refine((0, 0), (0, 0))])
    assert cached.pixels.isfinite().all()
    assert apart(cached, joint) < 1e-9
    assert apart(cached, plain) > 1e-6, "the edit changed nothing"


@pytest.mark.parametrize("key", ["if", "sd3", "flux"])
def test_a_joint_softmax_can_take_the_sources_image_queries_and_keys(key: str, source: Any) -> None:
    """The variant of arXiv 2508.07519: layout by queries and keys, words left to the target."""
    run = source(key)
    form = Replace(cross=(0, 0), self_attention=(0, 1), joint="queries")
    cached, joint = (
        edit(run, DOG, [form]),
        edit(replace(run, tape=None, cache=EditCache()), DOG, [form]),
    )
    assert apart(cached, joint) < 1e-9
    maps = edit(run, DOG, [replace(form, joint="maps")])
    assert apart(cached, maps) > 1e-6 and apart(cached, run) > 1e-6
    louder = edit(run, DOG, [form, Reweight("grass", -2.0)])
    assert apart(louder, cached) > 1e-6  # words can still be turned up and down
    same = edit(run, CAT, [form])
    assert apart(same, run) < 1e-9  # a picture's own queries and keys change nothing
    assert cached.plan == type(cached.plan).from_json(cached.plan.to_json())
    blended = edit(run, DOG, [form, LocalBlend("cat", "dog", threshold=0.9)])
    assert blended.masks is not None and blended.pixels.isfinite().all()
    again = edit(edit(run, DOG, [form], record="tape"), "a dog on a cat", [form])
    assert again.pixels.isfinite().all()  # what the first edit took can be taken from it in turn
    mixed = edit(run, DOG, [SWAP], record="tape")
    with pytest.raises(ValueError, match="itself edited.*joint='maps'"):
        edit(mixed, "a dog on a cat", [form])


def photograph(model: Any) -> Any:
    """Some picture that the model did not draw, of its own size."""
    side = (model.defaults.height, model.defaults.width)
    rows, columns = np.mgrid[0 : side[0], 0 : side[1]] / 8.0
    waves = [np.sin(rows), np.cos(columns), np.sin(rows + columns)]
    return Image.fromarray(((np.stack(waves, axis=-1) * 0.3 + 0.5) * 255).round().astype("uint8"))


def encoded(model: Any) -> Tensor:
    """The photograph's latents, (1, C, h, w)."""
    latents: Tensor = model.encode(to_tensor(photograph(model)))
    return latents


def inverted(model: Any, key: str, method: Any, **options: Any) -> Run:
    settings = {"steps": STEPS, "guidance_scale": FAMILIES[key].scale, **options}
    return invert(model, photograph(model), CAT, method=method, **settings)


@covers("ddim")
def test_each_step_back_is_undone_by_the_samplers_step_with_the_same_prediction(
    family: str, opened: Any
) -> None:
    model = opened(family)
    size = (model.defaults.height, model.defaults.width)
    run = inverted(model, family, "ddim", guidance_scale=1)
    path = inverted(model, family, "direct", record="none").trajectory.latents[:, None]
    assert torch.equal(run.trajectory.latents[0], path[0, 0])  # measured in the same way
    schedule: Any = schedule_for(model, "ddim", STEPS, model.latent_shape(size)[1:])
    text = model.encode_prompt(run.prompt, size)
    for step in range(STEPS):
        said = model.predict(path[step + 1], schedule.timesteps[step], text)
        forward = schedule
        if not schedule.is_flow:  # a velocity is read as the noise that it stands for
            level = schedule.alpha_bar[step]
            said = predict_clean(path[step + 1], said, level, schedule.prediction)[1]
            forward = replace(schedule, prediction="epsilon", clip=None, threshold=None)
        assert near(forward.advance(path[step], said, step), path[step + 1])
    assert_editable(run)


@covers("negative-prompt")
def test_led_away_from_its_own_prompt_a_picture_is_retraced_as_without_guidance(
    family: str, opened: Any
) -> None:
    skip_if_refused(family, "negative-prompt")
    guided = inverted(opened(family), family, "negative-prompt")
    free = inverted(opened(family), family, "ddim", guidance_scale=1)
    assert apart(guided, free) < 1e-9
    assert_editable(guided)


@covers("null-text")
def test_a_tuned_empty_prompt_brings_the_picture_nearer(family: str, opened: Any) -> None:
    skip_if_refused(family, "null-text")
    scale = max(FAMILIES[family].scale, 2.0)
    runs = [
        inverted(opened(family), family, method, guidance_scale=scale)
        for method in ("ddim", NullText(inner_steps=3, goal=0, goal_growth=0))
    ]
    start = encoded(opened(family))[0]
    far, close = (float((run.trajectory.latents[-1] - start).square().mean()) for run in runs)
    assert close < far
    assert_editable(runs[1])


@pytest.mark.parametrize("method", ["direct", "edit-friendly"])
def test_a_pinned_picture_comes_back_exactly_and_can_be_edited(
    family: str, method: str, opened: Any
) -> None:
    skip_if_refused(family, method)
    model = opened(family)
    run = inverted(model, family, method)
    assert near(run.pixels, model.decode(encoded(model))[0])
    assert_editable(run)


def assert_editable(run: Run) -> None:
    """The edit takes effect, and from the tape it is what it is beside its source."""
    cached, joint = (
        edit(run, DOG, [SWAP]),
        edit(replace(run, tape=None, cache=EditCache()), DOG, [SWAP]),
    )
    assert apart(cached, joint) < 1e-9
    assert apart(cached, run) > 1e-6


def skip_if_refused(key: str, method: str) -> None:
    if method in FAMILIES[key].refused:
        pytest.skip(f"not defined: {FAMILIES[key].refused[method]}")


def test_words_are_found_and_aligned_in_every_text_that_a_denoiser_reads(opened: Any) -> None:
    """SD3 reads a word as its CLIPs and as its T5 do; no token of one feeds one of the other."""
    model = opened("sd3")
    bear = model.prompt("a polar bear, on grass")
    clip, five = bear.parts
    there = [len(clip) + token for token in five.tokens_of("polar bear")]
    assert bear.tokens_of("polar bear") == clip.tokens_of("polar bear") + there
    assert bear.tokens_at(1) + bear.tokens_at(2) != bear.tokens_of("polar bear")  # by part, by word
    assert sorted(bear.tokens_at(1) + bear.tokens_at(2)) == bear.tokens_of("polar bear")
    assert set(bear.padding).isdisjoint({*bear.tokens_of("grass"), *bear.specials})
    cat = model.prompt("a cat, on grass")
    for align in (align_words, align_tokens):
        mapper = align(cat, bear).mapper
        one, two = align(cat.parts[0], bear.parts[0]), align(cat.parts[1], bear.parts[1])
        n = len(clip)
        assert torch.equal(mapper[:n, :n], one.mapper) and torch.equal(mapper[n:, n:], two.mapper)
        assert not mapper[:n, n:].any() and not mapper[n:, :n].any()
    assert decode(Prompt, json.loads(json.dumps(asdict(bear)))) == bear


@pytest.mark.parametrize("key", ["ldm", "pixart-sigma", "sd3"])
def test_all_words_of_a_prompt_have_maps_in_reading_order(key: str, source: Any) -> None:
    run = source(key)
    shown = list(run.attention.maps(special=True))
    words = [name for name in shown if name in run.prompt.words]
    assert words == ["a", "cat", "on", "grass"] and shown[-1] == "padding"
    total = sum(run.attention.maps(special=True).values())
    shares = run.attention.token_maps().sum(dim=0)
    assert torch.allclose(total, shares)


def test_classifier_free_guidance_of_flux_is_the_pipelines_true_one(opened: Any) -> None:
    model = opened("flux", torch.float32)
    options = {**FAMILIES["flux"].options, "true_cfg_scale": 3.0, "negative_prompt": "a red hat"}
    theirs = pipeline_picture(
        opened.models["flux", "folder"], model, CAT, replace(FAMILIES["flux"], options=options)
    )
    ours = picture(model, "flux", guidance_scale=3.0, negative="a red hat", record="none").pixels
    assert torch.allclose(ours, theirs, atol=1e-5)  # theirs runs the two rows one after the other


REFUSALS = [(key, name) for key, family in FAMILIES.items() for name in family.refused]


@pytest.mark.parametrize(("key", "method"), REFUSALS)
def test_what_a_family_cannot_do_is_refused_with_the_reason(
    key: str, method: str, opened: Any
) -> None:
    with pytest.raises(ValueError, match=FAMILIES[key].refused[method]):
        inverted(opened(key, torch.float32), key, method)


@pytest.mark.parametrize("fails", [False, True])
@covers("load")
def test_the_processors_are_put_back(family: str, fails: bool, opened: Any) -> None:
    model = opened(family, torch.float32)
    before = processors(model)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            picture(model, family, on_step=stop)
    else:
        picture(model, family)
    assert all(one is two for one, two in zip(before, processors(model), strict=True))


def test_the_later_stage_of_a_cascade_runs_on_an_edit_as_the_pipeline_does(
    source: Any, tmp_path: Path
) -> None:
    save_if_upscaler(tmp_path / "later")
    upscaler = load(tmp_path / "later", "cpu", torch.float32)
    edited = edit(source("if"), DOG, [SWAP])
    small = edited.pixels.float()
    run = generate(upscaler.on(small, seed=SEED), DOG, seed=SEED, steps=STEPS, guidance_scale=4.0)
    later = replace(FAMILIES["if"], options={"image": (small * 2 - 1)[None]})
    assert torch.equal(run.pixels, pipeline_picture(tmp_path / "later", upscaler, DOG, later))
    assert run.size == (32, 32) and run.map("dog").shape == (16, 16)
    other = generate(upscaler.on(1 - small, seed=SEED), DOG, seed=SEED, steps=STEPS)
    assert not torch.equal(other.pixels, run.pixels)


def test_a_later_stage_without_a_picture_asks_for_one(tmp_path: Path) -> None:
    save_if_upscaler(tmp_path / "later")
    with pytest.raises(ValueError, match="Give it one first: .*upscaler.on"):
        generate(load(tmp_path / "later", "cpu"), DOG, steps=1)


def test_a_pixart_of_the_older_class_opens_as_the_newer_one(opened: Any, tmp_path: Path) -> None:
    new = opened("pixart-alpha", torch.float32)
    folder = shutil.copytree(opened.models["pixart-alpha", "folder"], tmp_path / "old")
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    old = load(folder, "cpu", torch.float32)
    one, two = (picture(model, "pixart-alpha", record="none") for model in (new, old))
    assert torch.equal(one.pixels, two.pixels)


def test_a_part_of_another_class_is_refused_by_name(opened: Any, tmp_path: Path) -> None:
    opened("ldm", torch.float32)
    folder = shutil.copytree(opened.models["ldm", "folder"], tmp_path / "odd")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "vqvae": ["diffusers", "VQModel"]})
    )
    with pytest.raises(ModelError, match="'vqvae' of .* is a VQModel, and only a AutoencoderKL"):
        load(folder, "cpu")
    (folder / "model_index.json").write_text(json.dumps({**index, "bert": [None, None]}))
    with pytest.raises(ModelError, match="without its part 'bert'"):
        load(folder, "cpu")


def test_the_page_shows_the_table_that_these_tests_promise() -> None:
    tool = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "families.py"))
    page = tool["PAGE"].read_text(encoding="utf-8")
    assert tool["block"](page) == tool["table"](tool["promised"]()), "run tools/families.py"
    broken = {**tool["promised"](), ("ldm", "replace"): ["passed", "failed"]}
    assert "✗" in tool["table"](broken) and "✗" not in tool["block"](page)


def test_the_memory_of_large_models_is_computed_from_their_shapes_alone() -> None:
    """Known of SD 1.x at 512²: its cross maps take 33 MB a step in fp16, 8 heads everywhere."""
    bench = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "tape_memory.py"))
    with torch.device("meta"):
        module = bench["SHAPES"]["SD 1.x, 512²"].build()
    assert all(parameter.is_meta for parameter in module.parameters())
    sites = find_sites(module, (64, 64))
    assert bench["HALF"] * bench["words"](sites, 77) == pytest.approx(33e6, rel=0.02)
    columns = bench["row"](bench["SHAPES"]["SD 1.x, 512²"], 50)
    *_, tape, _, weights, on_device, on_host = columns
    assert on_device == weights + tape and weights < on_host < weights + tape / 50
    assert bench["tape"](sites, 50, 77) < bench["HALF"] * 50 * bench["maps"](sites, 77) / 10


@pytest.mark.filterwarnings("ignore")
def test_the_peak_of_each_action_is_computed_as_it_is_measured(family: str, opened: Any) -> None:
    """On the meta device and on this one, where every tensor that is alive is counted."""
    model = opened(family, torch.float32)
    size = (model.defaults.height, model.defaults.width)
    peak = peak_memory(model, steps=2)
    rows = 2 if model.defaults.guidance_scale > 1 else 1
    shape, text = model.latent_shape(size), model.encode_prompt(model.prompt(CAT), size)
    latents, time = torch.randn(rows, *shape), torch.tensor(500)
    with torch.no_grad(), Living() as living:
        model.predict(latents, time, text.expand(rows))
    assert peak.generate == pytest.approx(latents.nbytes + living.peak, rel=0.25)
    with Living() as living:
        model.decode(latents[:1])
    assert peak.decode == pytest.approx(living.peak, rel=0.25)
    assert peak.generate < peak.record and peak.edit < peak.joint_edit
    run = generate(model, CAT, seed=1, steps=2)
    assert run.tape is not None and peak.tape == pytest.approx(run.tape.nbytes, rel=0.6)
    assert "generate" in str(peak) and "MiB" in str(peak)
