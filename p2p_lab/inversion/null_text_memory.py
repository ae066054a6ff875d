"""How much memory null-text inversion takes, worked out without a GPU and without weights.

One step is run on PyTorch's meta device, where tensors have shapes and no numbers: forward, and
back to the embedding. Every tensor that would be made is counted while it would live, so the peak
is that of the real graph. Attention is counted as the fused kernels keep it (q, k, v, the output
and one number a query). Not counted: what cuDNN takes for work and what CUDA itself needs, some
0.5 to 1 GiB together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from p2p_lab.models.living import Fused, Living

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SD15_OTHER_PARAMETERS = 123_060_480 + 83_653_863  # text encoder and autoencoder


@dataclass(frozen=True)
class MemoryEstimate:
    """What one null-text step needs, in bytes.

    Attributes:
        weights: The denoiser's parameters.
        activations: Everything else at the worst moment of going forward and back.
        others: The text encoder's and the autoencoder's parameters.
    """

    weights: int
    activations: int
    others: int = 0

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return self.weights + self.activations + self.others

    def __str__(self) -> str:
        """Return the parts in GiB, in words."""
        parts = (self.weights + self.others, self.activations, self.total)
        weights, activations, total = (part / 2**30 for part in parts)
        return f"weights {weights:.1f} + activations {activations:.1f} = {total:.1f} GiB"


def null_text_memory(
    config: Mapping[str, Any] | None = None,
    latent_size: tuple[int, int] = (64, 64),
    *,
    length: int = 77,
    dtype: torch.dtype = torch.float16,
    recompute: bool = True,
    other_parameters: int = SD15_OTHER_PARAMETERS,
) -> MemoryEstimate:
    """Work out the memory of one null-text step.

    Args:
        config: Settings of the `UNet2DConditionModel`; None is Stable Diffusion 1.x.
        latent_size: (h, w) of the latents: 64×64 for pictures of 512².
        length: Number of text tokens L.
        dtype: Precision of the weights and activations.
        recompute: With gradient checkpointing.
        other_parameters: Parameters of text encoder and autoencoder, which stay loaded.
    """
    from diffusers import UNet2DConditionModel

    settings = dict(SD15 if config is None else config)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings).requires_grad_(False)
        nn.Module.to(unet, dtype)
        latents = torch.empty(1, unet.config.in_channels, *latent_size, dtype=dtype)
        embed = torch.empty(1, length, unet.config.cross_attention_dim, requires_grad=True)
        time = torch.empty((), dtype=torch.long)
    if recompute:
        unet.enable_gradient_checkpointing(_recompute_fused)
    with Living() as living:
        with Fused():
            prediction = unet(
                latents, time, encoder_hidden_states=embed.to(dtype), return_dict=False
            )[0]
        (gradient,) = torch.autograd.grad(prediction.float().square().sum(), embed)
        del prediction, gradient
    size = torch.empty(0, dtype=dtype).element_size()
    weights = sum(p.numel() for p in unet.parameters()) * size
    return MemoryEstimate(weights, living.peak, other_parameters * size)


def _recompute_fused(module: Any, *args: Any) -> Any:
    """Checkpoint a block as diffusers does, with the attention's stand-in when it is run again."""

    def run(*inputs: Any) -> Any:
        with Fused():
            return module(*inputs)

    return checkpoint(run, *args, use_reentrant=False)
