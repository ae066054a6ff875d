"""Choose the best settings on the tuning half.

Axis by axis: among the values whose share of edits that do what was asked *and nothing else* lies
within one standard error of the best value's (paired over cases), the one that keeps most of the
background; where there is none, of the structure. No value is chosen that succeeds less often than
the package's default. Small differences of a small sample decide nothing that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.editing.ablations import Axis, lookup
from benchmarks.editing.cases import Case
from benchmarks.editing.methods import Settings
from benchmarks.editing.scores import mean, standard_error
from benchmarks.records import Row

FAMILIES = ("Replace", "Refine", "Reweight")
CHOSEN_BY = {  # whose cases choose which setting
    "cross": ("Replace", "Refine"),
    "self_attention": ("Replace", "Refine"),
    "self_pixels": ("Replace", "Refine"),
    "fader": ("Reweight",),
    "threshold": ("LocalBlend",),
    "start": ("LocalBlend",),
}


@dataclass(frozen=True)
class Trial:
    """What one value of one setting did.

    Attributes:
        edit: "Replace", "Refine", "Reweight" or "LocalBlend".
        name: of the setting.
        value: the value.
        usual: whether it is the package's default.
        count: number of cases.
        scores: means of success, kept, both, background_psnr, structure.
        gaps: of `both` to the best value, case by case.
        best: whether it was chosen.
    """

    edit: str
    name: str
    value: Any
    usual: bool
    count: int
    scores: dict[str, float | None]
    gaps: tuple[float, ...] = ()
    best: bool = False


SCORES = ("success", "kept", "both", "background_psnr", "structure")


def trials(cases: Sequence[Case], rows: Iterable[Row], axes: Sequence[Axis]) -> list[Trial]:
    """Return every value of every setting that is chosen, with the chosen ones marked."""
    by = {(row["case"], row["method"]): row for row in rows if row.get("half") == "tuning"}
    found: list[Trial] = []
    for axis in axes:
        for edit in CHOSEN_BY.get(axis.name, ()):
            found += mark(compare(cases, by, axis, edit))
    return found


def compare(
    cases: Sequence[Case], by: dict[tuple[int, str], Row], axis: Axis, edit: str
) -> list[Trial]:
    """Return the trials of one axis over the cases of one edit that have all its values."""
    tables: list[list[Row]] = [[] for _ in axis.values]
    for case in cases:
        names = [lookup(axis, value)(case) for value in axis.values]
        rows = [by.get((case.number, name[0])) if name else None for name in names]
        if any(row is None or edit not in ("LocalBlend", row["family"]) for row in rows):
            continue
        for table, row in zip(tables, rows, strict=True):
            assert row is not None
            table.append(row)
    if not tables[0]:
        return []
    means = [{score: mean([row[score] for row in table]) for score in SCORES} for table in tables]
    top = max(range(len(tables)), key=lambda i: means[i]["both"] or 0.0)
    return [
        Trial(
            edit,
            axis.name,
            value,
            value == axis.usual,
            len(table),
            scores,
            tuple(b["both"] - a["both"] for a, b in zip(table, tables[top], strict=True)),
        )
        for value, table, scores in zip(axis.values, tables, means, strict=True)
    ]


def mark(found: Sequence[Trial]) -> list[Trial]:
    """Mark the value to be chosen."""
    near = [t for t in found if sum(t.gaps) <= len(t.gaps) * standard_error(t.gaps) + 1e-9]
    best = max(_no_worse(near, found) or _top(found), key=_keeps, default=None)
    return [replace(trial, best=trial is best) for trial in found]


def _no_worse(near: Sequence[Trial], found: Sequence[Trial]) -> list[Trial]:
    """Leave out what succeeds less often than the default, or less often without harm."""
    least = [t.scores for t in found if t.usual]
    return [
        t
        for t in near
        if all((t.scores[n] or 0) >= (s[n] or 0) for s in least for n in ("success", "both"))
    ]


def _top(found: Sequence[Trial]) -> list[Trial]:
    """Return the values that did best of all."""
    best = max((t.scores["both"] or 0.0 for t in found), default=0.0)
    return [t for t in found if (t.scores["both"] or 0.0) == best]


def _keeps(trial: Trial) -> tuple[float, bool]:
    """Tell how much a trial keeps; the package's default wins a draw."""
    psnr, structure = trial.scores["background_psnr"], trial.scores["structure"]
    return (round(psnr, 1) if psnr is not None else -(structure or 0.0), trial.usual)


def choose(found: Sequence[Trial]) -> dict[str, Settings]:
    """Return the chosen settings by family; a fader's windows are those of `Refine`."""
    chosen: dict[str, dict[str, Any]] = {family: {} for family in FAMILIES}
    for trial in found:
        if trial.best and not trial.usual:
            named = {"LocalBlend": FAMILIES, "Refine": ("Refine", "Reweight")}
            for family in named.get(trial.edit, (trial.edit,)):
                chosen[family][trial.name] = trial.value
    return {family: Settings(blend=True, **options) for family, options in chosen.items()}
