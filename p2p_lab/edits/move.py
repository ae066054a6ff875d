"""Move and resize an object: `Move` takes its attention to another place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2p_lab.edits.blend import checked_mask
from p2p_lab.edits.parts import MovePlan
from p2p_lab.edits.places import check_window, cross_steps, is_number, tokens_in
from p2p_lab.edits.plan import EditPlan, Window
from p2p_lab.tokens import Prompt

SCALES = (0.25, 4.0)


@dataclass(frozen=True, eq=False)
class Move:
    """Take an object to another place, and make it larger or smaller, by moving its attention.

    The paper names moving objects as what it cannot do (section 5); this is our extension. Where
    the source's map of the word lies, its whole rows of cross-attention are carried to the new
    place, so that attributes go along; the vacated place takes the mean row of the surroundings.
    What is mixed from the source afterwards is mixed from there. The self-attention is let go,
    for it would hold the old layout. Add `LocalBlend(word)` to keep the picture outside the old
    and the new place as it was.

    Args:
        word: A word or phrase of the source prompt.
        by: How far, (down, right), as fractions of the picture's height and width; each from
            -1 to 1.
        scale: How much larger it becomes, around its own centre, from 1/4 to 4.
        window: The part of the schedule in which the source's attention is moved.
        threshold: Part of the map's maximum from which on a position belongs to the object.
        mask: Where the object is, (H, W), in place of the word's map.
        occurrence: Which of several places of the word, from 0; None takes all.

    Raises:
        ValueError: If a number is out of range, or the window or the mask is bad.
    """

    word: str
    by: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    window: Window = (0.0, 1.0)
    threshold: float = 0.4
    mask: Any = None
    occurrence: int | None = None

    def __post_init__(self) -> None:
        """Refuse a place outside the picture, and a size that the maps cannot show."""
        if not isinstance(self.word, str):
            raise ValueError(f"Move names a word of the source prompt, got {self.word!r:.80}.")
        try:
            down, right = self.by
        except (TypeError, ValueError):
            down = right = float("nan")
        if not all(is_number(part) and -1 <= part <= 1 for part in (down, right)):
            raise ValueError(
                f"by=(down, right) are fractions of the picture from -1 to 1, got {self.by!r:.80}. "
                "(0, 0.3) goes right by three tenths of the width."
            )
        low, high = SCALES
        if not (is_number(self.scale) and low <= self.scale <= high):
            raise ValueError(
                f"scale lies between {low:g} and {high:g}, got {self.scale!r}. 1 keeps the size."
            )
        if not (is_number(self.threshold) and 0 <= self.threshold < 1):
            raise ValueError(f"Move threshold lies in [0, 1), got {self.threshold!r}.")
        check_window("window", self.window)
        if self.mask is not None and not bool(checked_mask(self.mask).any()):
            raise ValueError("The mask is empty, so there is nothing to move. Mark the object.")

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with this move added; a move to where it is changes nothing.

        Raises:
            AlignmentError: If the word is not in the source prompt.
            ValueError: If the plan moves the same word already.
        """
        tokens = tuple(tokens_in(source, self.word, plan, "Move", self.occurrence))
        steps = cross_steps(self.window, plan)
        move = MovePlan(
            tokens=tokens,
            by=(float(self.by[0]), float(self.by[1])),
            scale=float(self.scale),
            steps=range(steps.start, steps.stop),
            threshold=float(self.threshold),
            mask=None if self.mask is None else checked_mask(self.mask),
        )
        if any(set(tokens) & set(other.tokens) for other in plan.moves):
            raise ValueError(
                f"{self.word!r} is moved twice. Add the two ways and give one Move(by=...)."
            )
        if move.is_identity:
            return plan
        return plan.with_(moves=(*plan.moves, move), self_steps=range(0))
