"""Laws of the room `edits`: a plan does what the published method does, and says what it does.

The oracle is the method as published, written as plain loops over pixels and tokens, with the
edits nested as the authors nest them: re-weighting wraps a swap or a refinement.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from p2p_lab.edits import (
    BlendPlan,
    EditPlan,
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    between,
    compile_edits,
    default_edits,
    mix_cross,
)
from p2p_lab.tokens import AlignmentError, Prompt, align_words
from tests.worlds import SPLIT, WORDS, tiny_tokenizer

LENGTH = 24
TOKENIZER = tiny_tokenizer(LENGTH)
LAWS = settings(max_examples=50, deadline=None, derandomize=True)
STEPS = 10


def prompt(text: str) -> Prompt:
    return Prompt.of(text, TOKENIZER)


def maps(seed: int) -> Tensor:
    """Return attention probabilities of 2 heads, 3 pixels and L tokens."""
    scores = torch.randn(2, 3, LENGTH, generator=torch.Generator().manual_seed(seed))
    return scores.double().softmax(-1)  # (heads, pixels, L)


def planned(
    edits: Sequence[Any], source: str, target: str, steps: int = STEPS, **options: Any
) -> EditPlan:
    return compile_edits(edits, prompt(source), prompt(target), steps, **options)


# --- the method as published, in loops ------------------------------------------------------

Rows = list[list[float]]
Mapped = Callable[[Rows, Rows], Rows]  # (source, target) -> edited, each pixels x tokens


def words_of(text: str, word: str | int) -> list[int]:
    """Return a word's tokens by counting decoded characters after split(" ")."""
    words = text.split(" ")
    places = [word] if isinstance(word, int) else [i for i, w in enumerate(words) if w == word]
    pieces = [TOKENIZER.decode([i]) for i in TOKENIZER(text).input_ids][1:-1]
    found, place, seen = [], 0, 0
    for token, piece in enumerate(pieces):
        seen += len(piece)
        if place in places:
            found.append(token + 1)
        if seen >= len(words[place]):
            place, seen = place + 1, 0
    return found


def swap(source: str, target: str, aligned: bool = False) -> Mapped:
    """Return the word swap; `aligned` writes the identity at (i, j) after the last swap too."""
    pairs = list(zip(source.split(" "), target.split(" "), strict=True))
    swaps = [i for i, (old, new) in enumerate(pairs) if old != new]
    todo = [(words_of(source, i), words_of(target, i)) for i in swaps]
    weights = [[0.0] * LENGTH for _ in range(LENGTH)]
    i = j = 0
    while i < LENGTH and j < LENGTH:
        if todo and todo[0][0][0] == i:
            old, new = todo.pop(0)
            for a, row in enumerate(old):
                for b, column in enumerate(new):
                    one_to_one = 1.0 if a == b else 0.0
                    weights[row][column] = one_to_one if len(old) == len(new) else 1 / len(new)
            i, j = i + len(old), j + len(new)
        else:
            weights[i if todo or aligned else j][j] = 1.0
            i, j = i + 1, j + 1

    def mapped(base: Rows, own: Rows) -> Rows:
        columns = range(LENGTH)
        return [[sum(row[i] * weights[i][j] for i in columns) for j in columns] for row in base]

    return mapped


