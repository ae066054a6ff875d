"""From rows to tables: every contender over the same cases, kind by kind, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.editing.ablations import Axis, lookup
from benchmarks.editing.attention import CLASSES, DAAM, OURS, THRESHOLDS
from benchmarks.editing.cases import Case
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.methods import STRENGTHS, Settings
from benchmarks.editing.running import ATTENTION, FADED, RE_PROMPT, WORDED, Chosen, tuned
from benchmarks.editing.scores import interval, mean
from benchmarks.editing.table import NUMBERS
from benchmarks.records import Row

MAIN = "p2p + blend"  # the package's defaults, with a local blend where it applies
By = Mapping[tuple[int, str], Row]


def index(rows: Iterable[Row]) -> dict[tuple[int, str], Row]:
    """Return rows by case and method."""
    return {(row["case"], row["method"]): row for row in rows}


def contenders(chosen: Chosen) -> dict[str, Any]:
    """Return, by name, a function from (case, family) to the name of the row that counts."""

    def fixed(name: str) -> Any:
        return lambda case, family: name

    found: dict[str, Any] = {
        MAIN: lambda case, family: Settings(blend=case.local).name,
        "p2p": fixed(Settings().name),
        RE_PROMPT: fixed(RE_PROMPT),
        **{f"sdedit {s:g}": fixed(f"sdedit {s:g}") for s in STRENGTHS},
    }
    if chosen:
        found["p2p tuned"] = lambda case, family: tuned(case, chosen[family]).name
    return found


def shared(cases: Sequence[Case], by: By, names: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of every contender over the cases that all of them did, in one order."""
    table: dict[str, list[Row]] = {name: [] for name in names}
    for case in cases:
        plain = by.get((case.number, Settings().name))
        if plain is None:
            continue
        rows = {
            name: by.get((case.number, of(case, plain["family"]))) for name, of in names.items()
        }
        if all(rows.values()):
            for name, row in rows.items():
                table[name].append(row)  # type: ignore[arg-type]
    return table


def sum_up(table: Mapping[str, list[Row]]) -> dict[str, dict[str, Any]]:
    """Average every number of every contender, with an interval, and its gain over a re-prompt."""
    found = {}
    for name, rows in table.items():
        numbers: dict[str, Any] = {"cases": len(rows)}
        for number in NUMBERS:
            values = [row[number] for row in rows]
            numbers[number] = mean(values)
            numbers[f"{number}_interval"] = interval(values)
        gains = [
            None if row["background_psnr"] is None else row["background_psnr"] - plain
            for row, plain in zip(rows, _column(table[RE_PROMPT]), strict=True)
        ]
        numbers["background_psnr_gain"] = mean(gains)
        numbers["background_psnr_gain_interval"] = interval(gains)
        for number in ("success", "both"):
            by_kind = {k: [r[number] for r in rows if r["kind"] == k] for k in KINDS}
            numbers[f"{number}_by_kind"] = {k: mean(values) for k, values in by_kind.items()}
        local = [row["success"] for row in rows if row["local"]]
        numbers["local_success"], numbers["local_success_interval"] = mean(local), interval(local)
        found[name] = numbers
    return found


def _column(rows: Sequence[Row]) -> list[Any]:
    return [row["background_psnr"] for row in rows]


def faders(rows: Iterable[Row], half: str = "reporting") -> dict[str, dict[str, Any]]:
    """Return the mean rank correlation of the faders, by weight and by wording."""
    found = {}
    for name, method in (("p2p", FADED), (RE_PROMPT, WORDED)):
        values = [r["correlation"] for r in rows if r["method"] == method and r["half"] == half]
        found[name] = {
            "cases": len(values),
            "correlation": mean(values),
            "interval": interval(values),
        }
    return found


