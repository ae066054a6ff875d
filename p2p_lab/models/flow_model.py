"""What SD3 and Flux share beside their transformers: an autoencoder with a shift, and a flow.

    z = (1 − σ) z_0 + σ ε,    v = ε − z_0,    image = decoder(z_0 / scaling + shift)

Image positions and words share one softmax in these models. Editing its blocks is this project's
extension of the method, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from p2p_lab.models.denoiser import Prediction, ScheduleRules
from p2p_lab.models.latent_model import LatentModel

PATCH = 2  # latents that a token of these transformers spans along each axis


@dataclass(eq=False, repr=False)
class FlowModel(LatentModel):
    """The parts of a pipeline whose denoiser predicts the velocity of a flow."""

    @property
    def prediction(self) -> Prediction:
        """The velocity of a flow."""
        return "flow"

    @property
    def schedule_rules(self) -> ScheduleRules:
        """A flow's shift counts the tokens of a picture."""
        return ScheduleRules(patch=PATCH)

    @property
    def patch(self) -> int:
        """Number of latent positions along each axis that make one token."""
        return PATCH

    @property
    def _shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0)

    def _unscale(self, latents: Tensor) -> Tensor:
        return latents / self._scaling + self._shift

    def _rescale(self, z: Tensor) -> Tensor:
        return (z - self._shift) * self._scaling