def refinement(source: str, target: str) -> Mapped:
    """Return the added phrase: longest common subsequence of ids, new tokens keep their own."""
    x, y = TOKENIZER(source).input_ids, TOKENIZER(target).input_ids
    best = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            match = best[i - 1][j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            best[i][j] = max(best[i][j - 1], best[i - 1][j], match)
    partner: list[int | None] = [None] * len(y) + list(range(len(y), LENGTH))
    i, j = len(x), len(y)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i

    def mapped(base: Rows, own: Rows) -> Rows:
        return [
            [mine[j] if (a := partner[j]) is None else row[a] for j in range(LENGTH)]
            for row, mine in zip(base, own, strict=True)
        ]

    return mapped


def fader(inner: Mapped | None, target: str, scales: Mapping[str, float]) -> Mapped:
    """Return the re-weighting wrapped around another edit, or around the source alone."""
    equalizer = [1.0] * LENGTH
    for word, scale in scales.items():
        for token in words_of(target, word):
            equalizer[token] = scale

    def mapped(base: Rows, own: Rows) -> Rows:
        rows = base if inner is None else inner(base, own)
        return [[value * c for value, c in zip(row, equalizer, strict=True)] for row in rows]

    return mapped


def published(
    mapped: Mapped,
    target: str,
    step: int,
    steps: int,
    cross: tuple[float, float],
    words: Mapping[str, tuple[float, float]],
    source_maps: Tensor,
    target_maps: Tensor,
) -> Tensor:
    """Return the edited maps of one step: mapped * alpha + own * (1 - alpha)."""
    table = [[0.0] * LENGTH for _ in range(steps + 1)]
    windows = [(range(LENGTH), cross)] + [(words_of(target, w), b) for w, b in words.items()]
    for tokens, (begin, end) in windows:
        for row in range(steps + 1):
            for token in tokens:
                inside = int(begin * (steps + 1)) <= row < int(end * (steps + 1))
                table[row][token] = 1.0 if inside else 0.0
    heads = []
    for base, own in zip(source_maps.tolist(), target_maps.tolist(), strict=True):
        heads.append(
            [
                [n * a + o * (1 - a) for n, o, a in zip(new, mine, table[step], strict=True)]
                for new, mine in zip(mapped(base, own), own, strict=True)
            ]
        )
    return torch.tensor(heads, dtype=torch.float64)


def check_published(
    plan: EditPlan,
    mapped: Mapped,
    target: str,
    cross: tuple[float, float],
    words: Mapping[str, tuple[float, float]] | None = None,
    tolerance: float = 0.0,
) -> None:
    source_maps, target_maps = maps(1), maps(2)
    for step in range(plan.steps):
        want = published(
            mapped, target, step, plan.steps, cross, words or {}, source_maps, target_maps
        )
        got = mix_cross(source_maps, target_maps, plan, step)
        assert float((got - want).abs().max()) <= tolerance, f"step {step}"


# --- law 4: the plan equals the method as published -----------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a red cat on grass", "a red dog on grass"),
        ("a snowy cat", "a caramel cat"),  # 3 tokens for 3
        ("a cat on the grass", "a polar on the grass"),  # 1 token for 2
        ("a polar on a grass", "a cat on a hat"),  # 2 for 1, then 1 for 1
        ("a cat and snowy grass", "a caramel and red grass"),  # 1 for 3, 3 for 1
        ("a cat", "a cat"),
    ],
)
@pytest.mark.parametrize("cross", [(0.0, 0.8), (0.2, 0.65), (0.0, 1.0), (0.5, 0.5)])
def test_replace_in_the_reference_form_is_the_published_word_swap(
    source: str, target: str, cross: tuple[float, float]
) -> None:
    plan = planned([Replace(cross=cross)], source, target, compat="reference")
    thirds = 1e-15 if {"caramel", "snowy"} & {*source.split(), *target.split()} else 0.0
    check_published(plan, swap(source, target), target, cross, tolerance=thirds)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a red cat on grass", "a polar cat on caramel"),
        ("a snowy cat and a dog", "a red cat and a hat"),
        ("polar grass", "snowy grass"),
    ],
)
def test_replace_is_the_published_swap_with_every_later_word_in_its_place(
    source: str, target: str
) -> None:
    cross = (0.0, 1.0)
    plan = planned([Replace(cross=cross)], source, target)
    edited = mix_cross(maps(1), maps(2), plan, 0)
    want = published(swap(source, target, True), target, 0, STEPS, cross, {}, maps(1), maps(2))
    end = prompt(target).end
    assert torch.allclose(edited[..., :end], want[..., :end], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a cat on grass", "a red cat on snowy grass"),
        ("a cat on grass", "a dog on grass with a hat"),
        ("a red cat on grass", "a cat on grass"),
        ("a cat and a cat", "a red cat and a cat and a cat"),
        ("polar bear", "the caramel dog"),
    ],
)
@pytest.mark.parametrize("cross", [(0.0, 0.8), (0.3, 0.7)])
def test_refine_in_the_reference_form_is_the_published_refinement(
    source: str, target: str, cross: tuple[float, float]
) -> None:
    plan = planned([Refine(cross=cross)], source, target, compat="reference")
    check_published(plan, refinement(source, target), target, cross)


def test_refine_without_compat_is_the_published_refinement_when_words_are_only_added() -> None:
    source, target = "a cat on grass", "a red cat on the snowy grass"
    plan = planned([Refine(cross=(0, 1))], source, target)
    check_published(plan, refinement(source, target), target, (0.0, 1.0))


@pytest.mark.parametrize("scale", [0.0, -2.0, 0.3, 5.0])
def test_a_lone_reweight_scales_the_map_of_the_source(scale: float) -> None:
    text, cross = "a red cat on snowy grass", (0.0, 0.8)
    edits = [Refine(cross=cross), Reweight("snowy", scale, window=cross)]
    plan = planned(edits, text, text, compat="reference")
    check_published(plan, fader(None, text, {"snowy": scale}), text, cross)
    alone = planned([Reweight("snowy", scale)], text, text)
    edited = mix_cross(maps(1), maps(2), alone, 0)
    tokens = prompt(text).tokens_of("snowy")
    assert torch.equal(edited[..., tokens], scale * maps(1)[..., tokens])


