"""Latent diffusion (Rombach et al. 2022): the text-to-image model that the method's code edits.

    z_t --U-Net(z_t, t, BERT(text))--> noise,    image = decoder(z_0 / scaling)

It differs from Stable Diffusion in its text encoder, a BERT of its own trained with the model. The
arithmetic is that of diffusers' `LDMTextToImagePipeline`, so a plain run is its own bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning
from p2p_lab.models.parts import Parts
from p2p_lab.models.placement import device_of
from p2p_lab.models.scheduling import noise_settings
from p2p_lab.models.stable_diffusion import StableDiffusion, usual_defaults
from p2p_lab.models.supported import check_unet
from p2p_lab.tokens import Prompt

_TOKENS = 77  # what the pipeline pads to, whatever its tokenizer says


@dataclass(eq=False, repr=False)
class LatentDiffusion(StableDiffusion):
    """The parts of a latent diffusion pipeline; its BERT is the `text_encoder`."""

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the last hidden states of the BERT, padding included, (1, L, D)."""
        ids = torch.tensor([prompt.ids], device=device_of(self.text_encoder))  # (1, L)
        return Conditioning(self.text_encoder(ids)[0].to(self.device, self.dtype))

    def _unscale(self, latents: Tensor) -> Tensor:
        return 1 / self._scaling * latents  # in this order, as the pipeline: the last bit counts


def open_latent_diffusion(parts: Parts) -> LatentDiffusion:
    """Open a saved `LDMTextToImagePipeline`.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
    from transformers import BertTokenizerFast

    unet, vae = parts.network("unet", UNet2DConditionModel), parts.network("vqvae", AutoencoderKL)
    bert = parts.network("bert", LDMBertModel)
    channels, width = vae.config.latent_channels, bert.config.d_model
    check_unet(unet.config, parts.where, channels=channels, width=width)
    config = noise_settings(parts.settings("scheduler"), "latents")
    return LatentDiffusion(
        name=parts.name,
        module=unet,
        vae=vae,
        text_encoder=bert,
        tokenizer=parts.tokenizer("tokenizer", BertTokenizerFast, _TOKENS),
        scheduler_config=config,
        defaults=usual_defaults(parts, unet, vae, config, 50, 5.0),
        card=parts.card,
    )
