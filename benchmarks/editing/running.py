"""Measure the cases that are not measured yet: source, then every way to edit it, line by line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.calls import Rows
from benchmarks.editing.ablations import Axis, variants
from benchmarks.editing.attention import attention_rows
from benchmarks.editing.cases import Case
from benchmarks.editing.methods import (
    FADER,
    STRENGTHS,
    Settings,
    family_of,
    folder_of,
    image_to_image,
    prompt_to_prompt,
    re_prompt,
    sdedit,
    wordings,
)
from benchmarks.editing.scores import edit_scores, fader_correlation
from benchmarks.editing.sources import Source, make_source, remade
from benchmarks.records import Records, Row
from p2p_lab.judge import Judge
from p2p_lab.models import Denoiser

NO_SOURCE = "(no source)"
ATTENTION = "(attention)"
RE_PROMPT, FADED, WORDED = "re-prompt", "(fader) p2p", "(fader) re-prompt"
Make = Callable[["Bench", Source], Row]  # measures one thing
Chosen = dict[str, Settings]  # by family: "Replace", "Refine", "Reweight"


@dataclass(eq=False)
class Bench:
    """What all cases share.

    Attributes:
        model: the denoiser.
        judge: reads the pictures.
        records: where measurements go.
        steps: denoising steps of all but the axis of steps.
        axes: what the tuning half tries.
        chosen: settings by family that the reporting half is given beside the defaults.
        named: name or folder that the model was opened by, for diffusers to open it too.
    """

    model: Denoiser
    judge: Judge
    records: Records
    steps: int
    axes: Sequence[Axis] = ()
    chosen: Chosen = field(default_factory=dict)
    named: str | None = None

    def __post_init__(self) -> None:
        """Open the image-to-image pipeline and count the calls of both denoisers."""
        device = str(self.model.device)
        self.pipeline: Any = image_to_image(folder_of(self.named, self.model), device)
        self.calls = Rows(self.model.module, self.pipeline.unet)

    def run(self, cases: Sequence[Case], *, share: tuple[int, int] = (0, 1)) -> None:
        """Measure every n-th case: `share` is which, and n."""
        done = self.records.done()
        for i, case in enumerate(cases[share[0] :: share[1]]):
            if (case.number, NO_SOURCE) not in done:
                self._one(case, {method for number, method in done if number == case.number})
            said = f"{i + 1}/{len(cases[share[0] :: share[1]])} {case.kind}: {case.text}"
            print(f"{said:100.100}", end="\r", file=sys.stderr, flush=True)

    def _one(self, case: Case, done: set[str]) -> None:
        """Measure what one case lacks."""
        names = planned(case, self, "Replace"), planned(case, self, "Refine")
        if done and all(set(plan) <= done for plan in names):
            return  # whatever its family, nothing is missing
        source = make_source(case, self.model, self.judge, steps=self.steps)
        if source is None:
            self.records.add([{**about(case), "method": NO_SOURCE}])
            return
        for name, make in planned(case, self, family_of(source)).items():
            if name not in done:
                self.records.add([self._measure(source, name, make)])

    def _measure(self, source: Source, name: str, make: Make) -> Row:
        row = {**about(source.case), "method": name, "noise": source.seed}
        return {**row, "family": family_of(source), **make(self, source)}

    def scored(self, source: Source, draw: Callable[[], Tensor]) -> Row:
        """Draw an edited picture; return its scores and what it cost."""
        self.calls.take()
        started = time.perf_counter()
        picture = draw()
        spent = {"seconds": time.perf_counter() - started, "calls": self.calls.take()}
        return {**edit_scores(self.judge, source, picture), **spent}


def about(case: Case) -> Row:
    """Return what a row says of its case."""
    return {
        "case": case.number,
        "scene": case.seed,
        "kind": case.kind,
        "origin": case.origin,
        "half": case.half,
        "local": case.local,
        "source": case.text,
        "target": case.said,
    }


def planned(case: Case, bench: Bench, family: str) -> dict[str, Make]:
    """Name all that is measured of a case, with the function that does it."""
    family = "Reweight" if case.fader else family
    tried: dict[str, Make] = {}
    if case.half == "reporting":
        settings = [Settings(), *([Settings(blend=True)] if case.local else [])]
        settings += [tuned(case, bench.chosen[family])] if bench.chosen else []
        tried |= {s.name: partial(_edit, settings=s) for s in settings}
        tried |= faded(case)
        tried[RE_PROMPT] = _re_prompt
        tried |= {f"sdedit {s:g}": partial(_sdedit, strength=s) for s in STRENGTHS}
    else:
        tried = {s.name: partial(_edit, settings=s) for s in variants(case, bench.axes)}
    if case.origin == "inverted":
        tried[ATTENTION] = lambda bench, source: {"words": attention_rows(source)}
    return tried


def tuned(case: Case, settings: Settings) -> Settings:
    """Return chosen settings for a case: with a blend if it is local."""
    if case.local:
        return replace(settings, blend=True)
    return replace(settings, blend=False, threshold=None, start=None)


def faded(case: Case) -> dict[str, Make]:
    """Return the faders of an amount: its weight moved, and its wording changed."""
    if not case.fader:
        return {}
    tried: dict[str, Make] = {FADED: _fade}
    if wordings(case):
        tried[WORDED] = _word
    return tried


def _edit(bench: Bench, source: Source, settings: Settings) -> Row:
    if settings.steps is not None or settings.guidance is not None:
        changed = {"steps": settings.steps, "guidance": settings.guidance}
        given = {name: value for name, value in changed.items() if value is not None}
        source = remade(source, bench.model, bench.judge, **given)
    reuse = source.case.half == "tuning"  # what is reported is timed whole
    return bench.scored(source, partial(prompt_to_prompt, source, settings, reuse=reuse))


def _re_prompt(bench: Bench, source: Source) -> Row:
    return bench.scored(source, partial(re_prompt, source))


def _sdedit(bench: Bench, source: Source, strength: float) -> Row:
    return bench.scored(source, partial(sdedit, source, bench.pipeline, strength))


def _fade(bench: Bench, source: Source) -> Row:
    pictures = [prompt_to_prompt(source, Settings(), scale) for scale in FADER]
    return _correlated(bench, source, list(FADER), pictures)


def _word(bench: Bench, source: Source) -> Row:
    texts = wordings(source.case)
    return _correlated(
        bench, source, list(range(len(texts))), [re_prompt(source, text) for text in texts]
    )


def _correlated(
    bench: Bench, source: Source, positions: Sequence[float], pictures: Sequence[Tensor]
) -> Row:
    amounts = [source.case.amount(bench.judge.read(picture)) for picture in pictures]
    correlation = fader_correlation(positions, amounts)
    return {"positions": list(positions), "amounts": amounts, "correlation": correlation}
