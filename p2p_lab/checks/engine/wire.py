"""Values as they travel from a student's process to the one that judges them.

Only numbers, texts, tensors, lists, tuples, dictionaries and the package's edits travel. They are
read with `weights_only`, so nothing that a student sends can run in the judge's process.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2p_lab import edits

_MOST, _DEEPEST = 100_000, 12
_EDITS = ("Replace", "Refine", "Reweight", "LocalBlend", "Move")


@dataclass(frozen=True)
class Unsent:
    """A value of a kind that does not travel.

    Attributes:
        name: The name of its type.
    """

    name: str


def to_bytes(value: Any) -> bytes:
    """Return a value as bytes."""
    file = io.BytesIO()
    torch.save(packed(value), file)
    return file.getvalue()


def read(path: Path) -> Any:
    """Return the value in a file that a student's process wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    try:
        return unpacked(torch.load(path, weights_only=True))
    except Exception as error:  # whatever was written there
        raise ValueError("The answer's process sent something that cannot be read.") from error


def packed(value: Any, depth: int = 0) -> Any:
    """Return a value built of what travels."""
    if depth > _DEEPEST:
        return {"unsent": "deeply nested list"}
    if value is None or isinstance(value, (bool, int, float, str)):
        return _plain(value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _tensor(value)
    if type(value).__name__ in _EDITS and isinstance(value, _edit_types()):
        return {"edit": type(value).__name__, "fields": _fields(value, depth)}
    if isinstance(value, dict):
        pairs = [[packed(k, depth + 1), packed(v, depth + 1)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, (set, frozenset)) or not isinstance(value, Iterable):
        return {"unsent": type(value).__name__}
    parts = [packed(part, depth + 1) for part in itertools.islice(value, _MOST)]
    return tuple(parts) if isinstance(value, tuple) else parts


def unpacked(value: Any) -> Any:
    """Return the value that was packed."""
    if isinstance(value, (list, tuple)):
        return type(value)(unpacked(part) for part in value)
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {unpacked(k): unpacked(v) for k, v in value["dict"]}
    if "edit" in value:
        fields = {name: unpacked(part) for name, part in value["fields"].items()}
        return getattr(edits, value["edit"])(**fields) if value["edit"] in _EDITS else None
    return Unsent(str(value.get("unsent", "dict")))


def _plain(value: Any) -> Any:
    """Return a number or text of Python's own kind, without what a subclass may add."""
    if value is None or isinstance(value, bool):
        return value
    return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))


def _tensor(value: Any) -> Tensor:
    plain = torch.as_tensor(value).detach().as_subclass(Tensor)
    return plain.to("cpu").clone(memory_format=torch.contiguous_format)


def _fields(value: Any, depth: int) -> dict[str, Any]:
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no edit of the package.")
    return {f.name: packed(getattr(value, f.name), depth + 1) for f in fields(value) if f.init}


def _edit_types() -> tuple[type, ...]:
    return tuple(getattr(edits, name) for name in _EDITS if hasattr(edits, name))