def test_reweight_around_refine_under_windows_of_single_words_is_as_published() -> None:
    source, target = "a cat on grass", "a red cat on snowy grass"
    cross, words = (0.0, 0.8), {"cat": (0.0, 0.3), "grass": (0.2, 1.0), "snowy": (0.1, 0.5)}
    scales = {"snowy": 2.5, "cat": -1.0, "red": 0.0}
    plan = planned(
        [Reweight(w, c, words.get(w, cross)) for w, c in scales.items()]
        + [Refine(cross=cross, words=words)],
        source,
        target,
        compat="reference",
    )
    check_published(plan, fader(refinement(source, target), target, scales), target, cross, words)


def test_reweight_around_replace_under_windows_of_single_words_is_as_published() -> None:
    source, target = "a cat on the grass", "a polar on the cake"
    cross, words = (0.1, 0.9), {"polar": (0.0, 0.4), "the": (0.0, 1.0)}
    scales = {"polar": 3.0, "on": -0.5}
    plan = planned(
        [Replace(cross=cross, words=words)]
        + [Reweight(w, c, words.get(w, cross)) for w, c in scales.items()],
        source,
        target,
        compat="reference",
    )
    check_published(plan, fader(swap(source, target), target, scales), target, cross, words)


WINDOWS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda w: (min(w), max(w)))
SENTENCES = st.lists(st.sampled_from([*WORDS, *SPLIT]), min_size=1, max_size=6).map(" ".join)
SCALES = st.floats(-10, 10)


@LAWS
@given(SENTENCES, SENTENCES, WINDOWS, WINDOWS, SCALES, st.integers(1, 12), st.data())
def test_any_composition_in_the_reference_form_is_as_published(
    source: str,
    target: str,
    cross: tuple[float, float],
    own: tuple[float, float],
    scale: float,
    steps: int,
    data: st.DataObject,
) -> None:
    word = data.draw(st.sampled_from(target.split()))
    same = len(source.split()) == len(target.split())
    kind = data.draw(st.sampled_from([Replace, Refine] if same else [Refine]))
    edits = [kind(cross=cross, words={word: own}), Reweight(word, scale, own)]
    plan = planned(edits, source, target, steps, compat="reference")
    inner = swap(source, target) if kind is Replace else refinement(source, target)
    mapped = fader(inner, target, {word: scale})
    check_published(plan, mapped, target, cross, {word: own}, tolerance=1e-14)


# --- what the reference form keeps, and the default corrects --------------------------------


def test_the_authors_mapper_misaligns_what_follows_a_swap_and_ours_does_not() -> None:
    source, target = "a cat on grass", "a polar on grass"  # one token more from "on" on
    theirs = planned([Replace()], source, target, compat="reference").mapper
    ours = planned([Replace()], source, target).mapper
    on = prompt(target).tokens_of("on")[0]
    assert theirs[on, on] == 1
    assert ours[prompt(source).tokens_of("on")[0], on] == 1


def test_the_authors_share_makes_a_swapped_column_of_the_mapper_sum_to_k_over_m() -> None:
    source, target = "a cat on grass", "a polar on grass"
    column = prompt(target).tokens_of("polar")[0]
    theirs = planned([Replace()], source, target, compat="reference")
    ours = planned([Replace()], source, target)
    assert (theirs.mapper[:, column].sum(), theirs.source_gain[0, column]) == (0.5, 1)
    assert (ours.mapper[:, column].sum(), ours.source_gain[0, column]) == (1, 0.5)


def test_the_authors_windows_are_truncated_on_a_table_with_one_row_more() -> None:
    edits = [Replace(cross=(0.5, 0.95), self_attention=(0.29, 0.57))]
    theirs = planned(edits, "a cat", "a dog", 100, compat="reference")
    ours = planned(edits, "a cat", "a dog", 100)
    inside = [plan.source_gain[:, 2].nonzero().flatten().tolist() for plan in (theirs, ours)]
    assert inside == [list(range(50, 95)), list(range(50, 95))]
    assert theirs.self_steps == range(28, 56)  # 0.29 * 100 falls short of 29, 0.57 * 100 of 57
    assert ours.self_steps == range(29, 57)
    late = [Replace(cross=(0.4, 0.9))]
    assert planned(late, "a cat", "a dog", 9, compat="reference").source_gain[:, 2].tolist() == [
        0, 0, 0, 0, 1, 1, 1, 1, 1,
    ]  # fmt: skip
    assert planned(late, "a cat", "a dog", 9).source_gain[:, 2].tolist() == [
        0, 0, 0, 0, 1, 1, 1, 1, 0,
    ]  # fmt: skip


def test_the_authors_word_search_loses_a_word_silently_and_ours_says_so() -> None:
    source, target = "a cat, on grass", "a cat, on snowy grass"
    edits = [Reweight("cat", 3.0), LocalBlend("cat")]
    theirs = planned(edits, source, target, compat="reference")
    assert (theirs.source_gain <= 1).all()
    assert theirs.blend == BlendPlan(start_step=2, mask=torch.zeros(1, 1).double())  # nothing
    ours = planned(edits, source, target)
    assert ours.source_gain.max() == 3
    with pytest.raises(AlignmentError, match="Reweight: 'dog' is not in the prompt"):
        planned([Reweight("dog", 3.0)], source, target)


