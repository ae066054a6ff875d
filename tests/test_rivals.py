"""Laws of the later methods: each is its paper's rule, one face serves all, a `Run` comes out."""

from __future__ import annotations

import inspect
import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_lab import LocalBlend, Refine, edit, edit_summary, generate, load
from p2p_lab.attention import AttentionCall, MapReader, Site, Taking, attached, find_sites
from p2p_lab.attention.handlers import late_sites
from p2p_lab.attention.store import resize
from p2p_lab.figures import show_edit
from p2p_lab.models import Conditioning
from p2p_lab.rivals import (
    RIVALS,
    concept_maps,
    dds,
    flow_edit,
    flow_slider,
    free_prompt_editing,
    inf_edit,
    masa_ctrl,
    masked,
    plug_and_play,
    sdedit,
    self_guidance,
)
from p2p_lab.rivals.job import RivalJob
from p2p_lab.rivals.levels import Levels
from p2p_lab.rivals.self_guidance import shared_tokens
from p2p_lab.sampling import Cancelled, Run, predict_clean, schedule_for
from p2p_lab.tokens import AlignmentError
from tests.families import FAMILIES as MODULES
from tests.families import Family, text
from tests.family_pipelines import FAMILIES

CAT, DOG = "a cat on grass", "a dog on grass"
STEPS, SCALE = 4, 3.0
DRAWN = ("sdedit", "flow_edit", "flow_slider", "inf_edit", "dds")  # noise of their own
FASTER: dict[str, dict[str, Any]] = {"dds": {"updates": 3}}
# What makes the paper's identity: one guidance for both prompts.
EQUAL: dict[str, dict[str, Any]] = {
    "flow_edit": {"source_guidance": None},
    "flow_slider": {"source_guidance": None},
    "inf_edit": {"source_guidance": None},
    "dds": {"updates": 3},
    "free_prompt_editing": {},
    "masa_ctrl": {},
    "self_guidance": {},
}


@pytest.fixture(scope="module")
def v_model(v_folder: Path) -> Any:
    return load(v_folder, "cpu", torch.float64)


@pytest.fixture(scope="module")
def source(sd: Any) -> Run:
    return generate(sd, CAT, seed=3, steps=STEPS, guidance_scale=SCALE)


@pytest.fixture(scope="module")
def v_source(v_model: Any) -> Run:
    return generate(v_model, CAT, seed=3, steps=STEPS, guidance_scale=SCALE)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Draw a source with a family's tiny pipeline; each once."""
    folder, runs = tmp_path_factory.mktemp("rivals"), {}

    def get(key: str) -> Run:
        if key not in runs:
            FAMILIES[key].save(folder / key)
            model = load(folder / key, "cpu", torch.float64)
            runs[key] = generate(
                model, CAT, seed=3, steps=STEPS, guidance_scale=FAMILIES[key].scale
            )
        return runs[key]

    return get


def gap(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max())


def last(run: Run) -> Tensor:
    return run.trajectory.latents[-1:]


# --- one face for all


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_has_the_same_face_and_names_its_paper(name: str) -> None:
    rival = RIVALS[name]
    parameters = inspect.signature(rival.edit).parameters
    assert list(parameters)[:2] == ["source", "text"]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert {"guidance_scale", "seed", "record", "on_step", "cancel"} <= set(parameters)
    assert all(p.default is not p.empty for p in list(parameters.values())[2:])
    file = Path(inspect.getfile(inspect.unwrap(rival.edit)))
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and file.stem == name
    assert f"arXiv {rival.paper}" in " ".join(lines[:20])


@pytest.mark.parametrize("key", FAMILIES)
@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_edits_every_family_or_says_why_not(
    name: str, key: str, opened: Callable[[str], Run]
) -> None:
    source = opened(key)
    if name == "plug_and_play" and not hasattr(source.model.module, "up_blocks"):
        calls = count_calls(source)
        with pytest.raises(ValueError, match=r"U-Net's residual blocks.*Use masa_ctrl"):
            plug_and_play(source, DOG)
        assert calls() == 0
        return
    run = RIVALS[name].edit(source, DOG, **FASTER.get(name, {}))
    assert run.source is source and run.prompt.text == DOG and run.size == source.size
    assert bool(torch.isfinite(run.pixels).all()) and gap(last(run), last(source)) > 1e-4
    assert run.map("dog").shape == source.map("cat").shape


