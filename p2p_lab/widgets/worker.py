"""One worker thread a panel: the newest request wins, and a running one stops between two steps.

A request is a function of a `RequestToken`: the engine's cancel token, which also says whether its
request is still the newest, so that only the newest paints. Nothing is queued: a request that has
not begun when a newer one comes is dropped. The thread lives only while there is work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class RequestToken:
    """Stand for one request: asked by the engine whether to stop, by the panel whether to paint."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker, self._number = worker, number
        self._stop = threading.Event()

    def is_set(self) -> bool:
        """Tell whether the request should stop; the engine's `cancel=` takes the token itself."""
        return self._stop.is_set() or not self.newest

    def stop(self) -> None:
        """Ask the request to stop between two steps."""
        self._stop.set()

    @property
    def newest(self) -> bool:
        """Tell whether no newer request has come."""
        return self._number == self._worker.generation


Request = Callable[[RequestToken], None]


class Worker:
    """Run requests one at a time, beside the kernel or on the spot.

    Args:
        threaded: False runs each request at once where it is made: off the kernel, and in tests.
    """

    def __init__(self, *, threaded: bool) -> None:
        self.threaded = threaded
        self.generation = 0
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._pending: tuple[RequestToken, Request] | None = None
        self._current: RequestToken | None = None

    def submit(self, request: Request) -> RequestToken:
        """Make this request the newest one; the one before it stops."""
        with self._lock:
            self.generation += 1
            token = RequestToken(self, self.generation)
            if not self.threaded:
                self._current = token
            else:
                self._pending = (token, request)
                if self._idle.is_set():
                    self._idle.clear()
                    threading.Thread(target=self._work, name="p2p_lab panel", daemon=True).start()
        if not self.threaded:
            request(token)
        return token

    def cancel(self) -> bool:
        """Stop what runs and drop what waits; return whether there was anything."""
        with self._lock:
            waiting, self._pending = self._pending, None
            running = None if self._idle.is_set() and self.threaded else self._current
            if running is not None:
                running.stop()
        return waiting is not None or running is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is no work left; return whether that was so in time (seconds)."""
        return self._idle.wait(timeout)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._pending is None:
                    self._current = None
                    self._idle.set()
                    return
                (token, request), self._pending = self._pending, None
                self._current = token
            request(token)


def in_kernel() -> bool:
    """Tell whether this process answers a notebook, so that a panel may work beside it."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
