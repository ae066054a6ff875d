"""What is true of an edit: where the picture may change, and what the judge must see afterwards.

Both follow from the scenes before and after: what differs was asked for, everything else must stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from p2p_lab.judge import Verdict, Wanted
from p2p_lab.scenes import Scene, Thing, render
from p2p_lab.scenes.scene import crown_on

EDGE = 0.05  # cover from which on a pixel belongs to a thing
QUESTIONS = ("place", "time", "weather", "style")
Mask = NDArray[np.bool_]


def wanted(source: Scene, target: Scene) -> tuple[Wanted, Wanted]:
    """Return what must be seen because it was asked for, and what because nobody asked."""
    before = {thing.role: thing for thing in source.things}
    after = {thing.role: thing for thing in target.things}
    touched = {role for role, thing in after.items() if before.get(role) != thing}
    names = {thing.name for thing in target.things}
    kept = [thing for role, thing in after.items() if role not in touched]
    asked = [after[role] for role in touched]
    differ = [q for q in QUESTIONS if getattr(source, q) != getattr(target, q)]
    return (
        Wanted(
            tuple(sorted(thing.name for thing in asked)),
            tuple(sorted({thing.name for thing in source.things} - names)),
            {thing.name: thing.attribute for thing in asked if thing.attribute},
            **{q: getattr(target, q) for q in differ},
        ),
        Wanted(
            tuple(sorted(thing.name for thing in kept)),
            (),
            {thing.name: thing.attribute for thing in kept if thing.attribute},
            **{q: getattr(target, q) for q in QUESTIONS if q not in differ},
        ),
    )


def may_change(source: Scene, target: Scene, size: int) -> Mask:
    """Return where an edit may change the picture, (H, W).

    A changed thing: where it is or was. Another place: all but the things. Time, weather, style and
    the weather's degree: everywhere.
    """
    asked = (source.time, source.weather, source.degree, source.style)
    if asked != (target.time, target.weather, target.degree, target.style):
        return np.ones((size, size), bool)
    mask = torch.zeros(size, size)
    for scene, other in ((source, target), (target, source)):
        drawn = render(scene, size).masks[0]  # (K, H, W)
        there = {thing.role: thing for thing in other.things}
        for thing, cover in zip(scene.things, drawn, strict=True):
            if there.get(thing.role) != thing:
                mask = torch.maximum(mask, cover)
        if source.place != target.place:
            mask = torch.maximum(mask, 1 - drawn.sum(0).clamp(0, 1))
    return widened(mask > EDGE)


def widened(mask: Tensor) -> Mask:
    """Return a mask with a rim of one pixel, for what a resampled edge shares with it."""
    wide = F.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0
    return np.asarray(wide.numpy())


def changed_names(source: Scene, target: Scene) -> set[str]:
    """Name the things of the source that are gone or different afterwards."""
    after = {thing.role: thing for thing in target.things}
    return {thing.name for thing in source.things if after.get(thing.role) != thing}


def seen_mask(source: Scene, target: Scene, verdict: Verdict, size: int) -> Mask:
    """Return where an edit of a *drawn* source may change it, by what the judge sees there.

    The scenes are moved to where the judge sees their things, so that a new thing may cover what a
    sprite in the old one's place would; what the judge sees of the old thing counts as well.
    """
    mask = may_change(moved(source, verdict), moved(target, verdict, source), size)
    for name in changed_names(source, target):
        mask |= widened(verdict.masks[name] > 0.5)
    return mask


def moved(scene: Scene, verdict: Verdict, source: Scene | None = None) -> Scene:
    """Return the scene with its things where the judge sees them.

    Args:
        scene: the scene to move.
        verdict: of a picture of the source.
        source: the scene in the picture, if it is another one: things of the same role go where
            the source's are.
    """
    names = {thing.role: thing.name for thing in (source or scene).things}
    things: list[Thing] = []
    for thing in scene.things:
        name = names.get(thing.role)
        things.append(thing if name is None else _at(thing, verdict.masks[name] > 0.5))
    if "worn" not in names:  # a crown to come sits on the head that is there
        wearer = next(thing for thing in things if thing.role == "subject")
        things = [crown_on(wearer) if thing.role == "worn" else thing for thing in things]
    return replace(scene, things=tuple(things))


def _at(thing: Thing, mask: Tensor) -> Thing:
    """Return a thing in the box of a mask (H, W); as it is where the mask is empty."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return thing
    height, width = mask.shape
    top, bottom = float(rows.min()) / height, float(rows.max() + 1) / height
    left, right = float(columns.min()) / width, float(columns.max() + 1) / width
    scale = max(bottom - top, right - left)
    return replace(thing, x=(left + right) / 2, y=(top + bottom) / 2, scale=scale)