def count_calls(source: Run) -> Callable[[], int]:
    """Count the calls of a source's denoiser from now on."""
    calls: list[int] = []
    source.model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    return lambda: len(calls)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rivals_run_is_shown_measured_saved_and_edited_again(
    name: str, source: Run, tmp_path: Path
) -> None:
    run = RIVALS[name].edit(source, DOG, **FASTER.get(name, {}))
    show_edit(source, source, run)
    assert edit_summary(source.array, source.array, run.array).changed >= 0
    again = Run.load(run.save(tmp_path / "run.safetensors"), source.model)
    assert torch.equal(again.pixels, run.pixels) and again.note == run.note
    red = edit(run, "a red dog on grass", [Refine()])
    same = edit(run, DOG, [Refine(cross=(0, 1), self_attention=(0, 1))])
    assert gap(last(red), last(run)) > 0 and red.source is run
    assert same.steps == run.steps


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_reports_each_step_and_can_be_stopped(name: str, source: Run) -> None:
    seen: list[tuple[int, int]] = []
    run = RIVALS[name].edit(
        source, DOG, on_step=lambda step, total, preview: seen.append((step, preview().size[0]))
    )
    assert seen and all(size == run.size[1] for _, size in seen)
    stop = threading.Event()
    stop.set()
    calls = count_calls(source)
    with pytest.raises(Cancelled):
        RIVALS[name].edit(source, DOG, cancel=stop)
    assert calls() == 0


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_gives_back_the_processors_and_hooks_that_it_found(name: str, source: Run) -> None:
    module = source.model.module
    sites = find_sites(module, (16, 16))
    before = [module.get_submodule(site).processor for site in sites]
    hooks = [len(part._forward_hooks) for part in module.modules()]
    RIVALS[name].edit(source, DOG, **FASTER.get(name, {}))
    assert [module.get_submodule(site).processor for site in sites] == before
    assert [len(part._forward_hooks) for part in module.modules()] == hooks


@pytest.mark.parametrize("name", RIVALS)
def test_recording_changes_no_rivals_picture_and_a_seed_means_one_picture(
    name: str, source: Run
) -> None:
    options = FASTER.get(name, {})
    one = RIVALS[name].edit(source, DOG, **options)
    two = RIVALS[name].edit(source, DOG, record="none", **options)
    other = RIVALS[name].edit(source, DOG, record="none", seed=1, **options)
    assert torch.equal(one.pixels, two.pixels) and two.attention is None
    assert torch.equal(one.pixels, other.pixels) is (name not in DRAWN)


# --- what a paper promises of equal prompts


@pytest.mark.parametrize("name", EQUAL)
def test_equal_prompts_with_equal_guidance_give_the_source_back(name: str, source: Run) -> None:
    run = RIVALS[name].edit(source, CAT, **EQUAL[name])
    assert gap(last(run), last(source)) < 1e-9


@pytest.mark.parametrize("name", ["sdedit", "plug_and_play"])
def test_where_no_paper_promises_it_equal_prompts_change_the_picture(
    name: str, source: Run
) -> None:
    assert gap(last(RIVALS[name].edit(source, CAT)), last(source)) > 1e-3


def test_flow_sliders_strength_goes_from_the_source_to_flow_edit_and_on(source: Run) -> None:
    still, half, full, more = (
        last(flow_slider(source, DOG, strength=s, record="none")) for s in (0, 0.5, 1, 2)
    )
    assert gap(still, last(source)) < 1e-12
    assert gap(full, last(flow_edit(source, DOG))) < 1e-12
    far = [float((z - last(source)).norm()) for z in (half, full, more)]
    assert far[0] < far[1] < far[2]


# --- each equals its paper's rule in plain loops


def texts(source: Run) -> tuple[Conditioning, Conditioning, Conditioning]:
    """Return the source's text, the target's and the negative."""
    model, size = source.model, source.size
    pair = [model.encode_prompt(model.prompt(t), size) for t in (CAT, DOG)]
    return (*pair, model.encode_negative("", size))


