"""Exercises of lesson 9: FlowEdit by hand, and which pairs may teach an editor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, close, draw, tensor

Velocity = Callable[[Tensor, float, str], Tensor]
Seen = Mapping[str, str]


def flow_edit(
    velocity: Velocity, picture: Tensor, sigmas: Sequence[float], noises: Sequence[Tensor]
) -> Tensor:
    """Return the edited picture; `velocity(z, sigma, prompt)`, prompt "source" or "target"."""
    z = picture
    for sigma, after, noise in zip(sigmas[:-1], sigmas[1:], noises, strict=True):
        source = (1 - sigma) * picture + sigma * noise
        target = z + source - picture
        move = velocity(target, sigma, "target") - velocity(source, sigma, "source")
        z = z + (after - sigma) * move
    return z


def _velocity(z: Tensor, sigma: float, prompt: str) -> Tensor:
    """A velocity that depends on all it is given, as a denoiser's does."""
    if prompt not in ("source", "target"):
        raise ValueError(f'the prompt is "source" or "target", got {prompt!r}')
    pull = 0.7 if prompt == "target" else -0.4
    return torch.tanh(z * (1 + sigma)) + pull * torch.cos(z) + sigma


def _variant(
    velocity: Velocity,
    picture: Tensor,
    sigmas: Sequence[float],
    noises: Sequence[Tensor],
    mistake: str = "",
) -> Tensor:
    """Return what the rule gives with one mistake in it."""
    z = picture
    for step, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        noise = noises[0] if mistake == "noise" else noises[step]
        source = (1 - sigma) * picture + sigma * noise
        target = source if mistake == "branch" else z + source - picture
        target = (1 - sigma) * z + sigma * noise if mistake == "own" else target
        theirs = 0 * z if mistake == "alone" else velocity(source, sigma, "source")
        move = velocity(target, sigma, "target") - theirs
        length = (sigma - after) if mistake == "sign" else (after - sigma)
        z = z + (1 if mistake == "length" else length) * move
    return z


_SAY = {
    "noise": "All steps use the first noise: take noises[step], a fresh one at each step.",
    "branch": "The target is asked at the source's noisy point: its own is z + source − picture.",
    "own": "The target's point is (1 − σ) z + σ noise here; FlowEdit's is z + source − picture.",
    "alone": "The source's velocity is not taken off, so what the model gets wrong stays in.",
    "sign": "It walks the wrong way: from σ to the next one is after − sigma, below 0.",
    "length": "The step has no length: the difference of velocities is times after − sigma.",
}


def _test_flow_edit(answer: Callable[..., Any]) -> str:
    for seed, steps in enumerate((3, 1, 5)):
        picture = draw(2, 4, 4, seed=seed)
        noises = [draw(2, 4, 4, seed=50 + 10 * seed + k) for k in range(steps)]
        sigmas = [round(0.9 * (1 - k / steps), 4) for k in range(steps + 1)]
        got = call(answer, _velocity, picture, sigmas, noises)
        found = tensor(got, tuple(picture.shape), "(C, h, w)")
        right = flow_edit(_velocity, picture, sigmas, noises)
        others = {
            say: _variant(_velocity, picture, sigmas, noises, name) for name, say in _SAY.items()
        }
        others = {say: value for say, value in others.items() if not close(value, right)}
        agree(found, right, others, f"With {steps} steps the picture differs.")
    return "One, three and five steps: it follows the difference of the two velocities."


def keep_pair(before: Seen, after: Seen, asked: Seen) -> bool:
    """Return whether a pair may teach: what was asked is seen, everything else is as it was."""
    return dict(after) == {**before, **asked}


_BEFORE = {"thing": "cat", "place": "beach", "weather": "clear", "style": "3d"}
_PAIRS: tuple[tuple[str, dict[str, str], dict[str, str], bool], ...] = (
    ("what was asked is there and nothing else moved", {"thing": "dog"}, {"thing": "dog"}, True),
    ("nothing happened", {}, {"thing": "dog"}, False),
    ("another thing than asked for came", {"thing": "fox"}, {"thing": "dog"}, False),
    (
        "the thing came and the place changed too",
        {"thing": "dog", "place": "city"},
        {"thing": "dog"},
        False,
    ),
    (
        "two changes were asked for and one came",
        {"thing": "dog"},
        {"thing": "dog", "weather": "snowy"},
        False,
    ),
    (
        "two changes were asked for and both came",
        {"thing": "dog", "weather": "snowy"},
        {"thing": "dog", "weather": "snowy"},
        True,
    ),
)


def _test_pairs(answer: Callable[..., Any]) -> str:
    for what, changes, asked, right in _PAIRS:
        value = call(answer, dict(_BEFORE), {**_BEFORE, **changes}, dict(asked))
        if not isinstance(value, bool):
            raise Wrong(f"Return True to keep a pair and False to throw it out, got {value!r:.40}.")
        if value is not right:
            wanted = "kept" if right else "thrown out"
            raise Wrong(f"A pair in which {what} has to be {wanted}.")
    return f"{len(_PAIRS)} pairs: right ones are kept, wrong and spoilt ones thrown out."


EXERCISES = (
    Exercise(
        id="09.flow_edit",
        title="FlowEdit by hand",
        difficulty=2,
        minutes=8,
        signature="f(velocity, picture (C, h, w), sigmas (T + 1), noises (T of (C, h, w))) -> "
        'picture; velocity(z, sigma, "source" or "target")',
        hints=(
            "At each step make the source's noisy point, carry the edit so far over to it, and "
            "follow the difference of the two velocities to the next sigma.",
            "source = (1 − σ) picture + σ noise; target = z + source − picture; then z = z + "
            '(after − σ) (velocity(target, σ, "target") − velocity(source, σ, "source")).',
        ),
        right=flow_edit,
        tested_by=_test_flow_edit,
    ),
    Exercise(
        id="09.pairs",
        title="Which pairs may teach",
        difficulty=1,
        minutes=3,
        signature="f(before, after, asked) -> True or False; what a judge sees before and after, "
        "and what was asked for, each a dictionary",
        hints=(
            "Two things have to hold: what was asked is there, and everything else is as before.",
            "Write what the second picture should be, {**before, **asked}, and compare.",
        ),
        right=keep_pair,
        tested_by=_test_pairs,
    ),
)
