"""From rows to docs/rivals.md: every table over the cases that all methods did, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.editing.attention import THRESHOLDS
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.report import bracket, shown
from benchmarks.editing.scores import interval, mean
from benchmarks.records import Row
from benchmarks.rivalry.settings import BLENDED, P2P, RE_PROMPT, TRIES, described
from p2p_lab.rivals import RIVALS

METHODS = (BLENDED, P2P, *(m for m in TRIES if m != P2P), RE_PROMPT)
FADED, CONCEPTS = "(fader) ", "(concepts)"
Table = dict[str, list[Row]]


def named(method: str) -> str:
    """Return what a method is called in a table."""
    mine = {P2P: "Prompt-to-Prompt", BLENDED: "Prompt-to-Prompt + blend", RE_PROMPT: "re-prompt"}
    return mine[method] if method in mine else RIVALS[method].name


def table_of(rows: Sequence[Row]) -> Table:
    """Return each method's rows over the cases that all methods did, in one order."""
    by = {(row["case"], row["method"]): row for row in rows if row["half"] == "reporting"}
    numbers = sorted({case for case, _ in by})
    done = [n for n in numbers if all((n, method) in by for method in METHODS)]
    return {method: [by[n, method] for n in done] for method in METHODS}


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return success, background and seconds by method: the benchmark's last line."""
    names = ("success", "kept", "both", "background_psnr", "structure", "seconds", "calls")
    found: dict[str, Any] = {}
    for method, rows in table_of(results["rows"]).items():
        values = {name: mean([row[name] for row in rows]) for name in names}
        found[method] = {k: None if v is None else round(v, 4) for k, v in values.items()}
        found[method]["cases"] = len(rows)
    return found