def guided(source: Run, z: Tensor, step: int, words: Conditioning, scale: float) -> Tensor:
    """Predict with classifier-free guidance, one row at a time."""
    model, times = source.model, table(source).timesteps
    with torch.no_grad():
        said = model.predict(z, times[step], words)
        if scale > 1:
            other = model.predict(z, times[step], texts(source)[2])
            said = other + scale * (said - other)
    return said


def noises(source: Run, seed: int = 0) -> Callable[[int], Tensor]:
    shape = last(source).shape

    def draw(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(random.Random(f"{seed} {number}").getrandbits(62))
        return torch.randn(shape, generator=generator).double()

    return draw


def table(source: Run) -> Any:
    return schedule_for(source.model, "ddim", STEPS, tuple(last(source).shape[-2:]))


@pytest.mark.parametrize("model", ["source", "v_source"])
def test_sdedit_is_the_pictures_noise_and_then_ddims_steps(
    model: str, request: pytest.FixtureRequest
) -> None:
    source: Run = request.getfixturevalue(model)
    steps, draw = table(source), noises(source)
    z = steps.alpha_bar[2] ** 0.5 * last(source) + (1 - steps.alpha_bar[2]) ** 0.5 * draw(0)
    for step in (2, 3):
        z = steps.advance(z, guided(source, z, step, texts(source)[1], SCALE), step)
    assert gap(z, last(sdedit(source, DOG, skip=0.5))) < 1e-6  # levels in float32


@pytest.mark.parametrize("model", ["source", "v_source"])
def test_flow_edit_is_its_algorithm_on_the_rescaled_process(
    model: str, request: pytest.FixtureRequest
) -> None:
    """The flow's time of a level of noise is σ = s/(a + s); its latents are z/(a + s)."""
    source: Run = request.getfixturevalue(model)
    steps, draw, (cat, dog, _) = table(source), noises(source), texts(source)
    kind = source.model.prediction
    x = z = last(source)
    signal = [float(a) ** 0.5 for a in steps.alpha_bar]
    noise = [(1 - float(a)) ** 0.5 for a in steps.alpha_bar]
    sigma = [s / (a + s) for a, s in zip(signal, noise, strict=True)] + [0.0]

    def velocity(point: Tensor, step: int, words: Conditioning, scale: float) -> Tensor:
        latents = (signal[step] + noise[step]) * point
        said = guided(source, latents, step, words, scale)
        clean, eps = predict_clean(latents, said, steps.alpha_bar[step].double(), kind)
        return eps - clean

    for step in range(1, STEPS):
        moves = []
        for i in range(2):
            theirs = (1 - sigma[step]) * x + sigma[step] * draw(2 * step + i)
            ours = z + theirs - x
            moves.append(velocity(ours, step, dog, SCALE) - velocity(theirs, step, cat, 1.5))
        z = z + (sigma[step + 1] - sigma[step]) * sum(moves) / 2
    assert gap(z, last(flow_edit(source, DOG, skip=0.25, average=2))) < 1e-6


def test_flow_edit_is_its_algorithm_on_a_flow(opened: Callable[[str], Run]) -> None:
    source = opened("sd3")
    model, draw, (cat, dog, negative) = source.model, noises(source), texts(source)
    steps = schedule_for(model, "ddim", STEPS, tuple(last(source).shape[-2:]))
    x = z = last(source)

    def velocity(point: Tensor, step: int, words: Conditioning, scale: float) -> Tensor:
        with torch.no_grad():
            said, other = (
                model.predict(point, steps.timesteps[step], w) for w in (words, negative)
            )
        return other + scale * (said - other)

    for step in range(1, STEPS):
        s, after = float(steps.sigma[step]), float(steps.sigma_next[step])
        theirs = (1 - s) * x + s * draw(step)
        ours = z + theirs - x
        move = velocity(ours, step, dog, SCALE) - velocity(theirs, step, cat, 1.5)
        z = z + (after - s) * move
    found = flow_edit(source, DOG, skip=0.25, guidance_scale=SCALE)
    assert gap(z, last(found)) < 1e-6


@pytest.mark.parametrize("model", ["source", "v_source"])
def test_inf_edit_is_consistency_sampling_with_the_known_noise(
    model: str, request: pytest.FixtureRequest
) -> None:
    """The paper's form: noise predictions, ε^tgt − ε^src + ε^cons, and a clean estimate of it."""
    source: Run = request.getfixturevalue(model)
    steps, draw, (cat, dog, _) = table(source), noises(source), texts(source)
    kind, x = source.model.prediction, last(source)
    edited = x
    for step in range(1, STEPS):
        level = steps.alpha_bar[step].double()
        a, s, noise = level**0.5, (1 - level) ** 0.5, draw(step)
        theirs, ours = a * x + s * noise, a * edited + s * noise
        eps = [
            predict_clean(z, guided(source, z, step, words, scale), level, kind)[1]
            for z, words, scale in ((theirs, cat, 1.0), (ours, dog, SCALE))
        ]
        known = (theirs - a * x) / s
        edited = (ours - s * (eps[1] - eps[0] + known)) / a
    assert gap(edited, last(inf_edit(source, DOG, skip=0.25))) < 1e-5


def test_dds_descends_along_the_difference_of_two_scores(source: Run) -> None:
    steps, draw, (cat, dog, _) = table(source), noises(source), texts(source)
    x = z = last(source)
    times = random.Random("dds 0")
    for update in range(3):
        step, noise = times.randrange(1, STEPS), draw(update)
        a, s = steps.alpha_bar[step] ** 0.5, (1 - steps.alpha_bar[step]) ** 0.5
        ours = guided(source, a * z + s * noise, step, dog, SCALE)
        theirs = guided(source, a * x + s * noise, step, cat, SCALE)
        z = z - 0.2 * (ours - theirs)
    assert gap(z, last(dds(source, DOG, updates=3, rate=0.2, skip=0.25))) < 1e-6


def test_free_prompt_editing_is_the_plan_with_self_attention_alone(source: Run) -> None:
    ours = free_prompt_editing(source, DOG, self_attention=0.5, self_pixels=64)
    plan = edit(source, DOG, [Refine(cross=(0, 0), self_attention=(0, 0.5), self_pixels=64)])
    assert gap(last(ours), last(plan)) == 0
    apart = free_prompt_editing(source, "polar bear with hat")  # no word in common
    assert apart.plan is not None and not apart.plan.edits_cross(0)


def sampled(
    source: Run, rows: int, steer: Callable[[int, Site, AttentionCall], AttentionCall], **kept: Any
) -> Tensor:
    """Draw the target beside its pinned source, with the attention's arguments changed by `steer`.

    Rows: [the source's negative,] [the target's negative,] source, target.
    """
    model, steps, (cat, dog, negative) = source.model, table(source), texts(source)
    sites = find_sites(model.module, (16, 16))
    words = [negative] * (rows - 2) + [cat, dog]

    class Steering:
        def __init__(self, step: int) -> None:
            self.step = step

        def wants(self, site: Site) -> bool:
            return site.kind == "self"

        def apply(self, site: Site, call: AttentionCall) -> Tensor:
            return steer(self.step, site, call).native()

    z = source.trajectory.latents[:1]
    for step in range(STEPS):
        theirs = source.trajectory.latents[step : step + 1]
        batch = torch.cat([theirs] * (rows - 3) + [z] + [theirs, z])
        with torch.no_grad(), attached(model.module, Steering(step), sites):
            said = model.predict(batch, steps.timesteps[step], Conditioning.stack(words))
        other = said[rows - 3 : rows - 2]
        z = steps.advance(z, other + SCALE * (said[-1:] - other), step)
    return z


def test_masa_ctrl_gives_the_target_the_sources_keys_and_values(source: Run) -> None:
    late = late_sites(find_sites(source.model.module, (16, 16)), 0.4)

    def steer(step: int, site: Site, call: AttentionCall) -> AttentionCall:
        if step < 1 or site.name not in late:
            return call
        key, value = (torch.stack([x[0], x[0], x[2], x[2]]) for x in (call.key, call.value))
        return AttentionCall(call.query, key, value, call.options)

    assert 0 < len(late) < 5
    found = last(masa_ctrl(source, DOG, start=0.25, layers=0.4))
    assert gap(found, sampled(source, 4, steer)) < 1e-6
    assert gap(found, sampled(source, 4, lambda step, site, call: call)) > 1e-4


def test_plug_and_play_gives_the_target_the_sources_features_and_maps(source: Run) -> None:
    module, counted = source.model.module, [0]

    def steer(step: int, site: Site, call: AttentionCall) -> AttentionCall:
        if step >= 2 or site.place != "up":
            return call
        query, key = (torch.stack([x[1]] * 3) for x in (call.query, call.key))
        return AttentionCall(query, key, call.value, call.options)

    def features(block: Any, given: Any, output: Tensor) -> Tensor | None:
        counted[0] += 1
        return torch.stack([output[1]] * 3) if counted[0] <= 3 else None

    found = last(plug_and_play(source, DOG, features=0.75, self_attention=0.5))
    hook = module.up_blocks[0].resnets[1].conv2.register_forward_hook(features)
    try:
        plain = sampled(source, 3, steer)
    finally:
        hook.remove()
    assert counted[0] == STEPS and gap(found, plain) < 1e-6
    assert gap(found, last(plug_and_play(source, DOG, features=0, self_attention=0))) > 1e-4


class PlainAttention:
    """Attention written out head by head; what words get of it is kept."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        words = encoder_hidden_states
        asked = hidden if words is None else words
        query, key, value = attn.to_q(hidden), attn.to_k(asked), attn.to_v(asked)
        wide = query.shape[-1] // attn.heads
        maps, outputs = [], []
        for head in range(attn.heads):
            q, k, v = (x[..., head * wide : (head + 1) * wide] for x in (query, key, value))
            scores = (q @ k.transpose(1, 2) / wide**0.5).exp()
            maps.append(scores / scores.sum(-1, keepdim=True))
            outputs.append(maps[-1] @ v)
        if words is not None:
            self.kept.append(sum(maps)[0] / attn.heads)  # (pixels, L)
        return attn.to_out[0](torch.cat(outputs, -1))  # type: ignore[no-any-return]


def test_self_guidance_is_its_equation_with_attention_written_out(source: Run) -> None:
    model, steps, (cat, dog, _) = source.model, table(source), texts(source)
    pairs, unet, weight = shared_tokens(source.prompt, model.prompt(DOG)), model.module, 50.0

    def maps(latents: Tensor, step: int, words: Conditioning) -> list[Tensor]:
        kept: list[Tensor] = []
        before = dict(unet.attn_processors)
        unet.set_attn_processor(PlainAttention(kept))
        model.predict(latents, steps.timesteps[step], words)
        unet.set_attn_processor(before)
        return kept

    def loss(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for one, other in zip(ours, theirs, strict=True):
            for i, j in pairs:
                gap = (one[:, j] / one[:, j].detach().max() - other[:, i] / other[:, i].max()).abs()
                small = gap.square() / 2e-3
                total = total + torch.where(gap < 1e-3, small, gap - 0.5e-3).mean() / len(ours)
        return total

    z = source.trajectory.latents[:1]
    for step in range(STEPS):
        level, after = (t[step].double() for t in (steps.alpha_bar, steps.alpha_bar_next))
        eps = guided(source, z, step, dog, SCALE)
        if step < 0.5 * STEPS:
            with torch.no_grad():
                theirs = maps(source.trajectory.latents[step : step + 1], step, cat)
            with torch.enable_grad():
                point = z.clone().requires_grad_()
                value = loss(maps(point, step, dog), theirs)
                (gradient,) = torch.autograd.grad(value, point)
            eps = eps + weight * (1 - level) ** 0.5 * gradient
        clean = (z - (1 - level) ** 0.5 * eps) / level**0.5
        z = after**0.5 * clean + (1 - after) ** 0.5 * eps
    found = last(self_guidance(source, DOG, weight=weight, end=0.5))
    assert gap(found, z) < 1e-6
    assert gap(found, last(self_guidance(source, DOG, weight=0.0))) > 1e-4


# --- what the engine got for them


def calls_of(family: Family, handler: Any) -> Tensor:
    with (
        torch.no_grad(),
        attached(family.module, handler, find_sites(family.module, family.latent_size)),
    ):
        return family.call(text())


class Passing:
    """Let everything pass."""

    def wants(self, site: Site) -> bool:
        return False

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        return call.native()


@pytest.mark.parametrize("key", MODULES)
def test_taking_nothing_leaves_every_familys_prediction_bit_identical(key: str) -> None:
    family = MODULES[key]()
    names = list(find_sites(family.module, family.latent_size))
    plain = family.call(text())
    assert torch.equal(calls_of(family, Taking(Passing(), (), {1: 0}, names)), plain)
    assert torch.equal(calls_of(family, Taking(Passing(), ("key",), {1: 0}, ())), plain)


@pytest.mark.parametrize("key", MODULES)
def test_taking_changes_the_named_row_alone_on_every_family(key: str) -> None:
    family = MODULES[key]()
    names = list(find_sites(family.module, family.latent_size))
    plain = family.call(text())
    taken = calls_of(family, Taking(Passing(), ("key", "value"), {1: 0}, names))
    assert torch.allclose(taken[0], plain[0], atol=1e-12)
    assert gap(taken[1], plain[1]) > 1e-9


def test_taking_queries_and_keys_is_the_injected_map_of_prompt_to_prompt() -> None:
    family = MODULES["sd"]()
    sites = find_sites(family.module, family.latent_size)
    names = [name for name, site in sites.items() if site.kind == "self"]

    class Injecting(Passing):
        def wants(self, site: Site) -> bool:
            return site.name in names

        def apply(self, site: Site, call: AttentionCall) -> Tensor:
            theirs = call.query_key(slice(0, 1), slice(None))
            return call.replaced(slice(1, 2), slice(None), call.injected(slice(1, 2), theirs))

    ours = calls_of(family, Taking(Passing(), ("query", "key"), {1: 0}, names))
    assert gap(ours, calls_of(family, Injecting())) < 1e-12


def test_late_layers_are_counted_in_the_order_of_use(sd: Any) -> None:
    sites = find_sites(sd.module, (16, 16))
    every, late = late_sites(sites, 0), late_sites(sites, 0.5)
    assert [sites[name].place for name in every] == ["down", "down", "mid", "up", "up", "up", "up"]
    assert late == every[4:] or late == every[3:]


@pytest.mark.parametrize("key", MODULES)
def test_reading_maps_disturbs_nothing_and_reads_every_site_with_text(key: str) -> None:
    family = MODULES[key]()
    sites = find_sites(family.module, family.latent_size)
    reader = MapReader(slice(1, 2))
    assert torch.equal(calls_of(family, reader), family.call(text()))
    assert set(reader.maps) == {name for name, site in sites.items() if site.has_text}
    assert all(maps.shape[:2] == (1, sites[name].pixels) for name, maps in reader.maps.items())


def test_the_gradient_of_a_map_is_that_of_finite_differences(sd: Any) -> None:
    sites = find_sites(sd.module, (16, 16))
    words = sd.encode_prompt(sd.prompt(CAT), (32, 32))
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()

    def total(latents: Tensor) -> Tensor:
        reader = MapReader(slice(0, 1))
        with attached(sd.module, reader, sites):
            sd.predict(latents, torch.tensor(500), words)
        return torch.stack([maps[0, 3::7, 2].sum() for maps in reader.maps.values()]).sum()

    point = z.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(total(point), point)
    along = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        measured = (total(z + 1e-5 * along) - total(z - 1e-5 * along)) / 2e-5
    assert float((gradient * along).sum()) == pytest.approx(float(measured), rel=1e-5)


def test_levels_are_one_form_for_noise_and_flow(source: Run, opened: Callable[[str], Run]) -> None:
    for run in (source, opened("sd3"), opened("sd2")):
        grid = tuple(last(run).shape[-2:])
        steps = schedule_for(run.model, "ddim", STEPS, grid)
        levels = Levels.of(steps)
        picture, noise = last(run), torch.ones_like(last(run))
        z = levels.noisy(picture, noise, 1)
        a, s = levels.signal[1], levels.noise[1]
        said = {
            "epsilon": noise,
            "v_prediction": a * noise - s * picture,
            "flow": noise - picture,
        }[run.model.prediction]
        found = levels.split(z, said, 1)
        assert gap(found.clean, picture) < 1e-5 and gap(found.noise, noise) < 1e-5
        assert levels.share(STEPS) == 0 and levels.share(0) > levels.share(1)


# --- what is refused, before any work


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sdedit", {"skip": 1.0}, "share of the schedule"),
        ("flow_edit", {"skip": -0.1}, "share of the schedule"),
        ("flow_edit", {"average": 0}, "whole number from 1"),
        ("flow_edit", {"average": 1.5}, "whole number from 1"),
        ("flow_edit", {"source_guidance": 0.5}, "guidance_scale=0.5"),
        ("flow_slider", {"strength": -1}, "number from 0"),
        ("flow_slider", {"strength": float("nan")}, "number from 0"),
        ("inf_edit", {"seed": -1}, "seed=-1"),
        ("dds", {"updates": 0}, "whole number from 1"),
        ("dds", {"rate": float("inf")}, "number from 0"),
        ("free_prompt_editing", {"self_attention": 0}, "above 0"),
        ("free_prompt_editing", {"self_pixels": 0}, "whole number from 1"),
        ("masa_ctrl", {"start": 1}, "share of the schedule"),
        ("masa_ctrl", {"layers": 2}, "share of the schedule"),
        ("plug_and_play", {"features": 1.5}, "end of a window"),
        ("plug_and_play", {"self_attention": -1}, "end of a window"),
        ("self_guidance", {"end": 2}, "end of a window"),
        ("self_guidance", {"weight": -3}, "number from 0"),
        *((name, {"guidance_scale": 0.5}, "guidance_scale=0.5") for name in RIVALS),
        *((n, {"record": "tape"}, "keeps no tape") for n in RIVALS if n != "free_prompt_editing"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_before_any_work(
    name: str, options: dict[str, Any], said: str, source: Run
) -> None:
    calls = count_calls(source)
    with pytest.raises(ValueError, match=said):
        RIVALS[name].edit(source, DOG, **options)
    assert calls() == 0


@pytest.mark.parametrize("name", RIVALS)
def test_a_run_without_its_model_is_refused(name: str, source: Run, tmp_path: Path) -> None:
    path = source.save(tmp_path / "run.safetensors", tape=False)
    with pytest.raises(ValueError, match="without its model"):
        RIVALS[name].edit(Run.load(path), DOG)


@pytest.mark.parametrize("name", ["masa_ctrl", "plug_and_play", "self_guidance"])
def test_what_follows_the_sources_steps_refuses_another_sampler(name: str, sd: Any) -> None:
    source = generate(sd, CAT, seed=1, steps=STEPS, sampler="euler", record="none")
    calls = count_calls(source)
    with pytest.raises(ValueError, match="sampler='euler'.*Generate it with sampler='ddim'"):
        RIVALS[name].edit(source, DOG)
    assert calls() == 0
    assert flow_edit(source, DOG).sampler == "ddim"  # what needs the picture alone does not


def test_self_guidance_refuses_prompts_without_a_common_word(source: Run) -> None:
    calls = count_calls(source)
    with pytest.raises(AlignmentError, match="share none"):
        self_guidance(source, "polar bear with hat")
    assert calls() == 0


def test_numbers_that_grow_too_large_are_named(source: Run) -> None:
    with pytest.raises(ValueError, match="DDS led to numbers too large"):
        dds(source, DOG, rate=1e200, updates=4)


def test_a_rival_takes_a_picture_that_was_brought_in(sd: Any) -> None:
    from p2p_lab import invert

    picture = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0)).numpy()
    source = invert(sd, picture, CAT, steps=STEPS)
    for name in (n for n in EQUAL if n in DRAWN):
        run = RIVALS[name].edit(source, CAT, **{**EQUAL[name], "guidance_scale": 1.0})
        assert gap(last(run), last(source)) < 1e-9
    for name in (n for n in RIVALS if n not in DRAWN):  # free of the source's pinned latents
        run = RIVALS[name].edit(source, DOG)
        assert torch.equal(run.trajectory.latents[0], source.trajectory.latents[0])


def test_the_job_draws_other_noise_for_another_number_and_seed(source: Run) -> None:
    def job(seed: int) -> RivalJob:
        return RivalJob.of(
            "x", source, DOG, guidance_scale=None, seed=seed, record="none",
            on_step=None, cancel=None,
        )  # fmt: skip

    drawn = [job(0).noise(0), job(0).noise(1), job(1).noise(0)]
    assert all(gap(a, b) > 0.1 for a, b in zip(drawn, drawn[1:] + drawn[:1], strict=True))
    assert torch.equal(job(0).noise(0), drawn[0])


# --- a mask for any of them


@pytest.mark.parametrize("name", RIVALS)
def test_a_mask_of_words_keeps_the_sources_latents_outside(name: str, source: Run) -> None:
    run = RIVALS[name].edit(source, DOG, **FASTER.get(name, {}))
    kept = masked(run, "cat", "dog", threshold=0.9)
    assert kept.masks is not None
    mask = kept.masks[-1][None, None]
    assert 0 < float(mask.mean()) < 1
    expected = last(source) + mask * (last(run) - last(source))
    assert torch.equal(last(kept), expected) and kept.source is source
    everywhere = masked(run, "cat", "dog", threshold=-1.0)
    assert gap(everywhere.pixels, run.pixels) < 1e-12


def test_the_mask_is_that_of_a_local_blend_after_the_last_step(source: Run) -> None:
    edits = [Refine(cross=(0, 0), self_attention=(0, 0.5)), LocalBlend("cat", "dog", start=0.75)]
    ours = masked(free_prompt_editing(source, DOG, self_attention=0.5), "cat", "dog")
    theirs = edit(source, DOG, edits)
    assert ours.masks is not None and theirs.masks is not None
    assert torch.equal(ours.masks[-1], theirs.masks[-1])


def test_a_mask_without_maps_or_words_is_refused(source: Run) -> None:
    run = flow_edit(source, DOG)
    with pytest.raises(ValueError, match="needs a word"):
        masked(run, "", ())
    with pytest.raises(AlignmentError):
        masked(run, "hat", "dog")
    for one in (source, flow_edit(source, DOG, record="none")):
        with pytest.raises(ValueError, match="record='store'"):
            masked(one, "cat", "dog")


# --- where a concept is


def test_concept_maps_are_outputs_compared_with_values_in_plain_loops(source: Run) -> None:
    """The outputs come from the tape's maps, the values from the layers' own projections."""
    model, tape = source.model, source.tape
    assert tape is not None
    concepts = ("cat", "polar bear")  # the second is not in the prompt
    steps, total = table(source), torch.zeros(2, 16, 16)
    cross = [site for site in tape.sites.values() if site.kind == "cross"]
    words = model.encode_prompt(source.prompt, source.size).tokens
    for site, step in itertools.product(cross, range(len(steps.timesteps))):
        layer = model.module.get_submodule(site.name)

        def values(tokens: Tensor, layer: Any = layer, heads: int = site.heads) -> Tensor:
            return layer.to_v(tokens)[0].unflatten(-1, (heads, -1))  # (L, heads, d)

        scores = torch.zeros(2, *site.size)
        for h in range(site.heads):
            output = tape.probs(step, site)[h] @ values(words)[:, h]  # (pixels, d)
            for c, concept in enumerate(concepts):
                prompt = model.prompt(concept)
                named = values(model.encode_prompt(prompt, source.size).tokens)
                mean = named[prompt.tokens_of(concept), h].mean(0)
                scores[c] += (output @ mean).reshape(site.size).float()
        total += torch.stack([resize(s, (16, 16)) for s in scores.softmax(0)])
    found = concept_maps(source, concepts)
    assert list(found) == list(concepts)
    assert gap(torch.stack(list(found.values())), total / total.sum(0)) < 1e-5
    assert gap(sum(found.values()), torch.ones(16, 16)) < 1e-5


@pytest.mark.parametrize("key", FAMILIES)
def test_concepts_are_read_on_every_family_with_cross_attention_or_refused(
    key: str, opened: Callable[[str], Run]
) -> None:
    source = opened(key)
    sites = find_sites(source.model.module, source.trajectory.latents.shape[-2:])
    if any(site.kind == "cross" for site in sites.values()):
        found = concept_maps(source, ["cat", "grass", "hat"], size=(8, 8))
        assert all(m.shape == (8, 8) and bool(torch.isfinite(m).all()) for m in found.values())
        return
    calls = count_calls(source)
    with pytest.raises(ValueError, match="one softmax over words and image"):
        concept_maps(source, ["cat", "grass"])
    assert calls() == 0


def test_one_concept_has_nothing_to_be_compared_with(source: Run) -> None:
    for one in ("cat", ["cat"], ["cat", "cat"]):
        with pytest.raises(ValueError, match="two or more"):
            concept_maps(source, one)
