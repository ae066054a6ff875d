"""Attention maps held to the truth: does a word look where its thing is?

Only inverted sources are scored: their masks are exact. An object, a colour and a material mean
their thing, a place what no thing covers; weather, time and style what a render without them does
not share with the picture. Maps are compared on a 16 × 16 grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.editing.sources import Source
from p2p_lab.attention import Site
from p2p_lab.sampling import Run
from p2p_lab.scenes import Phrase, Pictures, Scene, caption, render
from p2p_lab.scenes.vocabulary import COLOURS

GRID = 16
THRESHOLDS = tuple(k / 10 for k in range(1, 10))  # of a map's maximum
CLASSES = ("object", "colour", "material", "style", "background", "weather")
VISIBLE = 0.1  # of the range: from here on a word changed a pixel
OURS, DAAM = "ours", "daam"
Scores = dict[str, list[float]]  # pointing, area under the curve, then IoU at each threshold


def attention_rows(source: Source) -> list[dict[str, Any]]:
    """Return the scores of every scored word of a source: its class, and all slices of its maps."""
    scene, size = source.case.source, source.run.size[0]
    drawn = render(scene, size)
    rows = []
    for phrase, word, occurrence in spoken(scene):
        mask = true_mask(scene, drawn, phrase, size)
        share = float(F.adaptive_avg_pool2d(mask[None].float(), GRID).gt(0.5).float().mean())
        if 2 / GRID**2 <= share < 1:
            slices = sliced(source.run, word, occurrence)
            scores = {name: score(heat, mask) for name, heat in slices.items()}
            rows.append({"class": class_of(phrase, word), "word": word, "slices": scores})
    return rows


def class_of(phrase: Phrase, word: str) -> str:
    """Name a word's class; a time of day counts with the weather."""
    if phrase.kind == "attribute":
        return "colour" if word in COLOURS else "material"
    return {"place": "background", "time": "weather"}.get(phrase.kind, phrase.kind)


def spoken(scene: Scene) -> Iterator[tuple[Phrase, str, int]]:
    """Yield each described phrase, the word of it that counts, and which occurrence it is."""
    text = caption(scene)
    for phrase in text.phrases:
        if phrase.kind == "size":
            continue
        words = text.text[phrase.start : phrase.end].split()
        word = words[-2] if phrase.kind == "style" else words[-1]  # "a pencil sketch of"
        before = text.text[: phrase.end].split()
        yield phrase, word, before.count(word) - 1


def true_mask(scene: Scene, drawn: Pictures, phrase: Phrase, size: int) -> Tensor:
    """Return where a phrase shows in the render, (H, W) bool."""
    plain = {
        "weather": replace(scene, weather="clear", degree=0.0),
        "time": replace(scene, time="day"),
        "style": replace(scene, style="3d"),
    }
    if phrase.kind in plain:
        other = render(plain[phrase.kind], size).images[0]
        return (drawn.images[0] - other).abs().amax(0) > VISIBLE
    return drawn.phrase_mask(0, phrase) > 0.5


def sliced(run: Run, word: str, occurrence: int) -> dict[str, Tensor]:
    """Return a word's maps, (16, 16) each: by site, step and head, ours, and DAAM's."""
    sites, maps = every_map(run, word, occurrence)
    names = [short(site) for site in sites]
    grid = torch.stack([_to_grid(m) for m in maps])  # (S, T, heads, 16, 16)
    assert run.attention is not None
    shown = [i for i, site in enumerate(sites) if site.name in run.attention.preferred]
    chosen = grid[shown] if shown else grid
    found = {OURS: run.map(word, occurrence=occurrence, size=(GRID, GRID)), DAAM: daam(maps, run)}
    found |= {f"site {name}": grid[i].mean((0, 1)) for i, name in enumerate(names)}
    found |= {f"step {t}": chosen[:, t].mean((0, 1)) for t in range(grid.shape[1])}
    for i, name in enumerate(names):
        found |= {f"head {name} {h}": grid[i, :, h].mean(0) for h in range(grid.shape[2])}
        found |= {f"cell {name} {t}": grid[i, t].mean(0) for t in range(grid.shape[1])}
    for side in sorted({site.size[0] for site in sites}):
        same = [i for i, site in enumerate(sites) if site.size[0] == side]
        found[f"resolution {side}"] = grid[same].mean((0, 1, 2))
    return found


def every_map(run: Run, word: str, occurrence: int) -> tuple[list[Site], list[Tensor]]:
    """Return the cross sites of a run and a word's maps there, (T, heads, h, w) each."""
    tape, tokens = run.tape, run.prompt.tokens_of(word, occurrence)
    if tape is None:
        raise ValueError("Maps of single steps and heads come from a tape: record='tape'.")
    sites = [site for site in tape.sites.values() if site.kind == "cross"]
    maps = []
    for site in sites:
        steps = [tape.probs(t, site)[..., tokens].sum(-1) for t in range(tape.steps)]
        maps.append(torch.stack(steps).float().reshape(tape.steps, site.heads, *site.size))
    return sites, maps


def daam(maps: list[Tensor], run: Run) -> Tensor:
    """Add up all sites, steps and heads at the picture's size (Tang et al. 2022, DAAM), 16 × 16."""
    sums = [m.sum((0, 1))[None, None] for m in maps]  # bicubic upsampling is linear
    large = [F.interpolate(m, size=run.size, mode="bicubic", align_corners=False) for m in sums]
    return F.adaptive_avg_pool2d(torch.stack(large).sum(0)[0], GRID)[0]


def _to_grid(maps: Tensor) -> Tensor:
    """Bring maps (T, heads, h, w) to 16 × 16."""
    if maps.shape[-2:] == (GRID, GRID):
        return maps
    return F.interpolate(maps, size=(GRID, GRID), mode="bilinear", align_corners=False)


def short(site: Site) -> str:
    """Name a site in few letters: "up 1.0 (16)"."""
    block, _, rest = site.name.partition(".attentions.")
    number = block.partition(".")[2]
    return f"{site.place} {number + '.' if number else ''}{rest.split('.')[0]} ({site.size[0]})"


def score(heat: Tensor, mask: Tensor) -> list[float]:
    """Return pointing, area under the curve, and IoU at every threshold, rounded.

    Args:
        heat: a map (16, 16).
        mask: the truth, (H, W) bool; a cell belongs to it if more than half of it does.
    """
    cells = F.adaptive_avg_pool2d(mask[None].float(), GRID)[0] > 0.5
    at = divmod(int(heat.argmax()), GRID)
    row, column = (int((p + 0.5) * n / GRID) for p, n in zip(at, mask.shape, strict=True))
    levels = torch.tensor(THRESHOLDS).view(-1, 1, 1) * heat.max()
    said = heat > levels  # (9, 16, 16)
    overlap = (said & cells).sum((1, 2)) / (said | cells).sum((1, 2)).clamp_min(1)
    numbers = [float(mask[row, column]), area_under_curve(heat, cells), *overlap.tolist()]
    return [round(number, 3) for number in numbers]


def area_under_curve(heat: Tensor, cells: Tensor) -> float:
    """Return the chance that a cell inside has more attention than one outside; ties are even."""
    inside, outside = heat[cells].sort().values, heat[~cells].sort().values
    below = torch.searchsorted(outside, inside, side="left")
    equal = torch.searchsorted(outside, inside, side="right") - below
    return float((below + 0.5 * equal).sum() / (len(inside) * len(outside)))