def readme(results: Mapping[str, Any]) -> str:
    """Return the README's three lines."""
    found = summary(results)
    cells = [
        f"{named(m)} {n['both']:.2f}, {n['background_psnr']:.1f}"
        for m, n in found.items()
        if n["both"] is not None and n["background_psnr"] is not None
    ]
    half = (len(cells) + 1) // 2
    return (
        f"What came after, on {found[P2P]['cases']} other cases, drawn by "
        f"`{results['about']['model']}` ([all numbers](docs/rivals.md)); did what was asked *and* "
        "nothing else, background in dB:\n"
        f"{'; '.join(cells[:half])};\n{'; '.join(cells[half:])}."
    )


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole report."""
    table, about = table_of(results["rows"]), results["about"]
    count = len(table[P2P])
    lost = sum(row["method"] == "(no source)" for row in results["rows"])
    parts = [
        f"# What came after Prompt-to-Prompt: {count} cases that chose nothing",
        "<!-- made by benchmarks/rivals.py from benchmarks/results/rivals.json -->\n"
        "Made by `python benchmarks/rivals.py`, which goes on with more cases where it was cut "
        "short. " + "; ".join(f"{name} {value}" for name, value in about.items()) + ".",
        _how(results, count, lost),
        "\n".join(_main(table)),
        reading(table),
        _mask_text(table) + "\n\n" + "\n".join(_masked(table)),
        "## Drawn and real pictures\n\n" + "\n".join(_origins(table)),
        "## Share of edits that did what was asked, by kind\n\n" + "\n".join(_kinds(table)),
        _settings_text(results) + "\n\n" + "\n".join(_settings(results["chosen"])),
        "## The fader and its rivals\n\n" + _fader_text() + "\n\n" + "\n".join(_faders(results)),
        "## Where a word is\n\n" + _concept_text() + "\n\n" + "\n".join(_concepts(results)),
        "## The same numbers on another machine\n\n" + SAME + _compared(results),
    ]
    return "\n\n".join(parts) + "\n"


SAME = (
    "What is fixed, so that a rerun gives the same scores to the digit: the versions above, one "
    "thread (`OMP_NUM_THREADS=1`, which the script sets), float32 on the CPU, noise drawn on the "
    "CPU from a seed of the case. What cannot be fixed from here: a processor with other vector "
    "instructions adds up in another order, which moves last bits and, rarely, a verdict. CPU "
    "seconds are of one machine, and up to twice as many where another process shares its core: "
    "compare them within a table alone. Calls of the denoiser are the same everywhere."
)


def _compared(results: Mapping[str, Any]) -> str:
    """Return what differed between two machines, if they were compared."""
    found = results.get("compared")
    if not found:
        return ""
    apart = sorted(found["background_psnr"].items(), key=lambda pair: -pair[1])
    listed = ", ".join(f"{named(method)} {gap:.4f}" for method, gap in apart)
    return (
        f"\n\nTried: this run ({results['processor']}) and one with {found['processor']}, over the "
        f"cases that both made with the same settings. {found['same']} of {found['verdicts']} "
        f"verdicts of the judge are the same. Largest difference of a background, in dB: {listed}."
    )


def _how(results: Mapping[str, Any], count: int, lost: int) -> str:
    left = f" {lost} more had no source that the judge could read." if lost else ""
    return (
        f"All methods edit the same {count} pictures, half of them drawn and half real, of ten "
        f"kinds of edit whose truth is known.{left} *success*: the judge sees what was asked for. "
        "*kept*: it sees everything else as it was. Background: PSNR outside what may change; "
        "kinds that change everything have none. Brackets: 95 % bootstrap intervals over cases. "
        "A call is one row of the denoiser's batch. Each method is one file in `p2p_lab/rivals/`."
    )


def _cell(rows: Sequence[Row], name: str, digits: int, times: float = 1.0) -> str:
    values = [None if row.get(name) is None else row[name] * times for row in rows]
    return f"{shown(mean(values), digits)} {bracket(interval(values), digits)}".strip()


def _plain(rows: Sequence[Row], name: str, digits: int, times: float = 1.0) -> str:
    return shown(mean([row.get(name) for row in rows]), digits, times)


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    marks = ["---"] * words + ["--:"] * (len(head) - words)
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *lines)]


def _main(table: Table) -> list[str]:
    head = ["method", "paper", "changes", "success", "kept", "both", "background dB"]
    head += ["structure ×10³", "CPU s", "calls"]
    lines = []
    for method, rows in table.items():
        rival = RIVALS.get(method)
        ours = ("2208.01626", "maps") if method in (P2P, BLENDED) else ("", "nothing is held")
        paper, changes = (rival.paper, rival.changes) if rival else ours
        lines.append(
            [
                *(named(method), paper, changes),
                *(_cell(rows, name, 2) for name in ("success", "kept", "both")),
                _cell(rows, "background_psnr", 1),
                _plain(rows, "structure", 1, 1000),
                _plain(rows, "seconds", 2),
                _plain(rows, "calls", 0),
            ]
        )
    return _rows(head, lines, 3)


def reading(table: Table) -> str:
    """Return which rivals keep as much as Prompt-to-Prompt, by means alone, in a sentence."""
    local = {m: [row for row in rows if row["local"]] for m, rows in table.items()}
    free = _at_least(table, "background_psnr", _mean_of(table[P2P], "background_psnr"))
    blended = _mean_of(local[BLENDED], "background_psnr")
    with_mask = _at_least(local, "masked_background_psnr", blended)
    success = _at_least(table, "both", _mean_of(table[P2P], "both"))
    return (
        f"By the means, of {len(RIVALS)} later methods: as much background as Prompt-to-Prompt "
        f"without a blend: {free}. With a mask (below) as much as Prompt-to-Prompt with a blend: "
        f"{with_mask}. At least as often what was asked and nothing else: {success}. Where two "
        "intervals overlap widely, these cases do not decide."
    )


def _at_least(table: Table, name: str, least: float) -> str:
    found = [named(m) for m in RIVALS if _mean_of(table[m], name) >= least]
    return ", ".join(found) or "none"


def _mean_of(rows: Sequence[Row], name: str) -> float:
    return mean([row.get(name) for row in rows]) or 0.0


def _mask_text(table: Table) -> str:
    count = sum(bool(row["local"]) for row in table[P2P])
    return (
        f"## What a mask of attention maps buys\n\nThe {count} edits of single things, without and "
        "with `rivals.masked`: the source's latents outside the region of the changed words, which "
        "the maps of source and target mark once, after the last step. The local blend of "
        "Prompt-to-Prompt does it at every step."
    )


def _masked(table: Table) -> list[str]:
    head = ["method", "background dB", "with a mask", "both", "with a mask"]
    lines = []
    for method, rows in table.items():
        local = [row for row in rows if row["local"]]
        if method == BLENDED:
            own = [_cell(local, "background_psnr", 1), shown(mean([r["both"] for r in local]), 2)]
            lines.append([named(method), "", own[0], "", own[1]])
            continue
        cells = [_cell(local, f"{m}background_psnr", 1) for m in ("", "masked_")]
        cells += [_plain(local, f"{m}both", 2) for m in ("", "masked_")]
        lines.append([named(method), *cells])
    return _rows(head, lines)


def _origins(table: Table) -> list[str]:
    head = ["method", "drawn: both", "background dB", "real: both", "background dB"]
    lines = []
    for method, rows in table.items():
        cells = []
        for origin in ("generated", "inverted"):
            part = [row for row in rows if row["origin"] == origin]
            cells += [_plain(part, "both", 2), _plain(part, "background_psnr", 1)]
        lines.append([named(method), *cells])
    return _rows(head, lines)


def _kinds(table: Table) -> list[str]:
    kinds = [k for k in KINDS if any(row["kind"] == k for row in table[P2P])]
    number = {k: sum(row["kind"] == k for row in table[P2P]) for k in kinds}
    lines = [
        [named(m), *(_plain([r for r in rows if r["kind"] == k], "success", 2) for k in kinds)]
        for m, rows in table.items()
    ]
    return _rows(["method", *(f"{k} ({number[k]})" for k in kinds)], lines)


def _settings_text(results: Mapping[str, Any]) -> str:
    tries = len(next(iter(TRIES.values())))
    return (
        f"## Settings\n\nOf {tries} settings for each method one was chosen on "
        f"{results['tuned']} cases of the other half: of those within one standard error of the "
        "best in *both*, the one that keeps most of the background. What is not named is the "
        "function's default."
    )


def _settings(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        [named(m), described(chosen[m]), "; ".join(described(one) for one in TRIES[m])]
        for m in TRIES
    ]
    return _rows(["method", "chosen", "tried"], lines, 3)


def _fader_text() -> str:
    return (
        "Amounts (how snowy, how golden) at six positions each. ρ: rank correlation of strength "
        "asked and amount seen, with its sign where less is asked for. Range: largest less "
        "smallest amount seen, from 0 to 1. What else moved: *kept* is the share of positions at "
        "which everything else was still seen as it was; structure is the mean distance."
    )


def _faders(results: Mapping[str, Any]) -> list[str]:
    names = ("Reweight", "FlowSlider", "guidance")
    found = {n: _of(results, lambda row, n=n: row["method"] == FADED + n) for n in names}
    lines = [
        [
            *(name, str(len(rows)), _cell(rows, "correlation", 2), _plain(rows, "range", 2)),
            *(_cell(rows, "kept", 2), _plain(rows, "structure", 1, 1000)),
        ]
        for name, rows in found.items()
    ]
    return _rows(["fader", "cases", "ρ", "range", "kept", "structure ×10³"], lines)


def _of(results: Mapping[str, Any], wanted: Callable[[Row], bool]) -> list[Row]:
    return [row for row in results["rows"] if row["half"] == "reporting" and wanted(row)]


def _concept_text() -> str:
    return (
        "Maps of things and places in real pictures, on a 16 × 16 grid, held to the true masks. "
        "*concept*: read from what attention puts out (`rivals.concept_maps`) among all described "
        "words; in the last row of a class the picture was brought in with a prompt that does not "
        "name the thing. AUC: the chance that a cell inside has more than one outside. The IoU is "
        "at the part of each map's maximum that is best over these words."
    )


def _concepts(results: Mapping[str, Any]) -> list[str]:
    words = [w for row in _of(results, lambda r: r["method"] == CONCEPTS) for w in row["words"]]
    lines = []
    for kind in dict.fromkeys(word["class"] for word in words):
        slices = [word["slices"] for word in words if word["class"] == kind]
        for name in dict.fromkeys(name for s in slices for name in s):
            scores = [s[name] for s in slices if name in s]
            levels = [mean([s[2 + k] for s in scores]) or 0.0 for k in range(len(THRESHOLDS))]
            best = max(range(len(levels)), key=levels.__getitem__)
            auc = [s[1] for s in scores]
            lines.append(
                [
                    *(kind, name, str(len(scores)), shown(mean([s[0] for s in scores]), 2)),
                    f"{shown(mean(auc), 3)} {bracket(interval(auc), 3)}",
                    f"{levels[best]:.2f} ({THRESHOLDS[best]:.1f})",
                ]
            )
    return _rows(["class", "map", "words", "pointing", "AUC", "IoU"], lines, 2)
