"""Laws of reaching, recording and steering the softmax, on five families of denoisers."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_lab.attention import (
    AttentionCall,
    AttentionStore,
    AttentionTape,
    BatchSlices,
    Controller,
    QueryKey,
    Site,
    UnsupportedAttention,
    attached,
    blend_mask,
    blend_sites,
    find_sites,
    nearest_size,
    taped_sites,
)
from p2p_lab.attention.tape import Entry
from p2p_lab.edits import BlendPlan, EditPlan
from p2p_lab.tokens import Prompt
from tests import families
from tests.families import FAMILIES, TEXT, Family, draw
from tests.worlds import tiny_tokenizer

STEPS = 3
BOTH = BatchSlices(source=slice(0, 1), target=slice(1, 2))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def sd() -> Family:
    return families.sd()


def plan_of(**changes: Any) -> EditPlan:
    """A plan over TEXT tokens that takes everything from the source."""
    settings: dict[str, Any] = {
        "mapper": torch.eye(TEXT, dtype=torch.float64),
        "source_gain": torch.ones(STEPS, TEXT, dtype=torch.float64),
        "target_gain": torch.zeros(STEPS, TEXT, dtype=torch.float64),
        "self_steps": range(STEPS),
        "self_pixels": 1024,
    }
    return EditPlan(**{**settings, **changes})


def mixed_plan() -> EditPlan:
    """A plan that mixes both sides by different amounts at every token."""
    return plan_of(
        mapper=draw(TEXT, TEXT, seed=5).softmax(0),
        source_gain=draw(STEPS, TEXT, seed=6).abs(),
        target_gain=draw(STEPS, TEXT, seed=7),
        self_steps=range(2),
    )


def sites_of(family: Family) -> dict[str, Site]:
    return find_sites(family.module, family.latent_size)


def run(family: Family, controller: Controller, text: Tensor | None = None) -> Tensor:
    """Call a denoiser once with a controller attached, as its step 0."""
    with attached(family.module, controller, controller.sites):  # type: ignore[arg-type]
        controller.begin_step(0)
        output = family.call(families.text() if text is None else text)
    controller.end_step(output, None)
    return output


@contextmanager
def spied() -> Iterator[list[tuple[Tensor, Tensor, Tensor, dict[str, Any]]]]:
    """Note the arguments of every scaled_dot_product_attention, by other means than the package."""
    calls: list[Any] = []
    native = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        calls.append((query, key, value, options))
        return native(query, key, value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        yield calls


def by_hand(query: Tensor, key: Tensor, options: dict[str, Any]) -> Tensor:
    """Compute one call's probabilities from the definition."""
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
    mask = options.get("attn_mask")
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.where(mask, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def test_observing_leaves_the_output_bit_identical(family: Family) -> None:
    sites = sites_of(family)
    tape = AttentionTape("m", sites, STEPS)
    plain = family.call(families.text())
    rows = BatchSlices(source=slice(0, 1))
    watched = run(family, Controller(sites, rows, keep=[tape], record_self=True))
    assert torch.equal(plain, watched)


def test_an_identity_plan_leaves_the_output_bit_identical(family: Family) -> None:
    identity = plan_of(
        source_gain=torch.zeros(STEPS, TEXT), target_gain=torch.ones(STEPS, TEXT), self_steps=()
    )
    edited = run(family, Controller(sites_of(family), BOTH, plan=identity))
    assert torch.equal(family.call(families.text()), edited)


def test_the_source_row_of_a_joint_edit_is_bit_identical(family: Family) -> None:
    plain = family.call(families.text())
    edited = run(family, Controller(sites_of(family), BOTH, plan=mixed_plan()))
    assert torch.equal(plain[0], edited[0])
    assert not torch.allclose(plain[1], edited[1], atol=1e-4)


def test_recorded_maps_equal_the_softmax_computed_by_hand(family: Family) -> None:
    sites = sites_of(family)
    names: list[str] = []

    class Noting(Controller):
        def apply(self, site: Site, call: AttentionCall) -> Tensor:
            names.append(site.name)
            return super().apply(site, call)

    tape = AttentionTape("m", sites, STEPS)
    controller = Noting(sites, BatchSlices(source=slice(1, 2)), keep=[tape], record_self=True)
    run(family, controller)
    with spied() as calls:
        family.call(families.text())
    assert len(calls) == len(names) == len(sites)
    for name, (query, key, _, options) in zip(names, calls, strict=True):
        site, probs = sites[name], by_hand(query, key, options)[1]
        probs = probs[:, site.image_queries(query.shape[2])]  # (heads, pixels, keys)
        assert torch.allclose(tape.probs(0, site), probs, atol=1e-12)
        if site.has_text:
            words = probs[..., site.text_keys(key.shape[2])].mean(0)
            recorded = controller.state.source.sums[name][0]
            assert torch.allclose(recorded, words, atol=1e-12)
        if site.has_image:
            image = probs[..., site.image_keys(key.shape[2])].mean(0)
            assert torch.allclose(controller.state.self_maps.sums[name][0], image, atol=1e-12)


def test_the_text_keys_of_the_first_site_are_those_that_a_word_changes(family: Family) -> None:
    sites = sites_of(family)
    with spied() as calls:
        family.call(families.text())
    with spied() as changed:
        other = families.text().clone()
        other[:, 2] += 1
        family.call(other)
    for (_, key, *_), (_, new, *_) in zip(calls, changed, strict=True):
        differs = (key - new).abs().amax(dim=(0, 1, 3)) > 1e-9  # (keys,)
        where = differs.nonzero().flatten().tolist()
        if where:
            break
    first = next(s for s in sites.values() if s.has_text)
    text = first.text_keys(key.shape[2])
    assert text.stop - text.start == TEXT
    assert text.start + 2 in where
    assert all(text.start <= position < text.stop for position in where)


def test_sites_know_their_height_and_width_on_pictures_that_are_not_square(family: Family) -> None:
    for site in sites_of(family).values():
        assert site.size[0] * family.latent_size[1] == site.size[1] * family.latent_size[0]
        assert site.size[0] > site.size[1]


def test_odd_latents_are_halved_as_the_model_halves_them(sd: Family) -> None:
    sites = find_sites(sd.module, (7, 9))
    controller = Controller(sites, BatchSlices(source=slice(0, 1)))
    with attached(sd.module, controller, sites):
        controller.begin_step(0)
        sd.module(draw(2, 4, 7, 9), 500, families.text())
    assert {site.size for site in sites.values()} == {(7, 9), (4, 5)}


def test_sites_for_latents_of_another_size_are_refused(sd: Family) -> None:
    sites = find_sites(sd.module, (16, 16))
    with pytest.raises(UnsupportedAttention, match="another size"):
        run(sd, Controller(sites, BatchSlices(source=slice(0, 1))))


def test_a_module_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnsupportedAttention, match="Linear is not known"):
        find_sites(torch.nn.Linear(2, 2), (8, 8))