# --- law 5 and the properties of any plan ---------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> EditPlan:
    source, target = draw(SENTENCES), draw(SENTENCES)
    words = st.sampled_from(target.split())
    edits: list[Any] = [
        draw(st.sampled_from([Replace, Refine]))(
            cross=draw(WINDOWS),
            self_attention=draw(WINDOWS),
            self_pixels=draw(st.integers(0, 4096)),
            words=draw(st.dictionaries(words, WINDOWS, max_size=2)),
        ),
        *(
            Reweight(draw(words), draw(SCALES), draw(WINDOWS))
            for _ in range(draw(st.integers(0, 2)))
        ),
    ]
    if draw(st.booleans()):
        spots = draw(st.sampled_from(source.split())), draw(words)
        edits.append(LocalBlend(*spots, start=draw(st.floats(0, 1)), subtract=draw(words)))
    try:
        return planned(draw(st.permutations(edits)), source, target, draw(st.integers(1, 12)))
    except AlignmentError as error:
        assert "share no word" in str(error)
        return planned([], source, source, draw(st.integers(1, 12)))


@LAWS
@given(plans())
def test_no_plan_crashes_or_makes_a_number_that_is_none(plan: EditPlan) -> None:
    for step in range(plan.steps):
        edited = mix_cross(maps(1), maps(2), plan, step)
        assert edited.shape == maps(1).shape
        assert edited.isfinite().all()
    assert str(plan) and plan.explain()


@LAWS
@given(plans())
def test_columns_sum_to_one_and_untouched_tokens_keep_their_bits(plan: EditPlan) -> None:
    fed = (plan.source_gain != 0).any(0)
    assert torch.allclose(plan.mapper.sum(0)[fed], torch.ones(int(fed.sum())).double())
    for step in range(plan.steps):
        edited = mix_cross(maps(1), maps(2), plan, step)
        untouched = (plan.source_gain[step] == 0) & (plan.target_gain[step] == 1)
        assert torch.equal(edited[..., untouched], maps(2)[..., untouched])
        assert plan.edits_cross(step) == (not bool(untouched.all()))
        if not plan.edits_cross(step):
            assert edited.data_ptr() != maps(1).data_ptr()


@pytest.mark.parametrize("new", ["cat", "caramel", "red bear", "caramel red dog"])
@pytest.mark.parametrize("old", ["hat", "polar", "snowy", "snowy polar"])
def test_a_swapped_word_keeps_its_total_attention(old: str, new: str) -> None:
    source, target = prompt(f"a {old} on grass"), prompt(f"a {new} on grass")
    plan = compile_edits([Replace()], source, target, STEPS)
    edited = mix_cross(maps(1), maps(2), plan, 0)
    before = maps(1)[..., source.tokens_of(old)].sum(-1)
    assert torch.allclose(edited[..., target.tokens_of(new)].sum(-1), before)


@st.composite
def keyframes(draw: st.DrawFn) -> EditPlan:
    """A plan of any target for one and the same source, as an animation has them."""
    source, target = "a polar bear on the grass", draw(SENTENCES)
    words = st.sampled_from(target.split())
    aligner = draw(st.sampled_from([Replace, Refine]))
    edits: list[Any] = [aligner(cross=draw(WINDOWS), self_attention=draw(WINDOWS))]
    if draw(st.booleans()):
        edits.append(Reweight(draw(words), draw(st.floats(0, 3)), draw(WINDOWS)))
    if draw(st.booleans()):
        minus = draw(st.sampled_from(["", "grass"]))
        edits.append(LocalBlend("bear", draw(words), subtract=minus or ()))
    try:
        return planned(edits, source, target, 6)
    except AlignmentError:
        return planned([], source, source, 6)


@LAWS
@given(keyframes(), keyframes(), st.floats(0.01, 0.99))
def test_between_two_plans_every_map_is_the_mix_of_their_maps(
    one: EditPlan, other: EditPlan, share: float
) -> None:
    mixed = between(one, other, share)
    for step in range(one.steps):
        ends = [mix_cross(maps(1), maps(2), plan, step) for plan in (one, other)]
        got = mix_cross(maps(1), maps(2), mixed, step)
        assert torch.allclose(got, (1 - share) * ends[0] + share * ends[1], atol=1e-12)
        masses = [end.sum(-2) for end in ends]
        low, high = torch.minimum(*masses) - 1e-9, torch.maximum(*masses) + 1e-9
        assert bool(((got.sum(-2) >= low) & (got.sum(-2) <= high)).all())
        assert mixed.edits_cross(step) or torch.equal(got, maps(2))
    assert EditPlan.from_json(mixed.to_json()) == mixed
    assert mixed.shared_prefix(mixed) == mixed.steps and mixed.explain() and str(mixed)
    assert mixed.shared_prefix(one) == one.shared_prefix(mixed)
    for name in ("start", "stop"):
        spans = [getattr(plan.self_steps, name) for plan in (one, other) if plan.self_steps]
        if len(spans) == 2:
            assert min(spans) <= getattr(mixed.self_steps, name) <= max(spans)


