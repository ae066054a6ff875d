"""Figures of a run: who edits best, what a setting is worth, and where words look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.editing.kinds import KINDS
from p2p_lab.figures import show_cost
from p2p_lab.figures._style import CMAP, SMALL, LabFigure, cells, describe, new_figure, panels, say

Numbers = Mapping[str, Any]


def by_kind(table: Mapping[str, Numbers], number: str = "success") -> LabFigure:
    """Draw every contender's share of edits that worked, kind by kind."""
    values = np.array(
        [
            [row[f"{number}_by_kind"][k] or 0.0 for k in KINDS] + [row[number]]
            for row in table.values()
        ]
    )
    return grid(values, list(table), [*KINDS, "all"], f"{number}, by method and kind", 0, 1)


def keeping(table: Mapping[str, Numbers]) -> LabFigure:
    """Draw what edits do against what they keep, one point a method."""
    points = {name: (row["background_psnr"], row["both"]) for name, row in table.items()}
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    show_cost(points, cost="background PSNR (dB)", quality="done, and nothing else", ax=axes)
    axes.set_xscale("linear")
    return figure


def trade_off(curves: Sequence[Numbers], name: str = "cross") -> LabFigure:
    """Draw success against preservation along a setting, without a blend and with one."""
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    told = []
    for blend, mark in ((False, "o-"), (True, "s--")):
        rows = [r for r in curves if r["axis"] == name and r["blend"] is blend and r["cases"]]
        rows = [r for r in rows if r["background_psnr"] is not None]
        if not rows:
            continue
        x, y = [r["background_psnr"] for r in rows], [r["success"] for r in rows]
        axes.plot(x, y, mark, label="with a blend" if blend else "no blend")
        for row in rows:
            at = (row["background_psnr"], row["success"])
            axes.annotate(f"{row['value']:g}", at, xytext=(4, 4), textcoords="offset points")
        told.append(
            ", ".join(
                f"{r['value']:g}: {b:.2f} at {a:.1f} dB" for r, a, b in zip(rows, x, y, strict=True)
            )
        )
    axes.set_xlabel("background PSNR (dB)")
    axes.set_ylabel("success")
    if told:
        axes.legend()
    describe(figure, f"Success against background PSNR along {name}. {'; '.join(told)}.")
    return figure


def settings(curves: Sequence[Numbers]) -> LabFigure:
    """Draw, axis by axis, the share of edits that did what was asked and nothing else."""
    seen: dict[tuple[str, Any], list[Numbers]] = {}
    for row in curves:
        if row["cases"]:
            seen.setdefault((row["says"], row["blend"]), []).append(row)
    figure, places = panels(max(len(seen), 1), columns=4, size=2.6)
    for axes, ((says, blend), rows) in zip(places.flat, seen.items(), strict=False):
        axes.set_axis_on()
        labels = [str(row["value"]) or "as it is" for row in rows]
        values = np.array([row["both"] for row in rows])
        bounds = np.array([row["both_interval"] for row in rows]).T  # (2, values)
        axes.errorbar(labels, values, abs(bounds - values), fmt="o-", capsize=3)
        axes.set_ylim(0, 1)
        axes.tick_params(axis="x", labelrotation=25 if len(labels[-1]) > 5 else 0, labelsize=SMALL)
        say(axes, f"{says}{', blend' if blend else ', no blend' if blend is False else ''}")
    told = "; ".join(
        f"{says}: " + ", ".join(f"{row['value']} {row['both']:.2f}" for row in rows)
        for (says, _), rows in seen.items()
    )
    describe(figure, f"Share of edits that did what was asked and nothing else. {told}.")
    return figure


def places(maps: Sequence[Numbers], kind: str = "object", number: str = "auc") -> LabFigure:
    """Draw a score of one class of words by site and step."""
    found = {
        tuple(row["slice"].removeprefix("cell ").rsplit(" ", 1)): row[number]
        for row in maps
        if row["class"] == kind and row["slice"].startswith("cell ")
    }
    sites = list(dict.fromkeys(site for site, _ in found))
    steps = sorted({int(step) for _, step in found})
    values = np.array([[found[site, str(t)] for t in steps] for site in sites] or [[0.0]])
    names = [str(t) for t in steps] or [""]
    title = f"{number.upper()} of {kind} words by site and step"
    return grid(values, sites or [""], names, title, 0.5 if number == "auc" else 0, 1)


def heads(maps: Sequence[Numbers], kind: str = "object", number: str = "auc") -> LabFigure:
    """Draw a score of one class of words by site and head."""
    found = {
        tuple(row["slice"].removeprefix("head ").rsplit(" ", 1)): row[number]
        for row in maps
        if row["class"] == kind and row["slice"].startswith("head ")
    }
    sites = list(dict.fromkeys(site for site, _ in found))
    count = sorted({int(head) for _, head in found})
    values = np.array([[found[site, str(h)] for h in count] for site in sites] or [[0.0]])
    title = f"{number.upper()} of {kind} words by site and head"
    names = [f"head {h}" for h in count] or [""]
    return grid(values, sites or [""], names, title, 0.5 if number == "auc" else 0, 1)


def grid(
    values: Any, rows: Sequence[str], columns: Sequence[str], title: str, low: float, high: float
) -> LabFigure:
    """Draw a table as colours with its numbers."""
    figure = new_figure(max(1.8 + 0.52 * len(columns), 5.0), 1.1 + 0.34 * len(rows))
    axes = figure.add_subplot()
    drawn = axes.imshow(values, cmap=CMAP, vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, fontsize=SMALL)
    axes.set_yticks(range(len(rows)), rows, fontsize=SMALL)
    for row, column, value in cells(np.asarray(values, dtype=np.float64)):
        colour = "black" if value > (low + high) / 2 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(drawn)
    axes.set_title(title)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{c} {v:.2f}" for c, v in zip(columns, line, strict=True))
        for name, line in zip(rows, values, strict=True)
    )
    describe(figure, f"{title}. {told}.")
    return figure
