"""Paths of an inversion in small worlds of a few numbers, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from p2p_lab.checks.exercise import draw
from p2p_lab.checks.worlds import GuidedStep, ToyNoise, ToyPush


def toy_world(seed: int, steps: int, easy: bool) -> tuple[ToyNoise, Tensor, Tensor]:
    """Draw a toy denoiser and the noise levels before and after each step.

    In the easy world the prediction is the same at every step and place.
    """
    rest, weights = draw(steps, 1, 2, 3, 3, seed=seed), draw(steps, 2, 2, seed=seed + 1) / 4
    if easy:
        rest, weights = rest[:1].expand_as(rest).clone(), weights * 0
    levels = torch.linspace(0.05, 0.99, steps + 1)
    return ToyNoise(weights, rest), levels[:-1], levels[1:]


def toy_push(seed: int, steps: int) -> ToyPush:
    """Draw what guidance adds at each step."""
    return ToyPush(draw(steps, 1, 2, 3, 3, seed=seed + 8))


def step_to(z: Tensor, velocity: Tensor, bar: Tensor, other_bar: Tensor) -> Tensor:
    """Return the latents at another level: ẑ_0 and ε from the velocity, put together again."""
    clean = bar**0.5 * z - (1 - bar) ** 0.5 * velocity
    noise = bar**0.5 * velocity + (1 - bar) ** 0.5 * z
    return other_bar**0.5 * clean + (1 - other_bar) ** 0.5 * noise


def way_back(
    predict: Callable[..., Tensor],
    z: Tensor,
    bars: Tensor,
    nexts: Tensor,
    *,
    shift: int = 0,
    turned: bool = False,
) -> Tensor:
    """Return the path from noise to picture; `shift` and `turned` are known mistakes."""
    path, last = [z], len(bars) - 1
    for step in reversed(range(len(bars))):
        asked = min(max(step + shift, 0), last)
        at = last - step if turned else step
        seen = predict(path[-1], at if turned else asked)
        path.append(step_to(path[-1], seen, nexts[at], bars[at]))
    return torch.stack(path[::-1])


def guided_world(seed: int, steps: int) -> tuple[GuidedStep, Tensor, Tensor]:
    """Draw guided steps, pivots that they miss, and an embedding to start at."""
    turn = torch.linalg.qr(draw(steps, 4, 4, seed=seed))[0]
    reach = torch.linalg.qr(draw(steps, 4, 4, seed=seed + 1))[0] / 2
    guided, pivots = GuidedStep(turn, reach), draw(steps + 1, 4, seed=seed + 2)
    hidden = draw(steps, 4, seed=seed + 3).clamp(-1, 1)
    for step in range(steps):
        pivots[step + 1] = guided(pivots[step], hidden[step], step)
    return guided, pivots, torch.zeros(4)


def tuned(
    guided: Callable[..., Tensor],
    pivots: Tensor,
    embed: Tensor,
    inner: int,
    rate: float,
    *,
    more: int = 0,
    adam: bool = True,
    pivot: bool = False,
    reset: bool = False,
    one_adam: bool = False,
    late: bool = False,
) -> Tensor:
    """Return null-text embeddings (T, D); what follows `rate` are known mistakes."""
    start, z, found = embed, pivots[0], []
    leaf = embed.detach().clone().requires_grad_(True)
    optimiser = _optimiser(leaf, rate, adam)
    for step in range(len(pivots) - 1):
        if not one_adam:
            leaf = (start if reset else embed).detach().clone().requires_grad_(True)
            optimiser = _optimiser(leaf, rate, adam)
        for _ in range(inner + more):
            missed = guided(z, leaf, step) - pivots[step if late else step + 1]
            optimiser.zero_grad()
            torch.autograd.backward(missed.square().mean())
            optimiser.step()
        embed = leaf.detach().clone()
        z = pivots[step + 1] if pivot else guided(z, embed, step)
        found.append(embed)
    return torch.stack(found)


def _optimiser(leaf: Tensor, rate: float, adam: bool) -> torch.optim.Optimizer:
    """Return the optimiser; a negative rate walks uphill."""
    kind = torch.optim.Adam if adam else torch.optim.SGD
    return kind([leaf], lr=abs(rate), maximize=rate < 0)
