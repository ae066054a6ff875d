"""How far decoded pictures are from true ones: the loss of every stage that trains a decoder."""

from __future__ import annotations

from torch import Tensor


def reconstruction_loss(difference: Tensor, cover: Tensor, object_weight: float) -> Tensor:
    """Return mostly the squared error, with some absolute error and some of its slopes.

    Args:
        difference: (B, 3, S, S).
        cover: (B, 1, S, S), where the things are: they count more.
        object_weight: How much more.
    """
    weight = (1 + object_weight * cover) / (1 + object_weight * cover.mean())
    # Blur costs more than an offset.
    absolute = (weight * difference.abs()).mean() + slopes(weight * difference)
    return 8 * (weight * difference.square()).mean() + 0.15 * absolute


def slopes(pictures: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels, across and down, summed.

    Args:
        pictures: (B, C, S, S).
    """
    across = pictures[..., 1:] - pictures[..., :-1]
    down = pictures[..., 1:, :] - pictures[..., :-1, :]
    return across.abs().mean() + down.abs().mean()
