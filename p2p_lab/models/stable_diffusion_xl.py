"""SDXL: two CLIPs read the text, and the U-Net is told the picture's size.

    z_t --U-Net(z_t, t, [CLIP | CLIP], pooled vector, size and crop)--> noise or velocity

(Podell et al. 2023, arXiv 2307.01952.) Everything else is Stable Diffusion's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from p2p_lab.models.denoiser import Conditioning
from p2p_lab.models.parts import Parts
from p2p_lab.models.placement import device_of
from p2p_lab.models.scheduling import noise_settings
from p2p_lab.models.stable_diffusion import StableDiffusion, usual_defaults
from p2p_lab.models.supported import check_unet
from p2p_lab.tokens import Prompt, ids_that_fit


@dataclass(eq=False, repr=False)
class StableDiffusionXL(StableDiffusion):
    """The parts of an SDXL pipeline: two text encoders, a pooled vector and size ids.

    Args:
        text_encoder_2: The `CLIPTextModelWithProjection`.
        tokenizer_2: Its tokenizer.
        blank_is_zero: Encode an empty negative prompt as zeros, as the pipeline's setting
            `force_zeros_for_empty_prompt` asks.
    """

    text_encoder_2: Any = None
    tokenizer_2: Any = None
    blank_is_zero: bool = True

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt with both encoders: penultimate states side by side, (1, L, D1 + D2)."""
        states, pooled = [], None
        for tokenizer, encoder in self._encoders():
            ids = ids_that_fit(prompt.text, tokenizer, len(prompt.ids))
            rows = torch.tensor([ids], device=device_of(encoder))  # (1, L)
            output = encoder(rows, output_hidden_states=True)
            pooled = output[0].to(self.device, self.dtype)
            states.append(output.hidden_states[-2].to(self.device, self.dtype))
        assert pooled is not None
        tokens = torch.cat(states, dim=-1)
        sizes = torch.tensor([[*size, 0, 0, *size]], device=self.device, dtype=self.dtype)
        return Conditioning(tokens, pooled, sizes)

    def encode_negative(self, text: str, size: tuple[int, int]) -> Conditioning:
        """Encode the negative prompt; an empty one as zeros where the pipeline asks for that."""
        conditioning = self.encode_prompt(self.prompt(text), size)
        if text or not self.blank_is_zero or conditioning.pooled is None:
            return conditioning
        return Conditioning(
            torch.zeros_like(conditioning.tokens),
            torch.zeros_like(conditioning.pooled),
            conditioning.sizes,
        )

    def _encoders(self) -> list[tuple[Any, Any]]:
        return [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]


def open_stable_diffusion_xl(parts: Parts) -> StableDiffusionXL:
    """Open a `StableDiffusionXLPipeline`.

    Raises:
        ModelError: If a part is missing, of another class, or made for another task.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast

    unet, vae = parts.network("unet", UNet2DConditionModel), parts.network("vae", AutoencoderKL)
    one = parts.network("text_encoder", CLIPTextModel, CLIPTextModelWithProjection)
    two = parts.network("text_encoder_2", CLIPTextModelWithProjection)
    check_unet(
        unet.config,
        parts.where,
        channels=vae.config.latent_channels,
        width=one.config.hidden_size + two.config.hidden_size,
        added="text_time",
    )
    config = noise_settings(parts.settings("scheduler"), "latents")
    return StableDiffusionXL(
        name=parts.name,
        module=unet,
        vae=vae,
        text_encoder=one,
        text_encoder_2=two,
        tokenizer=parts.tokenizer("tokenizer", CLIPTokenizerFast),
        tokenizer_2=parts.tokenizer("tokenizer_2", CLIPTokenizerFast),
        scheduler_config=config,
        defaults=usual_defaults(parts, unet, vae, config, 50, 5.0),
        card=parts.card,
        blank_is_zero=bool(parts.option("force_zeros_for_empty_prompt", True)),
    )
