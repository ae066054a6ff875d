"""Reach the softmax of a diffusers denoiser without rewriting its attention.

While a processor of diffusers runs, its one call of `F.scaled_dot_product_attention` is handed to a
controller. Projections, norms, rotary embeddings, masks and residuals stay diffusers' own. This
file knows nothing of edits or records.

`attached` wraps the processors on entry and puts them back on the way out. An interrupt (Ctrl-C)
may come at any moment, also before the first line of the way out: wrappers that then stay behind
know that their block is over, do nothing, and are taken off by the next block. The same holds in a
process that is forked while another thread is inside a block.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
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


class _Block:
    """The state of one `attached` block.

    Attributes:
        hosts: The layers by name.
        before: Their processors as they were found.
        thread: The thread that entered it.
        way_out: What the `with` statement will call when it ends, weakly; None before the entry.
        lost: Whether it belongs to a thread that this (forked) process does not have.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.thread = threading.get_ident()
        self.way_out: weakref.ref[Any] | None = None
        self.lost = False

    @property
    def over(self) -> bool:
        """Whether the block was left, or can no longer be left.

        Only the `with` statement itself holds the way out. It lets go of it at the end, even if an
        interrupt kept the way out from being gone.
        """
        return self.lost or (self.way_out is not None and self.way_out() is None)

    def put_back(self) -> None:
        """Give every layer the processor that was found."""
        for name, host in self.hosts.items():
            host.set_processor(self.before[name])


_blocks: weakref.WeakSet[_Block] = weakref.WeakSet()


def _lose_other_threads() -> None:
    """Mark the blocks of threads that a forked process does not have."""
    for block in list(_blocks):
        block.lost = block.thread != threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_other_threads)


class _WayOut:
    """Give a `with` statement its `__exit__`, as an object that nothing else holds."""

    def __get__(self, block: Any, kind: Any = None) -> Callable[..., None]:
        if block is None:  # ExitStack asks the class, and holds the instance meanwhile
            return lambda instance, *_: _leave(instance.state)
        way_out = partial(_leave, block.state)
        block.state.way_out = weakref.ref(way_out)
        return way_out


def _leave(block: _Block, *_: object) -> None:
    try:
        block.put_back()
    finally:  # again, for an interrupt may have come while they were put back
        block.put_back()


class attached:  # noqa: N801 - reads as a statement: `with attached(module, controller, sites)`
    """Let a controller see and steer a denoiser's attention inside a `with` block.

    The processors found on entry are put back on the way out, whatever happened inside.

    Args:
        module: The U-Net or transformer.
        controller: Its `wants` and `apply` are called at every site.
        sites: The sites of `module` by name, from `find_sites`.

    Raises:
        UnsupportedAttention: On entry, if a processor hides its softmax, or another controller is
            attached.
    """

    __exit__ = _WayOut()

    def __init__(
        self, module: nn.Module, controller: AttentionHandler, sites: Mapping[str, Site]
    ) -> None:
        self.module, self.controller, self.sites = module, controller, sites
        self.state = _Block()

    def __enter__(self) -> None:
        block = self.state
        if block.way_out is None:
            block.way_out = weakref.ref(self)  # in an ExitStack
        # Each layer is set by itself: module.set_attn_processor walks the whole module every time.
        hosts: dict[str, Any] = {n: self.module.get_submodule(n) for n in self.sites}
        _take_off_leftovers(hosts)
        before: dict[str, Any] = {name: host.processor for name, host in hosts.items()}
        _refuse(self.module, before)
        block.hosts, block.before = hosts, before
        _blocks.add(block)
        try:
            for name, host in block.hosts.items():
                wrapped = _Wrapped(before[name], self.sites[name], self.controller, block)
                host.set_processor(wrapped)
        except BaseException:
            _leave(block)
            raise


class _Wrapped:
    """A processor's wrapper while a controller is attached."""

    def __init__(self, inner: Any, site: Site, handler: AttentionHandler, block: _Block) -> None:
        self.inner, self.site, self.handler, self.block = inner, site, handler, block
        # Attention.forward filters keywords by the signature found under this name, at every call.
        object.__setattr__(self, "__call__", _signed(inner, self.__call__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the processor, with the tap if the controller wants this site now."""
        if self.block.over or not self.handler.wants(self.site):
            return self.inner(*args, **kwargs)
        with Tap(self.site, self.handler, self.block) as tap:
            output = self.inner(*args, **kwargs)
        if tap.count != 1:
            raise UnsupportedAttention(
                f"{type(self.inner).__name__} at {self.site.name} computes its attention without "
                f"F.scaled_dot_product_attention, so nothing could be recorded. {REMEDY}"
            )
        return output


def _signed(inner: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `run` and shows the signature of the inner processor."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    call.__signature__ = inspect.signature(inner.__call__)  # type: ignore[attr-defined]
    return call


def _take_off_leftovers(hosts: Mapping[str, Any]) -> None:
    """Take off the wrappers of blocks that an interrupt kept from being left."""
    for host in hosts.values():
        while isinstance(host.processor, _Wrapped) and host.processor.block.over:
            host.set_processor(host.processor.inner)


_HIDDEN = ("Sliced", "XFormers", "NPU", "XLA", "PAG", "Linear", "Sage", "Flash")
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
        if "IPAdapter" in kind:
            raise UnsupportedAttention(
                f"{kind} at {name} looks at a picture beside the text (an IP-Adapter), so it is "
                "not clear which softmax is meant. Take it off: pipe.unload_ip_adapter()."
            )
        if kind in _PLAIN or any(word in kind for word in _HIDDEN):
            raise UnsupportedAttention(
                f"{kind} at {name} does not use one "
                f"F.scaled_dot_product_attention, so its softmax cannot be reached. {REMEDY}"
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
