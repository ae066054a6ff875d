"""Ask the attention maps of words to cover what the words describe.

A departure from how Stable Diffusion is trained, said openly wherever the maps are shown.
For a word with map a (mean over heads and over its tokens) and true mask m,

    loss = 1 − ⟨a, m⟩ / (‖a‖ ‖m‖),

which is zero exactly when the map is flat inside the mask and zero outside; the scale of
the map stays free, as the softmax shares it with the other tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p2p_lab.attention import AttentionCall, Site, attached, find_sites
from p2p_lab.training.data import Words

_ALL = slice(None)


class TrainingMaps:
    """Keep the text maps of a forward pass for the loss, with their gradients.

    Self-attention is computed in full precision meanwhile: under autocast on a CPU its backward
    pass in bf16 is slower than in fp32.

    Args:
        module: The denoiser.
        latent_size: Height and width of what it denoises.
        early: Beginning of the names of the sites that see too little yet and are left alone.
    """

    def __init__(self, module: nn.Module, latent_size: tuple[int, int], early: str) -> None:
        self.module, self.early = module, early
        self.sites = find_sites(module, latent_size)
        self.recorded: list[Tensor] = []

    def attached(self) -> attached:
        """Return a block in which the maps (B, P, L) of one forward pass are kept in `recorded`."""
        self.recorded = []
        return attached(self.module, self, self.sites)

    def wants(self, site: Site) -> bool:
        """Return whether the site is recorded, or is self-attention."""
        return site.kind == "self" or not site.name.startswith(self.early)

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output (B, heads, Q, d)."""
        if not site.has_text:
            return _in_full_precision(call)
        probs = call.query_key(_ALL, _ALL).probs()  # (B, heads, P, K)
        self.recorded.append(probs[..., site.text_keys(probs.shape[-1])].mean(1).float())
        return (probs @ call.value.to(probs.dtype)).to(call.value.dtype)


def _in_full_precision(call: AttentionCall) -> Tensor:
    wide = AttentionCall(call.query.float(), call.key.float(), call.value.float(), call.options)
    with torch.autocast(call.query.device.type, enabled=False):
        return wide.native().to(call.query.dtype)


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
