"""Reach the softmax of a diffusers denoiser without rewriting its attention.

While a processor of diffusers runs, its one call of `F.scaled_dot_product_attention` is handed to a
controller. Projections, norms, rotary embeddings, masks and residuals stay diffusers' own. This
file knows nothing of edits or records; how a processor comes to be tapped is in `attaching`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from p2p_lab.attention.sites import Site, UnsupportedAttention
from p2p_lab.attention.tape import QueryKey


@dataclass(frozen=True)
class AttentionCall:
    """The arguments of one `scaled_dot_product_attention`.

    Attributes:
        query: (B, heads, Q, d).
        key: (B, heads, K, d).
        value: (B, heads, K, d).
        options: The other arguments as diffusers gave them: mask, scale, dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    options: Mapping[str, Any]

    def native(self, *, rows: slice | None = None) -> Tensor:
        """Run the kernel that diffusers would have run, (B, heads, Q, d), or some rows of it."""
        if rows is None:
            return _kernel(self.query, self.key, self.value, self.options)
        options = {**self.options, "attn_mask": self._mask(rows)}
        return _kernel(self.query[rows], self.key[rows], self.value[rows], options)

    def injected(self, rows: slice, source: QueryKey) -> Tensor:
        """Run it on some rows with the queries and keys of a source: its map, their values."""
        value = self.value[rows]
        query, key = source.query.to(value), source.key.to(value)
        return _kernel(query, key, value, {**self.options, "attn_mask": self._mask(rows)})

    def replaced(self, rows: slice, queries: slice, new: Tensor) -> Tensor:
        """Run the kernel, with `new` in the place of what some rows' queries would have got.

        Args:
            rows: Contiguous rows of the batch.
            queries: Which of their queries.
            new: Their output, (rows, heads, queries, d).
        """
        if new.shape[2] < self.query.shape[2]:
            output = self.native().clone()
            output[rows, :, queries] = new
            return output
        count = self.query.shape[0]
        parts = [new]
        if rows.start > 0:
            parts.insert(0, self.native(rows=slice(0, rows.start)))
        if rows.stop < count:
            parts.append(self.native(rows=slice(rows.stop, count)))
        # (B, Q, heads, d) is how the kernel's output lies, and how diffusers reads it next.
        return torch.cat([part.transpose(1, 2) for part in parts]).transpose(1, 2)

    def _mask(self, rows: slice) -> Tensor | None:
        mask: Tensor | None = self.options.get("attn_mask")
        if mask is None or mask.shape[0] == 1:
            return mask
        return mask[rows]

    def query_key(self, rows: slice, queries: slice) -> QueryKey:
        """Return what the softmax needs for some rows of the batch and some queries."""
        mask = self._mask(rows)
        if mask is not None:
            count = self.query[rows].shape[0]
            mask = mask.expand(count, *mask.shape[1:])
            mask = mask[:, :, queries] if mask.shape[2] > 1 else mask
        scale = self.options.get("scale")
        scale = 1 / math.sqrt(self.query.shape[-1]) if scale is None else scale
        return QueryKey(self.query[rows, :, queries], self.key[rows], mask, scale)


def _kernel(query: Tensor, key: Tensor, value: Tensor, options: Mapping[str, Any]) -> Tensor:
    output: Tensor = F.scaled_dot_product_attention(query, key, value, **options)
    return output


class AttentionHandler(Protocol):
    """What a controller does at a tapped site."""

    def wants(self, site: Site) -> bool:
        """Return whether anything is to be recorded or edited at this site in this step."""

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output (B, heads, Q, d) in the kernel's place."""


class Lifetime(Protocol):
    """A block that may be over."""

    @property
    def over(self) -> bool:
        """Whether nothing of it counts any more."""


class Tap(TorchFunctionMode):
    """Hand the calls of `scaled_dot_product_attention` in its scope to a controller."""

    def __init__(self, site: Site, handler: AttentionHandler, block: Lifetime) -> None:
        super().__init__()
        self.site, self.handler, self.block, self.count = site, handler, block, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # An interrupt can leave a tap open whose block is over: it lets everything pass.
        if func is not F.scaled_dot_product_attention or self.block.over:
            return func(*args, **(kwargs or {}))
        self.count += 1
        if self.count > 1:
            raise _several(self.site)
        return self.handler.apply(self.site, _call(self.site, *args, **(kwargs or {})))


def _call(
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> AttentionCall:
    """Gather one call's arguments and check that the layout is the one the site states."""
    options.update(zip(("dropout_p", "is_causal"), rest, strict=False))
    if attn_mask is not None:
        options["attn_mask"] = attn_mask
    asked = site.pixels if site.queries == "I" else key.shape[2]
    if query.shape[2] != asked or (site.keys == "I" and key.shape[2] != site.pixels):
        raise UnsupportedAttention(
            f"{site.name} was expected to work on {site.size[0]}×{site.size[1]} positions and got "
            f"{query.shape[2]} queries and {key.shape[2]} keys. The sites were made for latents "
            "of another size: make them with find_sites(module, latent_size)."
        )
    return AttentionCall(query, key, value, options)


# Not module.set_default_attn_processor(): in a U-Net it installs the plain AttnProcessor.
REMEDY = (
    "Install PyTorch 2 attention, module.set_attn_processor(AttnProcessor2_0()) from "
    "diffusers.models.attention_processor, and try again."
)


def _several(site: Site) -> UnsupportedAttention:
    return UnsupportedAttention(
        f"The processor at {site.name} computes attention more than once (as IP-Adapter does), so "
        f"it is not clear which softmax is meant. {REMEDY}"
    )
