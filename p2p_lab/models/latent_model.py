"""What the families have in common that denoise latents: their size and the autoencoder.

    image = decoder(z_0 / scaling + shift)

This file knows no family, and nothing of text encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from p2p_lab.models.placement import decode_sparing, device_of
from p2p_lab.models.text_to_image import TextToImage


@dataclass(eq=False, repr=False)
class LatentModel(TextToImage):
    """The parts of a pipeline that denoises the latents of an autoencoder.

    Args:
        vae: The `AutoencoderKL`.
    """

    vae: Any = field(kw_only=True)

    @property
    def patch(self) -> int:
        """Number of latent positions along each axis that the denoiser takes as one."""
        return 1

    @property
    def scale(self) -> int:
        """Number of pixels along each axis that the denoiser takes as one position."""
        shrink: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.patch * shrink

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of a picture of `size` (H, W).

        Raises:
            ValueError: If a side is not a positive multiple of `scale`.
        """
        if any(not isinstance(n, int) or n <= 0 or n % self.scale for n in size):
            raise ValueError(
                f"A picture of {size[0]}×{size[1]} does not fit {self.name}: height and width must "
                f"be positive multiples of {self.scale}. "
                f"Try {_fit(size[0], self.scale)}×{_fit(size[1], self.scale)}."
            )
        channels: int = self.vae.config.latent_channels
        h, w = (side // self.scale * self.patch for side in size)
        return channels, h, w

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into pictures (B, 3, H, W) in [0, 1], float32 or wider.

        In half precision some autoencoders overflow and would give a black picture; theirs is done
        in float32.
        """
        z = self._unscale(latents).to(device_of(self.vae))
        images = self._in_enough(self._decode_in, z).to(latents.device)
        return (images * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Turn pictures (B, 3, H, W) in [0, 1] into latents: the mean, without noise.

        What overflows in half precision is done in float32, as in decoding.
        """
        x = (images * 2 - 1).to(device_of(self.vae))
        mean = self._in_enough(self._encode_in, x)
        return self._rescale(mean).to(self.device, self.dtype)

    @property
    def _scaling(self) -> float:
        factor: float = self.vae.config.scaling_factor
        return factor

    def _in_enough(self, run: Callable[[Tensor, torch.dtype], Tensor], x: Tensor) -> Tensor:
        """Run a half of the autoencoder in its own precision; in float32 if that overflows."""
        upcast = bool(getattr(self.vae.config, "force_upcast", False))
        stored: torch.dtype = self.vae.dtype
        dtype = torch.float32 if upcast and stored == torch.float16 else stored
        output = run(x, dtype)
        if dtype.itemsize >= 4 or output.is_meta:  # there are no numbers on the meta device
            return output
        return output if bool(torch.isfinite(output).all()) else run(x, torch.float32)

    def _decode_in(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        with _as_dtype(self.vae, dtype):
            images = decode_sparing(self.vae, z.to(dtype))
        return images if images.dtype == torch.float64 else images.float()

    def _encode_in(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        with _as_dtype(self.vae, dtype):
            mean: Tensor = self.vae.encode(x.to(dtype)).latent_dist.mean
        return mean

    def _unscale(self, latents: Tensor) -> Tensor:
        mean, std = _statistics(self.vae, latents)
        if mean is not None and std is not None:
            return latents * std / self._scaling + mean
        return latents / self._scaling

    def _rescale(self, z: Tensor) -> Tensor:
        mean, std = _statistics(self.vae, z)
        if mean is not None and std is not None:
            return (z - mean) * self._scaling / std
        return z * self._scaling


def _fit(n: Any, scale: int) -> int:
    return max(scale, round(float(n) / scale) * scale)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return an autoencoder's per-channel mean and deviation, (1, C, 1, 1) each, if it has them."""
    mean = getattr(vae.config, "latents_mean", None)
    std = getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return None, None
    shape = (1, len(mean), 1, 1)
    return (
        torch.tensor(mean).view(shape).to(like),
        torch.tensor(std).view(shape).to(like),
    )


class _as_dtype:  # noqa: N801 - reads as a statement: `with _as_dtype(vae, dtype)`
    """Cast a module for the length of a block and give its precision back afterwards."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.module, self.dtype, self.before = module, dtype, module.dtype

    def __enter__(self) -> None:
        if self.dtype != self.before:
            self.module.to(self.dtype)

    def __exit__(self, *_: object) -> None:
        if self.dtype != self.before:
            self.module.to(self.before)
