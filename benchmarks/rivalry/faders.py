"""The fader and its rivals: strength asked, amount seen, and what else moved.

Reweight    the word's attention is multiplied          FlowSlider  the steering term is multiplied
guidance    the target's guidance is turned up, with no control at all
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.editing.cases import Case
from benchmarks.editing.methods import FADER, Settings, edits_of
from benchmarks.editing.scores import edit_scores, fader_correlation, mean
from benchmarks.editing.sources import Source
from benchmarks.records import Row
from p2p_lab.edits import EditPlan
from p2p_lab.judge import Judge
from p2p_lab.rivals import flow_slider
from p2p_lab.sampling import Run, apply_plan, edit

POSITIONS: dict[str, tuple[float, ...]] = {
    "(fader) Reweight": FADER,
    "(fader) FlowSlider": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "(fader) guidance": (1.0, 2.0, 3.0, 5.0, 7.5, 12.0),
}
FADERS = tuple(POSITIONS)


def fader_row(judge: Judge, source: Source, name: str, chosen: Mapping[str, Any]) -> Row:
    """Return the amounts that the judge sees at each position, and what else moved meanwhile."""
    case, positions = source.case, POSITIONS[name]
    pictures = [_at(source, name, position, chosen).pixels for position in positions]
    amounts = [case.amount(judge.read(picture)) for picture in pictures]
    asked = [position if _upwards(case, name) else -position for position in positions]
    scores = [edit_scores(judge, source, picture) for picture in pictures]
    return {
        "positions": list(positions),
        "amounts": [round(amount, 4) for amount in amounts],
        "correlation": fader_correlation(asked, amounts),
        "range": max(amounts) - min(amounts),
        "kept": mean([score["kept"] for score in scores]),
        "structure": mean([score["structure"] for score in scores]),
    }


def _upwards(case: Case, name: str) -> bool:
    """Tell whether a higher position asks for more of the word: a weight always does."""
    return case.up or name == "(fader) Reweight"


def _at(source: Source, name: str, position: float, chosen: Mapping[str, Any]) -> Run:
    run, case = source.run, source.case
    if name == "(fader) Reweight":
        return edit(run, case.target_text, edits_of(source, Settings(), position), record="none")
    if name == "(fader) FlowSlider":
        settings = {**chosen["flow_slider"], "strength": position}
        return flow_slider(run, case.said, record="none", seed=case.number, **settings)
    assert run.model is not None
    plan = EditPlan.identity(run.prompt, run.model.prompt(case.said), run.steps)
    with torch.no_grad():
        return apply_plan([run], plan, guidance_scale=position, record="none", reuse=False)[0]
