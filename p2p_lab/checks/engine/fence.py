"""What surrounds a student's process while a problem set is graded, and how it is asked.

`put_up` is run before the student's first cell: it loads what is needed, then limits memory, and
lets nothing read the course's own files, the checks' sources or another process, start a program,
or reach the network. `serve` calls one answer. This stops accidents and the usual tricks; code that
goes around Python's own functions is not stopped.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2p_lab.checks.engine import (  # noqa: F401
    answering,
    asking,
    drivers,
    grading,
    loaded,
    wire,
)
from p2p_lab.checks.engine.answering import Outcome, outcome_of
from p2p_lab.checks.engine.feedback import Note
from p2p_lab.checks.fixtures import noised_scenes, targets, worlds  # noqa: F401

_CHECKS = Path(__file__).resolve().parents[1]
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
           "os.spawn", "pty.spawn")  # fmt: skip
_PATHS = ("open", "os.link", "os.rename", "os.symlink", "sqlite3.connect", "os.listdir",
          "os.scandir")  # fmt: skip


def put_up(course: str, gib: float) -> None:
    """Surround this process, for good.

    Args:
        course: The folder of the course, of which only the present one may be read.
        gib: How much memory may be taken from now on, where the system can tell.
    """
    _silence()
    _limit(gib)
    root = _CHECKS.parents[1]
    closed = [Path(course), _CHECKS, *(root / name for name in ("assignments", "tests", ".git"))]
    sys.addaudithook(_guard([os.path.realpath(path) for path in closed], os.getcwd()))


def _silence() -> None:
    """Let `check`, `hint` and `grade` in a student's own cells do nothing."""

    def notice(exercise_id: str = "", *args: Any, **more: Any) -> Note:
        return Note(str(exercise_id), "hint", str(exercise_id), "Not run while it is graded.")

    rooms = (sys.modules["p2p_lab.checks"], asking, grading)
    for room in rooms:
        for name in ("check", "hint", "solution", "grade", "exercises", "questions"):
            if hasattr(room, name):
                setattr(room, name, notice)


def _limit(gib: float) -> None:
    """Let this process take so much memory more, shared maps included (Linux)."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return
    most = pages * resource.getpagesize() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))


def _guard(closed: list[str], allowed: str) -> Any:
    """Return the hook that refuses what an answer has no need of."""
    allowed = os.path.realpath(allowed)

    def guard(event: str, args: tuple[Any, ...]) -> None:
        if event in _PATHS:
            for path in args[:2]:
                if isinstance(path, (str, bytes, os.PathLike)) and _shut(path, closed, allowed):
                    raise PermissionError("This file is not read while a problem set is graded.")
        elif event in _STARTS:
            raise PermissionError("No program is started while a problem set is graded.")
        elif event == "socket.connect" and isinstance(args[1], tuple):
            raise PermissionError("There is no network while a problem set is graded.")

    return guard


def _shut(path: Any, closed: list[str], allowed: str) -> bool:
    """Return whether a path lies in a closed folder, or is another process's."""
    real = os.path.realpath(os.fsdecode(path))
    other = re.match(r"/proc/(\d+)/(?:mem|environ|fd|maps|cwd|root|task)", real)
    if other and int(other[1]) != os.getpid():
        return True
    return any(_within(real, one) and not (_within(allowed, one) and _within(real, allowed))
               for one in closed)  # fmt: skip


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


def serve(request: str, reply: str, space: Mapping[str, Any]) -> None:
    """Call an answer with the arguments in one file, and write what came of it to another."""
    with open(request, "rb") as file:
        name, args, rules, drive = pickle.load(file)  # written by the process that judges
    if name not in space:
        found = Outcome("wrong", sentence=f"There is no {name} in the notebook: keep the name.")
    else:
        found = _outcome(space[name], args, rules, drive)
    with open(reply, "wb") as file:
        file.write(wire.to_bytes([found.kind, found.value, found.sentence]))


def _outcome(answer: Any, args: tuple[Any, ...], rules: Any, drive: str | None) -> Outcome:
    if answer is None or answer is ...:
        return Outcome("nothing")
    if not callable(answer):
        return Outcome("wrong", sentence="It is no function any more: keep the name.")
    return outcome_of(answer, args, rules, getattr(drivers, drive) if drive else None)
