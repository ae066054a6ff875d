"""What all families have in common, whether they denoise latents or pixels.

This file knows no family, and nothing of text encoders, autoencoders or attention.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from p2p_lab.models.denoiser import (
    Conditioning,
    Defaults,
    ModelCard,
    Prediction,
    ScheduleRules,
)
from p2p_lab.models.locks import renew_after_fork
from p2p_lab.models.placement import describe, device_of, dtype_of
from p2p_lab.models.vocabulary import warn_of_unknown_words
from p2p_lab.tokens import Prompt


@dataclass(eq=False, repr=False)
class TextToImage(ABC):
    """The parts of a text-to-image pipeline.

    A family adds how it encodes a prompt, calls its denoiser, and turns what is denoised into
    pictures and back.

    Args:
        name: What the model is called in errors, figures and saved runs.
        module: The denoiser, a U-Net or a transformer.
        text_encoder: The network that reads the text whose tokens the image looks at.
        tokenizer: Its fast tokenizer.
        scheduler_config: The pipeline's scheduler settings: betas, prediction type, spacing.
        defaults: Picture size, steps and guidance when none are named.
        card: What the package knows of the model beside its weights.
    """

    name: str
    module: nn.Module
    text_encoder: Any
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    defaults: Defaults
    card: ModelCard = field(default_factory=ModelCard)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        """Let a forked process use the model too."""
        renew_after_fork(self)

    def __repr__(self) -> str:
        """Return what the model is in one line, without its weights."""
        return describe(self)

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts: noise, velocity or the clean latents."""
        kind: Prediction = self.scheduler_config.get("prediction_type", "epsilon")
        return kind

    @property
    def schedule_rules(self) -> ScheduleRules:
        """What the family asks of a sampler's table."""
        return ScheduleRules()

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        return device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return dtype_of(self.module)

    def prompt(self, text: str) -> Prompt:
        """Tokenize `text`; warn of words that the model was not trained on.

        Raises:
            ValueError: If it is longer than the text encoder reads.
        """
        prompt = Prompt.of(text, self.tokenizer)
        warn_of_unknown_words(prompt, self.card.vocabulary, self.name)
        return prompt

    @abstractmethod
    def encode_prompt(self, prompt: Prompt, size: tuple[int, int]) -> Conditioning:
        """Encode a prompt for a picture of `size` (H, W): one row."""

    def encode_negative(self, text: str, size: tuple[int, int]) -> Conditioning:
        """Encode the negative prompt for a picture of `size` (H, W): one row."""
        return self.encode_prompt(self.prompt(text), size)

    @abstractmethod
    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise (or velocity) in latents (B, C, h, w) at model time t."""

    @property
    def _config(self) -> Any:
        return self.module.config
