"""Questions of problem set 1: words and tokens, the alignment A(j), and two matrices."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.engine.exercise import Wrong
from p2p_lab.checks.engine.question import Args, Mistake, Question, reader, two
from p2p_lab.checks.engine.watching import Rules
from p2p_lab.checks.fixtures.aligning import (
    Partners,
    backwards,
    by_place,
    first_equal,
    heaviest,
    heaviest_block,
    next_equal,
    pairs_when_equally_long,
    why_no_alignment,
)
from p2p_lab.checks.fixtures.drawing import (
    Spans,
    draw_pair,
    draw_partner,
    draw_prompts,
    draw_spans,
    draw_weights,
)
from p2p_lab.checks.sets.ps1_words import WORDS
from p2p_lab.tokens import Prompt

Weights = Mapping[str, int]


# 2: the alignment -------------------------------------------------------------------------------


def _draw_alignment(rng: random.Random, easy: bool) -> Args:
    source, target = draw_pair(rng, easy)
    return source, target, draw_weights(rng, source + target, easy)


def _read_partners(value: Any, args: Args) -> Tensor:
    """Return an alignment as a tensor, -1 for None."""
    target = args[1]
    try:
        got = [-1 if entry is None else max(int(entry), -1) for entry in value]
    except (TypeError, ValueError):
        raise Wrong(
            "It must return a list: for each target word a source position or None."
        ) from None
    if len(got) != len(target):
        raise Wrong(f"It returned {len(got)} entries for {len(target)} target words.")
    return torch.tensor(got)


def _why_alignment(value: Tensor, args: Args) -> str:
    return why_no_alignment([None if i < 0 else int(i) for i in value], *args)


def _ones(source: Sequence[str], target: Sequence[str], weight: Weights) -> Partners:
    return heaviest(source, target, dict.fromkeys([*source, *target], 1))


ALIGNMENT: Question = Question(
    id="ps1.alignment",
    title="The heaviest alignment A(j)",
    signature="f(source: list of words, target: list of words, weight: dict word -> number) -> "
    "list; for each target word its source position, or None",
    hints=(
        "Which pairs are allowed does not depend on the weights; which alignment wins does. What "
        "is the best total of the first i source words and the first j target words?",
        "There are three ways to get there: leave the last source word out, leave the last target "
        "word out, or, if they are equal, pair them. Fill a table with the best of the three.",
        "When the table is full, walk back from its last corner. A cell that is as good as its "
        "neighbour above or to the left was reached without a pair; else note the pair and go "
        "diagonally.",
    ),
    draw=_draw_alignment,
    right=heaviest,
    read=_read_partners,
    otherwise=_why_alignment,
    mistakes=(
        Mistake("Nothing is paired.", lambda s, t, w: [None] * len(t), easy=True),
        Mistake(
            "Words are paired place by place: after an inserted word all later ones have moved.",
            by_place,
            easy=True,
        ),
        Mistake(
            "As many words as possible are paired, as in lesson 03; here the total weight counts: "
            "one heavy pair may be worth more than two light ones.",
            _ones,
        ),
        Mistake(
            "Each word takes the next equal source word, which blocks later ones: try all ways.",
            lambda s, t, w: next_equal(s, t),
        ),
        Mistake(
            "From the end, each word takes the next equal source word, which blocks earlier ones.",
            lambda s, t, w: backwards(s, t),
        ),
        Mistake(
            "Each word takes the first equal source word, so one is used twice or the order is "
            "lost.",
            lambda s, t, w: first_equal(s, t),
        ),
        Mistake(
            "Where both prompts are equally long, words are paired place by place, although they "
            "differ: a substituted word has no partner here.",
            pairs_when_equally_long,
        ),
        Mistake(
            "The longest block of equal words is taken first (difflib does this), which can cost "
            "more than it gives.",
            lambda s, t, w: heaviest_block(s, t),
        ),
    ),
    done="Pairs of prompts: equal words paired, in order, with the most weight.",
    cases=8,
    accept=lambda value, args: not _why_alignment(value, args),
)


# 3: from A(j) to a matrix -----------------------------------------------------------------------


def refine_mapper(partner: Partners, length: int) -> tuple[Tensor, Tensor]:
    """Return the mapper (L, L) and matched (L,) of a refinement."""
    mapper, matched = torch.zeros(length, length), torch.zeros(length)
    for j, i in enumerate([*partner, *range(len(partner), length)]):
        if i is not None:
            mapper[i, j], matched[j] = 1, 1
    return mapper, matched


def _changed(change: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def answer(partner: Partners, length: int) -> tuple[Tensor, Tensor]:
        return change(*refine_mapper(partner, length), len(partner))

    return answer


def _no_padding(mapper: Tensor, matched: Tensor, words: int) -> tuple[Tensor, Tensor]:
    kept = torch.arange(len(matched)) < words
    return mapper * kept, matched * kept


def _runs_on(partner: Partners, length: int) -> tuple[Tensor, Tensor]:
    last = max((i for i in partner if i is not None), default=-1)
    rest = [min(last + 1 + n, length - 1) for n in range(length - len(partner))]
    return refine_mapper([*partner, *rest], length)


REFINE_MAPPER: Question = Question(
    id="ps1.refine_mapper",
    title="From A(j) to a mapper",
    signature="f(partner: list of int or None, length) -> mapper (L, L), matched (L,)",
    hints=(
        "Take one column at a time: which source token does target token j read?",
        "There are three kinds of columns: tokens with a partner, new tokens, and padding.",
        "Padding j stands in the same place in both prompts, whatever the words before it do, so "
        "its column is the identity's; and it counts as matched.",
    ),
    draw=lambda rng, easy: (draw_partner(rng, 5), 11) if not easy else _easy_partner(rng),
    right=refine_mapper,
    read=lambda value, args: two(
        value, ((args[1], args[1]), (args[1],)), "mapper (L, L) and matched (L,)"
    ),
    otherwise=lambda value, args: (
        f"For the partners {args[0]} and {args[1]} tokens the mapper or matched differs."
    ),
    mistakes=(
        Mistake(
            "The mapper is transposed: row i is a source token, column j a target token.",
            _changed(lambda P, matched, n: (P.T, matched)),
            easy=True,
        ),
        Mistake(
            "matched is turned round: it is true where token j has a partner.",
            _changed(lambda P, matched, n: (P, 1 - matched)),
            easy=True,
        ),
        Mistake(
            "A new token must not take source column j: its column of the mapper is zero.",
            _changed(lambda P, m, n: (P + torch.eye(len(m)) * (1 - m), m)),
            easy=True,
        ),
        Mistake(
            "Every token is called matched; new ones are not.",
            _changed(lambda P, matched, n: (P, torch.ones_like(matched))),
            easy=True,
        ),
        Mistake(
            "A new token takes the last source column (index None or -1): its column is zero.",
            lambda partner, length: (
                refine_mapper([-1 if i is None else i for i in partner], length)[0],
                refine_mapper(partner, length)[1],
            ),
            easy=True,
        ),
        Mistake(
            "The padding, from token len(partner) on, has partners too: token j takes token j.",
            _changed(_no_padding),
        ),
        Mistake(
            "The padding is matched, but its columns are zero: token j takes token j.",
            _changed(lambda P, m, n: (_no_padding(P, m, n)[0], m)),
        ),
        Mistake(
            "The padding goes on counting after the last partner; padding j takes padding j.",
            _runs_on,
        ),
    ),
    done="Alignments with new words, gaps and padding: mapper and matched agree.",
    cases=4,
)


def _easy_partner(rng: random.Random) -> Args:
    """Draw an alignment in which one token is new and nothing is padded."""
    new = rng.randrange(4)
    partner: list[int | None] = list(range(4))
    partner.insert(new, None)
    return partner, 5


# 4: a word swap that keeps the attention --------------------------------------------------------


def shares(source: Spans, target: Spans, length: int, kind: str = "right") -> Tensor:
    """Return S (L, L); `kind` is right or a mistake."""
    S = torch.zeros(length, length)  # noqa: N806 - the letter in the text
    for (a, b), (c, d) in zip(source, target, strict=True):
        if b - a == d - c and kind != "block":
            S[range(a, b), range(c, d)] = 1
        else:
            S[a:b, c:d] = {"mean": 1 / (b - a), "sum": 1.0}.get(kind, 1 / (d - c))
    return S


def _kind(kind: str) -> Callable[..., Tensor]:
    return lambda source, target, length: shares(source, target, length, kind)


def _read_shares(value: Any, args: Args) -> Tensor:
    whole = reader(lambda s, t, length: (length, length), "(L, L)")(value, args)
    return whole[:, 1 : args[1][-1][1]]


SHARES: Question = Question(
    id="ps1.shares",
    title="A swap that keeps each word's attention",
    signature="f(source_spans, target_spans, length) -> S (L, L) for words that change places one "
    "by one, and may grow or shrink",
    hints=(
        "Take the words in pairs. What are the sums of the rows of S, if no attention may be lost "
        "and none may be made?",
        "With as many tokens they go one to one. Else each of the m new tokens gets the same part "
        "of what the whole old word had.",
        "So a block of k rows and m columns is filled with one number, and each row of it sums to "
        "1. Rows and columns of the block start where the two ranges start.",
    ),
    draw=draw_spans,
    right=_kind("right"),
    read=_read_shares,
    otherwise=lambda value, args: (
        f"For words at source tokens {args[0]} and target tokens {args[1]} the columns differ."
    ),
    mistakes=(
        Mistake(
            "The matrix is transposed: row i is a source token, column j a target token.",
            lambda *args: shares(*args).T,
        ),
        Mistake(
            "It is the identity: after a swap of unequal length all later words have moved.",
            lambda source, target, length: torch.eye(length),
        ),
        Mistake(
            "Each new token gets the mean of the old ones, as in lesson 02: columns sum to 1. Here "
            "the rows do: a word keeps its attention, each of m new tokens gets 1/m of the sum.",
            _kind("mean"),
        ),
        Mistake(
            "Each new token gets the whole word, so the word is m times as strong: 1/m of it.",
            _kind("sum"),
        ),
        Mistake(
            "Words with as many tokens go one to one, without mixing.", _kind("block"), easy=True
        ),
        Mistake("Nothing is carried over.", lambda *args: torch.zeros(args[2], args[2]), easy=True),
    ),
    done="Swaps of words that grow and shrink: every word keeps its place and its attention.",
    cases=4,
)


# 5: two real prompts ----------------------------------------------------------------------------


def _align_prompts(align: Callable[..., Partners]) -> Callable[..., tuple[Tensor, Tensor]]:
    def answer(source: Prompt, target: Prompt) -> tuple[Tensor, Tensor]:
        ids = [[str(i) for i in prompt.ids[: prompt.end]] for prompt in (source, target)]
        return refine_mapper(align(*ids), len(target))

    return answer


def _most(source: Sequence[str], target: Sequence[str]) -> Partners:
    return _ones(source, target, {})


def _read_prompts(value: Any, args: Args) -> Tensor:
    """Return matched (end,) above the mapper's columns (L, end), as one tensor."""
    length, end = len(args[1]), args[1].end
    flat = two(value, ((length, length), (length,)), "mapper (L, L) and matched (L,)")
    mapper, matched = flat[:-length].reshape(length, length), flat[-length:]
    return torch.cat([matched[None, :end], mapper[:, :end]])