@LAWS
@given(plans())
def test_a_plan_comes_back_from_json_bit_for_bit(plan: EditPlan) -> None:
    again = EditPlan.from_json(plan.to_json())
    assert again == plan
    assert again.mapper.dtype == plan.mapper.dtype
    assert again.to_json() == plan.to_json()


@settings(LAWS, max_examples=20)
@given(plans(), plans(), st.integers(0, 12))
def test_plans_share_the_steps_on_which_they_do_the_same(
    one: EditPlan, other: EditPlan, parts: int
) -> None:
    assert one.shared_prefix(one) == one.steps
    shared = one.shared_prefix(other)
    assert shared == other.shared_prefix(one)
    if (one.source, one.target, one.steps) != (other.source, other.target, other.steps):
        assert shared == 0
    gains = one.target_gain.clone()
    gains[parts:] += 1
    assert one.shared_prefix(one.with_(target_gain=gains)) == min(parts, one.steps)


def test_the_shared_prefix_ends_where_a_window_a_fader_or_a_blend_parts() -> None:
    def plan(*edits: Any) -> EditPlan:
        return planned(edits, "a red cat", "a red dog")

    base = plan(Replace(cross=(0, 0.8)))
    assert base.shared_prefix(plan(Replace(cross=(0, 0.4)))) == 4
    assert base.shared_prefix(plan(Replace(self_attention=(0, 0.6)))) == 4
    assert base.shared_prefix(plan(Replace(self_pixels=64))) == 0
    assert base.shared_prefix(plan(Replace(), Reweight("red", 2.0, (0.5, 1)))) == 5
    assert base.shared_prefix(plan(Replace(), LocalBlend("cat", "dog", start=0.3))) == 3
    assert (
        plan(Replace(), LocalBlend("cat", "dog", threshold=0.5, start=0.6)).shared_prefix(
            plan(Replace(), LocalBlend("cat", "dog", threshold=0.3, start=0.2))
        )
        == 2
    )
    assert base.shared_prefix(plan(Refine())) == 0
    assert base.shared_prefix(planned([Replace()], "a red cat", "a red hat")) == 0


def test_two_alignments_part_where_a_column_that_differs_first_takes_the_source() -> None:
    source, target = prompt("a cat and a dog"), prompt("a bear and a hat")

    def plan(window: tuple[float, float], **pairs: str) -> EditPlan:
        alignment = align_words(source, target, pairs=pairs)
        words = {"bear": window, "hat": window}
        return compile_edits([Replace(alignment=alignment, words=words)], source, target, STEPS)

    straight, crossed = {"cat": "bear", "dog": "hat"}, {"cat": "hat", "dog": "bear"}
    for begin in (0.0, 0.3):
        window = (begin, 0.8)
        assert plan(window, **straight).shared_prefix(plan(window, **crossed)) == 10 * begin


# --- the identity ---------------------------------------------------------------------------


def test_no_edits_give_the_identity_which_returns_the_target_itself() -> None:
    plan = planned([], "a cat", "a dog")
    own = maps(2)
    assert plan.is_identity
    assert all(mix_cross(None, own, plan, step) is own for step in range(STEPS))
    assert not any(plan.needs_source(step) for step in range(STEPS))
    assert "nothing is changed" in str(plan)


@pytest.mark.parametrize(
    "edits",
    [
        [Replace(cross=(0, 0), self_attention=(0, 0))],
        [Refine(cross=(0.5, 0.5), self_attention=(1, 1)), Reweight("dog", 1.0)],
        [Refine(cross=(0, 0), self_attention=(0, 0)), Reweight("dog", 3.0, (0.4, 0.4))],
    ],
)
def test_edits_with_empty_windows_are_the_identity(edits: list[Any]) -> None:
    assert planned(edits, "a cat", "a dog").is_identity


@pytest.mark.parametrize(
    "edits",
    [
        [Replace(cross=(0, 0))],
        [Replace(self_attention=(0, 0))],
        [Refine(cross=(0, 0), self_attention=(0, 0)), Reweight("dog", 2.0)],
        [Refine(cross=(0, 0), self_attention=(0, 0)), LocalBlend("cat", "dog")],
    ],
)
def test_a_plan_that_does_anything_is_not_the_identity(edits: list[Any]) -> None:
    assert not planned(edits, "a cat", "a dog").is_identity


def test_outside_every_window_the_target_itself_comes_back() -> None:
    plan = planned([Replace(cross=(0, 0.4))], "a cat", "a dog")
    own = maps(2)
    assert [mix_cross(maps(1), own, plan, step) is own for step in range(STEPS)] == (
        [False] * 4 + [True] * 6
    )


