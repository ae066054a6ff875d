"""Questions of problem set 4: the DDIM inverse, its loop, null-text tuning, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import Wrong, agree, call, draw, tensor
from p2p_lab.checks.loaded import bundled
from p2p_lab.checks.looks import draw_scenes, look_at
from p2p_lab.checks.paths import followed, guided_world, toy_push, toy_world, way_back
from p2p_lab.checks.question import Question
from p2p_lab.inversion import invert
from p2p_lab.metrics import psnr
from p2p_lab.sampling import ddim_step

Answer = Callable[..., Any]
STEPS = 8


def _judge_inverse(answer: Answer, seed: int, easy: bool) -> str:
    pairs = [(0.6, 0.5)] if easy else [(0.9, 0.7), (0.5, 0.1), (0.05, 0.01)]
    for n, (level, noisier) in enumerate(pairs):
        z, e = draw(1, 4, 5, 6, seed=seed + n), draw(1, 4, 5, 6, seed=seed + n + 9)
        a, b = torch.tensor(level), torch.tensor(noisier)
        got = tensor(call(answer, z, e, a, b), (1, 4, 5, 6), "(B, C, h, w)")
        clean = (z - (1 - a) ** 0.5 * e) / a**0.5
        agree(
            got,
            ddim_step(z, e, a, b),
            {
                "This is the clean picture: add the noise of the new level to it again.": clean,
                "The two levels are exchanged: first leave ᾱ, then go to the noisier level.": (
                    ddim_step(z, e, b, a)
                ),
                "The square roots are missing: it is √ᾱ and √(1−ᾱ).": (
                    b * (z - (1 - a) * e) / a + (1 - b) * e
                ),
                "The noise of the old level is used at the new one: √(1−ᾱ') is wanted.": (
                    b**0.5 * clean + (1 - a) ** 0.5 * e
                ),
                "The latents came back unchanged.": z,
            },
            f"From ᾱ = {level} to {noisier} the latents differ.",
            tolerance=1e-4,
        )
    return "The noisier latents agree, and a DDIM step leads back."


def _frozen(noise_pred: Tensor, z: Tensor, step: int) -> Tensor:
    return noise_pred


def _other_step(predict: Callable[..., Tensor], steps: int, z: Tensor, step: int) -> Tensor:
    return predict(z, steps - 1 - step)


def _judge_loop(answer: Answer, seed: int, easy: bool) -> str:
    for n, steps in enumerate([3] if easy else [4, 7]):
        predict, bars, nexts = toy_world(seed + n, steps, easy)
        z, shape = draw(1, 2, 3, 3, seed=seed + 5), (steps + 1, 1, 2, 3, 3)
        got = tensor(call(answer, predict, z, bars, nexts), shape, "(T + 1, B, C, h, w)")
        right = way_back(predict, z, bars, nexts)
        stale = way_back(partial(_frozen, predict(z, steps - 1)), z, bars, nexts)
        agree(
            got,
            right,
            {
                "The path runs from picture to noise; it is wanted from noise to picture.": (
                    right.flip(0)
                ),
                "The denoiser is told a step too late: undoing step t asks it about step t.": (
                    way_back(predict, z, bars, nexts, shift=1)
                ),
                "The denoiser is told a step too early: undoing step t asks it about step t.": (
                    way_back(predict, z, bars, nexts, shift=-1)
                ),
                "The noise is predicted once, at the picture; it has to be asked for again at "
                "every step.": stale,
                "The steps are undone in the wrong order: begin with the last, T − 1.": (
                    way_back(partial(_other_step, predict, steps), z, bars, nexts)
                ),
            },
            f"For {steps} steps the path differs.",
            tolerance=1e-4,
        )
    return "The measured path agrees at every step."


def _judge_null_text(answer: Answer, seed: int, easy: bool) -> str:
    for n, steps in enumerate([2] if easy else [4, 6]):
        guided, pivots, start = guided_world(seed + n, steps)
        value = call(answer, guided, pivots, start, 60, 0.1)
        embeds = tensor(value, (steps, *start.shape), "(T, D)").to(start.dtype)
        untuned = followed(guided, pivots, start.expand(steps, -1))
        tuned = followed(guided, pivots, embeds)
        if tuned > 0.1 * untuned:
            same = bool((embeds == embeds[0]).all())
            reason = (
                "it returns the embedding untuned."
                if torch.equal(embeds, start.expand(steps, -1))
                else "all steps have the same embedding; tune one for each step."
                if same and steps > 1
                else "start each step from where the steps before have led, and update after "
                "every gradient."
            )
            raise Wrong(
                f"With its embeddings {steps} guided steps end {tuned / untuned:.0%} as far from "
                f"the pivots as untuned; 10% is asked for: {reason}"
            )
    return "The guided steps now follow the pivots."


def _judge_retrace(answer: Answer, seed: int, easy: bool) -> str:
    model = bundled()
    for scene in draw_scenes(seed, 1):
        look = look_at(model, scene)
        text, picture = look.prompt.text, look.picture[None]  # (1, 3, H, W)
        for scale in (1.0,) if easy else (1.0, 2.5):
            got = call(partial(answer, model), picture, text, scale, STEPS)
            said = float(tensor(got, (), "a single number,"))
            right = _retraced(picture, text, scale)
            if abs(said - right) > 0.25:
                raise Wrong(
                    f"For {text!r} at guidance {scale} it says {said:.2f} dB. Inverted without "
                    f"guidance and sampled with it, the picture comes back at {right:.2f} dB."
                )
    return "What comes back, with guidance and without, is measured rightly."


def _retraced(picture: Tensor, text: str, scale: float) -> float:
    array = picture[0].permute(1, 2, 0).numpy()
    run = invert(bundled(), array, text, method="ddim", steps=STEPS, guidance_scale=scale,
                 record="none")  # fmt: skip
    return psnr(array, run.array)


def _drift(predict: Any, push: Any, z: Tensor, bars: Tensor, nexts: Tensor, kind: str) -> Tensor:
    """Return the distance (T + 1,) from the measured path; `kind` is right or a known mistake."""
    pivots = way_back(predict, z, bars, nexts)
    path = [pivots[0]]
    for step in range(len(bars)):
        at = pivots[step] if kind == "from the pivots" else path[-1]
        noise = predict(at, step) + (0 if kind == "no push" else push(at, step))
        path.append(ddim_step(at, noise, bars[step], nexts[step]))
    apart = (torch.stack(path) - pivots).square().mean(dim=(1, 2, 3, 4))
    return apart if kind == "squared" else apart.sqrt()


def _judge_drift(answer: Answer, seed: int, easy: bool) -> str:
    for n, steps in enumerate([1] if easy else [4, 6]):
        predict, bars, nexts = toy_world(seed + n, steps, easy=False)
        push, z = (
            partial(toy_push, draw(steps, 1, 2, 3, 3, seed=seed + 8)),
            draw(1, 2, 3, 3, seed=seed),
        )
        got = tensor(call(answer, predict, push, z, bars, nexts), (steps + 1,), "(T + 1,)")
        right = _drift(predict, push, z, bars, nexts, "right")
        mistakes = {
            "Guidance is missing: the forward path adds push(z, t) to the noise.": "no push",
            "Each step starts at the measured path; it has to start where the steps before have "
            "led.": "from the pivots",
            "These are squared distances; take the root of their mean.": "squared",
        }
        agree(
            got,
            right,
            {
                **{say: _drift(predict, push, z, bars, nexts, k) for say, k in mistakes.items()},
                "The distances run from picture to noise; begin at the noise.": right.flip(0),
            },
            f"For {steps} steps the distances differ.",
            tolerance=1e-4,
        )
    return "The distance from the measured path agrees at every step."


QUESTIONS = (
    Question(
        id="ps4.inverse",
        title="One DDIM step backwards",
        signature="f(latents (B, C, h, w), noise_pred, alpha_bar, noisier_bar) -> (B, C, h, w)",
        hints=(
            "Which clean picture does the denoiser see, and what is it with more noise?",
            "clean = (z − √(1−ᾱ) ε) / √ᾱ, then √ᾱ' · clean + √(1−ᾱ') · ε",
        ),
        judge=_judge_inverse,
        control=lambda z, e, a, b: torch.zeros_like(z),
    ),
    Question(
        id="ps4.loop",
        title="The way back to noise",
        signature="f(predict(z, step), latents (B, C, h, w), alpha_bar (T,), alpha_bar_next (T,)) "
        "-> path (T + 1, B, C, h, w) from noise to picture",
        hints=(
            "Undo the last step first: step T − 1 led from alpha_bar[T−1] to alpha_bar_next[T−1].",
            "for step in reversed(range(T)): z = inverse(z, predict(z, step), "
            "alpha_bar_next[step], alpha_bar[step]); at the end reverse the list.",
        ),
        judge=_judge_loop,
        control=lambda predict, z, bars, nexts: torch.zeros(len(bars) + 1, *z.shape),
    ),
    Question(
        id="ps4.null_text",
        title="The null-text loop",
        signature="f(guided(z, embed, step) -> next z, pivots (T + 1, D), embed (D,), inner_steps, "
        "rate) -> embeddings (T, D)",
        hints=(
            "For each step tune one embedding with Adam, so that the guided step ends at the next "
            "pivot. Start it where the step before ended its tuning.",
            "embed = embed.detach().clone().requires_grad_(True); loss = ((guided(z, embed, step) "
            "− pivots[step + 1]) ** 2).mean(); then z = guided(z, embed.detach(), step).",
        ),
        judge=_judge_null_text,
        control=lambda guided, pivots, embed, inner_steps, rate: embed.expand(
            len(pivots) - 1, -1
        ).clone(),
    ),
    Question(
        id="ps4.retrace",
        title="What comes back",
        signature="f(model, picture (1, 3, H, W), text, guidance_scale, steps) -> PSNR in dB of "
        "the picture after DDIM inversion without guidance and sampling with it",
        hints=(
            "Encode, walk back with your loop and the prompt alone, walk forward with guidance, "
            "decode, compare.",
            "z = way_back(noise, model.encode(picture), bar, bar_next)[0]; then for each step "
            "z = inverse(z, noise(z, step, guidance_scale), bar[step], bar_next[step]).",
        ),
        judge=_judge_retrace,
        control=lambda model, picture, text, guidance_scale, steps: -1.0,
    ),
    Question(
        id="ps4.drift",
        title="Where the guided path goes wrong",
        signature="f(predict(z, step), push(z, step), latents, alpha_bar, alpha_bar_next) -> "
        "distances (T + 1,) from the measured path",
        hints=(
            "Measure the path without push, then walk forward from its noise with predict + push, "
            "each step from where the one before has led.",
            "apart = ((z − pivots[step + 1]) ** 2).mean() ** 0.5 after each step; the first is 0.",
        ),
        judge=_judge_drift,
        control=lambda predict, push, z, bars, nexts: torch.full((len(bars) + 1,), -1.0),
    ),
)
