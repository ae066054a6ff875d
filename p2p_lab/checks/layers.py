"""Small attention layers of diffusers, drawn from a seed, and what they compute, by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.exercise import draw


@cache
def _attention(seed: int, cross: bool, heads: int) -> Any:
    from diffusers.models.attention_processor import Attention

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = 6 if cross else None
        layer = Attention(query_dim=8, cross_attention_dim=width, heads=heads, dim_head=8 // heads)
    return layer.eval().requires_grad_(False)


def layer(seed: int, *, cross: bool, heads: int) -> tuple[Any, Tensor, Tensor | None]:
    """Draw a layer, pictures (2, 9, 8) and, for cross-attention, texts (2, 5, 6)."""
    text = 2 * draw(2, 5, 6, seed=seed + 2) if cross else None
    return _attention(seed % 64, cross, heads), 3 * draw(2, 9, 8, seed=seed + 1), text


def probs_of(
    attn: Any,
    x: Tensor,
    context: Tensor | None,
    *,
    scale: bool = True,
    split: bool = True,
    whole: bool = False,
) -> Tensor:
    """Return a layer's probabilities (B, heads, pixels, L), leaving out what a mistake would."""
    context = x if context is None else context
    q, k = (_split(t, attn.heads if split else 1) for t in (attn.to_q(x), attn.to_k(context)))
    size = q.shape[-1] * (attn.heads if whole else 1)
    scores = q @ k.transpose(-1, -2) / (size**0.5 if scale else 1)
    return scores.softmax(-1)


def output_of(
    attn: Any,
    x: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    gain: Tensor | None = None,
    *,
    out: bool = True,
    renormalise: bool = False,
    **mistake: bool,
) -> Tensor:
    """Return a layer's output (B, pixels, C), leaving out what a mistake would."""
    probs = probs_of(attn, x, context, **mistake)  # (B, heads, pixels, L)
    if gain is not None:
        probs = probs * gain
        probs = probs / probs.sum(-1, keepdim=True) if renormalise else probs
    v = _split(attn.to_v(x if context is None else context), probs.shape[1])
    joined = (probs @ v).transpose(1, 2).flatten(2)  # (B, pixels, C)
    projected: Tensor = attn.to_out[0](joined) if out else joined
    return projected


def gain_on_scores(
    attn: Any, x: Tensor, context: Tensor | None, mask: Any, gain: Tensor | None
) -> Tensor:
    """Return the output (B, pixels, C) if the gain is put on the scores, before the softmax."""
    if gain is None:
        return output_of(attn, x, context)
    keys = x if context is None else context
    q, k, v = (_split(t, attn.heads) for t in (attn.to_q(x), attn.to_k(keys), attn.to_v(keys)))
    probs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 * gain).softmax(-1)
    projected: Tensor = attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))
    return projected


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # (B, heads, n, d)