def _why_prompts(value: Tensor, args: Args) -> str:
    """Return what is wrong with an alignment of two prompts, in words; empty if nothing is."""
    source, target = args
    matched, mapper = value[0], value[1:]
    where = f"For {source.text!r} and {target.text!r} "
    if not bool(((mapper == 0) | (mapper == 1)).all()) or bool((mapper.sum(0) > 1).any()):
        return where + "a column holds something else than one 1 and zeros."
    if not torch.equal(mapper.sum(0) > 0, matched.bool()):
        return where + "matched and the columns of the mapper do not say the same."
    rows = [int(mapper[:, j].argmax()) if matched[j] else None for j in range(target.end)]
    names = [_tokens(prompt) for prompt in (source, target)]
    return why_no_alignment(rows, names[0], names[1], dict.fromkeys(names[0] + names[1], 1))


def _tokens(prompt: Prompt) -> list[str]:
    """Return the text of each token before the padding, made unique where the numbers differ."""
    shown: dict[str, int] = {}
    names = []
    for number, piece in zip(prompt.ids[: prompt.end], prompt.pieces, strict=False):
        text = piece.strip() or piece or "?"
        names.append(text if shown.setdefault(text, number) == number else f"{text} ({number})")
    return names


PROMPTS: Question = Question(
    id="ps1.prompts",
    title="Align two real prompts",
    signature="f(source: Prompt, target: Prompt) -> mapper (L, L), matched (L,)",
    hints=(
        "What stands for a word here? A token's number says which token it is.",
        "Align the numbers of both prompts, without their padding; all tokens weigh the same.",
        "Questions 2 and 3 do the rest: an alignment of prompt.ids up to prompt.end, then the "
        "mapper of it with len(target) tokens.",
    ),
    draw=draw_prompts,
    right=_align_prompts(_most),
    read=_read_prompts,
    otherwise=_why_prompts,
    mistakes=(
        Mistake(
            "Nothing is paired.",
            _align_prompts(lambda source, target: [None] * len(target)),
            easy=True,
        ),
        Mistake(
            "Tokens are paired place by place: after the inserted ones all others have moved.",
            _align_prompts(lambda s, t: [j if j < len(s) else None for j in range(len(t))]),
            easy=True,
        ),
        Mistake(
            "Only tokens that stand in the same place are paired; the others have moved.",
            _align_prompts(lambda s, t: by_place(s, t, {})),
            easy=True,
        ),
        Mistake(
            "Each token takes the next equal one, which blocks later ones: use your alignment.",
            _align_prompts(next_equal),
        ),
    ),
    done="Real prompts: as many tokens as possible keep their attention, in order.",
    cases=3,
    accept=lambda value, args: not _why_prompts(value, args),
    rules=Rules(may_use=("p2p_lab.tokens.prompt",)),
)

QUESTIONS = (WORDS, ALIGNMENT, REFINE_MAPPER, SHARES, PROMPTS)
