"""The text as a U-Net sees it while it learns."""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.training.build import Parts
from p2p_lab.training.config import TrainConfig


class TextReader:
    """The text encoder as the denoiser sees it while it learns.

    In a share of the captions the states of the padding are those of an empty prompt. The
    encoder is causal, so the padding behind a prompt has read all of it: without this, most of
    the attention rests there, and a word's own map is a few percent that no edit can turn up.
    """

    def __init__(self, config: TrainConfig, parts: Parts, device: torch.device) -> None:
        self.share, self.encoder = config.neutral_padding, parts.text_encoder
        empty = parts.tokenizer(
            "", padding="max_length", max_length=config.length, return_tensors="pt"
        )
        self.empty = empty.input_ids.to(device)
        self.end = parts.tokenizer.eos_token_id

    def __call__(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return the text's states (B, L, D) of token ids (B, L)."""
        if not self.share:
            states: Tensor = self.encoder(ids)[0]
            return states
        both = self.encoder(torch.cat([ids, self.empty]))[0]
        neutral = torch.rand(len(ids), 1, generator=generator).to(ids.device) < self.share
        padding = (ids == self.end).cumsum(1) > 0  # (B, L), the end mark included
        return torch.where((padding & neutral)[..., None], both[-1:], both[:-1])
