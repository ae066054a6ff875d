"""Local editing: `LocalBlend` keeps the source outside the region of some words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from p2p_lab.edits.parts import BlendPlan
from p2p_lab.edits.places import is_number, nearest_step, tokens_in, word_and_place
from p2p_lab.edits.plan import EditPlan, Word
from p2p_lab.tokens import Prompt

Words = Word | Sequence[Word]


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """Let the edit change only the region of some words; keep the source's background.

    The paper's "local editing" (section 3.2): after each step z* <- z + mask (z* - z), with the
    mask from the mean cross-attention of the words, source and target united.

    Args:
        source_words: Word(s) of the source prompt that mark the region.
        target_words: Word(s) of the target prompt that mark it; the source words by default.
        threshold: Part of the map's maximum above which a pixel belongs to the region.
        start: Fraction of the schedule before which nothing is blended.
        subtract: Word(s), of either prompt, whose region must stay as it was. Here and above,
            ("cat", 1) is the second of several equal words.
        mask: A mask of your own, (H, W), 0 or False where nothing may change. Alone, or
            multiplied with the mask of the words.

    Raises:
        ValueError: If there is neither word nor mask, or a number or the mask is bad.
    """

    source_words: Words = ()
    target_words: Words | None = None
    threshold: float = 0.3
    start: float = 0.2
    subtract: Words = ()
    mask: Any = None

    def __post_init__(self) -> None:
        """Refuse a blend that says no region, and numbers outside 0 to 1."""
        for name in ("threshold", "start"):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= 1):
                raise ValueError(f"LocalBlend {name} lies between 0 and 1, got {value!r}.")
        if not _listed(self.source_words) and not _listed(self.target_words) and self.mask is None:
            raise ValueError(
                "LocalBlend needs a region: name source_words and target_words, or pass mask=."
            )
        for words in (self.source_words, self.target_words, self.subtract):
            for word in _listed(words):
                word_and_place(word)
        if self.mask is not None:
            checked_mask(self.mask)

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with the words' tokens and the first blended step filled in."""
        before = _listed(self.source_words)
        after = before if self.target_words is None else _listed(self.target_words)
        minus = _listed(self.subtract)
        _check_subtract(minus, source, target, plan)
        start = self.start * plan.steps
        user_mask = None if self.mask is None else checked_mask(self.mask)
        blend = BlendPlan(
            source_tokens=_all_tokens(source, before, plan, "source_words"),
            target_tokens=_all_tokens(target, after, plan, "target_words"),
            source_subtract=_all_tokens(source, _present(minus, source), plan, "subtract"),
            target_subtract=_all_tokens(target, _present(minus, target), plan, "subtract"),
            threshold=float(self.threshold),
            start_step=int(start) if plan.compat == "reference" else nearest_step(start),
            mask=user_mask,
        )
        if not blend.source_tokens and not blend.target_tokens and user_mask is None:
            # Only under compat: no word was found, the authors' mask is 0/0, the edit vanishes.
            blend = replace(blend, mask=torch.zeros(1, 1, dtype=torch.float64))
        return plan.with_(blend=blend)


def _all_tokens(
    prompt: Prompt, words: Sequence[Word], plan: EditPlan, where: str
) -> tuple[int, ...]:
    found: set[int] = set()
    for text, place in map(word_and_place, words):
        found |= {*tokens_in(prompt, text, plan, where, place)}
    return tuple(sorted(found))


def _present(words: Sequence[Word], prompt: Prompt) -> list[Word]:
    """Return the words that stand in a prompt, at the place that is named if one is."""
    named = [(word, *word_and_place(word)) for word in words]
    return [word for word, text, place in named if len(prompt.find(text)) > (place or 0)]


def _check_subtract(words: Sequence[Word], source: Prompt, target: Prompt, plan: EditPlan) -> None:
    for word in words:
        if plan.compat is None and not _present([word], source):
            text, place = word_and_place(word)
            tokens_in(target, text, plan, "subtract", place)


def _listed(words: Words | None) -> tuple[Word, ...]:
    if words is None:
        return ()
    one = isinstance(words, str) or (len(words) == 2 and isinstance(words[1], int))
    return (cast(Word, words),) if one else cast(tuple[Word, ...], tuple(words))


def checked_mask(mask: Any) -> Tensor:
    """Return a copy of the user's mask as (H, W) numbers from 0 to 1."""
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"A mask is an array of numbers with two axes (height, width), got shape "
            f"{values.shape} of {values.dtype}."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"A mask holds numbers from 0 (keep the source) to 1 (edit), got {values.min():g} to "
            f"{values.max():g}. Divide by 255 if it is an 8-bit picture."
        )
    return torch.tensor(values, dtype=torch.float64)  # (H, W)
