"""Scores of attention maps against true masks, and the rank correlation of a fader.

    IoU = |A ∧ B| / |A ∨ B|,     ρ = the correlation of the ranks

What made the maps is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2p_lab.metrics._arrays import Floats, check_no_nan, to_mask, to_numbers


def mask_iou(predicted: Any, truth: Any, *, threshold: float | None = None) -> float:
    """Return intersection over union of two masks; two empty ones agree, 1.

    Args:
        predicted: (H, W) booleans, or with a threshold a map of non-negative weights.
        truth: (H, W) booleans.
        threshold: A fraction of the map's maximum from which on a position counts as foreground.
    """
    values, target = to_numbers(predicted), to_numbers(truth)
    if threshold is not None:
        check_no_nan(values, "The map")
        check_no_nan(np.asarray(threshold), "The threshold")
        values = values > threshold * values.max()
    a, b = to_mask(values, values.shape), to_mask(target, values.shape)
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def _points_inside(heat: NDArray[Any], mask: NDArray[Any]) -> bool:
    """Return whether the maximum of a map (h, w) lies in a mask (H, W), at the cell's centre."""
    if heat.ndim != 2 or mask.ndim != 2:
        raise ValueError(f"Maps and masks must be 2-D, got {heat.shape} and {mask.shape}.")
    check_no_nan(heat, "A map")
    peak = np.unravel_index(int(np.argmax(heat)), heat.shape)
    row, column = (
        int((p + 0.5) * m / n) for p, n, m in zip(peak, heat.shape, mask.shape, strict=True)
    )
    return bool(to_mask(mask, mask.shape)[row, column])


def pointing_accuracy(maps: Any, masks: Any) -> float:
    """Return the share of maps whose maximum lies in its mask (the pointing game).

    Args:
        maps: One map (h, w), or a sequence of them.
        masks: The masks (H, W), as many; their size may differ from the maps'.
    """
    single = not isinstance(maps, Sequence) and to_numbers(maps).ndim == 2
    pairs = [(maps, masks)] if single else list(zip(maps, masks, strict=True))
    if not pairs:
        raise ValueError("There is no map to score: got an empty sequence.")
    hits = [_points_inside(np.asarray(to_numbers(m)), np.asarray(to_numbers(k))) for m, k in pairs]
    return float(np.mean(hits))


def _ranks(values: Floats) -> Floats:
    """Return ranks 1…n, equal values sharing their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place.reshape(-1)], dtype=np.float64)


def rank_correlation(x: Any, y: Any) -> float:
    """Return Spearman's ρ: 1 when y rises whenever x does, −1 when it always falls.

    A fader's smoothness is the rank correlation of its weights and what they did.
    """
    first, second = (np.asarray(to_numbers(v), dtype=np.float64).reshape(-1) for v in (x, y))
    if first.shape != second.shape or first.size < 2:
        raise ValueError(
            "A rank correlation needs two sequences of one length, at least 2, got "
            f"{first.size} and {second.size}."
        )
    check_no_nan(first, "The first sequence")
    check_no_nan(second, "The second sequence")
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    if spread == 0:
        raise ValueError("A rank correlation needs both sequences to vary; one is constant.")
    return float(a @ b / spread)
