"""Small worlds of a few numbers in which the paths of an inversion can be followed exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from p2p_lab.checks.exercise import draw
from p2p_lab.sampling import ddim_step


def toy_world(seed: int, steps: int, easy: bool) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """Draw a toy denoiser ε(z, t) = A_t z + c_t, and the noise levels before and after each step.

    In the easy world the noise is the same at every step and place.
    """
    rest, weights = draw(steps, 1, 2, 3, 3, seed=seed), draw(steps, 2, 2, seed=seed + 1) / 4
    if easy:
        rest, weights = rest[:1].expand_as(rest), weights * 0

    def predict(z: Tensor, step: int) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", weights[step], z) + rest[step]

    levels = torch.linspace(0.05, 0.99, steps + 1)
    return predict, levels[:-1], levels[1:]


def way_back(
    predict: Callable[..., Tensor], z: Tensor, bars: Tensor, nexts: Tensor, shift: int = 0
) -> Tensor:
    """Return the path from noise to picture; `shift` tells the denoiser another step."""
    path = [z]
    for step in reversed(range(len(bars))):
        told = min(max(step + shift, 0), len(bars) - 1)
        path.append(ddim_step(path[-1], predict(path[-1], told), nexts[step], bars[step]))
    return torch.stack(path[::-1])


def guided_world(seed: int, steps: int) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """Draw guided steps z' = A_t z + B_t ∅, pivots that they miss, and an embedding to start at."""
    turn = torch.linalg.qr(draw(steps, 4, 4, seed=seed))[0]
    reach = torch.linalg.qr(draw(steps, 4, 4, seed=seed + 1))[0] / 2
    pivots = draw(steps + 1, 4, seed=seed + 2)

    def guided(z: Tensor, embed: Tensor, step: int) -> Tensor:
        moved: Tensor = turn[step] @ z + reach[step] @ embed
        return moved

    hidden = draw(steps, 4, seed=seed + 3).clamp(-1, 1)  # within reach of a few Adam updates
    for step in range(steps):
        pivots[step + 1] = guided(pivots[step], hidden[step], step)
    return guided, pivots, torch.zeros(4)


def followed(guided: Callable[..., Tensor], pivots: Tensor, embeds: Tensor) -> float:
    """Return the mean squared distance from the pivots of guided steps with these embeddings."""
    z, total = pivots[0], 0.0
    with torch.no_grad():
        for step, embed in enumerate(embeds):
            z = guided(z, embed, step)
            total += float((z - pivots[step + 1]).square().mean())
    return total / len(embeds)


def toy_push(pushes: Tensor, z: Tensor, step: int) -> Tensor:
    """Return what guidance adds at a step; it depends on where the latents are."""
    return 0.5 * pushes[step] + 0.2 * z
