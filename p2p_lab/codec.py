"""Read JSON that may be damaged or made up, by a schema: the fields of a dataclass.

What a file of ours holds is declared once, as a frozen dataclass with annotated fields; `decode`
builds it, or says in a sentence which field is wrong. No file of ours is read in another way. This
file knows nothing of what the fields mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class DamagedError(ValueError):
    """What was read is not what was written; the message says where."""


def parse(text: str | bytes, *, finite: bool = True) -> Any:
    """Return what a JSON text says.

    Args:
        text: The text, or its bytes in UTF-8.
        finite: Whether to refuse NaN and Infinity, which JSON lacks but some programs write.

    Raises:
        DamagedError: If it is no JSON, is nested too deep, or holds numbers that JSON lacks.
    """
    try:
        return json.loads(text, parse_constant=_no_number if finite else float)
    except RecursionError:
        raise DamagedError("it is nested too deep to be read") from None
    except (ValueError, TypeError) as error:
        raise DamagedError(f"it is no JSON: {error}") from error


def parse_object(text: str | bytes, *, finite: bool = True) -> dict[str, Any]:
    """Return a JSON text that is an object at its top, as every file of ours is; see `parse`.

    Raises:
        DamagedError: If it is something else.
    """
    found = parse(text, finite=finite)
    if not isinstance(found, dict):
        raise DamagedError(f"it must be an object with named fields, got {_shown(found)}")
    return found


def decode(kind: type[Kind], value: Any, where: str = "") -> Kind:
    """Build a value of a type from what JSON gave, strictly.

    Args:
        kind: A dataclass, str, int, float, bool, None, a `Literal`, a union, or a tuple, list or
            dict of these. JSON's lists become tuples where the type is one.
        value: What `parse` returned.
        where: The name of the value, for messages.

    Raises:
        DamagedError: If a field is missing, unknown or of another type.
    """
    try:
        found: Kind = _decode(kind, value, where)
    except RecursionError:
        raise DamagedError("it is nested too deep to be read") from None
    return found


def decode_known(kind: type[Kind], value: Mapping[str, Any], where: str = "") -> Kind:
    """Build a dataclass as `decode` does, from an object that may have further fields.

    Raises:
        DamagedError: If a field of the dataclass is missing or of another type.
    """
    types, _ = _schema(cast(Any, kind))
    return decode(kind, {name: value[name] for name in types if name in value}, where)


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), value, where)
    if origin is Literal:
        return _check(value in get_args(kind), value, where, f"one of {get_args(kind)}")
    if origin in (tuple, list):
        return _sequence(kind, origin, value, where)
    if origin is dict:
        _check(isinstance(value, dict), value, where, "an object")
        (_, inner) = get_args(kind)
        return {key: _decode(inner, one, f"{where}.{key}") for key, one in value.items()}
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        _check(abs(value) < 1e308 and math.isfinite(value), value, where, "a finite number")
        return float(value)
    return _check(type(value) is kind, value, where, _WORDS.get(kind, "null"))


def _record(kind: Any, value: Any, where: str) -> Any:
    _check(isinstance(value, Mapping), value, where, "an object with named fields")
    types, needed = _schema(kind)
    missing, extra = needed - set(value), set(value) - set(types)
    if missing:
        raise DamagedError(f"{_named(where)} lacks the field {_listed(missing)}")
    if extra:
        raise DamagedError(f"{_named(where)} has the unknown field {_listed(extra)}")
    dot = f"{where}." if where else ""
    read = {name: _decode(types[name], one, f"{dot}{name}") for name, one in value.items()}
    try:
        return kind(**read)
    except DamagedError:
        raise
    except ValueError as error:  # what the class itself refuses
        raise DamagedError(f"{_named(where)} is not possible: {error}") from error


@cache
def _schema(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a dataclass's fields, and the names of those that must be there."""
    hints = get_type_hints(kind)
    used = [one for one in fields(kind) if one.init]
    needed = [f.name for f in used if f.default is MISSING and f.default_factory is MISSING]
    return {one.name: hints[one.name] for one in used}, frozenset(needed)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not NoneType]
    for kind in rest[:-1]:
        try:
            return _decode(kind, value, where)
        except DamagedError:
            continue
    return _decode(rest[-1], value, where)


def _sequence(kind: Any, origin: Any, value: Any, where: str) -> Any:
    _check(isinstance(value, (list, tuple)), value, where, "a list")
    inner = get_args(kind)
    if origin is tuple and inner[-1:] != (...,):
        _check(len(value) == len(inner), value, where, f"a list of {len(inner)}")
    else:
        inner = inner[:1] * len(value)
    each = zip(inner, value, strict=True)
    return origin(_decode(k, one, f"{where}[{i}]") for i, (k, one) in enumerate(each))


def _check(right: bool, value: Any, where: str, wanted: str) -> Any:
    if not right:
        raise DamagedError(f"{_named(where)} must be {wanted}, got {_shown(value)}")
    return value


def _named(where: str) -> str:
    return repr(where) if where else "it"


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(map(str, names)))[:200]


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{value!r:.60}"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