@pytest.mark.parametrize("ending", ["success", "exception", "cancelled"])
def test_processors_are_restored_however_the_block_ends(family: Family, ending: str) -> None:
    before = dict(family.module.attn_processors)
    sites = sites_of(family)
    stop = {"exception": RuntimeError, "cancelled": KeyboardInterrupt}.get(ending)

    class Stopping(Controller):
        def apply(self, site: Site, call: AttentionCall) -> Tensor:
            if stop is not None:
                raise stop("stop")
            return super().apply(site, call)

    try:
        run(family, Stopping(sites, BatchSlices(source=slice(0, 1))))
    except (RuntimeError, KeyboardInterrupt):
        assert stop is not None
    after = family.module.attn_processors
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_gradients_through_an_attached_model_equal_the_plain_ones(family: Family) -> None:
    text = families.text().requires_grad_()
    (plain,) = torch.autograd.grad(family.call(text).square().mean(), text)
    watched = run(family, Controller(sites_of(family), BatchSlices(source=slice(0, 1))), text)
    (recorded,) = torch.autograd.grad(watched.square().mean(), text)
    assert torch.allclose(plain, recorded, atol=1e-12)


def expected_output(site: Site, call: AttentionCall, plan: EditPlan, step: int) -> Tensor:
    """Compute an edited site's output by plain loops over the published equations."""
    probs = by_hand(call.query, call.key, dict(call.options))
    queries, keys = range(call.query.shape[2]), range(call.key.shape[2])
    text = list(keys[site.text_keys(len(keys))])
    image = list(keys[site.image_keys(len(keys))])
    asking = list(queries[site.image_queries(len(queries))])
    edited = probs.clone()
    for head in range(probs.shape[1]):
        for i in asking:
            if plan.edits_cross(step):
                for j, column in enumerate(text):
                    mapped = sum(
                        float(probs[0, head, i, text[k]] * plan.mapper[k, j]) for k in range(TEXT)
                    )
                    own = float(probs[1, head, i, column])
                    edited[1, head, i, column] = (
                        plan.source_gain[step, j] * mapped + plan.target_gain[step, j] * own
                    )
            if plan.edits_self(step) and site.pixels <= plan.self_pixels:
                for column in image:
                    edited[1, head, i, column] = probs[0, head, i, column]
    return edited @ call.value


