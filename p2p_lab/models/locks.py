"""The lock of a model, which keeps other runs from it while one is at work.

A process that is forked while another thread is inside a run has the lock, and not the thread that
would release it: every later run of the child would wait for ever. So the child gets new locks. It
computes on one thread, for OpenMP's other threads are not in the child either and torch would wait
for them; torch's own data loader does so in its workers.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import torch

_models: weakref.WeakSet[Any] = weakref.WeakSet()


def renew_after_fork(model: Any) -> None:
    """Give a model (with a `lock`) a new lock in a forked process, where its own is held."""
    _models.add(model)


def _renew() -> None:
    if _models:
        torch.set_num_threads(1)
    fresh: dict[int, tuple[Any, Any]] = {}  # held and new; two models may share one
    for model in list(_models):
        if model.lock.acquire(blocking=False):  # free, or held by the thread that forked
            model.lock.release()
        else:
            _, model.lock = fresh.setdefault(id(model.lock), (model.lock, threading.RLock()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
