"""The numbers of one edit, and of many: means with bootstrap intervals.

success   the judge sees what was asked for      kept   and everything else as it was
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.editing.sources import Source
from benchmarks.editing.truth import Mask
from p2p_lab.judge import Judge, Wanted
from p2p_lab.metrics import (
    background_mse,
    background_psnr,
    background_ssim,
    rank_correlation,
    structure_distance,
)

NOTICED = 0.05  # from here on a change of an amount counts
BEST_PSNR = 60.0  # dB: what differs less is equal in 8 bits
LEAST_BACKGROUND = 0.05  # of the picture; below there is none to measure
RESAMPLES = 1000


def edit_scores(judge: Judge, source: Source, picture: Tensor) -> dict[str, Any]:
    """Return the scores of one edited picture (3, H, W)."""
    case, seen = source.case, judge.read(picture)
    asked, kept = case.wanted
    if case.fader:
        before, after = case.amount(source.verdict), case.amount(seen)
        success = (after - before if case.up else before - after) >= NOTICED
        kept = _without(kept, case.fader)
    else:
        success = bool(judge.holds(seen, asked))
    stayed = bool(judge.holds(seen, kept))
    return {
        "success": float(success),
        "kept": float(stayed),
        "both": float(success and stayed),
        **background(source.picture, picture, source.mask),
        "structure": structure_distance(source.picture, picture),
    }


def _without(kept: Wanted, word: str) -> Wanted:
    """Return what must stay, less the weather where it is the amount that changes."""
    return replace(kept, weather=None) if kept.weather == word else kept


def background(before: Tensor, after: Tensor, mask: Mask) -> dict[str, float | None]:
    """Return what was left alone outside a mask, None where too little lies outside."""
    names = ("background_psnr", "background_ssim", "background_mse")
    if float((~mask).mean()) < LEAST_BACKGROUND:
        return dict.fromkeys(names)
    return {
        "background_psnr": min(background_psnr(before, after, mask), BEST_PSNR),
        "background_ssim": _or_none(background_ssim, before, after, mask),
        "background_mse": background_mse(before, after, mask),
    }


def _or_none(score: Any, *given: Any) -> float | None:
    try:
        return float(score(*given))
    except ValueError:  # all of the background lies at the border, where no SSIM window fits
        return None


def fader_correlation(weights: Sequence[float], amounts: Sequence[float]) -> float:
    """Return Spearman's ρ of positions and amounts; a fader that moves nothing has 0."""
    return rank_correlation(weights, amounts) if len(set(amounts)) > 1 else 0.0


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what was measured, None if nothing was."""
    found = [v for v in values if v is not None]
    return float(np.mean(found)) if found else None


def interval(
    values: Sequence[float | None], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of a mean (Efron 1979), None without values."""
    found = np.asarray([v for v in values if v is not None], dtype=np.float64)
    if not len(found):
        return None
    rng = np.random.default_rng(seed)
    means = found[rng.integers(0, len(found), (RESAMPLES, len(found)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
