"""Wait for a server that a test has started."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from subprocess import Popen
from typing import Any


def wait_until_up(
    url: str, server: Popen[Any], seconds: float, said: Callable[[], str] = str
) -> None:
    """Wait until a server answers; one that is still starting can lose the signal that ends it.

    Args:
        url: What it answers to.
        server: Its process.
        seconds: How long to wait at most.
        said: Returns what it has said so far, for the error.

    Raises:
        RuntimeError: If it ended before, or does not answer in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"It ended:\n{said()}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"It did not come up:\n{said()}")
