"""Questions of problem set 4: a backward step, its loop, null-text tuning, and what comes back.

The bundled model predicts the velocity v, so ps4 does too: ẑ_0 = √ᾱ z − √(1−ᾱ) v and
ε = √ᾱ v + √(1−ᾱ) z.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import draw
from p2p_lab.checks.engine.question import Args, Mistake, Question, gap, reader
from p2p_lab.checks.fixtures.paths import (
    guided_world,
    step_to,
    toy_world,
    tuned,
    way_back,
)
from p2p_lab.checks.sets.ps4_pictures import DRIFT, RETRACE

SHAPE, AXES = (1, 4, 5, 6), "(B, C, h, w)"


# 1: one step backwards --------------------------------------------------------------------------


def _draw_step(rng: random.Random, easy: bool) -> Args:
    level, noisier = (0.5, 0.5) if easy else rng.choice([(0.9, 0.7), (0.5, 0.1), (0.3, 0.05)])
    seed = rng.randrange(2**31)
    z, v = draw(*SHAPE, seed=seed), draw(*SHAPE, seed=seed + 1)
    return z, v, torch.tensor(level), torch.tensor(noisier if not easy else 0.2)


def _split(z: Tensor, v: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clean picture and the noise that are seen in z."""
    return bar**0.5 * z - (1 - bar) ** 0.5 * v, bar**0.5 * v + (1 - bar) ** 0.5 * z


