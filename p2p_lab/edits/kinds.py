"""The edits a user names: `Replace`, `Refine`, `Reweight`, `LocalBlend`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from p2p_lab.edits.plan import BlendPlan, EditPlan, Window
from p2p_lab.tokens import (
    Alignment,
    AlignmentError,
    Prompt,
    align_tokens,
    align_words,
    no_common_word,
    reference_tokens_of,
)


class Edit(Protocol):
    """Anything that can be folded into a plan."""

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with this edit added."""
        ...


@dataclass(frozen=True, eq=False)
class _Aligner:
    """Share what `Replace` and `Refine` have in common: they differ only in the alignment.

    Attributes:
        cross: window in which a matched token takes the source's map; its end is the paper's tau.
        self_attention: window in which the self-attention maps are taken from the source.
        self_pixels: largest site, in positions, whose self-attention is taken.
        words: word of the target -> its own window in place of `cross`.
        alignment: an alignment set by hand in place of the one that is found.
    """

    cross: Window = (0.0, 0.8)
    self_attention: Window = (0.0, 0.4)
    self_pixels: int = 256
    words: Mapping[str, Window] = field(default_factory=dict)
    alignment: Alignment | None = None

    def __post_init__(self) -> None:
        """Refuse windows that are no part of the schedule."""
        check_window("cross", self.cross)
        check_window("self_attention", self.self_attention)
        for word, window in self.words.items():
            check_window(f"words[{word!r}]", window)
        if isinstance(self.self_pixels, bool) or self.self_pixels < 0:
            raise ValueError(
                f"self_pixels is a number of positions, 0 or more, got {self.self_pixels!r}."
            )

    def align(self, source: Prompt, target: Prompt, plan: EditPlan) -> Alignment:
        """Return the alignment that this edit uses for two prompts."""
        raise NotImplementedError

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with source maps inside the windows and target maps outside.

        Inside its window a matched token has gains (g, 0), where g is 1 or the k/m of an
        unequal swap; everything else has (0, 1).
        """
        alignment = self._alignment(source, target, plan)
        inside = self._inside(plan, target) & alignment.matched  # (T, L)
        self_steps = window_steps(self.self_attention, plan.steps)
        if plan.compat == "reference":
            self_steps = range(*(int(edge * plan.steps) for edge in self.self_attention))
        return plan.with_(
            mapper=alignment.mapper,
            source_gain=inside * alignment.gain,
            target_gain=(~inside).to(plan.target_gain.dtype),
            self_steps=self_steps,
            self_pixels=int(self.self_pixels),
        )

    def _alignment(self, source: Prompt, target: Prompt, plan: EditPlan) -> Alignment:
        if self.alignment is None:
            return self.align(source, target, plan)
        if (self.alignment.source, self.alignment.target) != (source, target):
            raise AlignmentError(
                f"The alignment set by hand is for {self.alignment.source.text!r} and "
                f"{self.alignment.target.text!r}, the edit for {source.text!r} and "
                f"{target.text!r}. Make one for these prompts and this tokenizer."
            )
        return self.alignment

    def _inside(self, plan: EditPlan, target: Prompt) -> Tensor:
        inside = torch.zeros(plan.steps, plan.length, dtype=torch.bool)
        inside[_cross_steps(self.cross, plan)] = True
        for word, window in self.words.items():
            tokens = _tokens(target, word, plan, "words=")
            inside[:, tokens] = False
            steps = _cross_steps(window, plan)
            inside[steps.start : steps.stop, tokens] = True
        return inside


@dataclass(frozen=True, eq=False)
class Replace(_Aligner):
    """Swap words: each word keeps the place of the word that it replaces.

    The paper's "word swap" (section 3.2): M_hat = M_source P inside the window, with P from
    `align_words`; the target's own maps outside.

    Args:
        cross: window, as fractions of the schedule from noise (0) to image (1).
        self_attention: window of the self-attention injection.
        self_pixels: largest site, in positions, that it touches.
        words: target word -> window of its own.
        alignment: an `align_words(source, target, pairs=...)` of your own.

    Raises:
        ValueError: a window is outside 0 to 1 or ends before it starts.
    """

    def align(self, source: Prompt, target: Prompt, plan: EditPlan) -> Alignment:
        """Return `align_words` of the two prompts."""
        return align_words(source, target, compat=plan.compat)


@dataclass(frozen=True, eq=False)
class Refine(_Aligner):
    """Add a phrase: tokens that were there keep their maps, new tokens bring their own.

    The paper's "adding a new phrase" (section 3.2): column j is M_source[:, A(j)] where target
    token j has a source partner A(j), else M_target[:, j]; A from `align_tokens`.

    Args:
        cross: window, as fractions of the schedule from noise (0) to image (1).
        self_attention: window of the self-attention injection.
        self_pixels: largest site, in positions, that it touches.
        words: target word -> window of its own.
        alignment: an alignment of your own.

    Raises:
        ValueError: a window is outside 0 to 1 or ends before it starts.
    """

    def align(self, source: Prompt, target: Prompt, plan: EditPlan) -> Alignment:
        """Return `align_tokens` of the two prompts; refuse prompts without a common word."""
        if plan.compat is None and no_common_word(source, target):
            raise AlignmentError(
                f"{source.text!r} and {target.text!r} share no word, so Refine has nothing to "
                f"keep. Use Replace to swap words, or pass alignment= to set it by hand."
            )
        return align_tokens(source, target, compat=plan.compat)


@dataclass(frozen=True)
class Reweight:
    """Turn a word up or down: its column of the attention is multiplied by `scale`.

    The paper's "attention re-weighting", its fader control (section 3.2). Rows are not
    renormalised.

    Args:
        word: a word or phrase of the target prompt.
        scale: the factor c, any number; 0 removes the word, negative pushes away from it.
        window: the part of the schedule in which it acts.
        occurrence: which of several places of the word, from 0; None takes all.

    Raises:
        ValueError: the scale is NaN or infinite, or the window is no part of the schedule.
    """

    word: str
    scale: float
    window: Window = (0.0, 1.0)
    occurrence: int | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that is no number and a window that is no part of the schedule."""
        check_window("window", self.window)
        if not _is_number(self.scale):
            raise ValueError(
                f"The scale of {self.word!r} must be a finite number, got {self.scale!r}. "
                f"1 leaves the word as it is, 0 removes it, 2 doubles it."
            )

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with both gains of the word multiplied by the scale in its window."""
        tokens = _tokens(target, self.word, plan, "Reweight", self.occurrence)
        steps = _cross_steps(self.window, plan)
        factor = torch.ones_like(plan.target_gain)
        factor[steps.start : steps.stop, tokens] = float(self.scale)
        return plan.with_(
            source_gain=plan.source_gain * factor, target_gain=plan.target_gain * factor
        )


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """Let the edit change only the region of some words; keep the source's background.

    The paper's "local editing" (section 3.2): after each step z* <- z + mask (z* - z), with the
    mask from the mean cross-attention of the words, source and target united.

    Args:
        source_words: word(s) of the source prompt that mark the region.
        target_words: word(s) of the target prompt that mark it; the source words by default.
        threshold: part of the map's maximum above which a pixel belongs to the region.
        start: fraction of the schedule before which nothing is blended.
        subtract: word(s), of either prompt, whose region must stay as it was.
        mask: a mask of your own, (H, W), 0 or False where nothing may change. Alone, or
            multiplied with the mask of the words.

    Raises:
        ValueError: no word and no mask, a threshold or start outside 0 to 1, or a bad mask.
    """

    source_words: str | Sequence[str] = ()
    target_words: str | Sequence[str] | None = None
    threshold: float = 0.3
    start: float = 0.2
    subtract: str | Sequence[str] = ()
    mask: Any = None

    def __post_init__(self) -> None:
        """Refuse a blend that says no region, and numbers outside 0 to 1."""
        for name in ("threshold", "start"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"LocalBlend {name} lies between 0 and 1, got {value!r}.")
        if not _listed(self.source_words) and not _listed(self.target_words) and self.mask is None:
            raise ValueError(
                "LocalBlend needs a region: name source_words and target_words, or pass mask=."
            )
        if self.mask is not None:
            _mask(self.mask)

    def apply(self, plan: EditPlan, source: Prompt, target: Prompt) -> EditPlan:
        """Return the plan with the words' tokens and the first blended step filled in."""
        before = _listed(self.source_words)
        after = before if self.target_words is None else _listed(self.target_words)
        minus = _listed(self.subtract)
        _check_subtract(minus, source, target, plan)
        start = self.start * plan.steps
        blend = BlendPlan(
            source_tokens=_all_tokens(source, before, plan, "source_words"),
            target_tokens=_all_tokens(target, after, plan, "target_words"),
            source_subtract=_all_tokens(source, _present(minus, source), plan, "subtract"),
            target_subtract=_all_tokens(target, _present(minus, target), plan, "subtract"),
            threshold=float(self.threshold),
            start_step=int(start) if plan.compat == "reference" else _nearest(start),
            mask=None if self.mask is None else _mask(self.mask),
        )
        return plan.with_(blend=blend)


