"""Can an object be moved? Scenes whose truth is known, moved by their attention and measured.

    python benchmarks/moving.py [--small] [--steps 12] [--json]

Each case is a picture (a rendered scene brought in, or one drawn from its prompt), an object in it
and a place and size where it is to be. After the edit the judge finds the object: it has landed if
its centre lies within a quarter of its size of the wanted one. Everything else must be as it was:
what the judge sees, and the pixels outside the old and the new place. The baseline does nothing.
The same line for a word's map tells how much `sharp_map` gains against the true mask. A full run
of the usual cases writes `benchmarks/results/moving.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from torch import Tensor

from benchmarks.beyond.moves import MoveCase, make_move
from benchmarks.records import Records, Row
from p2p_lab.edits import Edit, LocalBlend, Move
from p2p_lab.judge import Judge, Verdict, load_judge
from p2p_lab.metrics import background_psnr, mask_iou
from p2p_lab.models import load
from p2p_lab.sampling import Run, edit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "moving.md"
FULL, SMALL = 64, 12
NEAR = 0.25  # of the object's size: so near must it land, and so near must its size be
CUTS = (0.3, 0.4, 0.5)  # of a map's maximum, at which its outline is held to the true mask
MOST_DB = 60.0  # an untouched background has no finite PSNR


def nothing(case: MoveCase) -> Run:
    """Leave the picture as it is."""
    return case.run


def by_attention(case: MoveCase) -> Run:
    """Move the object's attention, and nothing else."""
    return edit(case.run, case.run.prompt.text, [Move(case.word, case.by, case.scale)])


def fenced(case: MoveCase) -> Run:
    """Move its attention, and keep the picture outside the old and the new place."""
    edits: list[Edit] = [Move(case.word, case.by, case.scale), LocalBlend(case.word)]
    return edit(case.run, case.run.prompt.text, edits)


METHODS: dict[str, Callable[[MoveCase], Run]] = {
    "nothing": nothing,
    "Move": by_attention,
    "Move + LocalBlend": fenced,
}


def centre(mask: Tensor) -> tuple[float, float] | None:
    """Return the centre of a mask (H, W) as fractions (down, right); None if it is empty."""
    inside = mask > 0.5
    if int(inside.sum()) < 4:
        return None
    down, right = inside.nonzero().float().add(0.5).mean(0).tolist()
    return down / mask.shape[0], right / mask.shape[1]


def measure(case: MoveCase, method: str, run: Run, judge: Judge) -> Row:
    """Return what came of one case."""
    seen = judge.read(run.pixels)
    found, wanted = centre(seen.masks[case.word]), centre(case.wanted_mask)
    away, grown = float("inf"), 0.0
    if found is not None and wanted is not None and case.word in seen.objects:
        away = float(np.hypot(found[0] - wanted[0], found[1] - wanted[1])) / case.size
        areas = [float((mask > 0.5).sum()) for mask in (seen.masks[case.word], case.wanted_mask)]
        grown = (areas[0] / areas[1]) ** 0.5
    old = (case.mask > 0.5) & (case.wanted_mask < 0.05)
    ghost = (seen.masks[case.word] > 0.5) & old
    return {
        "case": case.number,
        "method": method,
        "kind": case.kind,
        "origin": case.origin,
        "word": case.word,
        "away": round(min(away, 9.0), 4),
        "size": round(grown, 4),
        "landed": away <= NEAR,
        "sized": abs(grown - 1) <= NEAR,
        "kept": keeps(case, seen, judge),
        "ghost": round(float(ghost.sum() / old.sum()), 4) if bool(old.any()) else 0.0,
        "background": round(
            min(background_psnr(case.picture, run.pixels, case.changed), MOST_DB), 2
        ),
        **(map_scores(case) if method == "nothing" else {}),
    }


def keeps(case: MoveCase, seen: Verdict, judge: Judge) -> bool:
    """Tell whether the judge still sees the whole scene: things, attributes, place, time, style."""
    return bool(judge.holds(seen, case.scene))


