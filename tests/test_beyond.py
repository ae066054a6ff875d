"""Laws of what goes beyond the paper: moving objects, sharper maps, animations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from p2p_lab.attention import Controller, Rows, Site
from p2p_lab.attention.moving import centre_of, move_rows, region_of
from p2p_lab.edits import (
    EditPlan,
    LocalBlend,
    Move,
    Refine,
    Replace,
    Reweight,
    compile_edits,
)
from p2p_lab.figures import show_plan
from p2p_lab.models import Denoiser
from p2p_lab.sampling import Run, edit, generate
from p2p_lab.tokens import AlignmentError

CAT, DOG = "a cat on grass", "a dog on grass"
STEPS = 5
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
    joint = replace(cat, tape=None, cache={})
    for edits in (
        [RIGHT],
        [RIGHT, LocalBlend("cat")],
        [Replace(), RIGHT, LocalBlend("cat", "dog")],
    ):
        text = DOG if len(edits) == 3 else CAT
        one, two = (edit(source, text, edits, reuse=False) for source in (cat, joint))
        assert (one.pixels - two.pixels).abs().max() < 1e-9


def test_a_move_composes_with_faders_and_fences_in_any_order(cat: Run) -> None:
    parts = [RIGHT, Reweight("grass", 2.0), LocalBlend("cat", threshold=0.8)]
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
    together = edit(runs, CAT, [RIGHT], reuse=False)
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
    controller = Controller({site.name: site}, Rows(slice(0, 1), slice(1, 2)), plan=plan)
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
    blind = replace(cat, attention=None, cache={})
    with pytest.raises(ValueError, match="mask="):
        edit(blind, CAT, [RIGHT])
    mask = torch.zeros(16, 16)
    mask[4:9, 4:9] = 1
    assert torch.isfinite(edit(blind, CAT, [Move("cat", (0, 0.2), mask=mask)]).pixels).all()
