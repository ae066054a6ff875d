"""The parts of a compiled edit: where it may change the picture, what it moves, a second feed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MovePlan:
    """The source's attention in a word's region is taken to another place.

    At a site with positions p, in the steps named: M_src[p, :] <- M_src[from(p), :] where p lies
    in the new place, with from(p) = c + (p - c - by) / scale around the region's centre c; the
    vacated place takes the mean row of what lies outside both. All rows still sum to 1.

    Attributes:
        tokens: Token positions of the word in the source prompt; its source map is the region.
        by: How far, (down, right), as fractions of the picture's height and width.
        scale: How much larger it becomes.
        steps: The steps in which it is moved.
        threshold: Part of the map's maximum from which on a position belongs to the region.
        mask: The region itself in place of the map's: (H, W), or (B, H, W) for B pictures.
    """

    tokens: tuple[int, ...] = ()
    by: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    steps: range = range(0)
    threshold: float = 0.4
    mask: Tensor | None = None

    @property
    def is_identity(self) -> bool:
        """Return whether everything stays where it is."""
        return not self.steps or (self.by == (0.0, 0.0) and self.scale == 1.0)

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal, the mask element by element."""
        return isinstance(other, MovePlan) and same_fields(self, other)

    def alike(self, other: MovePlan) -> bool:
        """Return whether two moves do the same in a step in which both act."""
        return self == replace(other, steps=self.steps)


@dataclass(frozen=True, eq=False)
class BlendPlan:
    """Where the edit may change the picture (the paper's local editing).

    After each step t >= `start_step`: z* <- z + mask (z* - z). The mask is the union of the
    source's and the target's, minus that of the words to subtract, times the user's own.

    Attributes:
        source_tokens: Token positions in the source prompt.
        target_tokens: Token positions in the target prompt.
        source_subtract: Token positions in the source prompt whose region stays as it was.
        target_subtract: The same in the target prompt.
        threshold: Part of the map's maximum above which a pixel belongs to the mask.
        start_step: First step at which the latents are blended.
        mask: (H, W) in [0, 1], the user's own mask of any resolution, or None. Without tokens
            it is the whole mask; with tokens the two are multiplied.
        toward: Another region, and the share of the way to it (an animation); the start step is
            that of both together.
    """

    source_tokens: tuple[int, ...] = ()
    target_tokens: tuple[int, ...] = ()
    source_subtract: tuple[int, ...] = ()
    target_subtract: tuple[int, ...] = ()
    threshold: float = 0.3
    start_step: int = 0
    mask: Tensor | None = None
    toward: tuple[BlendPlan, float] | None = None

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal, the mask element by element."""
        return isinstance(other, BlendPlan) and same_fields(self, other)


@dataclass(frozen=True, eq=False)
class Feed:
    """Which source tokens feed the target a second time, beside the plan's own mapper.

    Attributes:
        mapper: P, (L, L).
        gain: (T, L); how much of the mapped source column j enters at step t.
    """

    mapper: Tensor
    gain: Tensor

    def __eq__(self, other: object) -> bool:
        """Return whether both tensors are equal."""
        return isinstance(other, Feed) and same_fields(self, other)


def same_fields(one: Any, other: Any) -> bool:
    """Return whether all fields of two records of one kind are equal, tensors by element."""
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if not torch.equal(a, b):
                return False
        elif a is not b and a != b:
            return False
    return True
