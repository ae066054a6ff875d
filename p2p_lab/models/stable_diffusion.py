"""Stable Diffusion 1.x and 2.x behind the `Denoiser` face.

    z_t --U-Net(z_t, t, text)--> noise or velocity,    image = decoder(z_0 / scaling)

The arithmetic is diffusers' own and is called as its pipelines call it, so a plain run is equal to
theirs bit for bit. This file knows nothing of edits, windows or attention maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning, Defaults
from p2p_lab.models.latent_model import LatentModel
from p2p_lab.models.parts import Parts
from p2p_lab.models.placement import device_of
from p2p_lab.models.scheduling import is_distilled, noise_settings
from p2p_lab.models.supported import check_unet
from p2p_lab.tokens import Prompt

_LATENTS = 64  # the side of a U-Net's latents where its settings name none


@dataclass(eq=False, repr=False)
class StableDiffusion(LatentModel):
    """The parts of a Stable Diffusion pipeline: SD 1.x, 2.x, and the bundled models."""

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the last hidden states of the text encoder, (1, L, D)."""
        ids = torch.tensor([prompt.ids], device=device_of(self.text_encoder))  # (1, L)
        real = torch.arange(len(prompt.ids), device=ids.device) < prompt.end  # (L,)
        mask = real[None].to(ids) if self._uses_mask() else None  # (1, L)
        hidden = self.text_encoder(ids, attention_mask=mask)[0]
        return Conditioning(hidden.to(self.device, self.dtype))

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise (or velocity) in latents (B, C, h, w) at model time t."""
        output: Tensor = self.module(
            latents,
            t,
            encoder_hidden_states=conditioning.tokens,
            added_cond_kwargs=self._added(conditioning),
            return_dict=False,
        )[0]
        return output

    def _added(self, conditioning: Conditioning) -> dict[str, Tensor] | None:
        if conditioning.pooled is None or conditioning.sizes is None:
            return None
        return {"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes}

    def _uses_mask(self) -> bool:
        return bool(getattr(self.text_encoder.config, "use_attention_mask", False))


def open_stable_diffusion(parts: Parts) -> StableDiffusion:
    """Open a `StableDiffusionPipeline`.

    Raises:
        ModelError: If a part is missing, of another class, or made for another task.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizerFast

    unet, vae = parts.network("unet", UNet2DConditionModel), parts.network("vae", AutoencoderKL)
    encoder = parts.network("text_encoder", CLIPTextModel)
    channels, width = vae.config.latent_channels, encoder.config.hidden_size
    check_unet(unet.config, parts.where, channels=channels, width=width)
    config = noise_settings(parts.settings("scheduler"), "stable")
    return StableDiffusion(
        name=parts.name,
        module=unet,
        vae=vae,
        text_encoder=encoder,
        tokenizer=parts.tokenizer("tokenizer", CLIPTokenizerFast),
        scheduler_config=config,
        defaults=usual_defaults(parts, unet, vae, config, 50, 7.5),
        card=parts.card,
    )


def usual_defaults(
    parts: Parts, unet: Any, vae: Any, config: Mapping[str, Any], steps: int, scale: float
) -> Defaults:
    """Return a U-Net's defaults: its picture size, and few steps where it was distilled to them."""
    sample = unet.config.sample_size or _LATENTS
    h, w = (sample, sample) if isinstance(sample, int) else sample
    pixels = 2 ** (len(vae.config.block_out_channels) - 1)
    if parts.card.raw:  # a model of this package
        steps, scale = 20, 3.0
    elif is_distilled(config):
        steps, scale = 4, 1.0
    return parts.defaults(h * pixels, w * pixels, steps, scale)
