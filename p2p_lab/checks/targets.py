"""The target that edits of problem set 3 have to beat, on drawn scenes whose masks are exact.

    kept:     background PSNR of the edit ≥ that of the free edit + 2 dB
    changed:  foreground MSE of the edit  ≥ half that of the free edit

The free edit lets the target prompt draw what it likes from the same latents. Both bounds are
relative to it, so they ask the same of any model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import Wrong, call
from p2p_lab.checks.loaded import bundled
from p2p_lab.checks.looks import draw_scenes
from p2p_lab.edits import Replace
from p2p_lab.inversion import invert
from p2p_lab.metrics import background_mse, foreground_mse
from p2p_lab.sampling import Run, edit
from p2p_lab.scenes import caption, render

STEPS = 8
KEPT_DB, CHANGED = 2.0, 0.5
SWAPS = {"cat": "dog", "dog": "cat", "lemon": "apple", "apple": "lemon", "rabbit": "cat",
         "frog": "cat", "pumpkin": "apple", "penguin": "dog"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """Hold one drawn scene, inverted, with the swap that is asked for.

    Attributes:
        run: the scene's picture as a `Run` (direct inversion, 8 steps).
        picture: (H, W, 3) in [0, 1], as it was drawn.
        mask: where the object is, (H, W) booleans.
        old, new: the words to swap.
        text: the target prompt.
    """

    run: Run
    picture: Any
    mask: Tensor
    old: str
    new: str
    text: str


@cache
def draw_case(seed: int) -> Case:
    """Draw a scene with one object, invert it, and choose what becomes of the object."""
    scene = draw_scenes(seed, 1, lambda scene: scene.subject.name in SWAPS)[0]
    drawn, text = render(scene), caption(scene).text
    old, picture = scene.subject.name, drawn.images[0].permute(1, 2, 0).numpy()
    run = invert(bundled(), picture, text, steps=STEPS)
    return Case(
        run, picture, drawn.masks[0, 0] > 0.5, old, SWAPS[old], text.replace(old, SWAPS[old])
    )


def score(case: Case, edits: list[Any]) -> tuple[float, float]:
    """Return the background's and the foreground's mean squared change from the drawn picture.

    The background leaves a margin of 4 pixels around the object, where shapes may differ.
    """
    made = edit(case.run, case.text, edits).array
    grown = torch.nn.functional.max_pool2d(case.mask[None].float(), 9, 1, 4)[0] > 0
    return (
        background_mse(case.picture, made, grown.numpy()),
        foreground_mse(case.picture, made, case.mask.numpy()),
    )


@cache
def free_score(seed: int) -> tuple[float, float]:
    """Return the score of the free edit: the target prompt alone, from the same latents."""
    return score(draw_case(seed), [Replace(cross=(0, 0), self_attention=(0, 0))])


def decibels(part: float) -> float:
    """Return how many dB a ratio of squared errors is better."""
    return float(-10 * torch.tensor(max(part, 1e-9)).log10())


def judge_edits(answer: Callable[..., Any], seed: int, easy: bool) -> str:
    """Judge edits on one scene or two: the mean must keep the background and change the object.

    Raises:
        Wrong: what was not kept or not changed, with the numbers.
    """
    rng = random.Random(seed)
    seeds = [rng.randrange(2**20) for _ in range(1 if easy else 2)]
    kept, changed = [], []
    for one in seeds:
        case = draw_case(one)
        edits = call(answer, case.old, case.new)
        try:
            back, front = score(case, list(edits))
        except Exception as error:
            raise Wrong(f"The edits were refused: {type(error).__name__}: {error}"[:300]) from None
        free = free_score(one)
        kept.append(decibels(back / free[0]))
        changed.append(front / free[1])
    gain, part = sum(kept) / len(kept), sum(changed) / len(changed)
    said = f"background {gain:+.1f} dB, object changed {part:.0%} of what the free edit does"
    if gain < KEPT_DB:
        raise Wrong(f"{said}: the background has to gain {KEPT_DB:.0f} dB or more.")
    if part < CHANGED:
        raise Wrong(f"{said}: the object has to change at least {CHANGED:.0%} of that.")
    return said + "."
