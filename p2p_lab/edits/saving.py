"""A compiled edit as JSON: its schema, and the way there and back, bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from p2p_lab.codec import DamagedError, decode, parse_object
from p2p_lab.edits.parts import BlendPlan, Feed, MovePlan
from p2p_lab.tokens import Prompt
from p2p_lab.tokens.alignment import Compat

if TYPE_CHECKING:
    from p2p_lab.edits.plan import EditPlan

_FORMAT: Literal["p2p_lab.EditPlan/1"] = "p2p_lab.EditPlan/1"
Row = tuple[float, ...]
Grid = tuple[Row, ...]
Entries = tuple[tuple[int, int, float], ...]  # of a mapper: row, column, value, where it is not 0


@dataclass(frozen=True)
class SavedMove:
    """A `MovePlan`; the mask as nested rows, for one picture or for several."""

    tokens: tuple[int, ...]
    by: tuple[float, float]
    scale: float
    steps: tuple[int, int]
    threshold: float
    mask: Grid | tuple[Grid, ...] | None


@dataclass(frozen=True)
class SavedBlend:
    """A `BlendPlan`."""

    source_tokens: tuple[int, ...]
    target_tokens: tuple[int, ...]
    source_subtract: tuple[int, ...]
    target_subtract: tuple[int, ...]
    threshold: float
    start_step: int
    mask: Grid | None
    toward: tuple[SavedBlend, float] | None = None


@dataclass(frozen=True)
class SavedPlan:
    """An `EditPlan`; gains are one row a step."""

    format: Literal["p2p_lab.EditPlan/1"]
    length: int
    mapper: Entries
    source_gain: Grid
    target_gain: Grid
    self_steps: tuple[int, int, int]
    self_pixels: int
    blend: SavedBlend | None
    source: Prompt | None
    target: Prompt | None
    compat: Compat
    joint: Literal["maps", "queries"] = "maps"
    toward: tuple[Prompt, float] | None = None
    moves: tuple[SavedMove, ...] = ()
    second: tuple[Entries, Grid] | None = None


def write_plan(plan: EditPlan) -> str:
    """Write a plan as JSON; numbers keep every bit, the mapper only its entries that count."""
    second = None
    if plan.second is not None:
        second = _entries(plan.second.mapper), _rows(plan.second.gain)
    saved = SavedPlan(
        format=_FORMAT,
        length=plan.length,
        mapper=_entries(plan.mapper),
        source_gain=_rows(plan.source_gain),
        target_gain=_rows(plan.target_gain),
        self_steps=(plan.self_steps.start, plan.self_steps.stop, plan.self_steps.step),
        self_pixels=plan.self_pixels,
        blend=None if plan.blend is None else _saved_blend(plan.blend),
        source=plan.source,
        target=plan.target,
        compat=plan.compat,
        joint=plan.joint,
        toward=plan.toward,
        moves=tuple(_saved_move(move) for move in plan.moves),
        second=second,
    )
    return json.dumps(asdict(saved), allow_nan=False)


def read_plan(text: str) -> dict[str, Any]:
    """Read the fields of an `EditPlan` from JSON.

    Raises:
        ValueError: If the text is no JSON, or no plan.
    """
    try:
        return _fields(decode(SavedPlan, parse_object(text)))
    except (DamagedError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"This text is no saved EditPlan ({_FORMAT}): {error}. Save the plan again with "
            "plan.to_json()."
        ) from error


def _fields(saved: SavedPlan) -> dict[str, Any]:
    gains = (*saved.source_gain, *saved.target_gain, *(saved.second[1] if saved.second else ()))
    if any(len(row) != saved.length for row in gains):
        raise DamagedError("its gains are not as long as its prompts")  # before length² is taken
    kept = ("self_pixels", "source", "target", "compat", "joint", "toward")
    second = None
    if saved.second is not None:
        second = Feed(_mapper(saved.second[0], saved.length), _gain(saved.second[1], saved.length))
    return {
        **{name: getattr(saved, name) for name in kept},
        "mapper": _mapper(saved.mapper, saved.length),
        "source_gain": _gain(saved.source_gain, saved.length),
        "target_gain": _gain(saved.target_gain, saved.length),
        "self_steps": range(*saved.self_steps),
        "blend": None if saved.blend is None else _blend(saved.blend),
        "moves": tuple(_move(move) for move in saved.moves),
        "second": second,
    }


def _entries(mapper: Tensor) -> Entries:
    return tuple((i, j, float(mapper[i, j])) for i, j in mapper.nonzero().tolist())


def _mapper(entries: Entries, length: int) -> Tensor:
    mapper = torch.zeros(length, length, dtype=torch.float64)
    for i, j, value in entries:
        if not (0 <= i < length and 0 <= j < length):
            raise DamagedError(f"its mapper has the entry ({i}, {j}) for {length} tokens")
        mapper[i, j] = value
    return mapper


def _gain(rows: Grid, length: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), length)


def _saved_move(move: MovePlan) -> SavedMove:
    fields = {name: getattr(move, name) for name in ("tokens", "by", "scale", "threshold")}
    return SavedMove(**fields, steps=(move.steps.start, move.steps.stop), mask=_rows(move.mask))


def _move(saved: SavedMove) -> MovePlan:
    fields = {name: getattr(saved, name) for name in ("tokens", "by", "scale", "threshold")}
    return MovePlan(**fields, steps=range(*saved.steps), mask=_mask(saved.mask))


def _saved_blend(blend: BlendPlan) -> SavedBlend:
    fields = {name: getattr(blend, name) for name in blend.__dataclass_fields__}
    fields["mask"] = _rows(blend.mask)
    if blend.toward is not None:
        fields["toward"] = _saved_blend(blend.toward[0]), float(blend.toward[1])
    return SavedBlend(**fields)


def _blend(saved: SavedBlend) -> BlendPlan:
    fields = {name: getattr(saved, name) for name in saved.__dataclass_fields__}
    fields["mask"] = _mask(saved.mask)
    if saved.toward is not None:
        fields["toward"] = _blend(saved.toward[0]), saved.toward[1]
    return BlendPlan(**fields)


def _rows(values: Tensor | None) -> Any:
    return None if values is None else values.tolist()


def _mask(rows: Grid | tuple[Grid, ...] | None) -> Tensor | None:
    return None if rows is None else torch.tensor(rows, dtype=torch.float64)
