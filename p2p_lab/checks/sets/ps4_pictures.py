"""Questions 4 and 5 of problem set 4: what comes back of a picture, and where the path is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.answering import Bundled
from p2p_lab.checks.engine.exercise import draw, tensor
from p2p_lab.checks.engine.loaded import bundled
from p2p_lab.checks.engine.question import Args, Mistake, Question, gap, reader
from p2p_lab.checks.engine.watching import Rules
from p2p_lab.checks.fixtures.noised_scenes import draw_noised_scene
from p2p_lab.checks.fixtures.paths import step_to, toy_push, toy_world, way_back
from p2p_lab.inversion import InversionContext, invert
from p2p_lab.metrics import psnr

STEPS = 8


# 4: what comes back -----------------------------------------------------------------------------


def _draw_retrace(rng: random.Random, easy: bool) -> Args:
    noised = draw_noised_scene(rng.randrange(2**20), phrase=False)
    scale = 1.0 if easy else rng.choice([2.0, 2.5, 3.0])
    return Bundled(), noised.picture[None], noised.prompt.text, scale, STEPS


@lru_cache(maxsize=64)
def _path(text: str, picture: Tensor, back: float, forth: float, steps: int, late: bool) -> float:
    """Return the PSNR of a picture after the way back and forth at two guidance scales."""
    model = bundled()
    ways = [
        InversionContext.of(model, text, steps=steps, guidance_scale=scale)
        for scale in (back, forth)
    ]
    bars, nexts = ways[0].schedule.alpha_bar, ways[0].schedule.alpha_bar_next
    with torch.no_grad():
        start = model.encode(picture)
        z = way_back(lambda z, t: ways[0].predict(z, t, back), start, bars, nexts)[1 if late else 0]
        for step in range(1 if late else 0, steps):
            z = step_to(z, ways[1].predict(z, step, forth), bars[step], nexts[step])
        return psnr(model.decode(z)[0], picture[0])


def _retrace(
    back: float | None = 1.0, forth: float | None = None, late: bool = False
) -> Callable[..., float]:
    """Return an answer; None takes the guidance that is asked for."""

    def answer(model: Any, picture: Tensor, text: str, scale: float, steps: int) -> float:
        one, two = (scale if other is None else other for other in (back, forth))
        return _path(text, picture, one, two, steps, late)

    return answer


def _other_method(model: Any, picture: Tensor, text: str, scale: float, steps: int) -> float:
    run = invert(bundled(), picture[0].permute(1, 2, 0).numpy(), text, steps=steps,
                 guidance_scale=scale, record="none")  # fmt: skip
    return psnr(run.pixels, picture[0])


RETRACE: Question = Question(
    id="ps4.retrace",
    title="What comes back",
    signature="f(model, picture (1, 3, H, W), text, guidance_scale, steps) -> PSNR in dB of "
    "the picture after inversion without guidance and sampling with it",
    hints=(
        "Encode, walk back, walk forward, decode, compare. Which of the two walks has guidance?",
        "The walk back is your loop with the velocity at scale 1; its first latents are the noise.",
        "Forward, each step goes from alpha_bar[step] to alpha_bar_next[step], with your step of "
        "question 1 and the velocity at guidance_scale, from where the step before has led.",
    ),
    draw=_draw_retrace,
    right=_retrace(),
    read=lambda value, args: tensor(value, (), "a single number,"),
    otherwise=lambda value, args: (
        f"For {args[2]!r} at guidance {args[3]} it says {float(value):.2f} dB. Inverted without "
        f"guidance and sampled with it, the picture comes back at {_retrace()(*args):.2f} dB."
    ),
    mistakes=(
        Mistake(
            "The picture is only encoded and decoded; walk back and forth between.",
            lambda model, picture, *rest: psnr(
                bundled().decode(bundled().encode(picture))[0], picture[0]
            ),
            easy=True,
        ),
        Mistake(
            "This is what the package's own inversion brings back; use your own walk.",
            _other_method,
            easy=True,
        ),
        Mistake(
            "One step is left out on the way forward: begin at the noise.",
            _retrace(late=True),
            easy=True,
        ),
        Mistake("The way forward has no guidance; it uses guidance_scale.", _retrace(forth=1.0)),
        Mistake(
            "The way back has guidance too; it is walked with the prompt alone.",
            _retrace(back=None),
        ),
        Mistake(
            "Guidance is used on the way back and not on the way forward; it is the other way.",
            _retrace(back=None, forth=1.0),
        ),
    ),
    done="What comes back, with guidance and without, is measured rightly.",
    cases=1,
    tolerance=0.05,
    rules=Rules(
        may_use=(
            "p2p_lab.inversion.jobs",
            "p2p_lab.models",
            "p2p_lab.metrics.pictures.psnr",
            "p2p_lab.sampling.schedules",
        )
    ),
)


# 5: where it goes wrong -------------------------------------------------------------------------


def _draw_drift(rng: random.Random, easy: bool) -> Args:
    seed, steps = rng.randrange(2**31), 1 if easy else rng.choice([4, 5, 6])
    predict, bars, nexts = toy_world(seed, steps, easy=False)
    return predict, toy_push(seed, steps), draw(1, 2, 3, 3, seed=seed + 3), bars, nexts


def _drift(
    predict: Any, push: Any, z: Tensor, bars: Tensor, nexts: Tensor, *, kind: str = "right"
) -> Tensor:
    """Return the distance (T + 1,) from the measured path; `kind` is right or a known mistake."""
    pivots = way_back(predict, z, bars, nexts)
    path = [pivots[0]]
    for step in range(len(bars)):
        at = pivots[step] if kind == "from the pivots" else path[-1]
        seen = predict(at, step) + (0 if kind == "no push" else push(at, step))
        path.append(step_to(at, seen, bars[step], nexts[step]))
    apart = torch.stack(path) - pivots
    if kind == "absolute":
        return apart.abs().mean(dim=(1, 2, 3, 4))
    squares = apart.square()
    total = squares.sum(dim=(1, 2, 3, 4)) if kind == "sum" else squares.mean(dim=(1, 2, 3, 4))
    return total if kind == "squared" else total.sqrt()


def _drift_by(kind: str) -> Callable[..., Tensor]:
    return lambda *args: _drift(*args, kind=kind)


DRIFT: Question = Question(
    id="ps4.drift",
    title="Where the guided path goes wrong",
    signature="f(predict(z, step), push(z, step), latents, alpha_bar, alpha_bar_next) -> "
    "distances (T + 1,) from the measured path",
    hints=(
        "There are two paths: the measured one, without push, and the one that guidance takes.",
        "Measure the path with your loop; then walk forward from its noise with predict plus push.",
        "Each forward step begins where the one before has led. After it, compare with the pivot "
        "of that step: square, mean, root. The first distance is 0.",
    ),
    draw=_draw_drift,
    right=_drift,
    read=reader(lambda predict, push, z, bars, nexts: (len(bars) + 1,), "(T + 1,)"),
    otherwise=lambda value, args: (
        f"For {len(args[3])} steps the distances differ. " + gap(DRIFT, value, args)
    ),
    mistakes=(
        Mistake(
            "Guidance is missing: the forward path adds push(z, t) to the prediction.",
            _drift_by("no push"),
            easy=True,
        ),
        Mistake(
            "These are squared distances; take the root of their mean.",
            _drift_by("squared"),
            easy=True,
        ),
        Mistake("The squares are added up; take their mean.", _drift_by("sum"), easy=True),
        Mistake(
            "This is the mean absolute distance; square, take the mean, then the root.",
            _drift_by("absolute"),
            easy=True,
        ),
        Mistake(
            "The distances run from picture to noise; begin at the noise.",
            lambda *args: _drift(*args).flip(0),
            easy=True,
        ),
        Mistake(
            "Each step starts at the measured path; it has to start where the steps before have "
            "led.",
            _drift_by("from the pivots"),
        ),
    ),
    done="The distance from the measured path agrees at every step.",
    cases=2,
)
