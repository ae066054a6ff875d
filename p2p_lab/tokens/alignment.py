"""Which source token feeds which target token: `Alignment` and the two ways to find one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from p2p_lab.tokens.prompt import AlignmentError, Prompt, normal
from p2p_lab.tokens.reference import reference_swap_mapper

Compat = Literal["reference"] | None
Block = tuple[range, range]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Hold where each target token's attention comes from.

    Attributes:
        mapper: (L, L); column j says from which source tokens target token j is fed. A matched
            column sums to 1: it says *from where*, never *how much*.
        matched: (L,) bool; whether target token j has a source partner.
        gain: (L,); how much of it target token j takes: 1, or k/m where k source tokens are
            shared out among m target tokens, so that the swapped word keeps its attention mass.
        source: the source prompt, for printing.
        target: the target prompt, for printing.
    """

    mapper: Tensor
    matched: Tensor
    gain: Tensor
    source: Prompt
    target: Prompt

    def partners(self, j: int) -> list[int]:
        """Return the source positions that feed target position j."""
        return [int(i) for i in self.mapper[:, j].nonzero().flatten()] if self.matched[j] else []

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
        source: the prompt of the source picture.
        target: the prompt of the edit.
        pairs: source word or phrase -> target word or phrase, to set the alignment by hand; the
            words not named are aligned around them.
        compat: "reference" builds the authors' mapper, quirks included.

    Raises:
        AlignmentError: a paired word is missing, or the prompts share no word to align by.
    """
    _same_length(source, target)
    if compat == "reference":
        return _reference_words(source, target)
    blocks = _blocks_by_hand(source, target, pairs) if pairs else word_blocks(source, target)
    return _from_blocks(source, target, blocks)


def align_tokens(source: Prompt, target: Prompt, *, compat: Compat = None) -> Alignment:
    """Align two prompts token by token, for an added phrase (the paper's A(j), section 3.2).

    Needleman-Wunsch on token ids with gap 0, match +1, mismatch -1; ties go to insertion, then
    deletion, then the diagonal. A token that is new or substituted is unmatched and will keep
    its own attention. Padding is matched to the source's padding; here we depart from the
    authors' code, which takes source column j for padding j even where a word stands there
    (`compat="reference"` does too).
    """
    _same_length(source, target)
    mapper, matched = _empty(len(target))
    for i, j in needleman_wunsch(source.ids[: source.end], target.ids[: target.end]):
        mapper[i, j], matched[j] = 1.0, True
    _match_padding(mapper, matched, source, target, 0 if compat == "reference" else source.end)
    return Alignment(mapper, matched, matched.to(mapper.dtype), source, target)


def no_common_word(source: Prompt, target: Prompt) -> bool:
    """Return whether two prompts with words share none of them, ignoring case."""
    before, after = set(map(normal, source.words)), set(map(normal, target.words))
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


def _same_length(source: Prompt, target: Prompt) -> None:
    if len(source) != len(target):
        raise ValueError(
            f"The source has {len(source)} token positions and the target {len(target)}. Build "
            f"both prompts with the same tokenizer and the same length."
        )


def word_blocks(source: Prompt, target: Prompt) -> list[Block]:
    """Return which words correspond, as pairs of ranges of word numbers, in order.

    Raises:
        AlignmentError: different numbers of words and none in common.
    """
    before, after = [[normal(w) for w in prompt.words] for prompt in (source, target)]
    if len(before) == len(after):
        return _gap(range(len(before)), range(len(after)))
    if no_common_word(source, target):
        raise AlignmentError(
            f"{source.text!r} and {target.text!r} share no word and have different numbers of "
            f"words, so there is nothing to align by. Say which word takes which place: "
            f"align_words(source, target, pairs={{'old': 'new'}})."
        )
    blocks: list[Block] = []
    last_i = last_j = 0
    for i, j in [*needleman_wunsch(before, after), (len(before), len(after))]:
        blocks += _gap(range(last_i, i), range(last_j, j))
        blocks += _gap(range(i, min(i + 1, len(before))), range(j, min(j + 1, len(after))))
        last_i, last_j = i + 1, j + 1
    return blocks


def _gap(before: range, after: range) -> list[Block]:
    if len(before) == len(after):
        return [(before[i : i + 1], after[i : i + 1]) for i in range(len(before))]
    return [(before, after)] if before and after else []


def _blocks_by_hand(source: Prompt, target: Prompt, pairs: Mapping[str, str]) -> list[Block]:
    """Put the user's pairs first, then align the words that no pair names."""
    blocks = [(_place(source, old), _place(target, new)) for old, new in pairs.items()]
    used_before = {i for before, _ in blocks for i in before}
    used_after = {j for _, after in blocks for j in after}
    rest_before = [i for i in range(len(source.words)) if i not in used_before]
    rest_after = [j for j in range(len(target.words)) if j not in used_after]
    matches = needleman_wunsch(
        [normal(source.words[i]) for i in rest_before],
        [normal(target.words[j]) for j in rest_after],
    )
    for a, b in matches:
        i, j = rest_before[a], rest_after[b]
        blocks.append((range(i, i + 1), range(j, j + 1)))
    return blocks


def _place(prompt: Prompt, phrase: str) -> range:
    prompt.tokens_of(phrase)  # raises the error that lists the words
    return range(*prompt.find(phrase)[0])


def _from_blocks(source: Prompt, target: Prompt, blocks: Sequence[Block]) -> Alignment:
    mapper, matched = _empty(len(target))
    gain = torch.zeros(len(target), dtype=mapper.dtype)
    for i, j in zip(source.specials, target.specials, strict=True):
        mapper[i, j], matched[j], gain[j] = 1.0, True, 1.0
    for before, after in blocks:
        rows = list(range(*source.token_range(before.start, before.stop)))
        columns = list(range(*target.token_range(after.start, after.stop)))
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
