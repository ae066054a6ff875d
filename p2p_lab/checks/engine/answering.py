"""What came of calling an answer: its value, or why there is none.

    outcome_of(answer, args) -> Outcome("value" | "nothing" | "wrong" | "used")

It runs where the answer lives: in the student's notebook, or, while a problem set is graded, in a
process that knows no right answers and sends back what came out.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from p2p_lab.checks.engine.watching import Rules, Watch

Drive = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one call.

    Attributes:
        kind: "value"; "nothing" for a stub; "wrong" for an error; "used" for a library's work.
        value: What was returned.
        sentence: What is wrong.
    """

    kind: Literal["value", "nothing", "wrong", "used"]
    value: Any = None
    sentence: str = ""


class Bundled:
    """A place in the arguments that the bundled model takes when the answer is called."""


def outcome_of(
    answer: Callable[..., Any],
    args: tuple[Any, ...],
    rules: Rules | None = None,
    drive: Drive | None = None,
) -> Outcome:
    """Call an answer, and say what came of it.

    Args:
        answer: The function, or what `drive` takes in its place.
        args: Its arguments; they must not be changed in place.
        rules: What library code it may run; anything, by default.
        drive: A function that is called with the answer and its arguments, and calls it.
    """
    own_args = copy.deepcopy(args)
    called = resolved(args)
    watch = Watch(rules) if rules is not None else None
    value, failure = None, None  # type: tuple[Any, BaseException | None]
    try:
        value = _called(answer, called, drive, watch)
    except (Exception, SystemExit) as error:  # a student's code may raise anything
        failure = error
    if watch is not None and watch.used is not None:
        return Outcome("used", sentence=_used(watch.used))
    if isinstance(failure, NotImplementedError):
        return Outcome("nothing")
    if failure is not None:
        return Outcome("wrong", sentence=_raised(answer, failure))
    if not all(_same(old, new) for old, new in zip(own_args, args, strict=True)):
        return Outcome("wrong", sentence=_IN_PLACE)
    if value is None or value is ...:
        return Outcome("nothing")
    return Outcome("value", value)


_IN_PLACE = (
    "It changed one of its arguments in place. Build a new tensor (start with .clone()) "
    "and return that: the caller still needs the old one."
)


def _called(
    answer: Callable[..., Any], args: tuple[Any, ...], drive: Drive | None, watch: Watch | None
) -> Any:
    function, rest = (answer, args) if drive is None else (drive, (answer, *args))
    if watch is None:
        return function(*rest)
    with watch:
        return function(*rest)


def resolved(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with the bundled model in its places."""
    from p2p_lab.checks.engine.loaded import bundled

    return tuple(bundled() if isinstance(arg, Bundled) else arg for arg in args)


def _used(name: str) -> str:
    return (
        f"It lets {name} do the work. This question asks for your own code: torch and Python may "
        "be used, and what the question names."
    )


def _same(old: Any, new: Any) -> bool:
    """Return whether an argument is as it was; what has no equality counts as unchanged."""
    if isinstance(old, Tensor):
        equal = old.shape == getattr(new, "shape", None) and bool(old.equal(new))
        return isinstance(new, Tensor) and equal
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    return not isinstance(old, (dict, set, str, int, float)) or bool(old == new)


def _raised(answer: Any, error: BaseException) -> str:
    """Return what an answer raised, and in which of its lines."""
    message = re.sub(r" at 0x[0-9a-f]+", "", str(error)).strip().splitlines()
    text = f"It raised {type(error).__name__}{': ' + message[0][:160] if message else ''}"
    function = answer if hasattr(answer, "__code__") else type(answer).__call__
    code = getattr(function, "__code__", None)
    lines = [
        line - frame.f_code.co_firstlineno + 1
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code is code
    ]
    return f"{text.rstrip('.')}" + (f", in line {lines[-1]} of your function." if lines else ".")
