"""The methods that are compared, and what is tried of each: equally many settings.

The first try of each is the function's own default or the paper's number; the others lie on both
sides of it. The tuning half chooses one (`choose`), the reporting half is given that one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.editing.scores import mean, standard_error
from benchmarks.records import Row

P2P, BLENDED, RE_PROMPT = "p2p", "p2p + blend", "re_prompt"
TRIES: dict[str, list[dict[str, Any]]] = {
    P2P: [{}, {"cross": 0.6}, {"self_attention": 0.6}],
    "sdedit": [{"skip": 0.5}, {"skip": 0.35}, {"skip": 0.65}],
    "flow_edit": [{"skip": 0.3}, {"skip": 0.45}, {"skip": 0.3, "guidance_scale": 5.0}],
    "flow_slider": [
        {"strength": 1.5, "skip": 0.3},
        {"strength": 1.5, "skip": 0.45},
        {"strength": 2.0, "skip": 0.45},
    ],
    "inf_edit": [{"skip": 0.2}, {"skip": 0.4}, {"skip": 0.6}],
    "dds": [{"updates": 20, "rate": rate} for rate in (0.2, 0.1, 0.4)],
    "free_prompt_editing": [{"self_attention": end} for end in (0.8, 0.5, 1.0)],
    "masa_ctrl": [{"start": 0.1}, {"start": 0.3}, {"start": 0.5}],
    "plug_and_play": [
        {"features": 0.8, "self_attention": 0.5},
        {"features": 0.5, "self_attention": 0.5},
        {"features": 0.3, "self_attention": 0.3},
    ],
    "self_guidance": [{"weight": 300.0}, {"weight": 1000.0}, {"weight": 2000.0}],
}
Chosen = dict[str, dict[str, Any]]


def tried_name(method: str, number: int) -> str:
    """Name the row of a try on the tuning half."""
    return f"{method} #{number}"


def choose(rows: Sequence[Row]) -> tuple[Chosen, int]:
    """Return the chosen settings of each method, and on how many cases.

    Among the tries whose share of edits that do what was asked *and nothing else* lies within one
    standard error of the best one's (paired over cases), the one that keeps most of the background.
    Without tuning rows the first try of each.
    """
    by: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row["half"] == "tuning":
            by.setdefault(row["method"], {})[row["case"]] = row
    names = [tried_name(m, k) for m, tries in TRIES.items() for k in range(len(tries))]
    done = [set(by.get(name, {})) for name in names]
    cases = sorted(set.intersection(*done)) if done else []
    if not cases:
        return {method: dict(tries[0]) for method, tries in TRIES.items()}, 0
    chosen: Chosen = {}
    for method, tries in TRIES.items():
        tables = [[by[tried_name(method, k)][c] for c in cases] for k in range(len(tries))]
        chosen[method] = dict(tries[best_of(tables)])
    return chosen, len(cases)


def best_of(tables: Sequence[Sequence[Row]]) -> int:
    """Return which of several settings is chosen; all have rows of the same cases."""
    top = max(range(len(tables)), key=lambda k: mean([r["both"] for r in tables[k]]) or 0.0)
    near = []
    for k, table in enumerate(tables):
        gaps = [a["both"] - b["both"] for a, b in zip(tables[top], table, strict=True)]
        if sum(gaps) <= len(gaps) * standard_error(gaps) + 1e-9:
            near.append(k)
    return max(near, key=lambda k: (mean([r["background_psnr"] for r in tables[k]]) or 0.0, -k))


def described(settings: Mapping[str, Any]) -> str:
    """Say settings in a few words."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items()) or "defaults"
