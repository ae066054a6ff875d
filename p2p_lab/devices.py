"""Where tensors are made and in which precision, whatever torch's defaults were set to.

This file knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_by_default() -> Iterator[None]:
    """Make tensors on the CPU where no device is named, whatever torch's default was set to."""
    if torch.get_default_device().type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Run a block with the defaults that torch begins with: the CPU and float32.

    The precision is that of all threads, so this is for a reader's own code in a check; the
    package names its precisions.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with cpu_by_default():
            yield
    finally:
        torch.set_default_dtype(before)
