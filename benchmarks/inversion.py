"""Five ways to bring a real picture in: how much comes back, what an edit keeps, what it costs.

    python benchmarks/inversion.py [--quick] [--json] [--scenes N] [--shard I/N]

Pictures are rendered scenes that no model saw (seeds from 10⁹), with true masks. Each is inverted
by each method; then its subject is swapped for another of its kind with one and the same edit:
windows for real pictures and a local blend, as in the published comparison (arXiv 2310.01506), and
once more without the blend. The background is all that neither the old nor the new subject covers.

Every measurement is one line of a records file, so a run that was cut short goes on where it was,
and several processes (`--shard 0/2`, `--shard 1/2`) may share the work. Table and figure go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from benchmarks.calls import Rows
from benchmarks.records import append_rows, read_rows
from p2p_lab.edits import LocalBlend, Replace
from p2p_lab.figures import show_cost, to_png
from p2p_lab.inversion import METHODS, NullText, invert, null_text_memory, to_tensor
from p2p_lab.judge import JudgeError, load_judge
from p2p_lab.judge.verdict import Wanted
from p2p_lab.metrics import (
    background_mse,
    background_psnr,
    background_ssim,
    psnr,
    structure_distance,
)
from p2p_lab.models import Denoiser, load
from p2p_lab.models.living import Living
from p2p_lab.sampling import edit, generate
from p2p_lab.scenes import WORLDS, Scene, caption, render, sample_scene
from p2p_lab.scenes.splits import INVERSION
from p2p_lab.scenes.vocabulary import OBJECTS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EXPECTED = ("direct", "null-text", "negative-prompt", "ddim")
NUMBERS = (
    "reconstruction_psnr",
    "picture_psnr",
    "background_psnr",
    "background_ssim",
    "background_mse",
    "structure",
    "success",
    "free_psnr",
    "free_success",
    "seconds",
    "edit_seconds",
    "denoiser_calls",
)


WHY = """\
Why the blend decides. Direct inversion pins the *source* on its measured latents; the target runs
free and is pushed by guidance as in plain DDIM. What ties it to the picture are the injected maps,
and the blend, which copies the source's latents wherever the subject is not: a perfect source then
is a perfect background. Null-text and negative-prompt change the push itself, for the target too,
so they keep more of the background where nothing is copied. The published comparison blends."""


@dataclass(frozen=True)
class Case:
    """A scene, the picture of it, and the swap that is asked for."""

    seed: int
    text: str
    target: str
    old: str
    new: str
    picture: torch.Tensor  # (3, H, W)
    mask: NDArray[np.bool_]  # True where the old or the new subject is


def cases(world: str, size: int) -> Iterator[Case]:
    """Yield scenes of one or two things, each with a swap of its subject."""
    for seed in range(INVERSION.start, INVERSION.stop):
        scene = sample_scene(seed, world)
        if scene.relation in ("one", "next to"):
            case = make_case(seed, scene, world, size)
            if case is not None:
                yield case


def make_case(seed: int, scene: Scene, world: str, size: int) -> Case | None:
    """Swap a scene's subject for another thing of its group, if the world has one."""
    old, group = scene.subject.name, OBJECTS[scene.subject.name].group
    taken = {thing.name for thing in scene.things} | {"basket", "crown"}
    others = [n for n in WORLDS[world].objects if OBJECTS[n].group == group and n not in taken]
    if not others:
        return None
    new = random.Random(seed).choice(others)
    swapped = scene.with_thing("subject", name=new)
    drawn = render([scene, swapped], size)
    subject = next(i for i, thing in enumerate(scene.things) if thing.role == "subject")
    cover = drawn.masks[:, subject].amax(0)  # (H, W): where either of the two is
    wide = F.max_pool2d(cover[None, None], 3, 1, 1)[0, 0] > 0.05
    if not 0.02 < float(wide.float().mean()) < 0.6:
        return None
    texts = caption(scene).text, caption(swapped).text
    return Case(seed, *texts, old, new, drawn.images[0], wide.numpy())


def measure(model: Denoiser, judge: Any, case: Case, method: Any, rows: Rows, options: Any) -> Any:
    """Invert by one method, edit, and return the numbers."""
    name = "null-text" if isinstance(method, NullText) else method
    rows.take()
    started = time.process_time()
    run = invert(model, case.picture, case.text, method=method, **options)
    seconds, calls = time.process_time() - started, rows.take()
    started = time.process_time()
    swap = Replace(cross=(0, 0.4), self_attention=(0, 0.6))
    edited = edit(run, case.target, [swap, LocalBlend([case.old], [case.new])])
    edit_seconds = time.process_time() - started
    free = edit(run, case.target, [swap])
    given = to_tensor(load_rounded(case.picture))
    trip = model.decode(model.encode(given))[0].cpu()
    return {
        "seed": case.seed,
        "method": name,
        "reconstruction_psnr": min(psnr(trip, run.pixels), 99.0),
        **against(case, run.pixels, edited.pixels),
        "success": found(judge, edited.pixels, case),
        "free_psnr": background_psnr(case.picture, free.pixels, case.mask),
        "free_success": found(judge, free.pixels, case),
        "seconds": seconds,
        "edit_seconds": edit_seconds,
        "denoiser_calls": calls,
    }


