"""Two training runs that differ in their attention supervision alone, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from run_facts import MEANING, last_line, read_log


def read_matched(run: Path, benchmark: Path) -> dict[str, Any]:
    """Return one of two matched runs: its settings, how it ended, its benchmark."""
    card = json.loads((run / "pipeline" / "card.json").read_text())
    numbers = last_line(benchmark)
    end = read_log(run / "denoiser" / "log.jsonl")[-1]
    ended = {key: end[key] for key in ("pictures", "seconds", "loss")}
    return {"command": card["command"], "config": card["config"], **ended, "metrics": numbers}


def pair_table(told: dict[str, Any], untold: dict[str, Any]) -> str:
    """Return what two runs came to that differ in their attention supervision alone.

    Raises:
        ValueError: When they differ in more, or not in that.
    """
    ours, theirs = ({**run["config"]} for run in (told, untold))
    weights = ours.pop("supervision"), theirs.pop("supervision")
    if ours != theirs or weights[1] != 0 or weights[0] == 0:
        raise ValueError("The two runs must be alike but for the supervision, of the second 0.")
    lines = [
        "What attention supervision does: two runs from nothing, shorter than the model's own and "
        f"alike but for `--supervision` (`{told['command']}`; {told['pictures']:,} pictures "
        f"through the U-Net in {told['seconds'] / 60:.0f} and {untold['seconds'] / 60:.0f} "
        f"minutes). Their velocity losses ended at {told['loss']:.4f} and {untold['loss']:.4f}.",
        "",
        f"| | with ({weights[0]:g}) | without |",
        "|---|---|---|",
    ]
    shown = [key for key in MEANING if key.endswith("success") or key in ("pointing", "iou")]
    for key in shown:
        pair = (run["metrics"][key] for run in (told, untold))
        lines.append(f"| {MEANING[key]} (`{key}`) | " + " | ".join(f"{v:.3g}" for v in pair) + " |")
    return "\n".join(lines)
