"""Cases of moving: a scene, its source picture, and where its subject is to go.

Only scenes of one or two things whose subject has room to go are taken, of which the judge reads
both the source and the scene as it should become rightly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.editing.truth import moved as seen_scene
from p2p_lab.attention.mixing import carried, centre_of
from p2p_lab.inversion import invert
from p2p_lab.judge import Judge
from p2p_lab.models import Denoiser
from p2p_lab.sampling import Run, generate
from p2p_lab.scenes import Scene, caption, render, sample_scene
from p2p_lab.scenes.splits import MOVING

TRIES = 1000
EDGE = 0.05
Kind = Literal["move", "resize", "both"]
KINDS: tuple[Kind, ...] = ("move", "resize", "move", "both")
Origin = Literal["inverted", "generated"]


@dataclass(frozen=True, eq=False)
class MoveCase:
    """One object to be moved or resized.

    Attributes:
        number: which case.
        kind: what is asked for.
        origin: a rendered scene brought in, or a picture drawn from its prompt.
        scene: what is in the picture; in a drawn one, as the judge sees it.
        run: the source.
        picture: what an edit is held to, (3, H, W).
        mask: where the object is, (H, W) in [0, 1]: true if rendered, else as the judge sees it.
        by, scale: what is asked for.
    """

    number: int
    kind: Kind
    origin: Origin
    scene: Scene
    run: Run
    picture: Tensor
    mask: Tensor
    by: tuple[float, float]
    scale: float

    @property
    def word(self) -> str:
        """Name the object."""
        return self.scene.subject.name

    @property
    def wanted_mask(self) -> Tensor:
        """Return where the object is to be, (H, W): the mask carried there."""
        mask = self.mask[None, None]
        there = carried(mask, centre_of(mask[:, 0]), self.by, self.scale, padding="zeros")
        return there[0, 0]

    @property
    def changed(self) -> Tensor:
        """Return the old and the new place with a rim of one pixel, (H, W) booleans."""
        either = (torch.maximum(self.mask, self.wanted_mask) > EDGE).float()
        return F.max_pool2d(either[None, None], 3, 1, 1)[0, 0] > 0

    @property
    def size(self) -> float:
        """Tell the object's larger side as a fraction of the picture's."""
        rows, columns = (self.mask > 0.5).any(1).nonzero(), (self.mask > 0.5).any(0).nonzero()
        sides = (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1)
        return max(sides) / self.mask.shape[0]


def make_move(number: int, model: Denoiser, judge: Judge, *, steps: int, seed: int = 0) -> MoveCase:
    """Draw scenes until one's subject has room to go.

    Raises:
        ValueError: if none was found.
    """
    kind = KINDS[number % len(KINDS)]
    origin: Origin = "inverted" if number // len(KINDS) % 2 == 0 else "generated"
    first = (seed * 500 + number) * TRIES
    for at in map(MOVING.seed, range(first, first + TRIES)):
        scene = replace(sample_scene(at, "small"), named_place=True)
        if scene.relation not in ("one", "next to") or _twice(scene):
            continue
        case = _case(number, kind, origin, scene, at, model, judge, steps)
        if case is not None:
            return case
    raise ValueError(f"No scene in {TRIES} has room for case {number}.")


def _twice(scene: Scene) -> bool:
    names = [thing.name for thing in scene.things]
    worn = any(thing.role in ("worn", "content") for thing in scene.things)
    return worn or len(set(names)) < len(names)


def _case(
    number: int,
    kind: Kind,
    origin: Origin,
    scene: Scene,
    at: int,
    model: Denoiser,
    judge: Judge,
    steps: int,
) -> MoveCase | None:
    if len(caption(scene).text.split()) > 20 or _asked(scene, kind, at, judge) is None:
        return None
    drawn = render(scene, model.defaults.height)
    if not judge.holds(drawn.images[0], scene):
        return None
    if origin == "inverted":
        picture, mask = drawn.images[0], drawn.masks[0, scene.things.index(scene.subject)]
        run = invert(model, picture, caption(scene).text, steps=steps)
    else:
        run = generate(model, caption(scene).text, seed=at % 10_000, steps=steps)
        picture, verdict = run.pixels, judge.read(run.pixels)
        mask, scene = verdict.masks[scene.subject.name], seen_scene(scene, verdict)
    goal = _asked(scene, kind, at, judge)
    if goal is None or not judge.holds(run.pixels, scene) or float(mask.sum()) < 20:
        return None
    return MoveCase(number, kind, origin, scene, run, picture, mask, *goal)


def _asked(
    scene: Scene, kind: Kind, at: int, judge: Judge
) -> tuple[tuple[float, float], float] | None:
    """Choose where the subject goes, if the judge would read the scene rightly with it there."""
    goal = _goal(scene, kind, random.Random(f"move {at}"))
    if goal is None:
        return None
    (down, right), scale = goal
    thing = scene.subject
    there = scene.with_thing(
        "subject", x=thing.x + right, y=thing.y + down, scale=thing.scale * scale
    )
    return goal if judge.holds(render(there).images[0], there) else None


def _goal(scene: Scene, kind: Kind, rng: random.Random) -> tuple[tuple[float, float], float] | None:
    """Find where the subject may go: inside the picture, beside the other thing."""
    thing = scene.subject
    for _ in range(60):
        scale, by = 1.0, (0.0, 0.0)
        if kind != "move":
            scale = rng.choice((rng.uniform(0.6, 0.75), rng.uniform(1.3, 1.5)))
        if kind != "resize":
            by = (rng.uniform(-0.2, 0.2), rng.choice((-1, 1)) * rng.uniform(0.15, 0.45))
        x, y, half = thing.x + by[1], thing.y + by[0], thing.scale * scale / 2
        inside = half <= x <= 1 - half and half <= y <= 1 - half
        free = all(
            abs(other.x - x) > (other.scale / 2 + half) or abs(other.y - y) > other.scale / 2 + half
            for other in scene.things
            if other is not thing
        )
        if inside and free and 0.2 <= thing.scale * scale <= 0.8:
            return by, scale
    return None