def _as_noise(z: Tensor, e: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Take the prediction for the noise, as in lesson 05."""
    return b**0.5 * (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e


def _joined(clean: Tensor, noise: Tensor, b: Tensor) -> Tensor:
    return b**0.5 * clean + (1 - b) ** 0.5 * noise


INVERSE: Question = Question(
    id="ps4.inverse",
    title="One step backwards, from a velocity",
    signature="f(latents (B, C, h, w), velocity, alpha_bar, noisier_bar) -> (B, C, h, w)",
    hints=(
        "Which clean picture and which noise does the denoiser see? The text gives both formulas.",
        "Nothing is divided: with velocities both parts are sums.",
        "First split the latents with the roots of ᾱ, then put the two parts together with the "
        "roots of ᾱ': clean picture times √ᾱ' plus noise times √(1−ᾱ').",
    ),
    draw=_draw_step,
    right=step_to,
    read=reader(lambda z, *rest: tuple(z.shape), AXES),
    otherwise=lambda value, args: (
        f"From ᾱ = {float(args[2]):.2g} to {float(args[3]):.2g} the latents differ. "
        + gap(INVERSE, value, args)
    ),
    mistakes=(
        Mistake(
            "This is the clean picture: add the noise of the new level to it again.",
            lambda z, v, a, b: _split(z, v, a)[0],
            easy=True,
        ),
        Mistake("The latents came back unchanged.", lambda z, v, a, b: z.clone(), easy=True),
        Mistake(
            "The velocity was taken for the noise, as in lesson 05: ε = √ᾱ v + √(1−ᾱ) z.",
            _as_noise,
            easy=True,
        ),
        Mistake(
            "The noise is left out at the new level: add √(1−ᾱ') ε.",
            lambda z, v, a, b: b**0.5 * _split(z, v, a)[0],
            easy=True,
        ),
        Mistake(
            "The noise of the old level is used at the new one: √(1−ᾱ') is wanted.",
            lambda z, v, a, b: b**0.5 * _split(z, v, a)[0] + (1 - a) ** 0.5 * _split(z, v, a)[1],
            easy=True,
        ),
        Mistake(
            "The two levels are exchanged (first leave ᾱ, then go to the noisier one), or the sign "
            "of the velocity is: ẑ_0 = √ᾱ z − √(1−ᾱ) v.",
            lambda z, v, a, b: step_to(z, v, b, a),
            easy=True,
        ),
        Mistake(
            "The square roots are missing: it is √ᾱ and √(1−ᾱ).",
            lambda z, v, a, b: b * (a * z - (1 - a) * v) + (1 - b) * (a * v + (1 - a) * z),
            easy=True,
        ),
        Mistake(
            "The roots of z and v are exchanged when the latents are split; at ᾱ = 0.5 that is "
            "not seen.",
            lambda z, v, a, b: _joined(
                (1 - a) ** 0.5 * z - a**0.5 * v, (1 - a) ** 0.5 * v + a**0.5 * z, b
            ),
        ),
    ),
    done="Several noise levels: the noisier latents agree, and a step the other way leads back.",
)


# 2: the way back --------------------------------------------------------------------------------


def _draw_loop(rng: random.Random, easy: bool) -> Args:
    seed, steps = rng.randrange(2**31), rng.choice([2, 3] if easy else [4, 5, 7])
    predict, bars, nexts = toy_world(seed, steps, easy)
    return predict, draw(1, 2, 3, 3, seed=seed + 5), bars, nexts


def _path_shape(predict: Any, z: Tensor, bars: Tensor, nexts: Tensor) -> tuple[int, ...]:
    return (len(bars) + 1, *z.shape)


def _back(**how: Any) -> Callable[..., Tensor]:
    return lambda *args: way_back(*args, **how)


def _once(predict: Any, z: Tensor, bars: Tensor, nexts: Tensor) -> Tensor:
    seen = predict(z, len(bars) - 1)
    return way_back(lambda *rest: seen, z, bars, nexts)


LOOP: Question = Question(
    id="ps4.loop",
    title="The way back to noise",
    signature="f(predict(z, step) -> velocity, latents (B, C, h, w), alpha_bar (T,), "
    "alpha_bar_next (T,)) -> path (T + 1, B, C, h, w) from noise to picture",
    hints=(
        "Undo the last step first: step T − 1 led from alpha_bar[T−1] to alpha_bar_next[T−1].",
        "Each step starts from the latents that the one before has led to, and asks the denoiser "
        "again, about the step that it undoes.",
        "Walk the steps in reverse and keep all latents in a list, beginning with those given. "
        "Your step of question 1 goes from alpha_bar_next[step] to alpha_bar[step]. At the end the "
        "list is turned round and stacked.",
    ),
    draw=_draw_loop,
    right=way_back,
    read=reader(_path_shape, "(T + 1, B, C, h, w)"),
    otherwise=lambda value, args: (
        f"For {len(args[2])} steps the path differs. " + gap(LOOP, value, args)
    ),
    mistakes=(
        Mistake(
            "The path runs from picture to noise; it is wanted from noise to picture.",
            lambda *args: way_back(*args).flip(0),
            easy=True,
        ),
        Mistake(
            "The levels are exchanged: a step is undone from alpha_bar_next to alpha_bar.",
            lambda predict, z, bars, nexts: way_back(predict, z, nexts, bars),
            easy=True,
        ),
        Mistake(
            "All latents are those given: no step is undone.",
            lambda predict, z, bars, nexts: z.expand(len(bars) + 1, *z.shape).clone(),
            easy=True,
        ),
        Mistake(
            "The denoiser is told a step too late: undoing step t asks it about step t.",
            _back(shift=1),
        ),
        Mistake(
            "The denoiser is told a step too early: undoing step t asks it about step t.",
            _back(shift=-1),
        ),
        Mistake(
            "The noise is predicted once, at the picture; it has to be asked for again at every "
            "step.",
            _once,
        ),
        Mistake(
            "The steps are undone in the wrong order: begin with the last, T − 1.",
            _back(turned=True),
            easy=True,
        ),
    ),
    done="The measured path agrees at every step.",
    cases=2,
)


# 3: null-text tuning ----------------------------------------------------------------------------


def _draw_null_text(rng: random.Random, easy: bool) -> Args:
    seed, steps = rng.randrange(2**31), 1 if easy else rng.choice([3, 4])
    return *guided_world(seed, steps), rng.choice([4, 6, 8]), rng.choice([0.05, 0.1])


def _tune(**how: Any) -> Callable[..., Tensor]:
    return lambda *args: tuned(*args, **how)


def _rate(factor: float) -> Callable[..., Tensor]:
    return lambda guided, pivots, embed, inner, rate: tuned(
        guided, pivots, embed, inner, factor * rate
    )


NULL_TEXT: Question = Question(
    id="ps4.null_text",
    title="The null-text loop",
    signature="f(guided(z, embed, step) -> next z, pivots (T + 1, D), embed (D,), inner_steps, "
    "rate) -> embeddings (T, D)",
    hints=(
        "For each step tune one embedding, so that the guided step ends at the next pivot. Start "
        "it where the step before ended its tuning.",
        "Each update: the loss, its gradient with respect to the embedding, one step of Adam. A "
        "new Adam for each step of the sampler.",
        "After the last update of a step, take that step with the tuned embedding, cut from the "
        "graph: the next step begins where it ends, not at the pivot. Keep each embedding.",
    ),
    draw=_draw_null_text,
    right=_tune(),
    read=reader(lambda guided, pivots, embed, *rest: (len(pivots) - 1, len(embed)), "(T, D)"),
    otherwise=lambda value, args: (
        f"For {len(args[1]) - 1} steps of {args[3]} updates with the rate {args[4]} the "
        f"embeddings differ. " + gap(NULL_TEXT, value, args)
    ),
    mistakes=(
        Mistake(
            "It returns the embedding untuned.",
            lambda guided, pivots, embed, *rest: embed.expand(len(pivots) - 1, -1).clone(),
            easy=True,
        ),
        Mistake("One update too few: inner_steps updates a step.", _tune(more=-1), easy=True),
        Mistake("One update too many: inner_steps updates a step.", _tune(more=1), easy=True),
        Mistake("The rate is doubled.", _rate(2.0), easy=True),
        Mistake("The rate is halved.", _rate(0.5), easy=True),
        Mistake("The updates are plain gradient steps; use Adam.", _tune(adam=False), easy=True),
        Mistake("It walks away from the pivots: the loss is made larger.", _rate(-1.0), easy=True),
        Mistake(
            "Each step starts from the pivot; start where the steps before have led.",
            _tune(pivot=True),
        ),
        Mistake(
            "Each step starts its embedding anew; start with that of the step before.",
            _tune(reset=True),
        ),
        Mistake(
            "All steps have the same embedding; tune one for each step.",
            lambda *args: tuned(*args)[:1].expand(len(args[1]) - 1, -1).clone(),
        ),
        Mistake(
            "One Adam runs through all steps, with the momentum of the step before; make a new one "
            "for each step.",
            _tune(one_adam=True),
        ),
        Mistake(
            "The guided step is compared with the pivot it starts at; compare with the next one.",
            _tune(late=True),
            easy=True,
        ),
    ),
    done="The embeddings of every step agree, and the guided steps follow the pivots.",
    cases=2,
    tolerance=2e-3,
)


QUESTIONS = (INVERSE, LOOP, NULL_TEXT, RETRACE, DRIFT)
