"""Reach the softmax of a diffusers denoiser without rewriting its attention.

The processor that diffusers installed is wrapped, and its one call of
`F.scaled_dot_product_attention` is handed to a controller. Projections, norms, rotary embeddings,
masks and residuals stay diffusers' own. This file knows nothing of edits or records.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from p2p_lab.attention.query_key import QueryKey
from p2p_lab.attention.sites import Site, UnsupportedAttention


@dataclass(frozen=True)
class AttentionCall:
    """Hold the arguments of one `scaled_dot_product_attention`.

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
    """Describe what a controller does at a tapped site."""

    def wants(self, site: Site) -> bool:
        """Tell whether anything is to be recorded or edited at this site in this step."""

    def apply(self, site: Site, call: AttentionCall) -> Tensor:
        """Compute the attention's output (B, heads, Q, d) in the kernel's place."""


class _Tap(TorchFunctionMode):
    """Hand the calls of `scaled_dot_product_attention` in its scope to a controller."""

    def __init__(self, site: Site, handler: AttentionHandler) -> None:
        super().__init__()
        self.site, self.handler, self.count = site, handler, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
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


class _Wrapped:
    """Stand in for a processor while a controller is attached."""

    def __init__(self, inner: Any, site: Site, handler: AttentionHandler) -> None:
        self.inner, self.site, self.handler = inner, site, handler
        # Attention.forward filters keywords by the signature found under this name, at every call.
        object.__setattr__(self, "__call__", _signed(inner, self.run))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the processor, with the tap if the controller wants this site now."""
        if not self.handler.wants(self.site):
            return self.inner(*args, **kwargs)
        with _Tap(self.site, self.handler) as tap:
            output = self.inner(*args, **kwargs)
        if tap.count != 1:
            raise UnsupportedAttention(
                f"{type(self.inner).__name__} at {self.site.name} computes its attention without "
                f"F.scaled_dot_product_attention, so nothing could be recorded. {_REMEDY}"
            )
        return output


def _signed(inner: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `run` and shows the signature of the inner processor."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    call.__signature__ = inspect.signature(inner.__call__)  # type: ignore[attr-defined]
    return call


@contextmanager
def attached(
    module: nn.Module, controller: AttentionHandler, sites: Mapping[str, Site]
) -> Iterator[None]:
    """Let a controller see and steer a denoiser's attention inside the block.

    The processors found on entry are put back on the way out, whatever happened inside.

    Args:
        module: The U-Net or transformer.
        controller: Its `wants` and `apply` are called at every site.
        sites: The sites of `module` by name, from `find_sites`.

    Raises:
        UnsupportedAttention: If a processor hides its softmax, or another controller is attached.
    """
    # Each layer is set by itself: module.set_attn_processor walks the whole module every time.
    hosts: dict[str, Any] = {name: module.get_submodule(name) for name in sites}
    before = {name: host.processor for name, host in hosts.items()}
    _refuse(module, before)
    try:
        try:
            for name, host in hosts.items():
                host.set_processor(_Wrapped(before[name], sites[name], controller))
            yield
        finally:
            _restore(hosts, before)
    finally:  # again, for an interrupt may have come while they were put back
        _restore(hosts, before)


def _restore(hosts: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    for name, host in hosts.items():
        host.set_processor(before[name])


# Not module.set_default_attn_processor(): in a U-Net it installs the plain AttnProcessor.
_REMEDY = (
    "Install PyTorch 2 attention, module.set_attn_processor(AttnProcessor2_0()) from "
    "diffusers.models.attention_processor, and try again."
)
_HIDDEN = ("Sliced", "XFormers", "IPAdapter", "NPU", "XLA", "PAG", "Linear", "Sage", "Flash")
_PLAIN = ("AttnProcessor", "AttnAddedKVProcessor", "CustomDiffusionAttnProcessor")


def _refuse(module: nn.Module, processors: Mapping[str, Any]) -> None:
    """Raise for every set-up whose softmax cannot be tapped."""
    if hasattr(module, "_orig_mod") or _compiled(module):
        raise UnsupportedAttention(
            "The denoiser is compiled (torch.compile), which fixes its attention. "
            "Record and edit with the module as it was before compiling."
        )
    for name, processor in processors.items():
        kind = type(processor).__name__
        if isinstance(processor, _Wrapped):
            raise UnsupportedAttention(
                "Another controller is attached to this model. Leave its `attached` block first."
            )
        if kind in _PLAIN or any(word in kind for word in _HIDDEN):
            raise UnsupportedAttention(
                f"{kind} at {name} does not use one "
                f"F.scaled_dot_product_attention, so its softmax cannot be reached. {_REMEDY}"
            )
        _refuse_backend(processor)


def _compiled(module: nn.Module) -> bool:
    parts = (module, *module.modules())
    return any(getattr(part, "_compiled_call_impl", None) is not None for part in parts)


def _refuse_backend(processor: Any) -> None:
    """Raise if diffusers was told to use another attention backend than PyTorch's."""
    backend = getattr(processor, "_attention_backend", None)
    if backend is None and hasattr(type(processor), "_attention_backend"):
        backend = _active_backend()
    name = str(getattr(backend, "value", backend))
    if backend is not None and name != "native":
        raise UnsupportedAttention(
            f"The attention backend is {name!r}, whose softmax cannot be reached. "
            "Call module.set_attention_backend('native') and try again."
        )


def _active_backend() -> Any:
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:  # diffusers before backends could be chosen
        return None
    return _AttentionBackendRegistry.get_active_backend()[0]


def _several(site: Site) -> UnsupportedAttention:
    return UnsupportedAttention(
        f"The processor at {site.name} computes attention more than once (as IP-Adapter does), so "
        f"it is not clear which softmax is meant. {_REMEDY}"
    )
