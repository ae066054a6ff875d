"""Which source token feeds which target token: `Alignment` and the two ways to find one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from p2p_lab.devices import cpu_by_default
from p2p_lab.tokens.prompt import AlignmentError, Prompt, check_prompts
from p2p_lab.tokens.reference import reference_swap_mapper
from p2p_lab.tokens.words import is_punctuation, normal

Compat = Literal["reference"] | None
Block = tuple[list[int], list[int]]
Align = Callable[[Prompt, Prompt], "Alignment"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where each target token's attention comes from.

    Attributes:
        mapper: (L, L); column j says from which source tokens target token j is fed. A matched
            column sums to 1: it says *from where*, never *how much*.
        matched: (L,) bool; whether target token j has a source partner.
        gain: (L,); how much of it target token j takes: 1, or k/m where k source tokens are
            shared out among m target tokens, so that the swapped word keeps its attention mass.
        source: The source prompt, for printing.
        target: The target prompt, for printing.
    """

    mapper: Tensor
    matched: Tensor
    gain: Tensor
    source: Prompt
    target: Prompt

    def partners(self, j: int) -> list[int]:
        """Return the source positions that feed target position j."""
        return [int(i) for i in self.mapper[:, j].nonzero().flatten()] if self.matched[j] else []

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        """Return the alignment as a table, one row a target token, padding summed up."""
        rows = [("target", "", "source", "gain")]
        for j in range(self.target.end):
            partners = self.partners(j)
            names = " + ".join(f"{i} {self.source.pieces[i]}" for i in partners)
            how_much = f"{float(self.gain[j]):.3g}" if partners else ""
            arrow = "<-" if partners else "new"
            rows.append((f"{j} {self.target.pieces[j]}", arrow, names, how_much))
        widths = [max(len(row[c]) for row in rows) for c in range(4)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
        padding = self.target.ids[self.target.end :]
        matched = int(self.matched[self.target.end :].sum())
        lines.append(f"padding: {len(padding)} tokens, {matched} matched")
        return "\n".join(line.rstrip() for line in lines)


@cpu_by_default()
def align_words(
    source: Prompt,
    target: Prompt,
    *,
    pairs: Mapping[str, str] | None = None,
    compat: Compat = None,
) -> Alignment:
    """Align two prompts word by word, for a word swap (the paper's section 3.2).

    With equally many words the i-th takes the place of the i-th, as published. Otherwise equal
    words are aligned first, and what lies between two of them is swapped as a whole ("cat" for
    "polar bear"); words with nothing opposite stay unmatched. A swap of k source tokens for m
    target tokens is one to one if k = m; else each target token gets
    (1/m) x the sum of the k columns, written as the mean of the columns times a gain of k/m.

    Args:
        source: The prompt of the source picture.
        target: The prompt of the edit.
        pairs: Source word or phrase -> target word or phrase, to set the alignment by hand (the
            first place where each stands); the words not named are aligned as above.
        compat: "reference" builds the authors' mapper, quirks included.

    Raises:
        AlignmentError: If a paired word is missing, or the prompts share no word to align by.
        TypeError: If a prompt is a text.
    """
    _same_length(source, target)
    if source.parts:
        return _by_parts(source, target, lambda a, b: align_words(a, b, pairs=pairs, compat=compat))
    if compat == "reference":
        return _reference_words(source, target)
    blocks = _blocks_by_hand(source, target, pairs) if pairs else word_blocks(source, target)
    return _from_blocks(source, target, blocks)


@cpu_by_default()
def align_tokens(source: Prompt, target: Prompt, *, compat: Compat = None) -> Alignment:
    """Align two prompts token by token, for an added phrase (the paper's A(j), section 3.2).

    Needleman-Wunsch on token ids with gap 0, match +1, mismatch -1; ties go to insertion, then
    deletion, then the diagonal. A token that is new or substituted is unmatched and will keep
    its own attention. Padding is matched to the source's padding; here we depart from the
    authors' code, which takes source column j for padding j even where a word stands there
    (`compat="reference"` does too).
    """
    _same_length(source, target)
    if source.parts:
        return _by_parts(source, target, lambda a, b: align_tokens(a, b, compat=compat))
    mapper, matched = _empty(len(target))
    for i, j in needleman_wunsch(source.ids[: source.end], target.ids[: target.end]):
        mapper[i, j], matched[j] = 1.0, True
    _match_padding(mapper, matched, source, target, 0 if compat == "reference" else source.end)
    return Alignment(mapper, matched, matched.to(mapper.dtype), source, target)


def _by_parts(source: Prompt, target: Prompt, align: Align) -> Alignment:
    """Align the prompts of each text encoder by themselves, their mappers on a diagonal."""
    found = [align(a, b) for a, b in zip(source.parts, target.parts, strict=True)]
    mapper, start = _empty(len(target))[0], 0
    for one in found:
        stop = start + len(one.matched)
        mapper[start:stop, start:stop], start = one.mapper, stop
    matched, gain = (torch.cat([getattr(one, n) for one in found]) for n in ("matched", "gain"))
    return Alignment(mapper, matched, gain, source, target)


def no_common_word(source: Prompt, target: Prompt) -> bool:
    """Return whether two prompts with words share none of them; case and punctuation aside."""
    before, after = (
        {normal(prompt.words[word]) for word in spoken(prompt)} for prompt in (source, target)
    )
    return bool(before) and bool(after) and not before & after


def needleman_wunsch(
    source: Sequence[Hashable], target: Sequence[Hashable]
) -> list[tuple[int, int]]:
    """Return the matched pairs (i, j) of the best global alignment, in order.

    Scores: gap 0, match +1, mismatch -1. Ties: insertion, deletion, diagonal (the order of the
    authors' code, so that repeated words fall where theirs do).
    """
    n, m = len(source), len(target)
    score = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            diagonal = score[i - 1][j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            score[i][j] = max(score[i][j - 1], score[i - 1][j], diagonal)
    pairs: list[tuple[int, int]] = []
    i, j = n, m
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def check_alignment(value: Any) -> None:
    """See that an alignment is one.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, Alignment):
        raise TypeError(
            f"alignment is a {type(value).__name__}, not an Alignment: align_words(source, target) "
            "and align_tokens make one of two prompts."
        )


def _same_length(source: Prompt, target: Prompt) -> None:
    check_prompts(source=source, target=target)
    if len(source) != len(target):
        raise ValueError(
            f"The source has {len(source)} token positions and the target {len(target)}. Build "
            f"both prompts with the same tokenizer and the same length."
        )


@cpu_by_default()
def word_blocks(source: Prompt, target: Prompt) -> list[Block]:
    """Return which words correspond, as pairs of lists of word numbers, in order.

    Raises:
        AlignmentError: If the prompts differ in length and have no word in common.
    """
    check_prompts(source=source, target=target)
    before, after = list(range(len(source.words))), list(range(len(target.words)))
    counts = len(spoken(source, before)), len(spoken(target, after))
    if counts[0] != counts[1] and no_common_word(source, target):
        raise AlignmentError(
            f"{source.text!r} and {target.text!r} share no word and have different numbers of "
            f"words, so there is nothing to align by. Say which word takes which place: "
            f"align_words(source, target, pairs={{'old': 'new'}})."
        )
    return _blocks(source, target, before, after)


def spoken(prompt: Prompt, words: Sequence[int] | None = None) -> list[int]:
    """Return those word numbers that are no punctuation."""
    words = range(len(prompt.words)) if words is None else words
    return [word for word in words if not is_punctuation(prompt.words[word])]


def _blocks(source: Prompt, target: Prompt, before: list[int], after: list[int]) -> list[Block]:
    """Pair the words numbered `before` with those numbered `after`, around anchors."""
    blocks: list[Block] = []
    rest_before, rest_after = before, after
    for i, j in _anchors(source, target, before, after):
        gap_before = [word for word in rest_before if word < i]
        gap_after = [word for word in rest_after if word < j]
        blocks += [*_gap(source, target, gap_before, gap_after), ([i], [j])]
        rest_before = [word for word in rest_before if word > i]
        rest_after = [word for word in rest_after if word > j]
    return blocks + _gap(source, target, rest_before, rest_after)


def _anchors(
    source: Prompt, target: Prompt, before: list[int], after: list[int]
) -> list[tuple[int, int]]:
    """Return the words that surely correspond: by position if equally many, else equal ones."""
    said_before, said_after = spoken(source, before), spoken(target, after)
    if len(said_before) == len(said_after):
        return list(zip(said_before, said_after, strict=True))
    matches = needleman_wunsch(
        [normal(source.words[i]) for i in before], [normal(target.words[j]) for j in after]
    )
    return [(before[i], after[j]) for i, j in matches]


def _gap(source: Prompt, target: Prompt, before: list[int], after: list[int]) -> list[Block]:
    """Pair the words between two anchors: one by one if equally many, else as a whole.

    Punctuation takes part only where nothing else stands opposite.
    """
    said_before, said_after = spoken(source, before), spoken(target, after)
    if said_before and said_after:
        before, after = said_before, said_after
    if len(before) == len(after):
        return [([i], [j]) for i, j in zip(before, after, strict=True)]
    return [(before, after)] if before and after else []


def _blocks_by_hand(source: Prompt, target: Prompt, pairs: Mapping[str, str]) -> list[Block]:
    """Take the user's pairs as they are, and align the words that no pair names."""
    blocks: list[Block] = []
    for old, new in pairs.items():
        before, after = _place(source, old), _place(target, new)
        if any(set(after) & set(taken) for _, taken in blocks):
            raise AlignmentError(
                f"pairs= gives {new!r} two partners. Name each word of the target once."
            )
        blocks.append((before, after))
    rest_before = _others(source, [before for before, _ in blocks])
    rest_after = _others(target, [after for _, after in blocks])
    return blocks + _blocks(source, target, rest_before, rest_after)


def _place(prompt: Prompt, phrase: str) -> list[int]:
    prompt.tokens_of(phrase)  # raises the error that lists the words
    return list(range(*prompt.find(phrase)[0]))


def _others(prompt: Prompt, taken: list[list[int]]) -> list[int]:
    named = {word for words in taken for word in words}
    return [word for word in range(len(prompt.words)) if word not in named]


def _tokens(prompt: Prompt, words: list[int]) -> list[int]:
    return [token for word in words for token in range(*prompt.spans[word])]


def _from_blocks(source: Prompt, target: Prompt, blocks: Sequence[Block]) -> Alignment:
    mapper, matched = _empty(len(target))
    gain = torch.zeros(len(target), dtype=mapper.dtype)
    for i, j in zip(source.specials, target.specials, strict=True):
        mapper[i, j], matched[j], gain[j] = 1.0, True, 1.0
    for before, after in blocks:
        rows, columns = _tokens(source, before), _tokens(target, after)
        if len(rows) == len(columns):
            mapper[rows, columns] = 1.0
        else:
            for column in columns:
                mapper[rows, column] = 1.0 / len(rows)
        matched[columns] = True
        gain[columns] = len(rows) / len(columns)
    _match_padding(mapper, matched, source, target, source.end)
    gain[target.end :] = matched[target.end :].to(gain.dtype)
    return Alignment(mapper, matched, gain, source, target)


def _match_padding(
    mapper: Tensor, matched: Tensor, source: Prompt, target: Prompt, first: int
) -> None:
    """Feed each padding j of the target from padding max(j, first) of the source, if it has any."""
    for j in range(target.end, len(target)):
        i = max(j, first)
        if i < len(source):
            mapper[i, j], matched[j] = 1.0, True


def _reference_words(source: Prompt, target: Prompt) -> Alignment:
    mapper = reference_swap_mapper(source, target)
    matched = torch.ones(len(target), dtype=torch.bool)
    return Alignment(mapper, matched, matched.to(mapper.dtype), source, target)


def _empty(length: int) -> tuple[Tensor, Tensor]:
    mapper = torch.zeros(length, length, dtype=torch.float64)
    return mapper, torch.zeros(length, dtype=torch.bool)
