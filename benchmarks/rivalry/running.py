"""Measure one case with every method that is still missing, line by line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.calls import Rows
from benchmarks.editing.cases import Case, half_of, make_case
from benchmarks.editing.kinds import KINDS
from benchmarks.editing.methods import Settings, edits_of
from benchmarks.editing.running import NO_SOURCE, about
from benchmarks.editing.scores import edit_scores
from benchmarks.editing.sources import Source, make_source
from benchmarks.records import Records, Row
from benchmarks.rivalry.concepts import CONCEPTS, concept_rows
from benchmarks.rivalry.faders import FADERS, fader_row
from benchmarks.rivalry.settings import BLENDED, P2P, RE_PROMPT, TRIES, Chosen, tried_name
from p2p_lab.edits import EditPlan
from p2p_lab.judge import Judge
from p2p_lab.models import Denoiser
from p2p_lab.rivals import RIVALS, masked
from p2p_lab.sampling import Run, apply_plan, edit

Make = Callable[["Bench", Source], Row]


@dataclass(eq=False)
class Bench:
    """What all cases share: model, judge, where measurements go, and the settings to report."""

    model: Denoiser
    judge: Judge
    records: Records
    chosen: Chosen = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count the denoiser's calls."""
        self.calls = Rows(self.model.module)

    def run(self, cases: Sequence[Case]) -> None:
        """Measure what the cases lack."""
        done = self.records.done()
        for i, case in enumerate(cases):
            missing = {
                name: make
                for name, make in planned(case, self.chosen).items()
                if (case.number, name) not in done
            }
            if missing and (case.number, NO_SOURCE) not in done:
                self._one(case, missing)
            line = f"{i + 1}/{len(cases)} {case.half} {case.kind}: {case.text}"
            print(f"{line:100.100}", end="\r", file=sys.stderr, flush=True)

    def _one(self, case: Case, missing: Mapping[str, Make]) -> None:
        steps = self.model.defaults.steps
        source = make_source(case, self.model, self.judge, steps=steps)
        if source is None:
            self.records.add([{**about(case), "method": NO_SOURCE}])
            return
        for name, make in missing.items():
            self.records.add([{**about(case), "method": name, **make(self, source)}])

    def scored(self, source: Source, draw: Callable[[], Run]) -> Row:
        """Draw an edit; return its scores, what it cost, and its scores with a mask."""
        self.calls.take()
        started = time.process_time()
        run = draw()
        row = {"seconds": time.process_time() - started, "calls": self.calls.take()}
        row |= edit_scores(self.judge, source, run.pixels)
        if source.case.local and run.source is not None:
            row |= {
                f"masked_{name}": value
                for name, value in edit_scores(
                    self.judge, source, masked(run, *source.case.blend_words).pixels
                ).items()
            }
        return row


def balanced(count: int, judge: Judge, *, seed: int, half: str) -> list[Case]:
    """Return so many cases of a half: every ten have all kinds, drawn and real in turn."""
    kinds = len(KINDS)
    numbers = [number for number in range(500) if half_of(number) == half]
    # Twenty cases are ten kinds drawn, then the same real: half of each first, then the others.
    numbers.sort(key=lambda n: (n // (2 * kinds), (n // kinds + n % kinds) % 2, n % kinds))
    if count > len(numbers):
        raise ValueError(f"There are {len(numbers)} cases of the {half} half, not {count}.")
    return [make_case(number, judge, seed=seed) for number in numbers[:count]]


def planned(case: Case, chosen: Chosen) -> dict[str, Make]:
    """Name all that is measured of a case, with the function that does it."""
    if case.half == "tuning":
        return {
            tried_name(method, k): partial(_edit, method=method, settings=settings)
            for method, tries in TRIES.items()
            for k, settings in enumerate(tries)
        }
    plan: dict[str, Make] = {
        BLENDED: partial(_edit, method=BLENDED, settings=chosen[P2P]),
        RE_PROMPT: partial(_edit, method=RE_PROMPT, settings={}),
    }
    plan |= {m: partial(_edit, method=m, settings=s) for m, s in chosen.items()}
    if case.fader:
        plan |= {name: partial(_fade, name=name, chosen=chosen) for name in FADERS}
    if case.origin == "inverted":
        plan[CONCEPTS] = lambda bench, source: {"words": concept_rows(source)}
    return plan


def _edit(bench: Bench, source: Source, method: str, settings: Mapping[str, Any]) -> Row:
    return bench.scored(source, partial(edited, source, method, settings))


def _fade(bench: Bench, source: Source, name: str, chosen: Chosen) -> Row:
    return fader_row(bench.judge, source, name, chosen)


def edited(source: Source, method: str, settings: Mapping[str, Any]) -> Run:
    """Edit a source by a method: its own words for Prompt-to-Prompt, the target's for a rival."""
    run, case = source.run, source.case
    if method in (P2P, BLENDED):
        how = Settings(blend=method == BLENDED, **settings)
        return edit(run, case.target_text, edits_of(source, how), reuse=False)
    if method == RE_PROMPT:
        assert run.model is not None
        plan = EditPlan.identity(run.prompt, run.model.prompt(case.said), run.steps)
        return apply_plan([run], plan, guidance_scale=run.guidance_scale, reuse=False)[0]
    seed = case.number if source.seed is None else source.seed
    return RIVALS[method].edit(run, case.said, seed=seed, **settings)
