"""Ask the attention maps of words to cover what the words describe.

A departure from how Stable Diffusion is trained, said openly wherever the maps are shown.
For a word with map a (mean over heads and over its tokens) and true mask m,

    loss = 1 − ⟨a, m⟩ / (‖a‖ ‖m‖),

which is zero exactly when the map is flat inside the mask and zero outside; the scale of
the map stays free, as the softmax shares it with the other tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from p2p_lab.training.data import Words


class RecordingProcessor:
    """Cross-attention written out, which keeps its probabilities for the loss."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend from `hidden_states` (B, P, C) to the text (B, L, D)."""
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, text),
                (attn.to_v, text),
            )
        )  # (B, heads, P or L, d)
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)  # (B, heads, P, L)
        self.kept.append(probs.mean(1))  # (B, P, L)
        out = (probs @ value).transpose(1, 2).flatten(2)  # (B, P, C)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


class RecordingHybridProcessor:
    """Attention with added text keys written out, which keeps the text's share for the loss.

    One softmax runs over [text | image]; where a layer looks at the text only (the bottleneck of a
    super-resolution stage), over [text].
    """

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend from `hidden_states` (B, C, h, w) to the text (B, L, D) and to themselves."""
        text = attn.norm_encoder_hidden_states(encoder_hidden_states)
        states = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)  # (B, P, C)
        keys, values = [attn.add_k_proj(text)], [attn.add_v_proj(text)]
        if not attn.only_cross_attention:
            keys.append(attn.to_k(states))
            values.append(attn.to_v(states))
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(states), torch.cat(keys, 1), torch.cat(values, 1))
        )  # (B, heads, P or L or L + P, d)
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        self.kept.append(probs[..., : text.shape[1]].mean(1))  # (B, P, L)
        out = (probs @ value).transpose(1, 2).flatten(2)  # (B, P, C)
        out = attn.to_out[1](attn.to_out[0](out)).transpose(1, 2)  # (B, C, P)
        return out.reshape_as(hidden_states) + hidden_states  # type: ignore[no-any-return]


class SelfAttentionProcessor:
    """Self-attention whose softmax is computed in full precision.

    Under autocast on a CPU the backward pass of attention in bf16 is slower than in fp32.
    """

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend from `hidden_states` (B, P, C) to themselves."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )  # (B, heads, P, d)
        with torch.autocast(hidden_states.device.type, enabled=False):
            out = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        out = out.transpose(1, 2).flatten(2)  # (B, P, C)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


def record_hybrid_attention(unet: UNet2DConditionModel) -> list[Tensor]:
    """Put recording processors at the sites that pictures are made from: middle and upwards.

    Returns:
        The list that each forward pass appends its maps to; the caller empties it.
    """
    kept: list[Tensor] = []
    processors = dict(unet.attn_processors)
    for name in processors:
        if not name.startswith("down_blocks"):
            processors[name] = RecordingHybridProcessor(kept)
    unet.set_attn_processor(processors)
    return kept


def record_cross_attention(unet: UNet2DConditionModel) -> list[Tensor]:
    """Put recording processors at the cross-attention sites that pictures are made from.

    Self-attention gets a processor that is quicker under autocast on a CPU. The recorded sites
    are the middle and the upward blocks; the first downward ones see too little yet.

    Returns:
        The list that each forward pass appends its maps to; the caller empties it.
    """
    kept: list[Tensor] = []
    processors = dict(unet.attn_processors)
    for name in processors:
        if ".attn1." in name:
            processors[name] = SelfAttentionProcessor()
        if ".attn2." in name and not name.startswith("down_blocks.0"):
            processors[name] = RecordingProcessor(kept)
    unet.set_attn_processor(processors)
    return kept


def supervision_loss(maps: list[Tensor], words: Words, weight: Tensor) -> Tensor:
    """Return the mean loss over sites and words.

    Args:
        maps: One (B, P, L) a site.
        words: The supervised words.
        weight: (B,) how much each picture counts (small when it is nearly noise).
    """
    if len(words.picture) == 0:
        return maps[0].sum() * 0
    losses = []
    for probs in maps:
        side = round(probs.shape[1] ** 0.5)  # training pictures are square
        found = torch.einsum("npl,nl->np", probs[words.picture], words.tokens)  # (N, P)
        truth = F.adaptive_avg_pool2d(words.masks[:, None], side).flatten(1)  # (N, P)
        losses.append(1 - F.cosine_similarity(found, truth, dim=-1))
    each = torch.stack(losses).mean(0) * weight[words.picture]
    return each.sum() / weight[words.picture].sum().clamp_min(1e-6)
