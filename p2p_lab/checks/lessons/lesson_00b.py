"""Exercises of lesson 0b: noise on a picture, and guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, close, draw, tensor


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return z_t = √ᾱ z_0 + √(1−ᾱ) ε: the clean latents with noise of one level."""
    return alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Return the guided prediction: from the empty prompt's, `scale` times towards the text's."""
    return negative + scale * (positive - negative)


def _test_noise(answer: Callable[..., Any]) -> str:
    for seed, level in enumerate((0.9, 0.36, 0.02)):
        clean, noise = (draw(2, 4, 5, 3, seed=seed + 30 * k) for k in range(2))
        a = torch.tensor(level)
        got = tensor(call(answer, clean, noise, a), tuple(clean.shape), "(B, C, h, w)")
        mistakes = {
            "The square roots are missing: it is √ᾱ and √(1−ᾱ).": a * clean + (1 - a) * noise,
            "The two weights are exchanged: ᾱ near 1 is nearly clean.": add_noise(noise, clean, a),
            "The picture keeps its full strength; it has to fade as the noise grows.": clean
            + (1 - a) ** 0.5 * noise,
            "The noise comes at full strength: √(1−ᾱ) of it is wanted.": a**0.5 * clean + noise,
        }
        agree(got, add_noise(clean, noise, a), mistakes, f"At ᾱ = {level} the latents differ.")
        _is_fixed(answer, clean, noise, a, got)
    return "Three noise levels, nearly clean to nearly noise: the latents agree."


def _is_fixed(
    answer: Callable[..., Any], clean: Tensor, noise: Tensor, a: Tensor, got: Any
) -> None:
    if not close(tensor(call(answer, clean, noise, a), tuple(clean.shape), "(B, C, h, w)"), got):
        raise Wrong("Twice the same input gave two results: use the noise that is handed in.")


def _test_guide(answer: Callable[..., Any]) -> str:
    for seed, scale in enumerate((3.0, 7.5, 1.0, 0.0)):
        negative, positive = (draw(2, 4, 5, 3, seed=seed + 30 * k) for k in range(2))
        value = call(answer, negative, positive, scale)
        got = tensor(value, tuple(negative.shape), "(B, C, h, w)")
        right = guide(negative, positive, scale)
        mistakes = {
            "It leads away from the text: the difference is text minus empty prompt.": negative
            + scale * (negative - positive),
            "It begins at the text's prediction: begin at the empty prompt's.": positive
            + scale * (positive - negative),
            "The text's prediction alone is scaled.": scale * positive,
            "Only the difference came back: add it to the empty prompt's prediction.": scale
            * (positive - negative),
        }
        others = {say: value for say, value in mistakes.items() if not close(value, right)}
        agree(got, right, others, f"With guidance {scale:g} the prediction differs.")
    return "Four scales, 0 and 1 among them: the guided predictions agree."


EXERCISES = (
    Exercise(
        id="00b.noise",
        title="Noise on a picture",
        difficulty=1,
        minutes=4,
        signature="f(clean (B, C, h, w), noise, alpha_bar) -> (B, C, h, w)",
        hints=(
            "Two parts, one of the picture and one of the noise, whose squared weights sum to 1.",
            "√ᾱ · clean + √(1−ᾱ) · noise",
        ),
        right=add_noise,
        tested_by=_test_noise,
    ),
    Exercise(
        id="00b.guide",
        title="Guidance",
        difficulty=1,
        minutes=3,
        signature="f(negative (B, C, h, w), positive, scale) -> (B, C, h, w)",
        hints=(
            "Start at the prediction for the empty prompt and go in the direction of the text's; "
            "a scale of 1 ends exactly there.",
            "negative + scale · (positive − negative)",
        ),
        right=guide,
        tested_by=_test_guide,
    ),
)
