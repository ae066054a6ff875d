"""Exercises of lesson 6: the resolution of maps, and moving attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.checks.exercise import Exercise, Wrong, agree, call, draw, draw_probs, tensor


def resize_map(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (h, w) at the picture's size (H, W), between its values a straight line."""
    return F.interpolate(heat[None, None], size=size, mode="bilinear")[0, 0]


def _test_resize(answer: Callable[..., Any]) -> str:
    for seed, (small, size) in enumerate(
        [((8, 8), (64, 64)), ((4, 6), (32, 48)), ((5, 3), (20, 9))]
    ):
        heat = draw(*small, seed=seed).abs()
        value = call(answer, heat, size)
        if getattr(value, "shape", None) == size[::-1] and size[0] != size[1]:
            raise Wrong(f"Height and width are exchanged: asked for is (H, W) = {size}.")
        if len(getattr(value, "shape", ())) == 4:
            raise Wrong("The two axes that interpolate needs are still there: take [0, 0].")
        got = tensor(value, size, "(H, W)")
        whole = heat[None, None]
        right = resize_map(heat, size)
        area = heat.numel() / (size[0] * size[1])
        agree(
            got,
            right,
            {
                "This is nearest neighbour: blocks. Use mode='bilinear'.": F.interpolate(
                    whole, size=size, mode="nearest"
                )[0, 0],
                "align_corners=True stretches the map: its cells no longer lie over their part "
                "of the picture.": F.interpolate(
                    whole, size=size, mode="bilinear", align_corners=True
                )[0, 0],
                "This is bicubic, which overshoots below 0. Use mode='bilinear'.": F.interpolate(
                    whole, size=size, mode="bicubic"
                )[0, 0],
                "The values were divided by the growth in area. A probability per position keeps "
                "its value.": right * area,
                "The values were divided by their maximum: the map loses its scale.": right
                / right.max(),
            },
            "The enlarged map differs.",
        )
    return "Three sizes, also not square: the enlarged maps agree."


def move_rows(rows: Tensor, region: Tensor, down: int, right: int) -> Tensor:
    """Return rows (h, w, L) with those in a region (h, w) taken some cells down and right.

    The vacated cells take the mean row of the cells that are in neither place.
    """
    there = region.roll((down, right), (0, 1))
    moved = rows.clone()
    moved[region] = rows[~region & ~there].mean(dim=0)
    moved[there] = rows.roll((down, right), (0, 1))[there]
    return moved


def _test_move(answer: Callable[..., Any]) -> str:
    for seed, (size, box, by) in enumerate(
        [
            ((6, 8), (1, 3, 1, 3), (0, 4)),
            ((8, 8), (2, 5, 2, 5), (2, 1)),
            ((7, 6), (4, 6, 3, 6), (-3, 0)),
        ]
    ):
        rows = draw_probs(*size, 5, seed=seed)
        region = torch.zeros(size, dtype=torch.bool)
        region[box[0] : box[1], box[2] : box[3]] = True
        value = call(answer, rows.clone(), region.clone(), *by)
        got = tensor(value, (*size, 5), "(h, w, L)")
        agree(
            got, move_rows(rows, region, *by), _moved_wrongly(rows, region, by), "The rows differ."
        )
    return "Three moves, one onto its own old place: every row is where it belongs and sums to 1."


def _moved_wrongly(rows: Tensor, region: Tensor, by: tuple[int, int]) -> dict[str, Tensor]:
    """Return what common mistakes give, by what to say of them."""
    there = region.roll(by, (0, 1))
    ghost = move_rows(rows, region, *by)
    ghost[region & ~there] = rows[region & ~there]
    late = rows.clone()
    late[there] = rows.roll(by, (0, 1))[there]
    late[region] = rows[~region & ~there].mean(dim=0)
    empty = move_rows(rows, region, *by)
    empty[region & ~there] = 0
    mean = move_rows(rows, region, *by)
    mean[region & ~there] = rows[~region].mean(dim=0)
    return {
        "The old place still has its rows: a ghost stays. Fill it.": ghost,
        "Where old and new place overlap the object is missing: fill the hole first, then put it "
        "in its new place.": late,
        "The hole holds zeros: those rows do not sum to 1. Take the mean row around.": empty,
        "The mean row holds the new place too, which the object covers: leave it out.": mean,
        "Everything was rolled. Only the rows of the region move.": rows.roll(by, (0, 1)),
        "The object went the opposite way: row (y, x) of the new map is row (y - down, x - right) "
        "of the old one.": move_rows(rows, region, -by[0], -by[1]),
        "Down and right are exchanged.": move_rows(rows, region, by[1], by[0]),
    }


EXERCISES = (
    Exercise(
        id="06.resize_map",
        title="A map at the picture's size",
        signature="f(heat (h, w), size (H, W)) -> (H, W)",
        hints=(
            "F.interpolate works on (B, C, h, w): add two axes and take them away again.",
            "F.interpolate(heat[None, None], size=size, mode='bilinear')[0, 0]",
        ),
        reference=resize_map,
        test=_test_resize,
    ),
    Exercise(
        id="06.move_rows",
        title="An object's attention, moved",
        signature="f(rows (h, w, L), region (h, w) of booleans, down, right) -> (h, w, L); the "
        "region stays inside the grid",
        hints=(
            "Where is the new place? region.roll((down, right), (0, 1)) says it, and the same "
            "roll of the rows has there what belongs there.",
            "Copy the rows; moved[region] = the mean of rows[~region & ~there]; then "
            "moved[there] = the rolled rows[there].",
        ),
        reference=move_rows,
        test=_test_move,
    ),
)
