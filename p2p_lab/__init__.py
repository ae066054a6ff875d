"""Prompt-to-Prompt image editing with cross-attention control, to look at, change and measure.

The public names of every room can be imported from here. They are loaded when first used, so
that `import p2p_lab` takes no time and does not import torch. Which names there are stands in
`__init__.pyi`, where type checkers read it too.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _read_rooms(stub: Path) -> dict[str, tuple[str, ...]]:
    """Return the public names of each room, as the stub imports them."""
    rooms: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            _, _, room = (node.module or "").partition(".")
            rooms |= {room: names} if room else dict.fromkeys(names, ())
    return rooms


_ROOMS = _read_rooms(Path(__file__).with_suffix(".pyi"))
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(("__version__", *_HOME))  # noqa: PLE0605 (the stub is the list)


def __getattr__(name: str) -> Any:
    """Import the room that holds a public name, or the room itself, on first use."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names and the rooms."""
    return sorted([*__all__, *_ROOMS])