def test_the_source_is_needed_exactly_where_it_enters() -> None:
    plan = planned([Replace(cross=(0.2, 0.5), self_attention=(0, 0.3))], "a cat", "a dog")
    assert [step for step in range(STEPS) if plan.needs_source(step)] == [0, 1, 2, 3, 4]
    assert [step for step in range(STEPS) if plan.needs_source_cross(step)] == [2, 3, 4]
    with pytest.raises(ValueError, match="takes the source's cross-attention at step 2, got none"):
        mix_cross(None, maps(2), plan, 2)


def test_scaling_without_injection_needs_no_source() -> None:
    edits = [Refine(cross=(0, 0), self_attention=(0, 0)), Reweight("cat", 2.0)]
    plan = planned(edits, "a cat", "a cat")
    edited = mix_cross(None, maps(2), plan, 0)
    assert torch.equal(edited[..., 2], 2 * maps(2)[..., 2])
    assert not any(plan.needs_source(step) for step in range(STEPS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_maps_keep_their_type_and_are_not_written_to(dtype: torch.dtype) -> None:
    plan = planned([Replace(), Reweight("dog", -1.5)], "a cat", "a dog")
    source, target = maps(1).to(dtype), maps(2).to(dtype)
    before = source.clone(), target.clone()
    edited = mix_cross(source, target, plan, 0)
    assert edited.dtype == dtype
    assert torch.equal(source, before[0]) and torch.equal(target, before[1])
    assert torch.equal(edited[..., 2], -1.5 * source[..., 2])


def test_gradients_flow_even_after_a_use_in_inference_mode() -> None:
    plan = planned([Replace(cross=(0, 1))], "a polar", "a cat")
    with torch.inference_mode():
        mix_cross(maps(1).float(), maps(2).float(), plan, 0)
    source = maps(1).float().requires_grad_()
    mix_cross(source, maps(2).float(), plan, 0).sum().backward()
    assert source.grad is not None and source.grad.abs().sum() > 0


# --- composing ------------------------------------------------------------------------------


def test_the_order_of_edits_does_not_matter() -> None:
    edits = [Reweight("red", 2.0), LocalBlend("cat", "dog"), Replace(), Reweight("dog", 0.5)]
    pair = "a red cat", "a red dog"
    assert planned(edits, *pair) == planned(edits[::-1], *pair)


def test_two_scales_of_one_word_multiply() -> None:
    edits = [Reweight("cat", 2.0), Reweight("cat", 3.0, window=(0.5, 1))]
    plan = planned(edits, "a cat", "a cat")
    assert (plan.source_gain + plan.target_gain)[:, 2].tolist() == [2] * 5 + [6] * 5


def test_one_of_several_places_of_a_word_can_be_scaled() -> None:
    plan = planned([Reweight("cat", 2.0, occurrence=1)], "a cat and a cat", "a cat and a cat")
    assert plan.source_gain[0, [2, 5]].tolist() == [1, 2]


def test_one_of_several_places_of_a_word_has_its_own_window_and_region() -> None:
    text = "a cat and a cat on grass"
    first, second = (prompt(text).tokens_of("cat", n) for n in (0, 1))
    plan = planned([Refine(words={("cat", 1): (0, 0.2)})], text, text)
    assert bool((plan.source_gain[5, first] == 1).all())
    assert bool((plan.source_gain[5, second] == 0).all())
    for words in (("cat", 1), [("cat", 1)]):
        blend = planned([LocalBlend(words, subtract=("cat", 0))], text, text).blend
        assert blend is not None
        assert blend.source_tokens == blend.target_tokens == tuple(second)
        assert blend.source_subtract == blend.target_subtract == tuple(first)
    with pytest.raises(AlignmentError, match="no occurrence 2"):
        planned([LocalBlend(("cat", 2))], text, text)
    for wrong in (3, ("cat", "1", 2.0), [("cat", 1.5)]):
        with pytest.raises(ValueError, match="A word is named"):
            LocalBlend(source_words=["cat"], subtract=[wrong])
    with pytest.raises(ValueError, match="A word is named"):
        Refine(words={("cat", 0.5): (0, 1)})


@pytest.mark.parametrize("scale", [10**400, np.array([1, 2]), torch.ones(2), 1j])
def test_a_scale_beyond_all_numbers_is_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Reweight("cat", scale)


def test_an_alignment_set_by_hand_is_used() -> None:
    source, target = prompt("a cat and a dog"), prompt("a bear and a hat")
    crossed = align_words(source, target, pairs={"cat": "hat", "dog": "bear"})
    plan = compile_edits([Replace(alignment=crossed)], source, target, STEPS)
    assert plan.mapper[2, 5] == plan.mapper[5, 2] == 1
    with pytest.raises(AlignmentError, match="set by hand is for 'a cat and a dog'"):
        planned([Replace(alignment=crossed)], "a cat", "a dog")


def test_a_blend_holds_the_tokens_of_its_words() -> None:
    blend = planned(
        [LocalBlend(["cat", "red"], "polar bear", threshold=0.4, start=0.25, subtract="grass")],
        "a red cat on grass",
        "a polar bear on grass",
    ).blend
    assert blend == BlendPlan((2, 3), (2, 3, 4), (5,), (6,), 0.4, 3, None)


def test_a_word_to_subtract_may_stand_in_one_prompt_only() -> None:
    blend = planned([LocalBlend("cat", subtract=["hat"])], "a cat", "a cat with a hat").blend
    assert blend is not None
    assert (blend.source_subtract, blend.target_subtract) == ((), (5,))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda rows: rows])
