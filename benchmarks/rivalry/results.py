"""The measurements as they are kept beside the code: benchmarks/results/rivals.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.records import Row

RESULTS = Path(__file__).resolve().parent.parent / "results" / "rivals.json"
DIGITS = 5
LEFT_OUT = ("source", "target", "background_ssim", "background_mse", "half")
LEFT_OUT_MASKED = ("masked_background_ssim", "masked_background_mse")


def write_results(results: dict[str, Any], path: Path = RESULTS) -> None:
    """Write what was measured, a row a line, numbers to five digits."""
    rows = [_short(row) for row in results["rows"] if row["half"] == "reporting"]
    head = {name: value for name, value in results.items() if name != "rows"}
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"head": {json.dumps(head)},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Read them again."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    rows = [{**row, "half": "reporting"} for row in saved["rows"]]
    found: dict[str, Any] = {**saved["head"], "rows": rows}
    return found


def _short(row: Row) -> Row:
    kept = {k: v for k, v in row.items() if k not in (*LEFT_OUT, *LEFT_OUT_MASKED)}
    return {k: _rounded(v) for k, v in kept.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
