"""Pictures to be looked at one by one, and how a model's faders answer.

    python benchmarks/model.py --eye grid.png       48 fixed captions, seeds 0 to 47
    python benchmarks/model.py --faders             weather, time, material and colour words

The judge's verdict stands under each picture; whether it is *well drawn* is for a reader to say:
every thing whole, its parts in their places, eyes where eyes are. A fader is a word's weight c: its
rank correlation is that of c with the amount that the judge sees of the word; `along` is that of c
with the picture's place on the line between true colours (`benchmarks/along.py`). A pixel counts as
changed where a channel differs by more than a tenth.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
import torch
from torch import Tensor

from benchmarks.along import line_of
from benchmarks.editing.scores import fader_correlation
from benchmarks.full_pipeline import FullPipeline
from p2p_lab import Reweight, edit
from p2p_lab.judge import Judge, Verdict
from p2p_lab.scenes import parse

CAPTIONS = Path(__file__).with_name("eye_captions.txt")
COLUMNS = 8
WEIGHTS = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
CHANGED = 0.1  # of the range of a channel


@dataclass(frozen=True)
class Fader:
    """A word with a weight, in a prompt.

    Attributes:
        prompt: What is drawn.
        word: The word whose weight is changed.
        question: What the judge is asked: "weather", "time" or the name of an object.
        answer: The answer whose probability is the amount of the word.
    """

    prompt: str
    word: str
    question: str
    answer: str

    def amount(self, seen: Verdict) -> float:
        """Return how much of the word is seen, 0 to 1."""
        asked = seen.scene.get(self.question) or seen.attributes[self.question]
        strength = seen.degree if self.question == "weather" else 1.0
        return asked[self.answer] * strength


FADERS = (
    Fader("a castle in the snowy mountains", "snowy", "weather", "snowy"),
    Fader("a tree in a foggy field", "foggy", "weather", "foggy"),
    Fader("a sailboat on a beach at sunset", "sunset", "time", "sunset"),
    Fader("a house in a field at night", "night", "time", "night"),
    Fader("a wooden rocket in a field", "wooden", "rocket", "wooden"),
    Fader("an icy castle in the mountains", "icy", "castle", "icy"),
    Fader("a red bicycle on a beach", "red", "bicycle", "red"),
    Fader("a blue house in a field", "blue", "house", "blue"),
    Fader("a green apple in a field", "green", "apple", "green"),
    Fader("a golden cat in a city", "golden", "cat", "golden"),
)


def captions() -> list[str]:
    """Return the fixed captions; the number of each is its seed."""
    return CAPTIONS.read_text(encoding="utf-8").splitlines()


def eye(
    pipeline: FullPipeline, judge: Judge, path: Path, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Draw the captions to one picture with the judge's verdicts, and return these.

    Args:
        pipeline: The model.
        judge: Who reads the pictures.
        path: Where the grid is written, a PNG.
        texts: What is drawn, with its number as seed.
    """
    rows = -(-len(texts) // COLUMNS)
    figure = matplotlib.figure.Figure((2 * COLUMNS, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    found = []
    for seed, (text, ax) in enumerate(zip(texts, axes, strict=False)):
        _, picture = pipeline.draw(text, seed)
        verdict = judge.holds(picture, parse(text))
        answers = {n: bool(getattr(verdict, n)) for n in ("objects", "attributes", "scene")}
        found.append({"caption": text, "seed": seed, **answers})
        wrong = ", ".join(name for name, right in answers.items() if not right)
        ax.imshow(picture.permute(1, 2, 0).numpy())
        ax.set_title(textwrap.fill(f"{seed} {text}", 32), fontsize=7)
        ax.set_xlabel(f"judge misses: {wrong}" if wrong else "judge: all there", fontsize=7)
        ax.set_xticks([], []), ax.set_yticks([], [])
    for ax in axes[len(texts) :]:
        ax.axis("off")
    figure.savefig(path, dpi=110)
    return found


def fader_table(
    pipeline: FullPipeline, judge: Judge, faders: Sequence[Fader] = FADERS, seeds: int = 3
) -> list[dict[str, Any]]:
    """Return for each word the mean rank correlations and share of pixels changed from 1 to 3."""
    table = []
    for fader in faders:
        results = [_follow(pipeline, judge, fader, seed) for seed in range(seeds)]
        correlations, along, changes, ranges = zip(*results, strict=True)
        table.append(
            {
                "word": fader.word,
                "correlation": round(statistics.fmean(correlations), 3),
                "along": round(statistics.fmean(along), 3),
                "changed": round(statistics.fmean(changes), 4),
                "range": round(statistics.fmean(ranges), 3),
            }
        )
    return table


def _follow(
    pipeline: FullPipeline, judge: Judge, fader: Fader, seed: int
) -> tuple[float, float, float, float]:
    """Return both correlations, share of pixels changed from 1 to 3, and range of one source."""
    source, _ = pipeline.draw(fader.prompt, seed, "tape")
    pictures = {c: _at(pipeline, source, fader, c, seed) for c in WEIGHTS}
    seen = {c: judge.read(picture) for c, picture in pictures.items()}
    amounts = [fader.amount(verdict) for verdict in seen.values()]
    line = line_of(fader.prompt, fader.question, pictures[1.0].shape[-1])
    region = seen[1.0].masks.get(fader.question, torch.ones_like(pictures[1.0][0]))
    places = [line.position(picture, region) for picture in pictures.values()]
    apart = (pictures[1.0] - pictures[3.0]).abs().amax(dim=0) > CHANGED  # (H, W)
    spread = max(amounts) - min(amounts)
    changed = float(apart.float().mean())
    return fader_correlation(WEIGHTS, amounts), fader_correlation(WEIGHTS, places), changed, spread


def _at(pipeline: FullPipeline, source: Any, fader: Fader, weight: float, seed: int) -> Tensor:
    run = edit(source, fader.prompt, [Reweight(fader.word, weight)], record="none")
    return pipeline.finish(run, seed)