def check_window(name: str, window: Window) -> None:
    """Refuse anything but two fractions (start, end) with 0 <= start <= end <= 1.

    Raises:
        ValueError: the window is something else.
    """
    try:
        start, end = window
    except (TypeError, ValueError):
        start = end = math.nan
    if not (_is_number(start) and _is_number(end) and 0 <= start <= end <= 1):
        raise ValueError(
            f"{name} is a window (start, end) in fractions of the schedule, 0 is noise and 1 the "
            f"image, with 0 <= start <= end <= 1; got {window!r}. (0, 0.8) acts in the first 80 %."
        )


def window_steps(window: Window, steps: int) -> range:
    """Return the steps of a window: both edges rounded to the nearest step, halves up."""
    return range(_nearest(window[0] * steps), _nearest(window[1] * steps))


def _nearest(number: float) -> int:
    return math.floor(round(number, 9) + 0.5)


def _cross_steps(window: Window, plan: EditPlan) -> range:
    """Return the steps of a cross-attention window.

    The authors' code truncates on a table of T + 1 rows, of which a run of T steps reads the
    first T; `compat="reference"` does the same.
    """
    if plan.compat is None:
        return window_steps(window, plan.steps)
    start, end = (min(int(edge * (plan.steps + 1)), plan.steps) for edge in window)
    return range(start, end)


