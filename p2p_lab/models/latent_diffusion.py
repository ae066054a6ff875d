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
from p2p_lab.models.parts import Folder
from p2p_lab.models.stable_diffusion import StableDiffusion
from p2p_lab.tokens import Prompt

_TOKENS = 77  # what the pipeline pads to, whatever its tokenizer says


@dataclass(eq=False)
class LatentDiffusion(StableDiffusion):
    """Hold the parts of a latent diffusion pipeline; its BERT is the `text_encoder`."""

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the last hidden states of the BERT, padding included, (1, L, D)."""
        ids = torch.tensor([prompt.ids], device=self.device)  # (1, L)
        return Conditioning(self.text_encoder(ids)[0].to(self.dtype))

    def _unscale(self, latents: Tensor) -> Tensor:
        return 1 / self._scaling * latents  # in this order, as the pipeline: the last bit counts


def open_latent_diffusion(folder: Folder) -> LatentDiffusion:
    """Open a saved `LDMTextToImagePipeline`.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
    from transformers import BertTokenizerFast

    unet, vae = folder.network("unet", UNet2DConditionModel), folder.network("vqvae", AutoencoderKL)
    side = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    return LatentDiffusion(
        name=folder.name,
        module=unet,
        vae=vae,
        text_encoder=folder.network("bert", LDMBertModel),
        tokenizer=folder.tokenizer("tokenizer", BertTokenizerFast, _TOKENS),
        scheduler_config=folder.scheduler(),
        defaults=folder.defaults(side, side, 50, 5.0),
        card=folder.card,
    )
