"""Stable Diffusion 3: joint attention over image and text, read by two CLIPs and a T5.

    z_t --transformer(z_t, t, [CLIP | T5], pooled)--> velocity

(Esser et al. 2024, arXiv 2403.03206.) The words stand twice among the text tokens: as the CLIPs
read them (both side by side in one token) and, after those, as the T5 does. An edit acts on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning
from p2p_lab.models.flow_model import FlowModel
from p2p_lab.models.parts import Parts
from p2p_lab.models.placement import device_of
from p2p_lab.models.scheduling import flow_settings
from p2p_lab.models.t5 import t5_states
from p2p_lab.models.vocabulary import warn_of_unknown_words
from p2p_lab.tokens import Prompt, ids_that_fit

_TOKENS = 256  # of the T5, as the pipeline pads it


@dataclass(eq=False, repr=False)
class StableDiffusion3(FlowModel):
    """The parts of an SD3 pipeline.

    Args:
        text_encoder_2: The second `CLIPTextModelWithProjection`.
        tokenizer_2: Its tokenizer.
        text_encoder_3: The `T5EncoderModel`.
        tokenizer_3: Its tokenizer.
    """

    text_encoder_2: Any = None
    tokenizer_2: Any = None
    text_encoder_3: Any = None
    tokenizer_3: Any = None

    def prompt(self, text: str) -> Prompt:
        """Tokenize `text` for the CLIPs and for the T5.

        Raises:
            ValueError: If it is longer than one of them reads.
        """
        parts = [Prompt.of(text, tokenizer) for tokenizer in (self.tokenizer, self.tokenizer_3)]
        prompt = Prompt.joined(parts)
        warn_of_unknown_words(prompt, self.card.vocabulary, self.name)
        return prompt

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the CLIPs' tokens, then the T5's, (1, L, D), and a vector (1, P)."""
        clip, pooled = self._clips(prompt)
        states = t5_states(self.text_encoder_3, prompt.parts[1], masked=False)
        states = states.to(self.device, self.dtype)
        clip = F.pad(clip, (0, states.shape[-1] - clip.shape[-1]))  # (1, L1, D)
        tokens = torch.cat([clip, states], dim=1)  # (1, L1 + L2, D)
        return Conditioning(tokens, pooled)

    def _clips(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Return both CLIPs' penultimate states and pooled vectors, each side by side."""
        states, pooled = [], []
        pairs = [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]
        for tokenizer, encoder in pairs:
            ids = ids_that_fit(prompt.text, tokenizer, len(prompt.parts[0]))
            rows = torch.tensor([ids], device=device_of(encoder))  # (1, L)
            output = encoder(rows, output_hidden_states=True)
            states.append(output.hidden_states[-2].to(self.device, self.dtype))
            pooled.append(output[0].to(self.device, self.dtype))
        return torch.cat(states, dim=-1), torch.cat(pooled, dim=-1)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the velocity in latents (B, C, h, w) at model time t."""
        output: Tensor = self.module(
            hidden_states=latents,
            timestep=t.to(latents.device).expand(latents.shape[0]),
            encoder_hidden_states=conditioning.tokens,
            pooled_projections=conditioning.pooled,
            return_dict=False,
        )[0]
        return output


def open_stable_diffusion_3(parts: Parts) -> StableDiffusion3:
    """Open a saved `StableDiffusion3Pipeline` with all its text encoders.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizerFast,
        T5EncoderModel,
        T5TokenizerFast,
    )

    module = parts.network("transformer", SD3Transformer2DModel)
    vae = parts.network("vae", AutoencoderKL)
    side = module.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    return StableDiffusion3(
        name=parts.name,
        module=module,
        vae=vae,
        text_encoder=parts.network("text_encoder", CLIPTextModelWithProjection),
        text_encoder_2=parts.network("text_encoder_2", CLIPTextModelWithProjection),
        text_encoder_3=parts.network("text_encoder_3", T5EncoderModel),
        tokenizer=parts.tokenizer("tokenizer", CLIPTokenizerFast),
        tokenizer_2=parts.tokenizer("tokenizer_2", CLIPTokenizerFast),
        tokenizer_3=parts.tokenizer("tokenizer_3", T5TokenizerFast, _TOKENS),
        scheduler_config=flow_settings(parts.settings("scheduler")),
        defaults=parts.defaults(side, side, 28, 7.0),
        card=parts.card,
    )
