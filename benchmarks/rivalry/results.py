"""The measurements as they are kept beside the code: benchmarks/results/rivals.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.records import Row
from benchmarks.rivalry.settings import BLENDED, P2P

RESULTS = Path(__file__).resolve().parent.parent / "results" / "rivals.json"
DIGITS = 5
LEFT_OUT = ("source", "target", "background_ssim", "background_mse", "half")
VERDICTS = ("success", "kept", "both", "masked_success", "masked_kept", "masked_both")
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


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return how far two runs are apart, over the rows that both made with the same settings.

    Returns:
        How many verdicts of the judge there are and how many are the same; by method the largest
        difference of the background's PSNR in dB; and the other run's processor.
    """
    ours = {(row["case"], row["method"]): _short(row) for row in mine["rows"]}
    same = total = 0
    apart: dict[str, float] = {}
    for row in theirs["rows"]:
        method, other = row["method"], ours.get((row["case"], row["method"]))
        chosen_as = P2P if method == BLENDED else method
        settings = [run["chosen"].get(chosen_as) for run in (mine, theirs)]
        if other is None or "both" not in row or settings[0] != settings[1]:
            continue
        verdicts = [name for name in VERDICTS if row.get(name) is not None]
        total += len(verdicts)
        same += sum(row[name] == other[name] for name in verdicts)
        if row.get("background_psnr") is not None:
            gap = abs(row["background_psnr"] - other["background_psnr"])
            apart[method] = max(apart.get(method, 0.0), round(gap, 4))
    processor = theirs.get("processor", "another processor")
    return {"verdicts": total, "same": same, "background_psnr": apart, "processor": processor}


def _short(row: Row) -> Row:
    kept = {k: v for k, v in row.items() if k not in (*LEFT_OUT, *LEFT_OUT_MASKED)}
    return {k: _rounded(v) for k, v in kept.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
