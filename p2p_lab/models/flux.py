"""Flux: joint attention over text and image, words read by a T5.

    z_t --transformer(packed z_t, t, T5(text), CLIP's pooled vector, guidance)--> velocity

Two by two latents make one token. Flux-dev was distilled to take a guidance *number* in place of a
second pass: that number is `distilled_guidance` here. The `guidance_scale` of `generate` is always
classifier-free guidance with a negative prompt (the pipeline's `true_cfg_scale`), 1 for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning, ScheduleRules
from p2p_lab.models.flow_model import PATCH, FlowModel
from p2p_lab.models.parts import Parts
from p2p_lab.models.placement import device_of
from p2p_lab.models.scheduling import flow_settings
from p2p_lab.models.t5 import t5_states
from p2p_lab.tokens import Prompt, ids_that_fit

_TOKENS = {True: 512, False: 256}  # of the T5: Flux-dev (distilled guidance) and Flux-schnell
_LATENTS = 128  # the pipeline's usual height and width in latents


@dataclass(eq=False, repr=False)
class Flux(FlowModel):
    """The parts of a Flux pipeline; `text_encoder` is the T5, `clip` gives one vector.

    Args:
        clip: The `CLIPTextModel`.
        clip_tokenizer: Its tokenizer.
        distilled_guidance: The guidance number that a distilled denoiser is told.
    """

    clip: torch.nn.Module | None = None
    clip_tokenizer: Any = None
    distilled_guidance: float = 3.5

    @torch.no_grad()
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the T5's states (1, L, D) and the CLIP's pooled vector (1, P)."""
        assert self.clip is not None
        states = t5_states(self.text_encoder, prompt, masked=False)
        length = int(self.clip_tokenizer.model_max_length)
        ids = ids_that_fit(prompt.text, self.clip_tokenizer, length)
        pooled = self.clip(torch.tensor([ids], device=device_of(self.clip))).pooler_output
        return Conditioning(states.to(self.device, self.dtype), pooled.to(self.device, self.dtype))

    @property
    def schedule_rules(self) -> ScheduleRules:
        """Its pipeline lets the shares of noise fall evenly before they are shifted."""
        return ScheduleRules(patch=PATCH, even=True)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the velocity in latents (B, C, h, w) at model time t."""
        rows, _, h, w = latents.shape
        output: Tensor = self.module(
            hidden_states=_pack(latents),
            timestep=t.to(latents.device).expand(rows).to(latents.dtype) / 1000,
            guidance=self._guidance_embedding(rows),
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.tokens,
            txt_ids=torch.zeros(conditioning.tokens.shape[1], 3).to(latents),
            img_ids=_places(h // PATCH, w // PATCH).to(latents),
            return_dict=False,
        )[0]
        return _unpack(output, h, w)

    def _guidance_embedding(self, rows: int) -> Tensor | None:
        if not self._config.guidance_embeds:
            return None
        number = torch.full([1], self.distilled_guidance, device=self.device, dtype=torch.float32)
        return number.expand(rows)


def _pack(latents: Tensor) -> Tensor:
    """Make one token of two by two latents."""
    b, c, h, w = latents.shape
    x = latents.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // PATCH) * (w // PATCH), c * PATCH**2)  # (B, I, 4 C)


def _unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """Undo `_pack`."""
    b, _, wide = tokens.shape
    x = tokens.view(b, h // PATCH, w // PATCH, wide // PATCH**2, PATCH, PATCH)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(b, wide // PATCH**2, h, w)  # (B, C, h, w)


def _places(rows: int, columns: int) -> Tensor:
    """Return each image token's place for the rotary embedding: (0, row, column), (I, 3)."""
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    row, column = (axis.reshape(-1) for axis in grid)
    return torch.stack([torch.zeros_like(row), row, column], dim=-1)


def open_flux(parts: Parts) -> Flux:
    """Open a saved `FluxPipeline`.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizerFast, T5EncoderModel, T5TokenizerFast

    module = parts.network("transformer", FluxTransformer2DModel)
    vae = parts.network("vae", AutoencoderKL)
    side = _LATENTS * 2 ** (len(vae.config.block_out_channels) - 1)
    distilled = bool(module.config.guidance_embeds)
    return Flux(
        name=parts.name,
        module=module,
        vae=vae,
        text_encoder=parts.network("text_encoder_2", T5EncoderModel),
        tokenizer=parts.tokenizer("tokenizer_2", T5TokenizerFast, _TOKENS[distilled]),
        clip=parts.network("text_encoder", CLIPTextModel),
        clip_tokenizer=parts.tokenizer("tokenizer", CLIPTokenizerFast),
        scheduler_config=flow_settings(parts.settings("scheduler")),
        defaults=parts.defaults(side, side, 28 if distilled else 4, 1.0),
        card=parts.card,
    )