def test_a_mask_of_the_users_own_is_copied_into_the_plan(kind: Callable[[Any], Any]) -> None:
    own = kind([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]])
    plan = planned([LocalBlend(mask=own)], "a cat", "a cat")
    assert plan.blend is not None and plan.blend.mask is not None
    own[0][0] = 1.0
    assert plan.blend.mask.tolist() == [[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]
    assert EditPlan.from_json(plan.to_json()) == plan


# --- the default edit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "kind", "said"),
    [
        ("a cat on grass", "a dog on grass", Replace, "swapped ('cat' -> 'dog'), so Replace"),
        ("a cat on grass", "a polar bear on grass", Replace, "'cat' -> 'polar bear'"),
        ("a cat", "a red cat", Refine, "The target adds 'red', so Refine"),
        ("a red cat", "a cat", Refine, "The target drops 'red'"),
        ("a cat on grass", "a red cat on", Refine, "adds 'red' and drops 'grass'"),
        ("a red cat on", "a cat on grass", Refine, "adds 'grass' and drops 'red'"),
        ("a cat", "A  cat", Refine, "The prompts have the same words"),
        ("", "a cat", Refine, "The target adds 'a' 'cat'"),
        ("cat", "dog", Replace, "'cat' -> 'dog'"),
    ],
)
def test_the_default_edit_follows_from_the_two_prompts(
    source: str, target: str, kind: type, said: str
) -> None:
    edits, why = default_edits(prompt(source), prompt(target))
    assert [type(edit) for edit in edits] == [kind]
    assert said in why
    compile_edits(edits, prompt(source), prompt(target), STEPS)


@LAWS
@given(SENTENCES, SENTENCES)
def test_the_default_edit_can_always_be_compiled(source: str, target: str) -> None:
    try:
        edits, why = default_edits(prompt(source), prompt(target))
    except AlignmentError as error:
        assert "share no word" in str(error)
        return
    assert why.endswith(".")
    compile_edits(edits, prompt(source), prompt(target), STEPS)


# --- printing and saving --------------------------------------------------------------------


def test_a_plan_says_in_words_what_it_does() -> None:
    edits = [Replace(), Reweight("red", 2), LocalBlend("cat", "dog", mask=[[1.0]])]
    plan = planned(edits, "a red cat", "a red dog", compat="reference")
    for words in (
        "10 steps",
        "source: 'a red cat'",
        "cross-attention: changed in steps 0-9; 24 of 24 tokens take the source's map, 1 are",
        "self-attention: from the source in steps 0-3 at sites of at most 256 positions",
        "blend: from step 2, threshold 0.3, source 3 cat, target 3 dog, own mask (1, 1)",
        "compat: reference",
    ):
        assert words in str(plan)
    assert repr(plan) == "<EditPlan: edit, 10 steps, 24 tokens>"


def test_the_table_of_a_plan_shows_each_token_its_source_and_its_gains() -> None:
    plan = planned([Replace(), Reweight("a", 0)], "a polar cat", "a cat cat")
    rows = [line.split() for line in plan.explain().splitlines()]
    share = "2 cat 0.5 x 2 pol + 0.5 x 3 ar 2 in 0-7, 0 in 8-9 0 in 0-7, 1 in 8-9"
    assert share.split() in rows
    assert ["1", "a", "-", "0", "0"] in rows
    assert rows[-1] == ["(and", "19", "padding", "tokens)"]


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"format": "p2p_lab.EditPlan/1"}'])
def test_what_is_no_saved_plan_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"no saved EditPlan .*plan\.to_json\(\)"):
        EditPlan.from_json(text)


def test_a_saved_plan_with_a_number_of_the_wrong_kind_is_refused() -> None:
    record = json.loads(planned([], "a cat", "a dog").to_json())
    for field, value in {"length": "x", "self_steps": [1], "mapper": [[99, 0, 1.0]]}.items():
        with pytest.raises(ValueError, match="no saved EditPlan"):
            EditPlan.from_json(json.dumps({**record, field: value}))


# --- bad input ------------------------------------------------------------------------------

BAD_WINDOWS = [(0, 1.2), (-0.1, 1), (0.8, 0.2), (0, math.nan), 0.8, (0,), "ab", None, (True, 1)]


