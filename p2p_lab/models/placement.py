"""Where a network computes, in which precision and memory, and a line about a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from p2p_lab.warn import warn_caller


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


def decode_sparing(vae: Any, z: Tensor) -> Tensor:
    """Turn unscaled latents (B, C, h, w) into pictures (B, 3, H, W) in ±1.

    Slicing and tiling that the autoencoder was set to hold. On the CPU pictures are decoded one by
    one, which is up to a seventh slower and takes a part of the memory. On other devices they are
    where it does not suffice, and one that is too large is decoded in tiles, with a warning.

    Raises:
        torch.OutOfMemoryError: If a tile is too large as well.
    """
    if z.device.type == "cpu" and len(z) > 1:
        return torch.cat([decode_sparing(vae, z[i : i + 1]) for i in range(len(z))])
    try:
        images: Tensor = vae.decode(z, return_dict=False)[0]
        return images
    except torch.OutOfMemoryError:
        if len(z) == 1 and (getattr(vae, "use_tiling", True) or not hasattr(vae, "enable_tiling")):
            raise
    # Here, not in the handler: its error holds the tensors that filled the memory.
    if len(z) > 1:
        return torch.cat([decode_sparing(vae, z[i : i + 1]) for i in range(len(z))])
    return _in_tiles(vae, z)


def _in_tiles(vae: Any, z: Tensor) -> Tensor:
    warn_caller(
        "The picture is too large to be decoded at once in this device's memory, so it is decoded "
        "in tiles, which may show. Take a smaller picture, or free some memory."
    )
    vae.enable_tiling()
    try:
        images: Tensor = vae.decode(z, return_dict=False)[0]
    finally:
        vae.disable_tiling()
    return images
