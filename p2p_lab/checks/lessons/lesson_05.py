"""Exercises of lesson 5: a DDIM step, the way back to noise, and the loss of null-text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Exercise, Wrong, agree, call, close, draw, tensor


def ddim_step(latents: Tensor, noise_pred: Tensor, alpha_bar: Tensor, next_bar: Tensor) -> Tensor:
    """Return the latents one step cleaner, from noise level ᾱ to ᾱ' > ᾱ."""
    clean = (latents - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5
    return next_bar**0.5 * clean + (1 - next_bar) ** 0.5 * noise_pred


def ddim_inverse(
    clean: Tensor, predict: Callable[[Tensor, int], Tensor], alpha_bar: Tensor
) -> Tensor:
    """Return the way back, (T + 1, B, C, h, w), from noise to picture.

    Args:
        clean: The picture's latents, (B, C, h, w).
        predict: `predict(latents, step)` is the noise that the denoiser sees in them.
        alpha_bar: The levels from noise to picture, (T + 1,); step t leads from t to t + 1.
    """
    path = [clean]
    for step in reversed(range(len(alpha_bar) - 1)):
        noise = predict(path[-1], step)
        cleaner, noisier = alpha_bar[step + 1], alpha_bar[step]
        picture = (path[-1] - (1 - cleaner) ** 0.5 * noise) / cleaner**0.5
        path.append(noisier**0.5 * picture + (1 - noisier) ** 0.5 * noise)
    return torch.stack(path[::-1])


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


def _test_step(answer: Callable[..., Any]) -> str:
    for seed, (a, b) in enumerate([(0.2, 0.5), (0.01, 0.03), (0.9, 0.999)]):
        z, e = draw(1, 4, 5, 6, seed=seed), draw(1, 4, 5, 6, seed=seed + 9)
        levels = torch.tensor(a), torch.tensor(b)
        got, again = (
            tensor(call(answer, z, e, *levels), tuple(z.shape), "(B, C, h, w)") for _ in range(2)
        )
        if not close(got, again, 1e-9):
            raise Wrong("Twice the same input gave two results: DDIM adds no fresh noise.")
        agree(
            got,
            ddim_step(z, e, *levels),
            _known(z, e, *levels),
            f"From ᾱ = {a} to {b} the latents differ.",
            tolerance=1e-4,
        )
    return "Three pairs of noise levels: the cleaner latents agree."


class _Predictions:
    """A denoiser of a few numbers that answers otherwise at every step and place."""

    def __init__(self, steps: int, seed: int) -> None:
        self.turns = draw(steps, 2, 2, seed=seed) / 4

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        if not 0 <= step < len(self.turns):
            raise IndexError(f"predict knows the steps 0 to {len(self.turns) - 1}, not {step}")
        return torch.einsum("ij,bjhw->bihw", self.turns[step], latents) + 0.1 * (step + 1)


def _test_inverse(answer: Callable[..., Any]) -> str:
    for seed, steps in enumerate((1, 3, 5)):
        z, levels = draw(1, 2, 3, 4, seed=seed), torch.linspace(0.05, 0.99, steps + 1)
        predict = _Predictions(steps, seed)
        value = call(answer, z, predict, levels)
        got = tensor(value, (steps + 1, *z.shape), "(T + 1, B, C, h, w)")
        right = ddim_inverse(z, predict, levels)
        mistakes = _loop_mistakes(z, predict, levels)
        others = {say: x for say, x in mistakes.items() if not close(x, right)}
        agree(got, right, others, f"With {steps} steps the way back differs.", tolerance=1e-4)
    return "One, three and five steps: the whole way back agrees."


def _loop_mistakes(z: Tensor, predict: _Predictions, bar: Tensor) -> dict[str, Tensor]:
    """Return what common mistakes of the loop give, by what to say of them."""
    right, last = ddim_inverse(z, predict, bar), len(bar) - 2
    first = predict(z, last)

    def loop(order: Callable[[int], int] = lambda step: step, **how: Any) -> Tensor:
        path, ask = [z], how.get("ask", predict)
        for step in reversed(range(last + 1)):
            at = order(step)
            noise = ask(path[0] if how.get("restart") else path[-1], at)
            path.append(how.get("move", _noisier)(path[-1], noise, bar, at))
        return torch.stack(path[::-1])

    return {
        "All latents are those given: no step is taken.": z.expand(len(bar), *z.shape),
        "The path runs from picture to noise; it is wanted from noise to picture.": right.flip(0),
        "The two levels are exchanged: a step back leaves alpha_bar[step + 1].": loop(
            move=lambda z, e, bar, t: ddim_step(z, e, bar[t], bar[t + 1])
        ),
        "The noise of the old level is used at the new one: √(1−ᾱ') is wanted.": loop(
            move=lambda z, e, bar, t: (
                _noisier(z, 0 * e, bar, t)
                + (((1 - bar[t + 1]) ** 0.5) - (bar[t] * (1 / bar[t + 1] - 1)) ** 0.5) * e
            )
        ),
        "The noise is predicted once, at the picture; ask again at every step.": loop(
            ask=lambda z, t: first
        ),
        "Every prediction is made for the picture's latents; ask about those that the step before "
        "has led to.": loop(restart=True),
        "The denoiser is asked about another step: the step from t to t + 1 is undone with "
        "predict(latents, t).": loop(ask=lambda z, t: predict(z, min(t + 1, last))),
        "The steps are undone in the wrong order: begin at the picture, with the last step.": loop(
            lambda step: last - step
        ),
    }


def _noisier(z: Tensor, noise_pred: Tensor, bar: Tensor, step: int) -> Tensor:
    return ddim_step(z, noise_pred, bar[step + 1], bar[step])


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
        difficulty=1,
        minutes=4,
        signature="f(latents (B, C, h, w), noise_pred, alpha_bar, next_bar) -> (B, C, h, w)",
        hints=(
            "Two lines: which clean picture does the denoiser see in z, and what is that picture "
            "with the noise of the next level?",
            "clean = (z − √(1−ᾱ) ε) / √ᾱ, then √ᾱ' · clean + √(1−ᾱ') · ε",
        ),
        right=ddim_step,
        tested_by=_test_step,
    ),
    Exercise(
        id="05.ddim_inverse",
        title="The whole way back to noise",
        difficulty=3,
        minutes=10,
        signature="f(clean (B, C, h, w), predict(latents, step) -> noise_pred, alpha_bar (T + 1,) "
        "from noise to picture) -> path (T + 1, B, C, h, w) from noise to picture",
        hints=(
            "Begin with the picture and undo the last step first. Each step back starts where the "
            "one before has led, and asks the denoiser again.",
            "for step in reversed(range(T)): noise = predict(z, step); a DDIM step from "
            "alpha_bar[step + 1] to alpha_bar[step]; keep z. At the end: torch.stack(path[::-1]).",
        ),
        right=ddim_inverse,
        tested_by=_test_inverse,
    ),
    Exercise(
        id="05.null_loss",
        title="The loss of null-text inversion",
        difficulty=2,
        minutes=7,
        signature="f(pivot, latents, noise_null, noise_text, guidance, alpha_bar, next_bar) -> "
        "a single number",
        hints=(
            "Combine the two predictions by guidance, take one DDIM step, compare with the pivot.",
            "noise = null + s · (text − null); step from ᾱ to ᾱ'; ((step − pivot) ** 2).mean()",
        ),
        right=null_loss,
        tested_by=_test_null_loss,
    ),
)
