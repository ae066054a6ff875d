"""The fader: `Reweight` turns a word up or down."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from p2p_lab.edits.places import check_window, cross_steps, is_number, tokens_in
from p2p_lab.edits.plan import EditPlan, Window
from p2p_lab.tokens import Prompt


@dataclass(frozen=True)
class Reweight:
    """Turn a word up or down: its column of the attention is multiplied by `scale`.

    The paper's "attention re-weighting", its fader control (section 3.2). Rows are not
    renormalised.

    Args:
        word: A word or phrase of the target prompt.
        scale: The factor c, any number; 0 removes the word, negative pushes away from it.
        window: The part of the schedule in which it acts.
        occurrence: Which of several places of the word, from 0; None takes all.

    Raises:
        ValueError: If the scale is NaN or infinite, or the window is no part of the schedule.
    """

    word: str
    scale: float
    window: Window = (0.0, 1.0)
    occurrence: int | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that is no number and a window that is no part of the schedule."""
        if not isinstance(self.word, str):
            raise ValueError(f"Reweight names a word of the target prompt, got {self.word!r}.")
        check_window("window", self.window)
        if not is_number(self.scale):
            raise ValueError(
                f"The scale of {self.word!r} must be a finite number, got {self.scale!r}. "
                f"1 leaves the word as it is, 0 removes it, 2 doubles it."
            )

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with both gains of the word multiplied by the scale in its window."""
        tokens = tokens_in(target, self.word, plan, "Reweight", self.occurrence)
        steps = cross_steps(self.window, plan)
        factor = torch.ones_like(plan.target_gain)
        factor[steps.start : steps.stop, tokens] = float(self.scale)
        return plan.with_(
            source_gain=plan.source_gain * factor, target_gain=plan.target_gain * factor
        )
