"""One CSV a run: a row for each measurement, and one for each class of words and slice of maps."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import Row

TEXTS = ("source", "target")  # said once a case, to keep the file small
FIRST = ("case", "scene", "noise", "kind", "origin", "half", "local", "family", "method")
NUMBERS = (
    "success",
    "kept",
    "both",
    "background_psnr",
    "background_ssim",
    "background_mse",
    "structure",
    "seconds",
    "calls",
)
SCORES = (
    *NUMBERS,
    "correlation",
    "positions",
    "amounts",
)
MAPS = ("class", "slice", "words", "pointing", "auc", "threshold", "iou")
COLUMNS = (*FIRST, *SCORES, *MAPS, *TEXTS, "seed", "versions")
WORDS = {"kind", "origin", "half", "family", "method", "class", "slice", *TEXTS, "versions"}


def write_csv(
    path: Path, rows: Iterable[Row], maps: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> None:
    """Write a run's measurements.

    Args:
        path: where to.
        rows: the records.
        maps: what `summary.maps` made of the records of attention.
        about: what the run says of itself: its seed, and the versions of everything.
    """
    constant = {
        "seed": about["seed"],
        "versions": "; ".join(f"{k} {v}" for k, v in about.items() if k != "seed"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            hidden = () if row["method"] in ("p2p", "(no source)") else TEXTS
            said = {k: _cell(v) for k, v in row.items() if k not in hidden and k != "words"}
            writer.writerow({**said, **constant})
        for found in maps:
            cells = {k: _cell(v) for k, v in found.items() if k in MAPS}
            writer.writerow({"half": "reporting", "method": "maps", **cells, **constant})


def read_csv(path: Path) -> list[Row]:
    """Read a run's rows again, numbers as numbers, what was not measured as None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: _value(k, v) for k, v in row.items()} for row in csv.DictReader(file)]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return " ".join(f"{v:.4g}" for v in value)
    return "" if value is None else value


def _value(column: str, text: str) -> Any:
    if column in WORDS:
        return text
    if column in ("positions", "amounts"):
        return [float(part) for part in text.split()]
    if not text:
        return None
    number = float(text)
    if column == "local":
        return bool(number)
    return int(number) if number.is_integer() and column in (*FIRST, "calls", "words") else number
