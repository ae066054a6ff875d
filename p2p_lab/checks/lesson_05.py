"""Exercises of lesson 5: a DDIM step, its reverse, and the loss of null-text inversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import Exercise, Wrong, agree, call, close, draw, tensor


def ddim_step(latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, next_bar: Tensor) -> Tensor:
    """Return the latents one step cleaner, from noise level ᾱ to ᾱ' > ᾱ."""
    clean = (latents - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
    return next_bar**0.5 * clean + (1 - next_bar) ** 0.5 * noise_pred


def ddim_inverse(
    latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, noisier_bar: Tensor
) -> Tensor:
    """Return the latents one step noisier, from noise level ᾱ to ᾱ' < ᾱ."""
    clean = (latents - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
    return noisier_bar**0.5 * clean + (1 - noisier_bar) ** 0.5 * noise_pred


def _known(z: Tensor, e: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Return the values of known mistakes of a step from ᾱ = a to b."""
    clean = (z - (1 - a) ** 0.5 * e) / a**0.5
    return {
        "This is the clean picture ẑ_0: add the noise of the new level to it again.": clean,
        "The square roots are missing: it is √ᾱ and √(1−ᾱ).": b * ((z - (1 - a) * e) / a)
        + (1 - b) * e,
        "The two levels are exchanged: first leave ᾱ, then go to the new level.": ddim_step(
            z, e, b, a
        ),
        "The noise is left out at the new level: add √(1−ᾱ') times the prediction.": b**0.5 * clean,
        "The noise of the old level is used at the new one: √(1−ᾱ') is wanted.": b**0.5 * clean
        + (1 - a) ** 0.5 * e,
        "The latents came back unchanged.": z,
    }


def _test_direction(answer: Callable[..., Any], *, forward: bool) -> None:
    for seed, (low, high) in enumerate([(0.2, 0.5), (0.01, 0.03), (0.9, 0.999)]):
        a, b = (low, high) if forward else (high, low)
        z, e = draw(1, 4, 5, 6, seed=seed), draw(1, 4, 5, 6, seed=seed + 9)
        levels = torch.tensor(a), torch.tensor(b)
        got = call(answer, z, e, *levels)
        again = call(answer, z, e, *levels)
        got, again = (tensor(x, tuple(z.shape), "(B, C, h, w)") for x in (got, again))
        if not close(got, again, 1e-9):
            raise Wrong("Twice the same input gave two results: DDIM adds no fresh noise.")
        agree(
            got,
            ddim_step(z, e, *levels),
            _known(z, e, *levels),
            f"From ᾱ = {a} to {b} the latents differ.",
            tolerance=1e-4,
        )


def _test_step(answer: Callable[..., Any]) -> str:
    _test_direction(answer, forward=True)
    return "Three pairs of noise levels: the cleaner latents agree."


def _test_inverse(answer: Callable[..., Any]) -> str:
    _test_direction(answer, forward=False)
    return "Three pairs of noise levels: the noisier latents agree, and a DDIM step leads back."


def null_loss(
    pivot: Tensor,
    latents: Tensor,
    noise_null: Tensor,
    noise_text: Tensor,
    guidance: float,
    alpha_bar: Tensor,
    next_bar: Tensor,
) -> Tensor:
    """Return how far a guided DDIM step ends from the measured latents: mean squared error."""
    noise_pred = noise_null + guidance * (noise_text - noise_null)
    clean = (latents - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
    stepped = next_bar**0.5 * clean + (1 - next_bar) ** 0.5 * noise_pred
    return ((stepped - pivot) ** 2).mean()


def _test_null_loss(answer: Callable[..., Any]) -> str:
    a, b = torch.tensor(0.3), torch.tensor(0.5)
    for seed, guidance in ((0, 7.5), (1, 1.0), (2, 3.0)):
        z, pivot, null, text = (draw(1, 4, 3, 3, seed=seed + 20 * i) for i in range(4))
        null.requires_grad_(True)
        value = call(answer, pivot, z, null, text, guidance, a, b)
        got = tensor(value, (), "a single number,")
        agree(got, *_null_values(pivot, z, null, text, guidance, a, b))
        _needs_gradient(value, null, guidance)
    return "Three guidance scales: the loss agrees, and it has a gradient to learn from."


def _null_values(
    pivot: Tensor, z: Tensor, null: Tensor, text: Tensor, scale: float, a: Tensor, b: Tensor
) -> tuple[Tensor, dict[str, Tensor], str]:
    """Return the right loss, the losses of known mistakes, and the sentence for others."""
    null = null.detach()

    def loss(noise: Tensor) -> Tensor:
        return ((ddim_step(z, noise, a, b) - pivot) ** 2).mean()

    guided = null + scale * (text - null)
    mistakes = {
        "The squared errors are added up; take their mean.": loss(guided) * pivot.numel(),
        "The error is not squared.": (ddim_step(z, guided, a, b) - pivot).abs().mean(),
        "Guidance leads away from the text: it is null + s · (text − null).": loss(
            text + scale * (null - text)
        ),
        "Guidance is missing: null and text have to be combined.": loss(text),
        "The text's prediction is not used.": loss(null),
        "The latents are compared before the step; take one guided DDIM step first.": (
            (z - pivot) ** 2
        ).mean(),
    }
    right = loss(guided)
    others = {say: v for say, v in mistakes.items() if not close(v, right)}
    return right, others, f"With guidance {scale} the loss differs."


def _needs_gradient(value: Any, null: Tensor, guidance: float) -> None:
    if guidance == 1.0:  # then the unconditional prediction has no influence
        return
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise Wrong("The loss has no gradient: keep it a tensor, without detach, item or no_grad.")
    (gradient,) = torch.autograd.grad(value, null)
    if not bool((gradient != 0).any()):
        raise Wrong("The loss does not depend on the unconditional prediction.")


EXERCISES = (
    Exercise(
        id="05.ddim_step",
        title="One DDIM step",
        signature="f(latents (B, C, h, w), noise_pred, alpha_bar, next_bar) -> (B, C, h, w)",
        hints=(
            "Two lines: which clean picture does the denoiser see in z, and what is that picture "
            "with the noise of the next level?",
            "clean = (z − √(1−ᾱ) ε) / √ᾱ, then √ᾱ' · clean + √(1−ᾱ') · ε",
        ),
        reference=ddim_step,
        test=_test_step,
    ),
    Exercise(
        id="05.ddim_inverse",
        title="One DDIM step backwards",
        signature="f(latents (B, C, h, w), noise_pred, alpha_bar, noisier_bar) -> (B, C, h, w)",
        hints=(
            "The same two lines as a DDIM step, towards more noise: ᾱ' is smaller than ᾱ.",
            "clean = (z − √(1−ᾱ) ε) / √ᾱ, then √ᾱ' · clean + √(1−ᾱ') · ε with the noisier ᾱ'.",
        ),
        reference=ddim_inverse,
        test=_test_inverse,
    ),
    Exercise(
        id="05.null_loss",
        title="The loss of null-text inversion",
        signature="f(pivot, latents, noise_null, noise_text, guidance, alpha_bar, next_bar) -> "
        "a single number",
        hints=(
            "Combine the two predictions by guidance, take one DDIM step, compare with the pivot.",
            "noise = null + s · (text − null); step from ᾱ to ᾱ'; ((step − pivot) ** 2).mean()",
        ),
        reference=null_loss,
        test=_test_null_loss,
    ),
)
