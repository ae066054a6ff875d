"""Exercises of lesson 6: the resolution of maps, and moving attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, draw, draw_probs, tensor


def resize_map(heat: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return the outline (H, W) of a map (h, w): where, enlarged, it is above a part of its top.

    Enlarged first and compared afterwards: a straight line between two cells crosses the threshold
    at any pixel, a comparison of cells only at their edges.
    """
    large = F.interpolate(heat[None, None], size=size, mode="bilinear")[0, 0]  # (H, W)
    return large > threshold * large.max()


def _test_resize(answer: Callable[..., Any]) -> str:
    cases = [((8, 8), (64, 64), 0.4), ((4, 6), (32, 48), 0.5), ((5, 3), (20, 9), 0.3)]
    for seed, (small, size, threshold) in enumerate(cases):
        heat = 0.3 * draw(*small, seed=seed).abs()
        value = call(answer, heat, size, threshold)
        if getattr(value, "shape", None) == size[::-1] and size[0] != size[1]:
            raise Wrong(f"Height and width are exchanged: asked for is (H, W) = {size}.")
        if len(getattr(value, "shape", ())) == 4:
            raise Wrong("The two axes that interpolate needs are still there: take [0, 0].")
        got = tensor(value, size, "(H, W)")
        if not bool(((got == 0) | (got == 1)).all()):
            raise Wrong("An outline holds 0 and 1 (or False and True): compare the enlarged map.")
        agree(
            got,
            resize_map(heat, size, threshold).double(),
            _outlined_wrongly(heat, size, threshold),
            "The outline differs.",
            tolerance=0,
        )
    return "Three sizes, also not square: the outlines agree in every pixel."


def _outlined_wrongly(heat: Tensor, size: tuple[int, int], q: float) -> dict[str, Tensor]:
    """Return what common mistakes give, by what to say of them."""

    def enlarged(small: Tensor, **how: Any) -> Tensor:
        return F.interpolate(small[None, None], size=size, **{"mode": "bilinear", **how})[0, 0]

    def outline(large: Tensor, top: Tensor | None = None) -> Tensor:
        return (large > q * (large.max() if top is None else top)).double()

    cells, large = (heat > q * heat.max()).float(), enlarged(heat)
    return {
        "The outline has stairs as large as a cell: the cells were compared, or enlarged with "
        "mode='nearest'. Enlarge the map bilinearly first, then compare.": enlarged(
            cells, mode="nearest"
        ).double(),
        "The cells are compared, and the shares that bilinear enlarging makes of them are compared "
        "again. Enlarge the map first, then compare once.": (enlarged(cells) > 0.5).double(),
        "The cells are compared, and every pixel that one of them reaches is taken. Enlarge the "
        "map first, then compare.": (enlarged(cells) > 0).double(),
        "align_corners=True stretches the map: cells are places with a width, not points on the "
        "edge. Leave it out.": outline(enlarged(heat, align_corners=True)),
        "The threshold is taken as it is; it is a part of the enlarged map's maximum.": (
            large > q
        ).double(),
        "The threshold is a part of the small map's maximum, which no pixel reaches: take the "
        "enlarged map's.": outline(large, heat.max()),
        "Inside and outside are exchanged: 1 is where the map is above.": 1 - outline(large),
    }


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
        title="The outline of a map at the picture's size",
        difficulty=2,
        minutes=6,
        signature="f(heat (h, w), size (H, W), threshold) -> (H, W) of booleans: where the "
        "enlarged map is above threshold times its maximum",
        hints=(
            "What is lost if you compare on the small grid and enlarge the answer? Draw a line "
            "from 0.2 to 0.8 over eight pixels: where does it cross 0.4?",
            "large = F.interpolate(heat[None, None], size=size, mode='bilinear')[0, 0]; then "
            "compare with threshold * large.max().",
        ),
        right=resize_map,
        tested_by=_test_resize,
    ),
    Exercise(
        id="06.move_rows",
        title="An object's attention, moved",
        difficulty=3,
        minutes=10,
        signature="f(rows (h, w, L), region (h, w) of booleans, down, right) -> (h, w, L); the "
        "region stays inside the grid",
        hints=(
            "Where is the new place? region.roll((down, right), (0, 1)) says it, and the same "
            "roll of the rows has there what belongs there.",
            "Copy the rows; moved[region] = the mean of rows[~region & ~there]; then "
            "moved[there] = the rolled rows[there].",
        ),
        right=move_rows,
        tested_by=_test_move,
    ),
)