@pytest.mark.parametrize("window", BAD_WINDOWS)
def test_a_window_outside_the_schedule_is_refused(window: Any) -> None:
    for name, make in {
        "cross": lambda: Replace(cross=window),
        "self_attention": lambda: Refine(self_attention=window),
        r"words\['cat'\]": lambda: Replace(words={"cat": window}),
        "window": lambda: Reweight("cat", 2.0, window),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name} is a window .* got "):
            make()


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, "2", None, True])
def test_a_scale_that_is_no_finite_number_is_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="scale of 'cat' must be a finite number, got"):
        Reweight("cat", scale)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Reweight(3, 2.0), "names a word of the target prompt, got 3"),
        (lambda: Replace(self_pixels=-1), "whole number of positions.*got -1"),
        (lambda: Replace(self_pixels=1.5), "whole number of positions.*got 1.5"),
        (lambda: Replace(self_pixels="16"), "whole number of positions.*got '16'"),
        (lambda: Replace(words=["cat"]), r"words gives .* got \['cat'\]"),
        (lambda: LocalBlend(), "LocalBlend needs a region"),
        (lambda: LocalBlend("cat", threshold=1.5), "threshold lies between 0 and 1, got 1.5"),
        (lambda: LocalBlend("cat", start=math.nan), "start lies between 0 and 1, got nan"),
        (lambda: LocalBlend(mask=[1.0, 0.0]), r"two axes .*got shape \(2,\)"),
        (lambda: LocalBlend(mask=np.zeros((4, 4, 3))), "two axes"),
        (lambda: LocalBlend(mask=[[0, 255]]), "got 0 to 255. Divide by 255"),
        (lambda: LocalBlend(mask=[[0.0, math.nan]]), "numbers from 0"),
        (lambda: LocalBlend(mask="cat"), "array of numbers"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("edits", "error", "sentence"),
    [
        (
            [Replace(), Refine()],
            ValueError,
            "one Replace or Refine and one LocalBlend, got 2 and 0",
        ),
        ([LocalBlend("cat"), LocalBlend("a")], ValueError, "got 0 and 2"),
        ([Reweight], TypeError, "An edit is a Replace"),
        (["cat"], TypeError, "An edit is a Replace.*got 'cat'"),
        (Reweight("cat", 2.0), TypeError, "edits is a list"),
        ("cat", TypeError, "edits is a list"),
        (
            [Reweight("hat", 2.0)],
            AlignmentError,
            r"Reweight: 'hat' is not .* words are: 'a', 'dog'",
        ),
        ([Replace(words={"cat": (0, 1)})], AlignmentError, "words=: 'cat' is not in the prompt"),
        ([LocalBlend("dog", "dog")], AlignmentError, "source_words: 'dog' is not in .*'a cat'"),
        ([LocalBlend("cat")], AlignmentError, "target_words: 'cat' is not in .*'a dog'"),
        ([LocalBlend("cat", "dog", subtract="x")], AlignmentError, "subtract: 'x' is not"),
        ([Reweight("dog", 1e200), Reweight("dog", 1e200)], ValueError, "number too large"),
    ],
)
def test_a_wrong_list_of_edits_is_refused(
    edits: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        planned(edits, "a cat", "a dog")


@pytest.mark.parametrize("steps", [0, -3, 2.5, None, True])
def test_a_schedule_without_steps_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="at least 1 step, a whole number; got"):
        planned([], "a cat", "a dog", steps)


def test_prompts_and_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="source has 24 token positions and the target 16"):
        compile_edits([], prompt("a cat"), Prompt.of("a dog", TOKENIZER, 16), STEPS)
    with pytest.raises(ValueError, match="compat is None or 'reference', got 'paper'"):
        planned([], "a cat", "a dog", compat="paper")
    with pytest.raises(AlignmentError, match="share no word, so Refine has nothing to keep"):
        planned([Refine()], "a cat", "the dog")
    with pytest.raises(ValueError, match=r"mapper of shape \(L, L\).*got \(2, 3\)"):
        EditPlan(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4, 3))


def test_equality_of_plans_looks_at_every_field() -> None:
    plan = planned([Replace(), LocalBlend("cat", "dog", mask=[[1.0]])], "a cat", "a dog")
    assert plan == plan.with_()
    assert plan != plan.with_(self_pixels=64)
    assert plan != plan.with_(mapper=plan.mapper.T + 1)
    assert plan.blend is not None and plan != plan.with_(blend=replace(plan.blend, threshold=0.5))
    assert plan != "a plan"


@pytest.mark.parametrize(
    "call",
    [lambda a, b: compile_edits([Replace()], a, b, STEPS), lambda a, b: default_edits(a, b)],
)
def test_texts_in_the_place_of_prompts_are_refused_with_a_sentence(call: Any) -> None:
    with pytest.raises(TypeError, match=r"source is a str \('a cat'\), not a Prompt.*model.prompt"):
        call("a cat", "a dog")
    with pytest.raises(TypeError, match="target is a str"):
        call(prompt("a cat"), "a dog")
