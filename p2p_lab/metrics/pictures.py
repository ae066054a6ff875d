"""Differences of two pictures, everywhere or on one side of a mask.

    PSNR = 10 · log₁₀(peak² / MSE),     SSIM: Wang et al. 2004

Beyond the pictures and a mask nothing is known here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from p2p_lab.metrics._arrays import Floats, to_pair, to_region


def mse(a: Any, b: Any) -> float:
    """Return the mean squared difference of two pictures, in units of range²."""
    first, second = to_pair(a, b)
    return float(np.mean((first - second) ** 2))


def _to_psnr(error: float) -> float:
    """Turn a mean squared error into decibels; no error is infinitely many."""
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def psnr(a: Any, b: Any) -> float:
    """Return the peak signal-to-noise ratio in dB, 10 · log₁₀(1 / MSE); equal pictures give inf."""
    return _to_psnr(mse(a, b))


def _region_mse(a: Any, b: Any, mask: Any, *, foreground: bool) -> float:
    first, second = to_pair(a, b)
    region = to_region(mask, first.shape, foreground=foreground)
    return float(np.mean((first[region] - second[region]) ** 2))


def background_mse(a: Any, b: Any, mask: Any) -> float:
    """Return the mean squared difference where the mask is False."""
    return _region_mse(a, b, mask, foreground=False)


def foreground_mse(a: Any, b: Any, mask: Any) -> float:
    """Return the mean squared difference where the mask is True."""
    return _region_mse(a, b, mask, foreground=True)


def background_psnr(a: Any, b: Any, mask: Any) -> float:
    """Return the PSNR in dB where the mask is False: what should have been left alone."""
    return _to_psnr(background_mse(a, b, mask))


def foreground_psnr(a: Any, b: Any, mask: Any) -> float:
    """Return the PSNR in dB where the mask is True: low after an edit that did something."""
    return _to_psnr(foreground_mse(a, b, mask))


def _gaussian(width: int, sigma: float) -> Floats:
    """Return a one-dimensional Gaussian window that sums to 1."""
    x = np.arange(width) - (width - 1) / 2
    window = np.exp(-(x**2) / (2 * sigma**2))
    return np.asarray(window / window.sum(), dtype=np.float64)


def _smooth(channel: Floats, window: Floats) -> Floats:
    """Weigh every full window of a channel: (H, W, C) → (H − k + 1, W − k + 1, C)."""
    rows = np.lib.stride_tricks.sliding_window_view(channel, len(window), axis=0) @ window
    return np.asarray(np.lib.stride_tricks.sliding_window_view(rows, len(window), axis=1) @ window)


def ssim_map(a: Any, b: Any, *, width: int = 11, sigma: float = 1.5) -> Floats:
    """Return the structural similarity at each full window, (H − k + 1, W − k + 1).

    SSIM = (2 μₐμ_b + c₁)(2 σₐ_b + c₂) / ((μₐ² + μ_b² + c₁)(σₐ² + σ_b² + c₂)) with Gaussian
    weights, c₁ = 0.01², c₂ = 0.03² (Wang et al. 2004), averaged over the channels.

    Raises:
        ValueError: If there is no such window, or the pictures are smaller than it.
    """
    first, second = to_pair(a, b)
    if width < 1 or not 0 < sigma < np.inf:
        raise ValueError(
            f"SSIM's window needs a width from 1 on and a finite sigma above 0, got {width} and "
            f"{sigma}."
        )
    if min(first.shape[:2]) < width:
        raise ValueError(
            f"SSIM needs pictures of at least {width} × {width} pixels, got {first.shape[:2]}. "
            "Pass a smaller odd `width`."
        )
    window = _gaussian(width, sigma)
    mean_a, mean_b = _smooth(first, window), _smooth(second, window)
    var_a = _smooth(first * first, window) - mean_a**2
    var_b = _smooth(second * second, window) - mean_b**2
    both = _smooth(first * second, window) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    score /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return np.asarray(score.mean(-1))  # (H - k + 1, W - k + 1)


def ssim(a: Any, b: Any) -> float:
    """Return the mean structural similarity of two pictures: 1 for equal ones."""
    return float(ssim_map(a, b).mean())


def _region_ssim(a: Any, b: Any, mask: Any, *, foreground: bool) -> float:
    """Average SSIM over a region, with the rest of `b` replaced by `a` so that none leaks in."""
    first, second = to_pair(a, b)
    region = to_region(mask, first.shape, foreground=foreground)
    score = ssim_map(first, np.where(region[..., None], second, first))
    margin = (first.shape[0] - score.shape[0]) // 2
    centres = region[margin : margin + score.shape[0], margin : margin + score.shape[1]]
    if not centres.any():
        raise ValueError(
            f"The region lies wholly within {margin} pixels of the border, where no full SSIM "
            "window fits. Use the MSE or PSNR of the region instead."
        )
    return float(score[centres].mean())


def background_ssim(a: Any, b: Any, mask: Any) -> float:
    """Return the structural similarity where the mask is False; the foreground has no say."""
    return _region_ssim(a, b, mask, foreground=False)


def foreground_ssim(a: Any, b: Any, mask: Any) -> float:
    """Return the structural similarity where the mask is True; the background has no say."""
    return _region_ssim(a, b, mask, foreground=True)