def _tokens(
    prompt: Prompt, word: str, plan: EditPlan, where: str, occurrence: int | None = None
) -> list[int]:
    if plan.compat == "reference":
        return reference_tokens_of(prompt, word)
    try:
        return prompt.tokens_of(word, occurrence)
    except AlignmentError as error:
        raise AlignmentError(f"{where}: {error}") from None


def _all_tokens(
    prompt: Prompt, words: Sequence[str], plan: EditPlan, where: str
) -> tuple[int, ...]:
    found = {token for word in words for token in _tokens(prompt, word, plan, where)}
    return tuple(sorted(found))


def _present(words: Sequence[str], prompt: Prompt) -> list[str]:
    return [word for word in words if prompt.find(word)]


def _check_subtract(words: Sequence[str], source: Prompt, target: Prompt, plan: EditPlan) -> None:
    for word in words:
        if plan.compat is None and not source.find(word):
            _tokens(target, word, plan, "subtract")


def _listed(words: str | Sequence[str] | None) -> tuple[str, ...]:
    if words is None:
        return ()
    return (words,) if isinstance(words, str) else tuple(words)


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)
    except TypeError:
        return False


def _mask(mask: Any) -> Tensor:
    values = torch.as_tensor(np.asarray(mask)).to(torch.float64)
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(
            f"A mask has two axes (height, width), got the shape {tuple(values.shape)}."
        )
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"A mask holds numbers from 0 (keep the source) to 1 (edit), got "
            f"{float(values.min()):g} to {float(values.max()):g}. Divide by 255 if it is 8 bit."
        )
    return values
