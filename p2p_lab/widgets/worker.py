"""One worker thread a panel: the newest request wins, and a running one stops between two steps.

A request is a function of a `RequestToken`. The token is the engine's cancel token, and says
whether its request is still the newest, so that only the newest paints. Nothing is queued: a
request that has not begun when a newer one comes is dropped. After a request the thread may work
ahead until the next one comes. It lives only while there is work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RequestToken:
    """One request: asked by the engine whether to stop, by the panel whether to paint."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker, self._number = worker, number
        self._stop = threading.Event()
        self._news, self._made = threading.Event(), time.monotonic()

    def is_set(self) -> bool:
        """Return whether the request should stop; the engine's `cancel=` takes the token itself."""
        return self._stop.is_set() or not self.newest

    def stop(self) -> None:
        """Ask the request to stop between two steps."""
        self._stop.set()
        self._news.set()

    def overtake(self) -> None:
        """Wake the request up: a newer one has come."""
        self._news.set()

    def rest(self, seconds: float) -> bool:
        """Wait until the request is some seconds old, for a hand that moves on.

        Returns:
            Whether no newer request came and nobody asked to stop.
        """
        return not self._news.wait(max(0.0, self._made + seconds - time.monotonic()))

    @property
    def newest(self) -> bool:
        """Return whether no newer request has come."""
        return self._number == self._worker.generation

    @property
    def stopped(self) -> StopOnly:
        """Return a cancel token for work that a newer request does not make useless."""
        return StopOnly(self._stop)


class StopOnly:
    """Ask to stop when a reader did, and not because a newer request has come."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether the work should stop."""
        return self._event.is_set()


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
        self._idle, self._ended = threading.Event(), threading.Event()
        self._idle.set()
        self._ended.set()
        self._pending: tuple[RequestToken, Request, Request | None] | None = None
        self._current: RequestToken | None = None

    def submit(self, request: Request, ahead: Request | None = None) -> RequestToken:
        """Make this request the newest one; the one before it stops.

        Args:
            request: What to do.
            ahead: What to do afterwards until the next request comes; only beside a kernel.
        """
        with self._lock:
            self.generation += 1
            token = RequestToken(self, self.generation)
            before, self._current = self._current, self._current if self.threaded else token
            if before is not None:
                before.overtake()
            if self.threaded:
                self._pending = (token, request, ahead)
                self._idle.clear()
                if self._ended.is_set():
                    self._ended.clear()
                    threading.Thread(target=self._work, name="p2p_lab panel", daemon=True).start()
        if not self.threaded:
            request(token)
        return token

    def cancel(self) -> bool:
        """Stop what runs and drop what waits; return whether there was anything."""
        with self._lock:
            waiting, self._pending = self._pending, None
            running = None if self._ended.is_set() and self.threaded else self._current
            busy = waiting is not None or (running is not None and not self._resting)
            if running is not None:
                running.stop()
        return busy

    @property
    def _resting(self) -> bool:
        return self.threaded and self._idle.is_set()

    def wait(self, timeout: float | None = None, *, ahead: bool = False) -> bool:
        """Wait until no request is left; return whether that was so in time (seconds).

        Args:
            timeout: How long; None waits for ever.
            ahead: Wait also for what is done ahead.
        """
        return (self._ended if ahead else self._idle).wait(timeout)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._pending is None:
                    self._current = None
                    self._idle.set()
                    self._ended.set()
                    return
                (token, request, ahead), self._pending = self._pending, None
                self._current = token
            request(token)
            with self._lock:
                if self._pending is None:
                    self._idle.set()
            if ahead is not None and not token.is_set():
                ahead(token)


def in_kernel() -> bool:
    """Return whether this process answers a notebook, so that a panel may work beside it."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