def baselines(model: Denoiser, judge: Any, case: Case, options: Any) -> list[dict[str, Any]]:
    """Measure the autoencoder alone, and a new picture of the target prompt."""
    given = to_tensor(load_rounded(case.picture))
    trip = model.decode(model.encode(given))[0].cpu()
    fresh = generate(model, case.target, seed=0, record="none", **options).pixels
    rows = []
    for name, picture in (("(autoencoder alone)", trip), ("(new picture)", fresh)):
        numbers = against(case, picture, picture)
        numbers["success"] = found(judge, picture, case)
        rows.append({"seed": case.seed, "method": name, **numbers})
    return rows


def load_rounded(picture: torch.Tensor) -> Any:
    from p2p_lab.inversion import load_image

    return load_image(picture, (picture.shape[-2], picture.shape[-1]))


def against(case: Case, again: torch.Tensor, edited: torch.Tensor) -> dict[str, float]:
    """Compare with the given picture: all of it before the edit, the background after it."""
    return {
        "picture_psnr": psnr(case.picture, again),
        "background_psnr": background_psnr(case.picture, edited, case.mask),
        "background_ssim": background_ssim(case.picture, edited, case.mask),
        "background_mse": background_mse(case.picture, edited, case.mask),
        "structure": structure_distance(case.picture, edited),
    }


def found(judge: Any, picture: torch.Tensor, case: Case) -> float | None:
    """Tell whether the judge sees the new subject and no longer the old one."""
    if judge is None:
        return None
    return float(bool(judge.holds(picture, Wanted((case.new,)), absent=(case.old,))))


def peak_bytes(model: Denoiser, case: Case, method: Any, options: Any) -> int:
    """Tell the most bytes of tensors that were alive at once during an inversion."""
    with Living() as living:
        invert(model, case.picture, case.text, method=method, **options)
    return living.peak


def collect(model: Denoiser, given: argparse.Namespace, records: Path) -> None:
    """Measure what the records file does not hold yet, one line each."""
    options: dict[str, Any] = {"steps": 6} if given.quick else {}
    done = {(r["seed"], r["method"]) for r in read_rows(records)}
    judge, rows = open_judge(), Rows(model.module)
    index, count = (int(x) for x in given.shard.split("/"))
    world = str(model.card.raw.get("config", {}).get("world", "small"))
    chosen = list(islice(cases(world, model.defaults.height), given.scenes))
    for case in chosen[index::count]:
        if (case.seed, "(new picture)") not in done:
            write(records, baselines(model, judge, case, options))
        for name in given.methods:
            if (case.seed, name) in done:
                continue
            method = NullText(inner_steps=2) if given.quick and name == "null-text" else name
            write(records, [measure(model, judge, case, method, rows, options)])
    rows.remove()
    if index == 0:
        for name in given.methods:
            if (0, f"memory {name}") not in done:
                peak = peak_bytes(model, chosen[0], name, {"steps": 2, "record": "none"})
                write(records, [{"seed": 0, "method": f"memory {name}", "peak": peak}])


def open_judge() -> Any:
    try:
        return load_judge()
    except JudgeError as error:
        print(f"No judge, so success is not measured: {error}", file=sys.stderr)
        return None


def write(records: Path, rows: Sequence[dict[str, Any]]) -> None:
    append_rows(records, rows)
    for row in rows:
        print(f"{row['seed']} {row['method']:20}", shortly(row), file=sys.stderr, flush=True)


def shortly(row: dict[str, Any]) -> str:
    shown = ("reconstruction_psnr", "background_psnr", "success", "seconds")
    return "  ".join(f"{k} {row[k]:.2f}" for k in shown if row.get(k) is not None)


