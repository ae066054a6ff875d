"""What SD3 and Flux share beside their transformers: an autoencoder with a shift, and a flow.

    z = (1 − σ) z_0 + σ ε,    v = ε − z_0,    image = decoder(z_0 / scaling + shift)

Image positions and words share one softmax in these models. Editing its blocks is this project's
extension of the method, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from p2p_lab.models.denoiser import Prediction
from p2p_lab.models.stable_diffusion import StableDiffusion

PATCH = 2  # latents that a token of these transformers spans along each axis


@dataclass(eq=False, repr=False)
class FlowModel(StableDiffusion):
    """Hold the parts of a pipeline whose denoiser predicts the velocity of a flow."""

    @property
    def prediction(self) -> Prediction:
        """Tell that it predicts the velocity of a flow."""
        return "flow"

    @property
    def scale(self) -> int:
        """Tell how many pixels a token of the transformer spans along each axis."""
        return PATCH * self._shrink

    @property
    def _shrink(self) -> int:
        factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return factor

    @property
    def _shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Tell (C, h, w) of the latents of a picture of `size` (H, W).

        Raises:
            ValueError: If a side is not a positive multiple of what a token spans.
        """
        _, rows, columns = super().latent_shape(size)
        channels: int = self.vae.config.latent_channels
        return channels, rows * PATCH, columns * PATCH

    def _unscale(self, latents: Tensor) -> Tensor:
        return latents / self._scaling + self._shift

    def _rescale(self, z: Tensor) -> Tensor:
        return (z - self._shift) * self._scaling
