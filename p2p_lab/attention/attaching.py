"""Attach a controller to a denoiser for the length of a block, and give everything back.

The processors that diffusers installed are wrapped on entry and put back on the way out. An
interrupt (Ctrl-C) may come at any moment, also before the first line of the way out: wrappers that
then stay behind know that their block is over, do nothing, and are taken off by the next block.
The same holds in a process that is forked while another thread is inside a block.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from p2p_lab.attention.sites import Site, UnsupportedAttention
from p2p_lab.attention.tap import REMEDY, AttentionHandler, Tap


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
