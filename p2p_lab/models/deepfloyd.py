"""DeepFloyd IF: the paper's own kind of model, a cascade in pixel space with hybrid attention.

    x_t --U-Net(x_t, t, T5(text))--> noise (and a variance),    image = (x_0 + 1)/2

The base stage draws small pictures, whose softmax runs over text and image keys at once; a later
stage enlarges them. As in the paper, an edit acts on the base stage, and the later stage runs on
its result: `generate(upscaler.on(edited), text)`. There is no autoencoder. The sampler here is
DDIM, which is deterministic, so the variance that the U-Net learned is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2p_lab.models.denoiser import Conditioning, ScheduleRules
from p2p_lab.models.errors import ModelError
from p2p_lab.models.parts import Parts
from p2p_lab.models.scheduling import noise_settings
from p2p_lab.models.t5 import plain_prompt, t5_states
from p2p_lab.models.text_to_image import TextToImage
from p2p_lab.tokens import Prompt

_TOKENS = 77  # the text encoder was trained with this length


@dataclass(eq=False, repr=False)
class DeepFloyd(TextToImage):
    """The parts of IF's base stage: a T5 and a U-Net on pixels."""

    @property
    def schedule_rules(self) -> ScheduleRules:
        """Pictures are denoised, which may be clamped."""
        return ScheduleRules(pixels=True)

    def prompt(self, text: str) -> Prompt:
        """Tokenize `text` in lower case, as the model was trained.

        Raises:
            ValueError: If it is longer than the text encoder reads.
        """
        return plain_prompt(text, self.tokenizer)

    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt: the last hidden states of the T5, which the padding is hidden from."""
        states = t5_states(self.text_encoder, prompt, masked=True)
        return Conditioning(states.to(self.device, self.dtype))

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (3, H, W): what is denoised here is the picture itself.

        Raises:
            ValueError: If a side is not a positive multiple of what the U-Net halves it to.
        """
        step = 2 ** (len(self._config.block_out_channels) - 1)
        if any(not isinstance(n, int) or n <= 0 or n % step for n in size):
            raise ValueError(
                f"A picture of {size[0]}×{size[1]} does not fit {self.name}: height and width must "
                f"be positive multiples of {step}, such as {self.defaults.height}."
            )
        return 3, size[0], size[1]

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise in pictures (B, 3, H, W) at model time t."""
        output: Tensor = self.module(
            latents, t, encoder_hidden_states=conditioning.tokens, return_dict=False
        )[0]
        return output[:, :3]  # the rest is a learned variance

    def decode(self, latents: Tensor) -> Tensor:
        """Turn denoised pictures in ±1 into pictures (B, 3, H, W) in [0, 1], float32 or wider."""
        images = (latents / 2 + 0.5).clamp(0, 1)
        return images if images.dtype == torch.float64 else images.float()

    def encode(self, images: Tensor) -> Tensor:
        """Turn pictures (B, 3, H, W) in [0, 1] into what is denoised: the same in ±1."""
        return (images * 2 - 1).to(self.device, self.dtype)


@dataclass(eq=False, repr=False)
class DeepFloydUpscaler(DeepFloyd):
    """The parts of a super-resolution stage, and the picture that it is to enlarge.

    Args:
        noising_config: Settings of the noise that is put on the small picture.
        noise_level: How much of it, in model time 0…999; the denoiser is told.
        small: The small picture, (1, 3, H, W) in ±1 with its noise, as large as the result; None
            until `on` was called.
    """

    noising_config: Mapping[str, Any] = field(default_factory=dict)
    noise_level: int = 250
    small: Tensor | None = None

    def on(
        self, picture: Any, *, seed: int = 0, noise_level: int | None = None
    ) -> DeepFloydUpscaler:
        """Return the same stage, set on a picture; `generate` with it draws the large one.

        Args:
            picture: A run of the base stage, or pixels (3, H, W) in [0, 1].
            seed: The seed that `generate` is called with; its second draw is the small picture's
                noise, as in the pipeline.
            noise_level: How much noise to put on it; None keeps its card's, or
                250, the pipeline's own.
        """
        from diffusers import DDPMScheduler

        pixels: Tensor = getattr(picture, "pixels", picture)
        size, level = (self.defaults.height, self.defaults.width), noise_level
        level = self.noise_level if level is None else level
        image = self.encode(pixels[None])
        image = F.interpolate(image, size, mode="bilinear", align_corners=True)  # (1, 3, H, W)
        generator = torch.Generator("cpu").manual_seed(seed)
        torch.randn(image.shape, generator=generator)  # the first draw is generate's own
        noise = torch.randn(image.shape, generator=generator).to(image)
        noising = DDPMScheduler.from_config(dict(self.noising_config))
        noisy: Any = noising.add_noise(image, noise, timesteps=torch.tensor([level]))
        return replace(self, small=noisy, noise_level=level)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise in large pictures (B, 3, H, W) at model time t.

        Raises:
            ValueError: If no picture to enlarge was given, or it has another size.
        """
        if self.small is None or self.small.shape[-2:] != latents.shape[-2:]:
            raise ValueError(
                f"{self.name} enlarges a picture to {self.defaults.height}×{self.defaults.width}. "
                "Give it one first: generate(upscaler.on(run, seed=0), text, seed=0)."
            )
        rows = latents.shape[0]
        output: Tensor = self.module(
            torch.cat([latents, self.small.expand(rows, -1, -1, -1)], dim=1),
            t,
            encoder_hidden_states=conditioning.tokens,
            class_labels=torch.tensor([self.noise_level] * rows, device=latents.device),
            return_dict=False,
        )[0]
        return output[:, :3]


def open_deepfloyd(parts: Parts) -> DeepFloyd:
    """Open an `IFPipeline` or `IFSuperResolutionPipeline`.

    Raises:
        ModelError: If a part is missing or of another class.
    """
    from diffusers import UNet2DConditionModel
    from transformers import T5EncoderModel, T5TokenizerFast

    module = parts.network("unet", UNet2DConditionModel)
    enlarges = parts.kind == "IFSuperResolutionPipeline"
    if module.config.in_channels != (6 if enlarges else 3):
        raise ModelError(
            f"{parts.where}: the U-Net takes {module.config.in_channels} channels, and this stage "
            f"is expected to take {6 if enlarges else 3}."
        )
    side = module.config.sample_size
    common: dict[str, Any] = {
        "name": parts.name,
        "module": module,
        "text_encoder": parts.network("text_encoder", T5EncoderModel),
        "tokenizer": parts.tokenizer("tokenizer", T5TokenizerFast, _TOKENS),
        "scheduler_config": noise_settings(parts.settings("scheduler"), "pixels"),
        "card": parts.card,
    }
    if not enlarges:
        return DeepFloyd(**common, defaults=parts.defaults(side, side, 100, 7.0))
    level = int(parts.card.raw.get("noise_level", 250))
    return DeepFloydUpscaler(
        **common,
        defaults=parts.defaults(side, side, 50, 4.0),
        noising_config=parts.settings("image_noising_scheduler"),
        noise_level=level,
    )
