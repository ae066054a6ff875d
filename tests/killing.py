"""Kill a process at every moment of a write: at each file operation, and within the bytes.

The act runs in a forked child. Python's own audit events tell of each file operation before it is
done, whatever library asks for it; a limit of the file size kills in the middle of writing, also
where a library writes without Python.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOST = 60  # operations of one act
Act = Callable[[], Any]


def kill_points(act: Act, folder: Path, sizes: tuple[int, ...] = ()) -> Iterator[str]:
    """Do an act again and again, killed at each operation in a folder and each size of a file.

    Yields:
        Where it was killed, after each time; at last "done", when it was not.
    """
    for size in sizes:
        if _child(act, lambda size=size: _limit(size)):
            yield f"within a file, after {size} bytes"
    number = 0
    while _child(act, lambda: _watch(folder, number)):  # noqa: B023 - called at once
        assert number < MOST, "each time there is more to do: the act never ends"
        yield f"at file operation {number}"
        number += 1
    yield "done"


def _child(act: Act, prepare: Act) -> bool:
    """Do an act in a child, and return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the act failed by itself"
    return os.WIFSIGNALED(status)


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it and gets an error instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _watch(folder: Path, last: int) -> None:
    done = 0

    def seen(event: str, given: tuple[Any, ...]) -> None:
        nonlocal done
        if event not in OPERATIONS or not str(given[0]).startswith(str(folder)):
            return
        if event == "open" and not (given[2] or 0) & WRITING:
            return
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    sys.addaudithook(seen)