LAYOUTS = [
    Site("cross", "cross", (3, 2), 2, "mid", "T"),
    Site("self", "self", (3, 2), 2, "mid", "I"),
    Site("if", "joint", (3, 2), 2, "mid", "T|I"),
    Site("sd3", "joint", (3, 2), 2, "mid", "I|T", "I|T"),
    Site("flux", "joint", (3, 2), 2, "mid", "T|I", "T|I"),
]


def call_for(site: Site, seed: int = 0) -> AttentionCall:
    counts = {"T": TEXT, "I": site.pixels, "T|I": TEXT + site.pixels, "I|T": TEXT + site.pixels}
    q, k = counts[site.queries], counts[site.keys]
    shapes = [(2, 2, q, 4), (2, 2, k, 4), (2, 2, k, 4)]
    return AttentionCall(*(draw(*shape, seed=seed + n) for n, shape in enumerate(shapes)), {})


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("site", LAYOUTS, ids=lambda site: site.name)
def test_an_edited_site_equals_the_published_equations_by_plain_loops(
    site: Site, step: int
) -> None:
    plan, call = mixed_plan(), call_for(site)
    controller = Controller({site.name: site}, BOTH, plan=plan)
    controller.begin_step(step)
    output = controller.apply(site, call)
    assert torch.allclose(output, expected_output(site, call, plan, step), atol=1e-12)


@pytest.mark.parametrize("site", LAYOUTS, ids=lambda site: site.name)
def test_replaying_a_tape_equals_running_the_source_beside_the_target(site: Site) -> None:
    plan, call, sites = mixed_plan(), call_for(site), {site.name: site}
    tape = AttentionTape("m", sites, STEPS)
    record = Controller(sites, BatchSlices(source=slice(0, 1)), keep=[tape])
    joint = Controller(sites, BOTH, plan=plan)
    replay = Controller(sites, BatchSlices(target=slice(1, 2)), plan=plan, tapes=[tape])
    for step in range(STEPS):
        for controller in (record, joint, replay):
            controller.begin_step(step)
        record.apply(site, call)
        assert torch.allclose(joint.apply(site, call)[1], replay.apply(site, call)[1], atol=1e-12)


def test_an_edit_does_not_write_in_tensors_that_it_was_given() -> None:
    for site in LAYOUTS:
        call = call_for(site)
        before = [tensor.clone() for tensor in (call.query, call.key, call.value)]
        controller = Controller({site.name: site}, BOTH, plan=mixed_plan())
        controller.begin_step(0)
        controller.apply(site, call)
        now = (call.query, call.key, call.value)
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_self_attention_above_the_pixel_limit_stays_the_targets_own() -> None:
    site = LAYOUTS[1]
    plan = plan_of(self_pixels=site.pixels - 1)
    controller = Controller({site.name: site}, BOTH, plan=plan)
    controller.begin_step(0)
    assert not controller.wants(site)


def test_nothing_is_tapped_where_nothing_is_recorded_or_edited() -> None:
    plan = plan_of(
        source_gain=torch.tensor([[1.0] * TEXT] + [[0.0] * TEXT] * 2),
        target_gain=torch.tensor([[0.0] * TEXT] + [[1.0] * TEXT] * 2),
        self_steps=range(1),
    )
    sites = {site.name: site for site in LAYOUTS}
    controller = Controller(sites, BOTH, plan=plan, record=False)
    wanted = []
    for step in range(STEPS):
        controller.begin_step(step)
        wanted.append([controller.wants(site) for site in LAYOUTS])
    assert wanted == [[True] * 5, [False] * 5, [False] * 5]