def map_scores(case: MoveCase) -> Row:
    """Return the intersection over union of the word's map and its sharp map with the mask."""
    size = case.run.size
    maps = {
        "map": case.run.map(case.word, size=size),
        "sharp": case.run.sharp_map(case.word),
    }
    return {
        f"iou_{name}": round(
            float(np.mean([mask_iou(heat, case.mask > 0.5, threshold=cut) for cut in CUTS])), 4
        )
        for name, heat in maps.items()
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the means of every method."""
    found: dict[str, Any] = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        resized = [row for row in mine if row["kind"] != "move"]
        went = [row for row in mine if row["kind"] != "resize"]
        found[method] = {
            "cases": len(mine),
            "landed": mean(mine, "landed"),
            "landed_where_moved": mean(went, "landed"),
            "sized_where_resized": mean(resized, "sized"),
            "kept": mean(mine, "kept"),
            "ghost": mean(went, "ghost"),
            "background": mean(mine, "background"),
            "away_median": round(float(np.median([row["away"] for row in mine])), 3),
        }
    for name in ("iou_map", "iou_sharp"):
        for origin in ("inverted", "generated"):
            scores = [row for row in rows if name in row and row["origin"] == origin]
            if scores:
                found[f"{name}_{origin}"] = mean(scores, name)
    return found


def mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean of a field, 0 without rows."""
    return round(float(np.mean([row[name] for row in rows])), 3) if rows else 0.0


def table(summary: dict[str, Any]) -> str:
    """Return the summary as a Markdown table."""
    methods = {name: values for name, values in summary.items() if isinstance(values, dict)}
    names = list(next(iter(methods.values())))
    lines = ["| | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(f"{v[name]}" for v in methods.values()) + " |")
    rest = [f"{name}: {value}" for name, value in summary.items() if name not in methods]
    return "\n".join([*lines, "", *rest])


def page(summary: dict[str, Any], count: int, model: str, steps: int) -> str:
    """Return the page of results: what was measured, and the table."""
    return (
        f"Measured by `python benchmarks/moving.py` on `{model}`: {count} cases, {steps} steps. "
        f"Landed: the centre lies within {NEAR:g} of the object's size of the wanted place; sized: "
        f"its size within {NEAR:g} of the wanted one; ghost: the share of the old place that still "
        f"shows it; background in dB, at most {MOST_DB:g}; away in sizes of the object.\n\n"
        f"{table(summary)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure the cases that are not yet in the records, print the table, write the full one."""
    parser = argparse.ArgumentParser("benchmarks/moving.py", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help=f"{SMALL} cases")
    parser.add_argument("--cases", type=int, help=f"how many ({FULL})")
    parser.add_argument("--seed", type=int, default=0, help="other cases")
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--model", help="a bundled model's name or a folder; the best installed")
    parser.add_argument("--records", type=Path, help="folder to go on with (out/moving-MODEL)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    model, judge = load(options.model) if options.model else load(), load_judge()
    steps = options.steps or model.defaults.steps
    count = options.cases or (SMALL if options.small else FULL)
    records = Records(options.records or ROOT / "out" / f"moving-{Path(model.name).name}-{steps}")
    records.claim(
        {"model": model.name, "judge": judge.card["name"], "steps": steps, "seed": options.seed}
    )
    done = records.done()
    for number in range(count):
        if all((number, method) in done for method in METHODS):
            continue
        case = make_move(number, model, judge, steps=steps, seed=options.seed)
        records.add([measure(case, name, way(case), judge) for name, way in METHODS.items()])
        print(f"{number + 1}/{count} {case.kind} {case.origin} {case.word}", file=sys.stderr)
    summary = summarise([row for row in records.rows() if row["case"] < count])
    text = page(summary, count, model.name, steps)
    print(text)
    if (count, options.seed, options.steps, options.model) == (FULL, 0, None, None):
        RESULTS.write_text(text, encoding="utf-8")
    if options.json:
        print(json.dumps({"cases": count, "model": model.name, "steps": steps, **summary}))
    return summary


if __name__ == "__main__":
    main()
