"""The two edits that align prompts: `Replace` (word swap) and `Refine` (adding a phrase)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, get_args

import torch
from torch import Tensor

from p2p_lab.edits.places import (
    check_window,
    cross_steps,
    is_number,
    self_steps_of,
    tokens_in,
    word_and_place,
)
from p2p_lab.edits.plan import EditPlan, Joint, Window, Word
from p2p_lab.tokens import (
    Alignment,
    AlignmentError,
    Prompt,
    align_tokens,
    align_words,
    no_common_word,
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
        cross: Window in which a matched token takes the source's map; its end is the paper's tau.
        self_attention: Window in which the self-attention maps are taken from the source.
        self_pixels: Largest site, in positions, whose self-attention is taken. The usual 16 x 16 of
            the paper would reach nothing in models whose smallest site is larger: there that one is
            taken, with a warning.
        words: Word of the target -> its own window in place of `cross`; ("cat", 1) is the second of
            several equal words.
        alignment: An alignment set by hand in place of the one that is found.
        joint: What a joint softmax over words and image takes in `self_attention`'s window.
    """

    cross: Window = (0.0, 0.8)
    self_attention: Window = (0.0, 0.4)
    self_pixels: int = 256
    words: Mapping[Word, Window] = field(default_factory=dict)
    alignment: Alignment | None = None
    joint: Joint = "maps"

    def __post_init__(self) -> None:
        """Refuse windows that are no part of the schedule."""
        check_window("cross", self.cross)
        check_window("self_attention", self.self_attention)
        if self.joint not in get_args(Joint):
            raise ValueError(f"joint={self.joint!r} is not known; use one of {get_args(Joint)}.")
        if not isinstance(self.words, Mapping):
            raise ValueError(
                f"words gives single words their own window, as {{'cat': (0, 0.3)}}; got "
                f"{self.words!r:.80}."
            )
        for word, window in self.words.items():
            word_and_place(word)
            check_window(f"words[{word!r}]", window)
        if (
            isinstance(self.self_pixels, bool)
            or not is_number(self.self_pixels)
            or (self.self_pixels < 0 or self.self_pixels != int(self.self_pixels))
        ):
            raise ValueError(
                f"self_pixels is a whole number of positions, as 16 * 16, got {self.self_pixels!r}."
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
        return plan.with_(
            mapper=alignment.mapper,
            source_gain=inside * alignment.gain,
            target_gain=(~inside).to(plan.target_gain.dtype),
            self_steps=self_steps_of(self.self_attention, plan),
            self_pixels=int(self.self_pixels),
            joint=self.joint,
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
        inside[cross_steps(self.cross, plan)] = True
        for word, window in self.words.items():
            text, place = word_and_place(word)
            tokens = tokens_in(target, text, plan, "words=", place)
            inside[:, tokens] = False
            steps = cross_steps(window, plan)
            inside[steps.start : steps.stop, tokens] = True
        return inside


@dataclass(frozen=True, eq=False)
class Replace(_Aligner):
    """Swap words: each word keeps the place of the word that it replaces.

    The paper's "word swap" (section 3.2): M_hat = M_source P inside the window, with P from
    `align_words`; the target's own maps outside.

    Args:
        cross: Window, as fractions of the schedule from noise (0) to image (1).
        self_attention: Window of the self-attention injection.
        self_pixels: Largest site, in positions, that it touches.
        words: Target word -> window of its own; ("cat", 1) is the second of several equal words.
        alignment: An `align_words(source, target, pairs=...)` of your own.
        joint: For models whose words and image share a softmax (IF, SD3, Flux), an extension:
            "maps" takes the source's block of it as in other models; "queries" the source's image
            queries and keys instead. Its authors leave the words to the target: cross=(0, 0).

    Raises:
        ValueError: If a window is outside 0 to 1 or ends before it starts.
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
        cross: Window, as fractions of the schedule from noise (0) to image (1).
        self_attention: Window of the self-attention injection.
        self_pixels: Largest site, in positions, that it touches.
        words: Target word -> window of its own; ("cat", 1) is the second of several equal words.
        alignment: An alignment of your own.
        joint: "maps" or "queries", as in `Replace`.

    Raises:
        ValueError: If a window is outside 0 to 1 or ends before it starts.
    """

    def align(self, source: Prompt, target: Prompt, plan: EditPlan) -> Alignment:
        """Return `align_tokens` of the two prompts; refuse prompts without a common word."""
        if plan.compat is None and no_common_word(source, target):
            raise AlignmentError(
                f"{source.text!r} and {target.text!r} share no word, so Refine has nothing to "
                f"keep. Use Replace to swap words, or pass alignment= to set it by hand."
            )
        return align_tokens(source, target, compat=plan.compat)