def test_a_plan_of_another_length_than_the_text_is_refused() -> None:
    plan = EditPlan(torch.eye(4), torch.ones(STEPS, 4), torch.zeros(STEPS, 4))
    controller = Controller({"cross": LAYOUTS[0]}, BOTH, plan=plan)
    controller.begin_step(0)
    with pytest.raises(ValueError, match="6 text tokens and the plan was compiled for 4"):
        controller.apply(LAYOUTS[0], call_for(LAYOUTS[0]))


class _Never:
    """A processor that computes attention by other means."""

    def __call__(self, attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states


class _Twice:
    """A processor that computes attention twice, as adapters do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, attn: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self.inner(attn, hidden_states, **kwargs)
        return self.inner(attn, hidden_states, **kwargs)


def set_all(module: Any, processor: Any) -> None:
    module.set_attn_processor(dict.fromkeys(module.attn_processors, processor))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("AttnProcessor", "AttnProcessor at .* does not use one"),
        ("SlicedAttnProcessor", "SlicedAttnProcessor at"),
        ("XFormersAttnProcessor", "XFormersAttnProcessor at"),
        ("IPAdapterAttnProcessor2_0", "IPAdapterAttnProcessor2_0 at"),
        ("never", "without F.scaled_dot_product_attention"),
        ("twice", "more than once"),
    ],
)
def test_processors_that_hide_their_softmax_are_refused_by_name(kind: str, sentence: str) -> None:
    from diffusers.models import attention_processor as stock

    family = families.sd()
    native = stock.AttnProcessor2_0()
    processor: Any = {
        "never": _Never,
        "twice": lambda: _Twice(native),
        "SlicedAttnProcessor": lambda: stock.SlicedAttnProcessor(1),
        "IPAdapterAttnProcessor2_0": lambda: stock.IPAdapterAttnProcessor2_0(8, 8).double(),
    }.get(kind, lambda: getattr(stock, kind)())()
    set_all(family.module, processor)
    with pytest.raises(UnsupportedAttention, match=sentence) as caught:
        run(family, Controller(sites_of(family), BatchSlices(source=slice(0, 1))))
    assert "AttnProcessor2_0" in str(caught.value)
    assert all(p is processor for p in family.module.attn_processors.values())


def test_an_added_key_processor_without_the_kernel_is_refused() -> None:
    from diffusers.models.attention_processor import AttnAddedKVProcessor

    family = families.deepfloyd()
    set_all(family.module, AttnAddedKVProcessor())
    with pytest.raises(UnsupportedAttention, match="AttnAddedKVProcessor at"):
        run(family, Controller(sites_of(family), BatchSlices(source=slice(0, 1))))


def test_a_compiled_denoiser_is_refused() -> None:
    family = families.sd()
    family.module.mid_block._compiled_call_impl = lambda *a: None
    with pytest.raises(UnsupportedAttention, match="compiled"):
        run(family, Controller(sites_of(family), BatchSlices(source=slice(0, 1))))
    whole = torch.nn.Module()  # what torch.compile wraps around a module
    whole._orig_mod = families.sd().module
    whole.attn_processors = {}  # type: ignore[assignment]
    with pytest.raises(UnsupportedAttention, match="compiled"), attached(whole, None, {}):  # type: ignore[arg-type]
        pass


def test_another_attention_backend_is_refused() -> None:
    family = families.flux()
    for processor in family.module.attn_processors.values():
        processor._attention_backend = "flash"
    with pytest.raises(UnsupportedAttention, match="'flash'.*set_attention_backend"):
        run(family, Controller(sites_of(family), BatchSlices(source=slice(0, 1))))


def test_a_second_controller_on_the_same_model_is_refused(sd: Family) -> None:
    sites = sites_of(sd)
    controller = Controller(sites, BatchSlices(source=slice(0, 1)))
    with (
        attached(sd.module, controller, sites),
        pytest.raises(UnsupportedAttention, match="Another controller"),
        attached(sd.module, controller, sites),
    ):
        pass


def test_a_tape_takes_exactly_the_memory_that_was_estimated(family: Family) -> None:
    sites = taped_sites(sites_of(family), 1024)
    tape = AttentionTape("m", sites, STEPS)
    controller = Controller(sites, BatchSlices(source=slice(0, 1)), keep=[tape], record=False)
    with attached(family.module, controller, sites_of(family)):
        for step in range(STEPS):
            controller.begin_step(step)
            family.call(families.text())
    assert tape.nbytes == AttentionTape.estimate(sites, STEPS, torch.float64, TEXT)
    assert len(tape.entries) == STEPS * len(sites)


def test_a_tape_is_kept_at_home_and_read_where_it_is_needed(family: Family) -> None:
    meta, here = torch.device("meta"), torch.device("cpu")
    sites = sites_of(family)
    asked: list[torch.device | None] = []

    class Asking(AttentionTape):
        def get(self, step: int, site: Site, device: torch.device | None = None) -> Entry:
            asked.append(device)
            return super().get(step, site, device)

    away, near = AttentionTape("m", sites, STEPS, home=meta), Asking("m", sites, STEPS)
    run(family, Controller(sites, BatchSlices(source=slice(0, 1)), keep=[away]))
    run(family, Controller(sites, BatchSlices(source=slice(0, 1)), keep=[near]))
    run(family, Controller(sites, BatchSlices(target=slice(0, 1)), plan=mixed_plan(), tapes=[near]))
    assert asked and set(asked) == {here}
    for tape, device, place in ((away, None, meta), (near, None, here), (near, meta, meta)):
        for step, name in tape.entries:
            entry = tape.get(step, sites[name], device)
            assert isinstance(entry, QueryKey)
            for part in (entry.query, entry.key, entry.mask):
                assert part is None or part.device == place


def test_a_tape_leaves_large_self_attention_out(sd: Family) -> None:
    kept = taped_sites(sites_of(sd), 32)
    assert {s.pixels for s in kept.values() if s.kind == "self"} == {32}
    assert {s.pixels for s in kept.values() if s.kind == "cross"} == {32, 128}


def recorded(sd: Family, steps: int = 2) -> tuple[AttentionStore, Prompt]:
    """Record two steps of the tiny U-Net, with a prompt of TEXT tokens."""
    prompt = Prompt.of("a cat on grass", tiny_tokenizer(TEXT))
    sites = sites_of(sd)
    tape = AttentionTape("m", sites, steps)
    controller = Controller(sites, BatchSlices(source=slice(0, 1)), keep=[tape], record_self=True)
    with attached(sd.module, controller, sites):
        for step in range(steps):
            controller.begin_step(step)
            output = sd.module(draw(2, 4, 16, 8, seed=step), 500, families.text()).sample
            controller.end_step(output, None)
    return controller.stores(prompt)[0], prompt


def test_the_store_takes_the_same_memory_for_any_number_of_steps(sd: Family) -> None:
    assert recorded(sd, 1)[0].nbytes == recorded(sd, 4)[0].nbytes


def test_single_steps_and_heads_average_to_the_recorded_mean(sd: Family) -> None:
    store, _ = recorded(sd)
    for name in store.means:
        heads = [
            store.map("cat", site=name, step=step, head=head) for step in (0, 1) for head in (0, 1)
        ]
        assert torch.allclose(torch.stack(heads).mean(0), store.map("cat", site=name), atol=1e-6)
    site = store.self_sites[0]
    steps = torch.stack([store.self_map(site, step=step) for step in (0, 1)])
    assert torch.allclose(steps.mean(0), store.self_map(site), atol=1e-6)


def test_all_tokens_of_a_pure_cross_site_share_all_the_attention(sd: Family) -> None:
    store, prompt = recorded(sd)
    maps = store.token_maps(resolution=(8, 4))
    assert maps.shape == (TEXT, 8, 4)
    assert torch.allclose(maps.sum(0), torch.ones(8, 4), atol=1e-6)
    named = store.maps(special=True, resolution=(8, 4))
    assert torch.allclose(sum(named.values()), torch.ones(8, 4), atol=1e-6)  # type: ignore[arg-type]
    assert [name for name in named if not name.startswith("<")] == list(prompt.words)


def test_a_map_at_a_resolution_is_the_mean_over_its_sites(sd: Family) -> None:
    store, prompt = recorded(sd)
    [token] = prompt.tokens_of("cat")
    means = [m[:, token] for n, m in store.means.items() if store.sites[n].size == (8, 4)]
    expected = torch.stack(means).mean(0).reshape(8, 4).float()
    assert torch.allclose(store.map("cat", resolution=(8, 4)), expected)
    assert store.map("cat", size=(32, 16)).shape == (32, 16)


def test_a_phrase_gets_the_attention_of_its_words_together(sd: Family) -> None:
    store, _ = recorded(sd)
    both = store.map("a cat")
    assert torch.allclose(both, store.map("a") + store.map("cat"))


def test_preferred_sites_are_shown_when_none_are_named(sd: Family) -> None:
    store, _ = recorded(sd)
    name = next(n for n in store.means if n.startswith("mid_block"))
    chosen = replace(store, preferred=(name,))
    assert torch.equal(chosen.map("cat"), store.map("cat", site=name))


def test_asking_for_what_was_not_recorded_says_what_was(sd: Family) -> None:
    store, _ = recorded(sd)
    bare = replace(store, tape=None, self_means={})
    for ask, sentence in (
        (lambda: store.map("zebra"), "not in the prompt"),
        (lambda: store.map("cat", resolution=5), "Recorded: 16×8, 8×4"),
        (lambda: store.map("cat", site="nowhere"), "Recorded sites"),
        (lambda: store.map("cat", step=9), "steps go from 0 to 1"),
        (lambda: store.map("cat", head=9), "heads go from 0 to 1"),
        (lambda: store.map("cat", which="mine"), "use 'edited' or 'original'"),  # type: ignore[arg-type]
        (lambda: bare.map("cat", step=0), "record='tape'"),
        (lambda: bare.principal_components(), "record='tape'"),
        (lambda: store.self_map("mid_block.attentions.0.transformer_blocks.0.attn2"), "There are"),
        (lambda: replace(store, means={}).map("cat"), "recorded no maps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ask()  # type: ignore[no-untyped-call]


def test_principal_components_do_not_depend_on_the_signs_that_the_library_chose(
    sd: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = recorded(sd)
    before = store.principal_components()
    decompose = torch.linalg.svd

    numbers = torch.Generator().manual_seed(0)

    def rounded(*args: Any, **kwargs: Any) -> Any:
        """Return what another machine might: other signs, other rounding."""
        u, s, vh = decompose(*args, **kwargs)
        signs = torch.randn(len(s), generator=numbers).sign()
        noise = torch.randn(u.shape, generator=numbers, dtype=u.dtype)
        return u * signs + 1e-8 * noise, s, vh * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", rounded)
    for _ in range(10):
        assert torch.allclose(store.principal_components(), before, atol=1e-4)


def test_principal_components_reproduce_the_rows_they_summarise(sd: Family) -> None:
    store, _ = recorded(sd)
    site = store.self_sites[-1]
    parts = store.principal_components(site, components=2)
    assert parts.shape == (*store.sites[site].size, 2)
    assert parts.amin() == 0 and parts.amax() == 1
    rows = store.self_map(site)
    centred = rows - rows.mean(0)
    first = parts[..., 0].flatten() - parts[..., 0].mean()
    power = first @ centred @ centred.T @ first / (first @ first)
    assert torch.allclose(power, torch.linalg.svdvals(centred)[0] ** 2, rtol=1e-4)
    again = store.principal_components(site, components=2)
    assert torch.equal(parts, again)
    assert store.principal_components(size=(16, 8)).shape == (16, 8, 3)


def test_original_and_edited_maps_are_both_kept(sd: Family) -> None:
    sites = sites_of(sd)
    controller = Controller(sites, BOTH, plan=plan_of(self_steps=range(0)))
    run(sd, controller)
    plain = Controller(sites, BatchSlices(source=slice(0, 1)))
    run(sd, plain)
    first = next(n for n, s in sites.items() if s.kind == "cross")
    state = controller.state
    assert torch.allclose(state.target.sums[first], plain.state.source.sums[first], atol=1e-12)
    assert not torch.allclose(state.original.sums[first], state.target.sums[first], atol=1e-3)


def blend_by_loops(maps: list[Tensor], tokens: tuple[int, ...], size: int, *, pool: bool) -> Tensor:
    """Compute LocalBlend's mask of one picture by plain loops; maps are 4×4, latents 8×8."""
    heat = torch.zeros(4, 4, dtype=torch.float64)
    for m in maps:
        for token in tokens:
            heat += m[0, :, token].reshape(4, 4) / len(maps)
    pooled = heat.clone()
    if pool:
        for i in range(4):
            for j in range(4):
                window = heat[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                pooled[i, j] = window.max()
    big = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            big[i, j] = pooled[i * 4 // size, j * 4 // size]
    return big / big.max() > 0.3


def test_the_blend_mask_equals_the_published_one_by_plain_loops() -> None:
    source = [draw(1, 16, TEXT, seed=n).softmax(-1) for n in (1, 2)]
    target = [draw(1, 16, TEXT, seed=n).mul(2).softmax(-1) for n in (3, 4)]
    blend = BlendPlan(source_tokens=(1,), target_tokens=(2, 3), threshold=0.3)
    mask = blend_mask(source, target, blend, (4, 4), (8, 8))
    expected = blend_by_loops(source, (1,), 8, pool=True) | blend_by_loops(
        target, (2, 3), 8, pool=True
    )
    assert torch.equal(mask[0, 0], expected.double())
    away = replace(blend, target_subtract=(4,))
    removed = blend_by_loops(target, (4,), 8, pool=False)
    mask = blend_mask(source, target, away, (4, 4), (8, 8))
    assert torch.equal(mask[0, 0], (expected & ~removed).double())


def test_a_users_own_mask_alone_and_with_words() -> None:
    maps = [draw(1, 16, TEXT).softmax(-1)]
    own = torch.zeros(16, 16)
    own[:8] = 1
    alone = blend_mask(maps, maps, BlendPlan(mask=own), (4, 4), (8, 8))
    assert torch.equal(alone[0, 0], torch.cat([torch.ones(4, 8), torch.zeros(4, 8)]).double())
    words = BlendPlan(source_tokens=(1,), target_tokens=(1,))
    both = blend_mask(maps, maps, replace(words, mask=own), (4, 4), (8, 8))
    assert torch.equal(both, alone * blend_mask(maps, maps, words, (4, 4), (8, 8)))


@pytest.mark.parametrize("scale", [-3.0, -1.0, 0.5, 4.0])
def test_the_region_of_a_word_does_not_depend_on_how_loud_it_is_or_in_which_direction(
    scale: float,
) -> None:
    maps = [draw(1, 16, TEXT).mul(3).softmax(-1)]
    blend = BlendPlan(target_tokens=(2, 3), threshold=0.8)
    wanted = blend_mask(maps, maps, blend, (4, 4), (8, 8))
    faded = blend_mask(maps, [maps[0] * scale], blend, (4, 4), (8, 8))
    assert 0 < wanted.mean() < 1
    assert torch.equal(faded, wanted)
    silent = blend_mask(maps, [maps[0] * 0], blend, (4, 4), (8, 8))
    assert not silent.any()


def test_the_blend_takes_the_sites_nearest_to_sixteen_squared_of_any_aspect() -> None:
    sizes = [(64, 96), (32, 48), (16, 24), (8, 12)]
    sites = {str(s): replace(LAYOUTS[0], name=str(s), size=s) for s in sizes}
    assert [site.size for site in blend_sites(sites)] == [(16, 24)]
    assert nearest_size(list(sites.values()), 64 * 96)[0].size == (64, 96)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    gain=st.floats(-5, 5),
    site=st.sampled_from(LAYOUTS),
    step=st.integers(0, STEPS - 1),
    blank=st.booleans(),
)
def test_no_plan_makes_attention_crash_or_give_nan(
    seed: int, gain: float, site: Site, step: int, blank: bool
) -> None:
    plan = plan_of(
        mapper=(draw(TEXT, TEXT, seed=seed) > 0.5).double(),
        source_gain=draw(STEPS, TEXT, seed=seed + 1).round(),
        target_gain=draw(STEPS, TEXT, seed=seed + 2) * gain,
        self_steps=range(seed % 2, STEPS),
        blend=BlendPlan(source_tokens=() if blank else (1,), target_tokens=(2,)),
    )
    sites = {site.name: site, "cross": replace(LAYOUTS[0], name="cross")}
    controller = Controller(sites, BOTH, plan=plan)
    controller.begin_step(step)
    for one in sites.values():
        output = controller.apply(one, call_for(one, seed))
        assert torch.isfinite(output).all()
    controller.state.target.sums["cross"].mul_(0 if blank else 1)
    latents = controller.end_step(draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=9))
    assert torch.isfinite(latents).all()
    [mask] = controller.state.masks
    assert mask.amin() >= 0 and mask.amax() <= 1


def test_probabilities_are_float32_even_for_half_precision_queries() -> None:
    query, key = draw(1, 1, 4, 8).half(), (draw(1, 1, 5, 8) * 100).half()
    probs = QueryKey(query, key, None, 1.0).probs()
    assert probs.dtype == torch.float32
    assert torch.allclose(probs.sum(-1), torch.ones(1, 1, 4))


def test_boolean_and_additive_masks_mean_the_same() -> None:
    query, key = draw(1, 1, 4, 8), draw(1, 1, 5, 8)
    allowed = torch.tensor([True, True, False, True, False]).view(1, 1, 1, 5)
    additive = torch.zeros(1, 1, 1, 5).masked_fill(~allowed, -torch.inf)
    one, two = (QueryKey(query, key, mask, 0.5).probs() for mask in (allowed, additive))
    assert torch.equal(one, two)
    assert (one[..., ~allowed[0, 0, 0]] == 0).all()


def test_a_tap_in_one_thread_does_not_touch_another_thread(sd: Family) -> None:
    """The tap is scoped to its thread: a second model running beside it is not recorded."""
    other, sites = families.sd(), sites_of(sd)
    seen: list[str] = []

    class Meeting(Controller):
        def apply(self, site: Site, call: AttentionCall) -> Tensor:
            seen.append(threading.current_thread().name)
            if len(seen) == 1:
                thread = threading.Thread(target=lambda: other.call(families.text()))
                thread.start()
                thread.join()
            return super().apply(site, call)

    run(sd, Meeting(sites, BatchSlices(source=slice(0, 1)), record_self=True))
    assert set(seen) == {threading.current_thread().name}
    assert len(seen) == len(sites)


def interrupted_at(late: int, files: tuple[str, ...]) -> Callable[..., Any]:
    """Return a trace that presses Ctrl-C at the moment of that number in these files."""
    moments = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith(files):
            return None
        moments[0] += 1
        if moments[0] == late:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_at_any_moment_leaves_a_model_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also before the first line of the way out, when nothing can be put back any more."""
    from p2p_lab.attention import tap
    from tests.conftest import tiny_unet

    unet = tiny_unet()
    sites = dict(list(find_sites(unet, (16, 16)).items())[:1])
    for slow in ("_compiled", "_refuse_backend"):  # they look around, and put nothing in
        monkeypatch.setattr(tap, slow, lambda _: False)
    before, late, left_behind = dict(unet.attn_processors), 0, 0
    traces = "attention/tap.py", "models/attention_processor.py"
    while True:
        late += 1
        try:
            sys.settrace(interrupted_at(late, traces))
            with attached(unet, Controller(sites, BOTH), sites):
                raise ZeroDivisionError
        except KeyboardInterrupt as pressed:
            kept = pressed  # a notebook keeps the last traceback, and all that it holds
        except ZeroDivisionError:
            break
        finally:
            sys.settrace(None)
        left_behind += any(unet.attn_processors[n] is not one for n, one in before.items())
        with attached(unet, Controller(sites, BOTH), sites):
            pass
        assert all(unet.attn_processors[n] is one for n, one in before.items()), (late, kept)
    assert late > 30 and left_behind


def test_what_an_interrupt_left_behind_lets_everything_pass(monkeypatch: Any) -> None:
    """Wrappers, and the tap that was open when it came."""
    from p2p_lab.attention import tap

    family = families.sd()
    usual, site_map = family.call(families.text()), sites_of(family)

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tap, "_leave", lambda *_: None)
    monkeypatch.setattr(tap.Tap, "__exit__", pressed)
    with (
        pytest.raises(KeyboardInterrupt),
        attached(family.module, Controller(site_map, BOTH), site_map),
    ):
        family.call(families.text())
    monkeypatch.undo()
    assert torch.equal(family.call(families.text()), usual)
    assert isinstance(torch._C._pop_torch_function_stack(), tap.Tap)


def test_an_exit_stack_attaches_and_gives_back_too() -> None:
    from contextlib import ExitStack

    family = families.sd()
    before, site_map = dict(family.module.attn_processors), sites_of(family)
    with ExitStack() as stack:
        stack.enter_context(attached(family.module, Controller(site_map, BOTH), site_map))
        with pytest.raises(UnsupportedAttention, match="Another controller"):
            stack.enter_context(attached(family.module, Controller(site_map, BOTH), site_map))
        assert family.module.attn_processors != before
    assert family.module.attn_processors == before
