"""Pictures and masks of any make, as numpy arrays of one form; refuse what cannot be measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OVERSHOOT = 0.1  # what resizing may leave beyond 0 and 1 in a mask
BEYOND = 2.0  # what noise may add beyond 0 and 1 in a picture; floats from 0 to 255 are refused
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def to_numbers(values: Any) -> NDArray[Any]:
    """Return values as a numpy array; a torch tensor (C, H, W) comes out as (H, W, C)."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.double()  # numpy knows no bfloat16
        array = np.asarray(tensor)
        return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    return np.asarray(values)


def check_no_nan(values: NDArray[Any], name: str) -> None:
    """Refuse values among which no order is known; infinite ones have one.

    Raises:
        ValueError: If one is NaN.
    """
    if bool(np.isnan(values).any()):
        raise ValueError(f"{name} holds NaN, which is no number. Look for a failed run.")


def to_picture(values: Any, name: str) -> Floats:
    """Return one picture as floats in 0…1, (H, W, C)."""
    array = to_numbers(values)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} must be one picture, (H, W, C) or (H, W), got shape {array.shape}. "
            "Pass the pictures of a batch one at a time."
        )
    if array.dtype == np.bool_ or not np.issubdtype(array.dtype, np.integer):
        floats = array.astype(np.float64)
    else:
        floats = array.astype(np.float64) / 255
    if not np.isfinite(floats).all():
        raise ValueError(
            f"{name} holds NaN or infinite values. Look for a failed run (half dtype?)."
        )
    if floats.size == 0:
        raise ValueError(f"{name} has no pixel, got shape {array.shape}. Pass a picture.")
    low, high = floats.min(initial=0.0), floats.max(initial=0.0)
    if low < -BEYOND or high > 1 + BEYOND:
        raise ValueError(
            f"{name} must lie in 0…1 as floats, or in 0…255 as whole numbers, got {low:.4g} to "
            f"{high:.4g} of {array.dtype}. Divide by 255 if it is an 8-bit picture."
        )
    return floats if floats.ndim == 3 else floats[..., None]  # (H, W, C)


def to_pair(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Return two pictures of one shape."""
    first, second = to_picture(a, "the first picture"), to_picture(b, "the second picture")
    if first.shape != second.shape:
        raise ValueError(
            f"The pictures must have one shape, got {first.shape} and {second.shape}. "
            "Resize one of them first."
        )
    return first, second


def to_mask(mask: Any, shape: tuple[int, ...]) -> Bools:
    """Return a mask of (H, W) booleans; floats are cut at one half."""
    array = to_numbers(mask)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.shape != shape[:2]:
        raise ValueError(
            f"The mask must be (H, W) = {shape[:2]} like the picture, got {array.shape}."
        )
    if array.dtype == np.bool_:
        return array
    whole, high = np.issubdtype(array.dtype, np.integer), array.max(initial=0)
    if not np.isfinite(array).all() or array.min(initial=0) < (0 if whole else -OVERSHOOT):
        raise ValueError("A mask holds finite numbers from 0 on, or booleans.")
    if high > 255 or (not whole and high > 1 + OVERSHOOT):
        raise ValueError(
            f"A mask must lie in 0…1, or in 0…255 as whole numbers, got up to {high:.4g} of "
            f"{array.dtype}. Divide it by its maximum, or pass mask > threshold."
        )
    return array > (127 if whole and high > 1 else 0.5)


def to_region(mask: Any, shape: tuple[int, ...], *, foreground: bool) -> Bools:
    """Return the pixels to measure on, refusing an empty region."""
    inside = to_mask(mask, shape)
    region = inside if foreground else ~inside
    if not region.any():
        side = "foreground" if foreground else "background"
        raise ValueError(f"The mask leaves no {side} pixel to measure on.")
    return region
