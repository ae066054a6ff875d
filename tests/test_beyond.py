"""Laws of what goes beyond the paper: moving objects, sharper maps, animations."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import p2p_lab
from benchmarks.beyond.moves import make_move
from benchmarks.moving import centre, measure
from p2p_lab.attention import BatchSlices, Controller, Site, sharp_map
from p2p_lab.attention.blending import blend_mask
from p2p_lab.attention.mixing import centre_of, move_rows, region_of
from p2p_lab.attention.sharpening import enlarge_along, propagate
from p2p_lab.edits import (
    Edit,
    EditPlan,
    LocalBlend,
    Move,
    Refine,
    Replace,
    Reweight,
    between,
    compile_edits,
)
from p2p_lab.figures import frame_changes, show_frames, show_plan, to_gif
from p2p_lab.inversion import invert
from p2p_lab.judge import load_judge
from p2p_lab.metrics import mask_iou
from p2p_lab.models import Denoiser
from p2p_lab.sampling import EditCache, Run, animate, apply_plan, edit, edit_many, generate
from p2p_lab.sampling.animating import frame_plan, keyframe_plans
from p2p_lab.sampling.edit_job import encode_target
from p2p_lab.scenes import parse, render
from p2p_lab.tokens import AlignmentError, Prompt
from tests.worlds import tiny_tokenizer

CAT, DOG = "a cat on grass", "a dog on grass"
STEPS = 5
PROMPT = Prompt.of(CAT, tiny_tokenizer())
RIGHT = Move("cat", by=(0.0, 0.25), threshold=0.7)


@pytest.fixture(scope="module")
def cat(sd: Denoiser) -> Run:
    return generate(sd, CAT, seed=3, steps=STEPS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(grid: Tensor, y: float, x: float, *, inside: bool) -> Tensor:
    """Read a grid (h, w, …) at a place in fractions, bilinear; outside 0, or the nearest value."""
    h, w = grid.shape[:2]
    v, u = y * h - 0.5, x * w - 0.5
    if not inside:
        v, u = min(max(v, 0.0), h - 1.0), min(max(u, 0.0), w - 1.0)
    total = torch.zeros_like(grid[0, 0])
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < h and 0 <= j < w:
                total = total + (1 - abs(v - i)) * (1 - abs(u - j)) * grid[i, j]
    return total


def moved_by_loops(probs: Tensor, region: Tensor, by: tuple[float, float], scale: float) -> Tensor:
    """Do what `move_rows` says for one picture (h, w, L) with a region (h, w), cell by cell."""
    h, w, _ = probs.shape
    cells = [(i, j) for i in range(h) for j in range(w)]
    mass = sum(float(region[i, j]) for i, j in cells)
    cy = sum(float(region[i, j]) * (i + 0.5) / h for i, j in cells) / mass
    cx = sum(float(region[i, j]) * (j + 0.5) / w for i, j in cells) / mass
    new = torch.zeros(h, w, dtype=probs.dtype)
    brought = torch.zeros_like(probs)
    for i, j in cells:
        y = cy + ((i + 0.5) / h - cy - by[0]) / scale
        x = cx + ((j + 0.5) / w - cx - by[1]) / scale
        new[i, j] = at(region, y, x, inside=True)
        brought[i, j] = at(probs, y, x, inside=False)
    weights = {(i, j): float((1 - region[i, j]) * (1 - new[i, j])) for i, j in cells}
    mean = sum(weights[c] * probs[c] for c in cells) / sum(weights.values())
    out = torch.zeros_like(probs)
    for i, j in cells:
        hole = region[i, j] * (1 - new[i, j])
        out[i, j] = weights[i, j] * probs[i, j] + new[i, j] * brought[i, j] + hole * mean
    return out


@pytest.mark.parametrize(
    ("by", "scale"), [((0.25, 0.0), 1.0), ((-0.1, 0.3), 1.0), ((0.05, -0.2), 0.6), ((0, 0.5), 1.8)]
)
def test_moved_rows_equal_plain_loops_over_cells(by: tuple[float, float], scale: float) -> None:
    probs, region = draw(6, 9, 5).softmax(-1), (draw(6, 9, seed=1) > 0.6).double()
    moved = move_rows(probs.reshape(1, 54, 5), region[None], by, scale, (6, 9))
    oracle = moved_by_loops(probs, region, by, scale)
    assert torch.allclose(moved.reshape(6, 9, 5), oracle, atol=1e-12)


def test_rows_that_are_moved_still_sum_to_one() -> None:
    probs = draw(2, 3, 64, 7).softmax(-1)  # (B, heads, pixels, L)
    region = (draw(2, 16, 16, seed=2) > 0.7).double()
    moved = move_rows(probs, region, (0.2, -0.4), 1.5, (8, 8))
    assert moved.shape == probs.shape
    assert torch.allclose(moved.sum(-1), torch.ones(2, 3, 64, dtype=torch.float64))
    assert bool((moved >= 0).all())


@pytest.mark.parametrize("size", [(8, 8), (2, 2), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("covered", [0.5, 1.0])
def test_rows_sum_to_one_also_where_old_and_new_place_cover_the_picture(
    size: tuple[int, int], scale: float, covered: float
) -> None:
    probs = draw(2, 3, size[0] * size[1], 7).softmax(-1)
    region = torch.zeros(2, 16, 16, dtype=torch.float64)
    region[0, :, : round(16 * covered)] = 1  # the other picture's object is small
    region[1, 3:5, 6:9] = 1
    for by in ((0.0, covered), (0.3, 0.25), (-1.0, 1.0)):
        moved = move_rows(probs, region, by, scale, size)
        assert torch.allclose(moved.sum(-1), torch.ones_like(moved.sum(-1)))
        assert bool((moved >= 0).all())
        assert torch.allclose(moved[1:], move_rows(probs[1:], region[1:], by, scale, size))


def test_moving_whole_cells_takes_each_row_along_and_leaves_the_rest_alone() -> None:
    probs = draw(1, 64, 4).softmax(-1)
    region = torch.zeros(1, 8, 8, dtype=torch.float64)
    region[0, 2:4, 1:3] = 1
    moved = move_rows(probs, region, (0.25, 0.5), 1.0, (8, 8)).reshape(8, 8, 4)
    grid = probs.reshape(8, 8, 4)
    assert torch.allclose(moved[4:6, 5:7], grid[2:4, 1:3], atol=1e-12)
    untouched = torch.ones(8, 8, dtype=torch.bool)
    untouched[2:4, 1:3] = untouched[4:6, 5:7] = False
    assert torch.equal(moved[untouched], grid[untouched])
    assert torch.allclose(moved[2:4, 1:3], grid[untouched].mean(0).expand(2, 2, 4))


def test_moving_commutes_with_the_mean_over_heads() -> None:
    probs, region = draw(1, 4, 64, 6).softmax(-1), (draw(1, 8, 8, seed=3) > 0.5).double()
    one = move_rows(probs, region, (0.1, 0.3), 0.7, (8, 8)).mean(1)
    two = move_rows(probs.mean(1), region, (0.1, 0.3), 0.7, (8, 8))
    assert torch.allclose(one, two, atol=1e-12)


def test_an_object_carried_there_has_its_centre_there_and_its_size() -> None:
    heat = torch.zeros(1, 64, 64)
    heat[0, 10:20, 12:20] = 1
    down, right = centre_of(region_of(heat, 0.4))[0].tolist()
    assert (down, right) == pytest.approx((15 / 64, 16 / 64))


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to move"):
        centre_of(torch.zeros(1, 4, 4))


def test_a_move_to_where_it_is_leaves_the_picture_bit_identical(cat: Run) -> None:
    keep = Refine(self_attention=(0, 0))
    alone = edit(cat, CAT, [keep], reuse=False)
    for still in (Move("cat"), Move("cat", by=(0, 0.3), window=(0.4, 0.4))):
        assert torch.equal(edit(cat, CAT, [keep, still], reuse=False).pixels, alone.pixels)
    assert torch.equal(alone.pixels, cat.pixels) or (alone.pixels - cat.pixels).abs().max() < 1e-9


def test_a_move_changes_the_picture_and_says_so_in_the_plan(cat: Run) -> None:
    run = edit(cat, CAT, [RIGHT])
    assert (run.pixels - cat.pixels).abs().max() > 1e-4
    assert run.plan is not None
    assert "move: source 2 cat" in str(run.plan)
    assert "+0.25 right" in str(run.plan)
    assert "move cat" in show_plan(run.plan).alt


def test_a_plan_with_moves_comes_back_whole_from_json(cat: Run) -> None:
    mask = torch.zeros(4, 4)
    mask[1, 2] = 1
    for move in (RIGHT, Move("cat", (0.1, -0.2), 1.5, (0.2, 0.6), mask=mask)):
        plan = compile_edits([move, Reweight("grass", 2.0)], cat.prompt, cat.prompt, STEPS)
        again = EditPlan.from_json(plan.to_json())
        assert again == plan
        assert again.moves[0].steps == plan.moves[0].steps
        assert again != plan.with_(moves=())


def test_a_saved_move_is_read_and_edited_again_to_the_same_bits(
    cat: Run, sd: Denoiser, tmp_path: Any
) -> None:
    run = edit(cat, CAT, [RIGHT])
    again = Run.load(run.save(tmp_path / "run.safetensors"), model=sd)
    assert again.plan == run.plan
    assert again.source is not None
    assert torch.equal(edit(again.source, CAT, [RIGHT]).pixels, run.pixels)


def test_replay_from_tape_equals_the_joint_run_when_an_object_moves(cat: Run) -> None:
    joint = replace(cat, tape=None, cache=EditCache())
    lists: list[list[Edit]] = [[RIGHT], [RIGHT, LocalBlend("cat")]]
    lists.append([Replace(), RIGHT, LocalBlend("cat", "dog")])
    for edits in lists:
        text = DOG if len(edits) == 3 else CAT
        one, two = (edit(source, text, edits, reuse=False) for source in (cat, joint))
        assert (one.pixels - two.pixels).abs().max() < 1e-9


def test_a_move_composes_with_faders_and_fences_in_any_order(cat: Run) -> None:
    parts: list[Edit] = [RIGHT, Reweight("grass", 2.0), LocalBlend("cat", threshold=0.8)]
    runs = [edit(cat, CAT, order, reuse=False) for order in (parts, parts[::-1])]
    assert torch.equal(runs[0].pixels, runs[1].pixels)
    louder = edit(cat, CAT, [RIGHT, LocalBlend("cat", threshold=0.8)], reuse=False)
    assert not torch.equal(runs[0].pixels, louder.pixels)


def test_a_fence_sees_the_old_place_and_the_new_one(cat: Run) -> None:
    run = edit(cat, CAT, [RIGHT, LocalBlend("cat", threshold=0.95, start=0.0)], reuse=False)
    alone = edit(cat, CAT, [LocalBlend("cat", threshold=0.95, start=0.0)], reuse=False)
    assert run.masks is not None and alone.masks is not None
    assert bool((run.masks[0] >= alone.masks[0]).all())  # the source's region is not moved


def test_moves_that_part_later_share_their_first_steps(cat: Run) -> None:
    def plan(*edits: Any) -> EditPlan:
        return compile_edits(edits, cat.prompt, cat.prompt, 10)

    early = plan(Refine(self_attention=(0, 0)), Move("cat", (0, 0.3), window=(0, 0.4)))
    late = plan(Refine(self_attention=(0, 0)), Move("cat", (0, 0.3), window=(0, 0.6)))
    other = plan(Refine(self_attention=(0, 0)), Move("cat", (0, 0.2), window=(0, 0.4)))
    assert early.shared_prefix(late) == 4
    assert early.shared_prefix(other) == 0
    assert early.shared_prefix(early) == 10


def test_reusing_first_steps_gives_the_same_picture(cat: Run) -> None:
    first, then = (Move("cat", (0, 0.3), window=(0, end), threshold=0.7) for end in (0.4, 0.8))
    edit(cat, CAT, [first])
    assert torch.equal(edit(cat, CAT, [then]).pixels, edit(cat, CAT, [then], reuse=False).pixels)


def test_several_sources_are_each_moved_from_their_own_place(sd: Denoiser) -> None:
    runs = [generate(sd, CAT, seed=seed, steps=STEPS) for seed in (3, 4)]
    together = edit_many(runs, CAT, [RIGHT], reuse=False)
    for run, moved in zip(runs, together, strict=True):
        assert (edit(run, CAT, [RIGHT], reuse=False).pixels - moved.pixels).abs().max() < 1e-9


def test_on_joint_attention_only_the_words_columns_are_moved() -> None:
    site = Site("joint", "joint", (4, 4), 2, "mid", "T|I", "I")
    mask = torch.zeros(4, 4)
    mask[:2, :2] = 1
    move = compile_mask(mask)
    plan = EditPlan(
        torch.eye(3), torch.ones(2, 3), torch.zeros(2, 3), self_steps=range(2), moves=(move,)
    )
    controller = Controller({site.name: site}, BatchSlices(slice(0, 1), slice(1, 2)), plan=plan)
    controller.begin_step(0)
    source, target = draw(1, 2, 16, 19).softmax(-1).float(), draw(1, 2, 16, 19, seed=5).softmax(-1)
    edited = controller.attend(site, target.float(), source)
    assert torch.equal(edited[..., 3:], source[..., 3:])
    wanted = move_rows(source[..., :3], mask[None], move.by, move.scale, (4, 4))
    assert torch.allclose(edited[..., :3], wanted)


def compile_mask(mask: Tensor) -> Any:
    from p2p_lab.edits import MovePlan

    return MovePlan(tokens=(1,), by=(0.5, 0.5), steps=range(2), mask=mask)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": (0, 1.5)}, "fractions of the picture"),
        ({"by": 0.3}, "fractions of the picture"),
        ({"by": (0, float("nan"))}, "fractions of the picture"),
        ({"scale": 0.1}, "scale lies between"),
        ({"scale": float("inf")}, "scale lies between"),
        ({"window": (0.5, 0.2)}, "window"),
        ({"threshold": 1.0}, "threshold"),
        ({"mask": torch.zeros(4, 4)}, "nothing to move"),
        ({"mask": torch.ones(4)}, "two axes"),
        ({"word": 3}, "names a word"),
    ],
)
def test_a_move_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Move(**{"word": "cat", **given})


def test_a_move_of_a_missing_word_or_twice_is_refused_before_sampling(cat: Run) -> None:
    with pytest.raises(AlignmentError, match="bear"):
        edit(cat, CAT, [Move("bear", (0, 0.2))])
    with pytest.raises(ValueError, match="moved twice"):
        edit(cat, CAT, [Move("cat", (0, 0.2)), Move("cat", (0.1, 0))])


def test_a_source_without_maps_can_only_be_moved_by_a_mask(cat: Run) -> None:
    blind = replace(cat, attention=None, cache=EditCache())
    with pytest.raises(ValueError, match="mask="):
        edit(blind, CAT, [RIGHT])
    mask = torch.zeros(16, 16)
    mask[4:9, 4:9] = 1
    assert torch.isfinite(edit(blind, CAT, [Move("cat", (0, 0.2), mask=mask)]).pixels).all()


# Sharper maps


def test_multiplying_by_self_attention_equals_plain_loops() -> None:
    heat, own = draw(3, 4, seed=1), draw(12, 12, seed=2)
    flat = heat.flatten().tolist()
    powered = [[float(v) ** 2 for v in row] for row in own]
    values = flat
    for _ in range(2):
        spread = [
            sum(a * v for a, v in zip(row, values, strict=True)) / sum(row) for row in powered
        ]
        values = [math.sqrt(m * s) for m, s in zip(flat, spread, strict=True)]
    got = propagate(heat, own, rounds=2, power=2.0)
    assert torch.allclose(got, torch.tensor(values, dtype=torch.float64).reshape(3, 4))


def test_a_map_that_is_even_stays_so_and_zeros_stay_zero() -> None:
    own = draw(16, 16).softmax(-1)
    even = torch.full((4, 4), 0.3, dtype=torch.float64)
    assert torch.allclose(propagate(even, own, rounds=3, power=3.0), even)
    holed = even.clone()
    holed[1, 2] = 0
    assert propagate(holed, own, rounds=1)[1, 2] == 0


def test_enlarging_follows_the_edges_of_the_picture_and_keeps_the_range() -> None:
    image = torch.zeros(3, 32, 32)
    image[:, :, 14:] = 1  # an edge that lies on no border of the map's 8×8 cells
    heat = torch.zeros(8, 8)
    heat[:, 4:] = 1  # the map puts it at 16
    sharp = enlarge_along(heat, image, spread=0.07)
    assert sharp.shape == (32, 32)
    assert float(sharp.min()) >= 0 and float(sharp.max()) <= 1 + 1e-6
    plain = torch.nn.functional.interpolate(heat[None, None], size=(32, 32), mode="bilinear")[0, 0]
    truth = image[0] > 0.5
    assert mask_iou(sharp > 0.5, truth) > mask_iou(plain > 0.5, truth)


def test_a_sharp_map_without_its_tricks_is_the_mean_of_the_decoders_finest_sites(cat: Run) -> None:
    store = cat.attention
    assert store is not None
    plain = sharp_map(store, "cat", rounds=0, late=1.0)
    names = [
        n for n, s in store.sites.items() if s.has_text and s.place == "up" and s.pixels == 256
    ]
    wanted = torch.stack([store.map("cat", site=name) for name in names]).mean(0)
    assert (plain - wanted).abs().max() < 1e-6
    assert cat.sharp_map("cat").shape == cat.size


def test_a_sharp_map_without_tape_takes_the_means_and_says_what_is_missing(cat: Run) -> None:
    assert cat.attention is not None
    untaped = replace(cat.attention, tape=None)
    assert sharp_map(untaped, "cat", rounds=0).shape == (16, 16)
    with pytest.raises(ValueError, match="rounds=0"):
        sharp_map(untaped, "cat")
    with pytest.raises(ValueError, match="recorded no maps"):
        replace(cat, attention=None).sharp_map("cat")


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"rounds": 1.5}, {"power": 0}, {"late": 0}])
def test_a_sharp_map_refuses_settings_that_make_no_sense(cat: Run, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        cat.sharp_map("cat", **wrong)


def test_a_sharp_map_fits_true_masks_better_than_the_map_on_the_bundled_model() -> None:
    model, gained = p2p_lab.load(), []
    for text in ("a green car on a beach", "a cat in a field", "a red apple in a city"):
        drawn = render(parse(text, seed=1))
        run, truth = invert(model, drawn.images[0], text, steps=6), drawn.masks[0, 0] > 0.5
        word = text.split()[-4] if text.split()[1] != "cat" else "cat"
        scores = [
            sum(mask_iou(heat, truth, threshold=cut) for cut in (0.3, 0.4, 0.5)) / 3
            for heat in (run.map(word, size=run.size), run.sharp_map(word))
        ]
        gained.append(scores[1] - scores[0])
    assert sum(gained) / len(gained) > 0.02


# Animations

FRAMES: list[Any] = [CAT, (DOG, [Replace(), Reweight("grass", 2.0)])]


def test_the_frames_on_keyframes_are_those_edits_to_the_bit(cat: Run) -> None:
    frames = animate(cat, [*FRAMES, (CAT, [RIGHT])], frames=5)
    assert [frame.prompt.text for frame in frames][::2] == [CAT, DOG, CAT]
    assert (frames[0].pixels - cat.pixels).abs().max() < 1e-9
    assert torch.equal(frames[2].pixels, edit(cat, *FRAMES[1], reuse=False).pixels)
    assert torch.equal(frames[4].pixels, edit(cat, CAT, [RIGHT], reuse=False).pixels)


@pytest.mark.parametrize("method", ["direct", "edit-friendly"])
def test_the_end_frames_of_a_photographs_animation_are_its_edits(
    sd: Denoiser, cat: Run, method: Any
) -> None:
    source = invert(sd, cat.image, CAT, method=method, steps=4)
    frames = animate(source, FRAMES, frames=3)
    assert torch.equal(frames[0].pixels, edit(source, CAT, [Refine()], reuse=False).pixels)
    assert torch.equal(frames[2].pixels, edit(source, *FRAMES[1], reuse=False).pixels)


def test_frames_between_mix_plans_and_embeddings(cat: Run, sd: Denoiser) -> None:
    plans = keyframe_plans(cat, FRAMES)
    half = frame_plan(plans, 1, 3)
    assert torch.allclose(half.source_gain, (plans[0].source_gain + plans[1].source_gain) / 2)
    assert half.toward is not None and half.toward[1] == 0.5
    mixed = encode_target(sd, half, cat.size).tokens
    ends = [sd.encode_prompt(sd.prompt(text), cat.size).tokens for text in (CAT, DOG)]
    assert torch.allclose(mixed, (ends[0] + ends[1]) / 2)
    assert EditPlan.from_json(half.to_json()) == half
    assert "0.5 of the way" in str(half)


def test_an_animation_takes_small_steps(cat: Run) -> None:
    changes = frame_changes(animate(cat, FRAMES, frames=6))
    whole = frame_changes(animate(cat, FRAMES, frames=2))[0]
    assert max(changes) < 0.6 * whole
    assert sum(changes) >= whole * (1 - 1e-6)


def test_frames_of_one_prompt_share_their_first_steps(cat: Run) -> None:
    late = [(DOG, [Replace(cross=(0, end), self_attention=(0, 0))]) for end in (0.4, 1.0)]
    plans = [frame_plan(keyframe_plans(cat, late), i, 4) for i in range(4)]
    assert plans[1].shared_prefix(plans[2]) >= 2
    shared = animate(cat, late, frames=4)
    cat.cache.clear()
    for frame, plan in zip(shared, plans, strict=True):
        alone = apply_plan([cat], plan, guidance_scale=cat.guidance_scale, reuse=False)[0]
        assert torch.equal(frame.pixels, alone.pixels)


def test_a_frame_can_be_edited_further_as_itself(cat: Run) -> None:
    frame = animate(cat, FRAMES, frames=3)[1]
    again = edit(frame, frame.prompt.text, [Refine()], reuse=False)
    assert (again.pixels - frame.pixels).abs().max() < 0.2


def test_a_move_between_keyframes_goes_part_of_the_way() -> None:
    first, last = (
        compile_edits([m, LocalBlend("cat", threshold=0.4)], PROMPT, PROMPT, STEPS)
        for m in (Move("cat"), Move("cat", (0.1, 0.4), 2.25))
    )
    half = between(first, last, 0.5)
    assert half.moves[0].by == pytest.approx((0.05, 0.2))
    assert half.moves[0].scale == pytest.approx(1.5)
    assert half.blend == last.blend


def test_the_region_of_a_move_goes_from_one_mask_to_the_other() -> None:
    here, there = torch.zeros(8, 8), torch.zeros(8, 8)
    here[1:3, 1:3] = there[5:7, 4:8] = 1
    first, last = (
        compile_edits([Move("cat", (0, 0.2), mask=mask)], PROMPT, PROMPT, STEPS)
        for mask in (here, there)
    )
    mask = between(first, last, 0.25).moves[0].mask
    assert mask is not None
    assert torch.allclose(mask, 0.75 * here.double() + 0.25 * there.double())
    last = compile_edits([Move("cat", mask=torch.ones(4, 4), scale=2)], PROMPT, PROMPT, STEPS)
    with pytest.raises(ValueError, match="same shape"):
        between(first, last, 0.5)


def test_the_treatment_of_joint_softmaxes_is_that_of_the_keyframe_that_has_one() -> None:
    alone = compile_edits([Move("cat", (0, 0.2))], PROMPT, PROMPT, STEPS)  # no self-attention
    maps, queries = (
        compile_edits([Refine(joint=joint)], PROMPT, PROMPT, STEPS) for joint in ("maps", "queries")
    )
    assert between(alone, queries, 0.5).joint == between(queries, alone, 0.5).joint == "queries"
    with pytest.raises(ValueError, match="joint="):
        between(maps, queries, 0.5)


FENCES: dict[str, LocalBlend | None] = {
    "none": None,
    "words": LocalBlend("cat", threshold=0.4),
    "other words": LocalBlend("grass", ("cat", "grass"), threshold=0.6),
    "source words": LocalBlend("cat", (), threshold=0.5),
    "minus": LocalBlend("cat", subtract="grass"),
    "mask": LocalBlend(mask=draw(6, 6, seed=4)),
    "mask, minus": LocalBlend("cat", subtract="a", mask=draw(9, 4, seed=6)),
}


@pytest.mark.parametrize("last", list(FENCES))
@pytest.mark.parametrize("first", list(FENCES))
def test_the_region_of_a_fence_goes_from_that_of_one_keyframe_to_that_of_the_next(
    first: str, last: str
) -> None:
    def mask(plan: EditPlan) -> Tensor:
        before, after = ([draw(1, 64, len(PROMPT), seed=s).softmax(-1)] for s in (7, 8))
        if plan.blend is None:
            return torch.ones(1, 1, 16, 16, dtype=torch.float64)
        return blend_mask(before, after, plan.blend, (8, 8), (16, 16))

    fences = [FENCES[name] for name in (first, last)]
    one, other = (
        compile_edits([Refine(), *([fence] if fence else [])], PROMPT, PROMPT, STEPS)
        for fence in fences
    )
    shares = (1e-12, 0.25, 0.5, 0.75, 1 - 1e-12)
    mixed = [between(one, other, share) for share in shares]
    regions = [mask(plan) for plan in mixed]
    for region, plan in ((regions[0], one), (regions[-1], other)):  # a word has one loudest cell
        assert (region - mask(plan)).abs().mean() <= 2 / 64 + 1e-9
    assert between(one, other, 0) is one and between(one, other, 1) is other
    assert all(EditPlan.from_json(plan.to_json()) == plan and str(plan) for plan in mixed)
    if first == "none":  # it closes little by little
        for wide, narrow in zip(regions, regions[1:], strict=False):
            assert bool((wide >= narrow - 1e-9).all())


def test_plans_that_cannot_be_mixed_are_refused() -> None:
    one = compile_edits([LocalBlend("cat", subtract="grass")], PROMPT, PROMPT, STEPS)
    two = compile_edits([LocalBlend("cat")], PROMPT, PROMPT, STEPS)
    with pytest.raises(ValueError, match="mixed again"):
        between(between(one, two, 0.5), two, 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        between(one, two, 1.5)
    with pytest.raises(ValueError, match="steps"):
        between(one, compile_edits([Refine()], PROMPT, PROMPT, STEPS + 1), 0.5)


@pytest.mark.parametrize(
    ("keyframes", "frames", "said"),
    [
        ([CAT], 3, "two or more"),
        (CAT, 3, "two or more"),
        ([CAT, 3], 3, "A keyframe is"),
        ([CAT, DOG], 1, "at least one for each"),
        ([CAT, DOG], 2.5, "at least one for each"),
    ],
)
def test_an_animation_that_cannot_be_is_refused(
    cat: Run, keyframes: Any, frames: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        animate(cat, keyframes, frames=frames)


def test_a_gif_holds_all_frames_and_the_strip_says_how_much_they_change(cat: Run) -> None:
    pictures = [cat.image, cat.image.rotate(90), cat.image]
    with Image.open(io.BytesIO(to_gif(pictures, seconds=0.3))) as gif:
        assert gif.n_frames == 3
        assert gif.info["duration"] == 300
    assert "3 frames" in show_frames(pictures).alt
    for wrong in (lambda: to_gif([]), lambda: to_gif(pictures, seconds=0), lambda: show_frames([])):
        with pytest.raises(ValueError, match=r"GIF|no frames"):
            wrong()


# The benchmark of moving


def test_the_benchmark_asks_for_places_in_the_picture_and_its_baseline_misses_them() -> None:
    model, judge = p2p_lab.load(), load_judge()
    case = make_move(0, model, judge, steps=2)
    again = make_move(0, model, judge, steps=2)
    assert (case.word, case.by, case.scale) == (again.word, again.by, again.scale)
    assert torch.equal(case.picture, again.picture)
    mass, moved = float(case.mask.sum()), float(case.wanted_mask.sum())
    assert moved == pytest.approx(mass, rel=0.05)  # a move alone; nothing leaves the picture
    at, wanted = centre(case.mask), centre(case.wanted_mask)
    assert at is not None and wanted is not None
    assert (wanted[0] - at[0], wanted[1] - at[1]) == pytest.approx(case.by, abs=0.02)
    row = measure(case, "nothing", replace(case.run, pixels=case.picture), judge)
    assert row["away"] == pytest.approx(math.hypot(*case.by) / case.size, abs=0.15)
    assert not row["landed"]
    assert row["kept"]
    assert row["background"] == 60.0


def test_the_benchmark_sees_an_object_that_stands_where_it_was_asked_for() -> None:
    model, judge = p2p_lab.load(), load_judge()
    case = make_move(0, model, judge, steps=2)
    down, right = case.by
    thing = case.scene.subject
    there = case.scene.with_thing("subject", x=thing.x + right, y=thing.y + down)
    row = measure(case, "Move", replace(case.run, pixels=render(there).images[0]), judge)
    assert row["landed"] and row["sized"] and row["kept"]
    assert row["ghost"] < 0.05
    assert row["background"] > 30