def sum_up(records: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Average every number of every method over the scenes that all methods did."""
    by = {name: {r["seed"]: r for r in records if r["method"] == name} for name in names}
    shared = set.intersection(*(set(found) for found in by.values() if found))
    table: dict[str, dict[str, Any]] = {}
    for name, found_rows in by.items():
        rows = [found_rows[seed] for seed in sorted(shared & set(found_rows))]
        table[name] = {"scenes": len(rows)}
        for number in NUMBERS:
            values = [row[number] for row in rows if row.get(number) is not None]
            table[name][number] = float(np.mean(values)) if values else None
    return table


def paired(
    records: Sequence[dict[str, Any]], a: str, b: str, number: str = "background_psnr"
) -> tuple[float, float, int]:
    """Return the mean difference of a number of two methods over scenes, its error, and n."""
    by = {n: {r["seed"]: r for r in records if r["method"] == n} for n in (a, b)}
    both = sorted(set(by[a]) & set(by[b]))
    gaps = [by[a][s][number] - by[b][s][number] for s in both]
    if len(gaps) < 2:
        return math.nan, math.nan, len(gaps)
    return float(np.mean(gaps)), float(np.std(gaps, ddof=1) / len(gaps) ** 0.5), len(gaps)


def show(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def to_markdown(
    model: Denoiser, records: Sequence[dict[str, Any]], table: dict[str, dict[str, Any]]
) -> str:
    """Return the table with what it says."""
    peaks = {r["method"].removeprefix("memory "): r["peak"] for r in records if "peak" in r}
    scenes = max(row["scenes"] for row in table.values())
    lines = [
        f"# Inversion on {model.name}: {scenes} scenes that it never saw",
        "",
        f"{model.defaults.steps} steps ({2 * model.defaults.steps} for edit-friendly), guidance "
        f"{model.defaults.guidance_scale:g} ({2 * model.defaults.guidance_scale:g}). PSNR in dB; "
        "reconstruction is against the autoencoder's round trip (99 at most), everything else "
        "against the given picture. CPU seconds of one thread. A denoiser call is one row of its "
        "batch. Memory is the peak of tensors alive, two steps, nothing recorded.",
        "",
        "| method | reconstruction | picture | background PSNR | SSIM | MSE ×10³ | structure ×10³ "
        "| success | no blend: PSNR | success | invert s | edit s | calls | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, r in table.items():
        mse, structure = (
            None if r[k] is None else 1000 * r[k] for k in ("background_mse", "structure")
        )
        peak = peaks.get(name)
        cells = [
            name,
            *(show(r[k], 1) for k in ("reconstruction_psnr", "picture_psnr", "background_psnr")),
            *(show(r["background_ssim"], 3), show(mse, 2), show(structure, 2)),
            *(show(r["success"], 2), show(r["free_psnr"], 1), show(r["free_success"], 2)),
            *(show(r["seconds"], 1), show(r["edit_seconds"], 1)),
            *(show(r["denoiser_calls"], 0), "" if peak is None else f"{peak / 2**20:.0f}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Against the published ranking", ""]
    for number, how in (("background_psnr", "with the blend"), ("free_psnr", "without it")):
        lines += [f"direct ≥ null-text > negative-prompt > DDIM, background PSNR {how}:", ""]
        for a, b in zip(EXPECTED, EXPECTED[1:], strict=False):
            gap, error, n = paired(records, a, b, number)
            sure = "as published" if gap > 2 * error else "reversed" if gap < -2 * error else "even"
            lines.append(f"- {a} − {b}: {gap:+.2f} ± {error:.2f} dB over {n} scenes: {sure}.")
        lines.append("")
    lines += [WHY]
    lines += ["", "## Stable Diffusion's null-text memory", ""]
    for recompute in (False, True):
        how = "with" if recompute else "without"
        spent = null_text_memory(recompute=recompute)
        lines.append(f"- Stable Diffusion 1.x, 512², float16, {how} checkpointing: {spent}.")
    lines += ["", "Worked out by `null_text_memory` on the meta device, not measured on a GPU.", ""]
    return "\n".join(lines)


def draw(table: dict[str, dict[str, Any]]) -> bytes:
    """Draw quality against cost: one point a method."""
    points = {
        name: (row["seconds"], row["background_psnr"])
        for name, row in table.items()
        if row["seconds"] is not None
    }
    figure: Any = show_cost(points, cost="CPU seconds to invert one picture")
    return to_png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two scenes, few steps")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shard", default="0/1", help="the part of the scenes to do, as 0/2")
    parser.add_argument("--model", help="bundled name or folder (default: the best bundled)")
    parser.add_argument("--records", type=Path, help="(default: out/inversion-MODEL.jsonl)")
    given = parser.parse_args()
    given.scenes = min(given.scenes, 2) if given.quick else given.scenes
    torch.set_num_threads(1)
    model = load(given.model, "cpu")
    kind = "quick-" if given.quick else ""
    records = given.records or ROOT / "out" / f"inversion-{kind}{model.name}.jsonl"
    if given.quick:
        records.unlink(missing_ok=True)
    collect(model, given, records)
    names = [*given.methods, "(autoencoder alone)", "(new picture)"]
    rows = read_rows(records)
    table = sum_up(rows, names)
    text = to_markdown(model, rows, table)
    print(text)
    if not given.quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "inversion.md").write_text(text, encoding="utf-8")
        (RESULTS / "inversion.png").write_bytes(draw(table))
    if given.json:
        wanted = ("reconstruction_psnr", "background_psnr", "success", "seconds", "denoiser_calls")
        print(json.dumps({k: {m: table[m][k] for m in given.methods} for k in wanted}))


if __name__ == "__main__":
    main()
