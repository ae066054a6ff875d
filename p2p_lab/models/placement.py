"""Where a network computes, in which precision, and a line about a model."""

from __future__ import annotations

from typing import Any

import torch


def device_of(module: Any) -> torch.device:
    """Return where a network computes; where it was offloaded, where its weights are taken to."""
    device: torch.device = next(module.parameters()).device
    if device.type == "meta" or hasattr(module, "_hf_hook"):
        for part in module.modules():
            target = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
            if target is not None:
                return torch.device(target)
    return device


def dtype_of(module: Any) -> torch.dtype:
    """Return the precision in which a network computes, which may not be that of its storage."""
    dtype: torch.dtype | None = getattr(module, "dtype", None)
    return next(module.parameters()).dtype if dtype is None else dtype


def describe(model: Any) -> str:
    """Return one line about a model: its family, name, picture size, parameters and place."""
    count = sum(p.numel() for p in model.module.parameters())
    size = f"{model.defaults.height}×{model.defaults.width}"
    precision = str(model.dtype).removeprefix("torch.")
    return (
        f"{type(model).__name__}({model.name!r}, pictures of {size}, denoiser of "
        f"{count / 1e6:.1f} M parameters, {precision} on {model.device})"
    )
