"""Make a plan ready for its sources: where the objects are that it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from p2p_lab.attention.mixing import region_of
from p2p_lab.edits import EditPlan, MovePlan
from p2p_lab.sampling.runs import Run


def resolve_move_masks(plan: EditPlan, sources: Sequence[Run]) -> EditPlan:
    """Return the plan with each move's region filled in, one for each source.

    A region is where the source's mean map of the word lies above the move's threshold, at the
    picture's size, unless the move brings a mask of its own.

    Raises:
        ValueError: If a source recorded no maps.
    """
    return plan.with_(moves=tuple(_placed(move, sources) for move in plan.moves))


def _placed(move: MovePlan, sources: Sequence[Run]) -> MovePlan:
    if move.mask is not None:
        return move
    return replace(move, mask=torch.stack([_region(move, source) for source in sources]))


def _region(move: MovePlan, source: Run) -> Tensor:
    """Return one source's region of a move, (H, W)."""
    if source.attention is None:
        raise ValueError(
            "Move finds the object by the source's maps, and this run recorded none. Run it with "
            "record='store' or 'tape', or say where the object is: Move(..., mask=...)."
        )
    maps = source.attention.token_maps()[list(move.tokens)].sum(dim=0)  # (h, w)
    large = torch.nn.functional.interpolate(maps[None, None], size=source.size, mode="bilinear")
    return region_of(large[0, 0], move.threshold)