def maps(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return a row for each class of words and each slice of the maps.

    The threshold of the IoU is fixed for a class and slice: the one that is best on the tuning half
    where that was measured, else on the words themselves.
    """
    words: dict[str, list[dict[str, Any]]] = {"tuning": [], "reporting": []}
    for row in rows:
        if row["method"] == ATTENTION:
            words[row["half"]] += row["words"]
    found = []
    for kind in CLASSES:
        report = [w["slices"] for w in words["reporting"] if w["class"] == kind]
        tune = [w["slices"] for w in words["tuning"] if w["class"] == kind] or report
        for name in report[0] if report else ():
            best = _best_threshold([s[name] for s in tune if name in s])
            scores = [s[name] for s in report]
            found.append(
                {
                    "class": kind,
                    "slice": name,
                    "words": len(scores),
                    "pointing": mean([s[0] for s in scores]),
                    "pointing_interval": interval([s[0] for s in scores]),
                    "auc": mean([s[1] for s in scores]),
                    "threshold": THRESHOLDS[best],
                    "iou": mean([s[2 + best] for s in scores]),
                    "iou_interval": interval([s[2 + best] for s in scores]),
                }
            )
    return found


def _best_threshold(scores: Sequence[Sequence[float]]) -> int:
    levels = range(len(THRESHOLDS))
    return max(levels, key=lambda k: mean([s[2 + k] for s in scores]) or 0.0) if scores else 4


def curves(cases: Sequence[Case], by: By, axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return a row for each value of each axis, all over the same cases.

    What is shown with a blend and without is shown of local edits, so that the two can be compared;
    "blend" is None for all cases, with a blend where it applies.
    """
    found = []
    for axis in axes:
        for blend in {"never": (False,), "always": (True,), "both": (False, True, None)}.get(
            axis.blends, (None,)
        ):
            names = {value: lookup(axis, value, blend=blend) for value in axis.values}
            table: dict[Any, list[Row]] = {value: [] for value in axis.values}
            for case in cases:
                if blend is not None and not case.local:
                    continue
                said = {value: name(case) for value, name in names.items()}
                rows = {v: by.get((case.number, n[0])) if n else None for v, n in said.items()}
                if all(rows.values()):
                    for value, row in rows.items():
                        table[value].append(row)  # type: ignore[arg-type]
            for value, rows_of in table.items():
                numbers = {n: mean([row[n] for row in rows_of]) for n in NUMBERS}
                both = interval([row["both"] for row in rows_of])
                head = {"axis": axis.name, "says": axis.says, "value": value, "blend": blend}
                found.append({**head, "cases": len(rows_of), **numbers, "both_interval": both})
    return found


def headline(
    table: Mapping[str, Mapping[str, Any]],
    faded: Mapping[str, Mapping[str, Any]],
    scored: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the one JSON object: the main contender's numbers, and the same for every other."""
    objects = {row["slice"]: row for row in scored if row["class"] == "object"}

    def numbers(name: str, fader: str | None, slice_name: str | None) -> dict[str, Any]:
        row, seen = table[name], objects.get(slice_name or "", {})
        return {
            "success": row["success"],
            "success_by_kind": row["success_by_kind"],
            "background_psnr_gain": row["background_psnr_gain"],
            "fader_correlation": faded[fader]["correlation"] if fader else None,
            "pointing": seen.get("pointing"),
            "iou": seen.get("iou"),
        }

    baselines = {
        name: numbers(name, RE_PROMPT if name == RE_PROMPT else None, None)
        if not name.startswith("p2p")
        else numbers(name, "p2p" if name == "p2p" else None, OURS)
        for name in table
        if name != MAIN
    }
    daam = {"pointing": None, "iou": None, **objects.get(DAAM, {})}
    none = dict.fromkeys(("success", "success_by_kind", "background_psnr_gain"))
    baselines["daam maps"] = {
        **none,
        "fader_correlation": None,
        **{n: daam[n] for n in ("pointing", "iou")},
    }
    main = numbers(MAIN, "p2p", OURS)
    local = table[MAIN]["local_success"]
    return {**main, "local_success": local, "cases": table[MAIN]["cases"], "baselines": baselines}
