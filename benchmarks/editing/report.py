"""The report as Markdown: who edits best, where the maps point, what each setting is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.editing.attention import CLASSES, DAAM, OURS
from benchmarks.editing.defaults import Trial
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.summary import MAIN

Numbers = Mapping[str, Any]
TARGETS = (
    ("edit success where a local blend applies", "local_success", 0.90, 2),
    ("background PSNR above the re-prompt's, dB", "background_psnr_gain", 8.0, 1),
    ("fader correlation", "fader_correlation", 0.90, 2),
    ("pointing accuracy of object words", "pointing", 0.90, 2),
    ("IoU of object words", "iou", 0.55, 2),
)


def markdown(
    about: Numbers,
    head: Numbers,
    table: Mapping[str, Numbers],
    faded: Mapping[str, Numbers],
    scored: Sequence[Numbers],
    missing: int,
) -> str:
    """Return the report of a run's reporting half."""
    cases = table[MAIN]["cases"]
    lines = [
        f"# Editing with {about['model']}: {cases} cases that chose nothing",
        "",
        "; ".join(f"{name} {value}" for name, value in about.items()) + ".",
        "",
        f"{missing} more cases had no source that the judge could read and are left out for all. "
        "*success*: what was asked for is seen. *kept*: everything else still is. Background: what "
        "lies outside the true mask of what may change; kinds that change everything have none. "
        "Brackets: 95 % bootstrap intervals over cases. A call is one row of the denoiser's batch.",
        "",
        *main_table(table),
        "",
        *_kinds(table),
        "",
        *_faders(faded),
        "",
        *_targets(head),
        "",
        *where_words_look(scored),
    ]
    return "\n".join(lines) + "\n"


def main_table(table: Mapping[str, Numbers]) -> list[str]:
    """Return the table of all contenders."""
    lines = [
        "| method | success | kept | both | background PSNR | over re-prompt | SSIM | MSE ×10³ | "
        "structure ×10³ | s | calls |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in table.items():
        cells = [
            name,
            with_interval(row, "success", 2),
            with_interval(row, "kept", 2),
            with_interval(row, "both", 2),
            with_interval(row, "background_psnr", 1),
            with_interval(row, "background_psnr_gain", 1),
            shown(row["background_ssim"], 3),
            shown(row["background_mse"], 2, 1000),
            shown(row["structure"], 2, 1000),
            shown(row["seconds"], 2),
            shown(row["calls"], 0),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _kinds(table: Mapping[str, Numbers]) -> list[str]:
    lines = ["Share of edits that did what was asked, by kind:", ""]
    lines += ["| method | " + " | ".join(KINDS) + " |", "|---|" + "--:|" * len(KINDS)]
    for name, row in table.items():
        cells = [shown(row["success_by_kind"][kind], 2) for kind in KINDS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _faders(faded: Mapping[str, Numbers]) -> list[str]:
    parts = [
        f"{name} {shown(row['correlation'], 2)} {bracket(row['interval'], 2)} ({row['cases']})"
        for name, row in faded.items()
        if row["cases"]
    ]
    return ["Faders, rank correlation of position and amount seen: " + "; ".join(parts) + "."]


def _targets(head: Numbers) -> list[str]:
    lines = ["| target | asked | reached | |", "|---|--:|--:|---|"]
    for says, name, least, digits in TARGETS:
        value = head[name]
        verdict = "" if value is None else "yes" if value >= least else "no"
        lines.append(f"| {says} | ≥ {least:g} | {shown(value, digits)} | {verdict} |")
    return lines


def where_words_look(scored: Sequence[Numbers]) -> list[str]:
    """Return the table of the maps' scores by class of words."""
    lines = [
        "## Where words look",
        "",
        "Inverted sources only, whose masks are exact, on a 16 × 16 grid. The IoU is at one fixed "
        "part of each map's maximum, the one that is best on the tuning half (in a run without "
        "tuning: on these words). Best: by area under the curve.",
        "",
        "| words | n | ours: pointing | IoU (at) | AUC | DAAM: pointing | IoU | AUC | best site | "
        "best step | best head | best size |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|---|---|---|",
    ]
    for kind in CLASSES:
        rows = {row["slice"]: row for row in scored if row["class"] == kind}
        if not rows:
            continue
        ours, daam = rows[OURS], rows[DAAM]
        cells = [
            *(kind, str(ours["words"]), with_interval(ours, "pointing", 2)),
            f"{with_interval(ours, 'iou', 2)} ({ours['threshold']:.1f})",
            shown(ours["auc"], 2),
            *(shown(daam[n], 2) for n in ("pointing", "iou", "auc")),
            *(best_of(rows.values(), part) for part in ("site", "step", "head", "resolution")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def best_of(rows: Iterable[Numbers], part: str) -> str:
    """Name the site, step or head whose maps have the largest area under the curve."""
    found = [row for row in rows if row["slice"].startswith(f"{part} ") and row["auc"] is not None]
    if not found:
        return ""
    best = max(found, key=lambda row: row["auc"])
    return f"{best['slice'].removeprefix(part + ' ')} (AUC {best['auc']:.2f})"


def ablations(curves: Sequence[Numbers]) -> str:
    """Return the tables of all axes."""
    lines = ["## What each setting is worth (tuning half)", ""]
    seen: dict[tuple[str, Any], list[Numbers]] = {}
    for row in curves:
        seen.setdefault((row["says"], row["blend"]), []).append(row)
    for (says, blend), rows in seen.items():
        how = {None: "with a blend where it applies", True: "blended", False: "not blended"}
        if not rows[0]["cases"]:
            continue
        timed = rows[0]["axis"] == "steps"  # other neighbours share first steps
        lines += [
            f"{says[0].upper()}{says[1:]}, {how[blend]}, {rows[0]['cases']} "
            f"{'cases' if blend is None else 'local cases'}:",
            "",
        ]
        head = "| | success | kept | both | background PSNR | structure ×10³ |"
        lines += [head + (" s | calls |" if timed else "")]
        lines += ["|--:|" + "--:|" * (7 if timed else 5)]
        for row in rows:
            cells = [
                str(row["value"]) or "as it is",
                *(shown(row[n], 2) for n in ("success", "kept")),
                f"{shown(row['both'], 2)} {bracket(row['both_interval'], 2)}",
                shown(row["background_psnr"], 1),
                shown(row["structure"], 2, 1000),
            ]
            cells += [shown(row["seconds"], 2), shown(row["calls"], 0)] if timed else []
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines) + "\n"


def defaults_table(found: Sequence[Trial]) -> str:
    """Return the tried values of every setting; the chosen ones are marked."""
    lines = [
        "## Defaults chosen on the tuning half",
        "",
        "| edit | setting | value | n | success | kept | both | background PSNR | |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for trial in found:
        says = ["chosen"] * trial.best + ["the package's default"] * trial.usual
        cells = [
            *(trial.edit, trial.name, f"{trial.value:g}", str(trial.count)),
            *(shown(trial.scores[n], 2) for n in ("success", "kept", "both")),
            shown(trial.scores["background_psnr"], 1),
            ", ".join(says),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(value: float | None, digits: int, times: float = 1.0) -> str:
    """Return a number with so many digits, nothing for None."""
    return "" if value is None else f"{value * times:.{digits}f}"


def bracket(bounds: tuple[float, float] | None, digits: int) -> str:
    """Return an interval in brackets."""
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def with_interval(row: Numbers, name: str, digits: int) -> str:
    """Return a mean with its interval."""
    bounds = row.get(f"{name}_interval")
    return f"{shown(row[name], digits)} {bracket(bounds, digits)}".strip()
