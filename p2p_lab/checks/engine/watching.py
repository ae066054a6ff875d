"""See which library code an answer runs, so that a graded answer is its author's own.

    with Watch(Rules(may_use=("p2p_lab.tokens.prompt",))) as watch:
        value = answer(*args)
    watch.used  # "p2p_lab.tokens.alignment.align_tokens", or None

Python's profiler reports each call. A call from the answer into p2p_lab, diffusers or transformers
counts, unless the question allows it; what an allowed function does inside is its own business.
Code that was copied out of a library as text is not seen.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_LIBRARIES = ("p2p_lab", "diffusers", "transformers")
_OURS = (
    *(f"p2p_lab.checks.engine.{name}" for name in ("answering", "drivers", "watching")),
    "p2p_lab.checks.fixtures.worlds",
    "p2p_lab.devices",  # wraps functions whose own name is to be told
)
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


@dataclass(frozen=True)
class Rules:
    """What library code an answer may run.

    Attributes:
        may_use: Modules or functions, as "p2p_lab.sampling.steps.predict_clean".
        attention: Whether ready-made attention of torch may be used.
    """

    may_use: tuple[str, ...] = ()
    attention: bool = True

    def allow(self, name: str) -> bool:
        """Return whether a library function may be called."""
        return any(name == one or name.startswith(f"{one}.") for one in self.may_use)


class Watch:
    """A context in which calls into libraries are noted.

    Attributes:
        used: The first function that the rules do not allow, or None.
    """

    def __init__(self, rules: Rules) -> None:
        """Prepare to watch by these rules."""
        self.rules, self.used = rules, None  # type: tuple[Rules, str | None]
        self._stack, self._decoys = threading.local(), 0
        _folders(), _python()  # looked up before: an error in the hook would end the watch

    def __enter__(self) -> Watch:
        """Begin to watch this thread and those that it starts."""
        self._before = sys.getprofile()
        self._hook: Callable[..., None] = self._note
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop, and note whether somebody stopped before."""
        seen = self._decoys
        _decoy()
        sys.setprofile(self._before)
        threading.setprofile(self._before)
        if self._decoys == seen and self.used is None:
            self.used = "sys.setprofile, which switches this watch off"

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self._enter(frame.f_code)
        elif event == "return":
            if self._states:
                self._states.pop()
        elif event == "c_call" and self._outside and not self.rules.attention:
            name = getattr(argument, "__name__", "")
            if name in _ATTENTION:
                self._blame(f"torch's {name}")

    def _enter(self, code: CodeType) -> None:
        where, outside = _place(code), self._outside
        if where == "answer":
            outside = True
        elif where != "between":
            if outside and not self.rules.allow(where):
                self._blame(where)
            outside = False
        elif outside and not self.rules.attention and code.co_name in _ATTENTION:
            self._blame(f"torch's {code.co_name}")
        self._states.append(outside)
        self._decoys += code is _decoy.__code__

    @property
    def _states(self) -> list[bool]:
        if not hasattr(self._stack, "states"):
            self._stack.states = []
        states: list[bool] = self._stack.states
        return states

    @property
    def _outside(self) -> bool:
        return self._states[-1] if self._states else True

    def _blame(self, name: str) -> None:
        self.used = self.used or name


def _decoy() -> None:
    """Do nothing; the watch has to see it."""


@cache
def _place(code: CodeType) -> str:
    """Return "answer", "between" (torch, Python), or the full name of a library's function."""
    file = code.co_filename
    for name, folder in _folders().items():
        if file.startswith(folder):
            parts = Path(file[len(folder) :]).with_suffix("").parts
            module = ".".join([name, *(part for part in parts if part != "__init__")])
            if module.startswith(_OURS) or module == name:  # a package's front door opens others
                return "between"
            return f"{module}.{getattr(code, 'co_qualname', code.co_name)}"
    between = file.startswith(("<frozen", "<string>", "<__array", *_python()))
    return "between" if between else "answer"


@cache
def _folders() -> dict[str, str]:
    found = {name: find_spec(name) for name in _LIBRARIES}
    return {
        name: os.fspath(next(iter(spec.submodule_search_locations or ()))) + os.sep
        for name, spec in found.items()
        if spec is not None
    }


@cache
def _python() -> tuple[str, ...]:
    """Return the folders of Python's own library and of installed packages."""
    paths = sysconfig.get_paths()
    return tuple({paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
