"""Text read by a T5, as PixArt, DeepFloyd IF, SD3 and Flux do: small shared pieces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from p2p_lab.models.placement import device_of
from p2p_lab.tokens import Prompt


def plain_prompt(text: str, tokenizer: Any) -> Prompt:
    """Tokenize a text as the pipelines of IF and PixArt read it: lower case, no space around it.

    Raises:
        ValueError: If it is longer than the text encoder reads.
    """
    return Prompt.of(text.lower().strip() if isinstance(text, str) else text, tokenizer)


def token_mask(prompt: Prompt, device: torch.device) -> Tensor:
    """Return where the text is and where its padding, (1, L), 1 and 0."""
    return (torch.arange(len(prompt), device=device) < prompt.end).long()[None]


@torch.no_grad()
def t5_states(encoder: Any, prompt: Prompt, *, masked: bool) -> Tensor:
    """Return a T5's last hidden states, (1, L, D).

    Args:
        encoder: The `T5EncoderModel`.
        prompt: What to read.
        masked: Hide the padding from the text; SD3 and Flux do not.
    """
    device = device_of(encoder)
    ids = torch.tensor([prompt.ids], device=device)  # (1, L)
    mask = token_mask(prompt, device) if masked else None
    states: Tensor = encoder(ids, attention_mask=mask)[0]
    return states
