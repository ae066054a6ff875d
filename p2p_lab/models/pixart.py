"""PixArt-α and PixArt-Σ: a transformer whose cross-attention reads a T5's text.

    z_t --transformer(z_t, t, T5(text), mask)--> noise,    image = decoder(z_0 / scaling)

(Chen et al. 2023, arXiv 2310.00426; 2024, arXiv 2403.04692.) Words and image positions never share
a softmax here, so the method applies as published. Padding is hidden from the image by a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning
from p2p_lab.models.latent_model import LatentModel
from p2p_lab.models.parts import Parts
from p2p_lab.models.scheduling import is_distilled, noise_settings
from p2p_lab.models.t5 import plain_prompt, t5_states, token_mask
from p2p_lab.tokens import Prompt

_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # what the text is padded to


@dataclass(eq=False, repr=False)
class PixArt(LatentModel):
    """The parts of a PixArt pipeline.

    Args:
        knows_size: Whether the denoiser is told the picture's size and shape (α at 1024²).
    """

    knows_size: bool = False

    @property
    def patch(self) -> int:
        """Number of latent positions along each axis that a patch of the transformer spans."""
        patch: int = self._config.patch_size
        return patch

    def prompt(self, text: str) -> Prompt:
        """Tokenize `text` in lower case, as these models were trained.

        Raises:
            ValueError: If it is longer than the text encoder reads.
        """
        return plain_prompt(text, self.tokenizer)

    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt for a picture of `size`: hidden states (1, L, D) and a mask (1, L)."""
        states = t5_states(self.text_encoder, prompt, masked=True)
        mask = token_mask(prompt, self.device)
        return Conditioning(states.to(self.device, self.dtype), sizes=self._sizes(size), mask=mask)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise in latents (B, C, h, w) at model time t."""
        size = conditioning.sizes
        sizes = (None, None) if size is None else (size[:, :2], size[:, 2:])
        output: Tensor = self.module(
            latents,
            encoder_hidden_states=conditioning.tokens,
            encoder_attention_mask=conditioning.mask,
            timestep=t[None].to(latents.device).expand(latents.shape[0]),
            added_cond_kwargs={"resolution": sizes[0], "aspect_ratio": sizes[1]},
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]  # the rest is a learned variance

    def _sizes(self, size: tuple[int, int]) -> Tensor | None:
        if not self.knows_size:
            return None
        numbers = [[float(size[0]), float(size[1]), size[0] / size[1]]]
        return torch.tensor(numbers).to(self.device, self.dtype)  # (1, 3)


def open_pixart(parts: Parts) -> PixArt:
    """Open a saved `PixArtAlphaPipeline` or `PixArtSigmaPipeline`.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import AutoencoderKL, PixArtTransformer2DModel, Transformer2DModel
    from transformers import T5EncoderModel, T5TokenizerFast

    # Published α folders still name the class that this one was split from.
    kinds = PixArtTransformer2DModel, Transformer2DModel
    module, vae = parts.network("transformer", *kinds), parts.network("vae", AutoencoderKL)
    side = module.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    config = noise_settings(parts.settings("scheduler"), "latents")
    steps, scale = (4, 1.0) if is_distilled(config) else (20, 4.5)
    return PixArt(
        name=parts.name,
        module=module,
        vae=vae,
        text_encoder=parts.network("text_encoder", T5EncoderModel),
        tokenizer=parts.tokenizer("tokenizer", T5TokenizerFast, _TOKENS[parts.kind]),
        scheduler_config=config,
        defaults=parts.defaults(side, side, steps, scale),
        card=parts.card,
        knows_size=parts.kind == "PixArtAlphaPipeline" and module.config.sample_size == 128,
    )
