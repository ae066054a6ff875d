"""Questions of problem set 1: words and tokens, the alignment A(j), and the two mappers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from p2p_lab.checks.drawing import Spans, draw_pair, draw_prompts, draw_spans, draw_text
from p2p_lab.checks.exercise import Wrong, agree, call, tensor
from p2p_lab.checks.lesson_03 import alignment, judge_alignment, to_partners
from p2p_lab.checks.question import Question

Answer = Callable[..., Any]


def _judge_words(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for _ in range(4):
        text, offsets, right = draw_text(rng, easy)
        got = _spans(call(answer, text, list(offsets)))
        if got != right:
            raise Wrong(f"For {text!r} {_why_spans(got, right)}")
    return "Four texts: every word has its tokens."


def _spans(value: Any) -> Spans:
    try:
        return [(int(first), int(stop)) for first, stop in value]
    except (TypeError, ValueError):
        raise Wrong("It must return a list of pairs (first, stop), one for each word.") from None


def _why_spans(got: Spans, right: Spans) -> str:
    if len(got) != len(right):
        return f"it returns {len(got)} ranges; the text has {len(right)} words."
    if got == [(a, b - 1) for a, b in right]:
        return "the last token is left out: a range (first, stop) ends before stop."
    if got == [(a - 1, b - 1) for a, b in right]:
        return "the start token is not counted: the first word begins at token 1."
    if got == [(a, a + 1) for a, _ in right]:
        return "only the first token of each word is taken; a word may have several."
    n = next(i for i, pair in enumerate(got) if pair != right[i])
    return f"word {n} has tokens {right[n]}, not {got[n]}."


def _judge_alignment(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for _ in range(8):
        source, target = draw_pair(rng, easy)
        got = to_partners(call(answer, list(source), list(target)), target)
        judge_alignment(got, source, target)
    return "Eight pairs of prompts: equal words paired, in order, as many as possible."


def _refine_mapper(partner: Sequence[int | None], length: int) -> tuple[Tensor, Tensor]:
    mapper, matched = torch.zeros(length, length), torch.ones(length)
    for j in range(length):
        i = partner[j] if j < len(partner) else j
        if i is None:
            matched[j] = 0
        else:
            mapper[i, j] = 1
    return mapper, matched


def _judge_refine_mapper(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for _ in range(4):
        source, target = draw_pair(rng, easy)
        partner = alignment(source, target)
        length = len(target) + (0 if easy else rng.randint(2, 4))
        got = _two(call(answer, list(partner), length), length)
        P, matched = _refine_mapper(partner, length)  # noqa: N806 - the paper's letter
        words = torch.arange(length) < len(partner)
        eye = torch.eye(length)
        agree(
            got,
            _column(P, matched),
            {
                "The mapper is transposed: row i is a source token, column j a target token.": (
                    _column(P.T, matched)
                ),
                "matched is turned round: it is true where token j has a partner.": (
                    _column(P, 1 - matched)
                ),
                "A new token must not take source column j: its column of the mapper is zero.": (
                    _column(P + eye * (1 - matched), matched)
                ),
                "The padding, from token len(partner) on, has partners too: token j takes token "
                "j.": _column(P * words, matched * words),
                "Every token is called matched; new ones are not.": _column(P, matched * 0 + 1),
            },
            f"For the partners {partner} and {length} tokens the mapper or matched differs.",
        )
    return "Four alignments: mapper and matched agree, padding included."


def _two(value: Any, length: int) -> Tensor:
    """Return an answer's (mapper, matched) as one tensor (L + 1, L)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong("It must return two tensors: mapper (L, L) and matched (L,).")
    return _column(
        tensor(value[0], (length, length), "(L, L)"), tensor(value[1], (length,), "(L,)")
    )


def _column(mapper: Tensor, matched: Tensor) -> Tensor:
    return torch.cat([mapper, matched[None]])


def _swap_mapper(source: Spans, target: Spans, length: int, kind: str = "right") -> Tensor:
    P = torch.zeros(length, length)  # noqa: N806
    for (a, b), (c, d) in zip(source, target, strict=True):
        if b - a == d - c and kind != "block":
            P[range(a, b), range(c, d)] = 1
        else:
            P[a:b, c:d] = {"mean": 1 / (b - a), "sum": 1.0}.get(kind, 1 / (d - c))
    return P


def _judge_swap_mapper(answer: Answer, seed: int, easy: bool) -> str:
    rng = random.Random(seed)
    for _ in range(5):
        source, target, length = draw_spans(rng, easy)
        got = tensor(call(answer, list(source), list(target), length), (length,) * 2, "(L, L)")
        columns = slice(1, target[-1][1])
        kinds = {name: _swap_mapper(source, target, length, name)
                 for name in ("right", "mean", "sum", "block")}  # fmt: skip
        agree(
            got[:, columns],
            kinds["right"][:, columns],
            {
                "The mapper is transposed: row i is a source token, column j a target token.": (
                    kinds["right"].T[:, columns]
                ),
                "It is the identity: after a swap of unequal length all later words have moved.": (
                    torch.eye(length)[:, columns]
                ),
                "A word of k tokens that becomes m tokens must keep its attention: each new token "
                "gets 1/m of the sum, not the mean.": kinds["mean"][:, columns],
                "Each new token gets the whole word, so the word is m times as loud: 1/m of it.": (
                    kinds["sum"][:, columns]
                ),
                "Words with as many tokens go one to one, without mixing.": (
                    kinds["block"][:, columns]
                ),
            },
            f"For words at source tokens {source} and target tokens {target} the columns differ.",
        )
    return "Five swaps: every word keeps its place and its attention."


def _judge_prompts(answer: Answer, seed: int, easy: bool) -> str:
    for source, target in draw_prompts(seed, easy=easy):
        got = _two(call(answer, source, target), len(target))
        mapper, matched = got[:-1, : target.end], got[-1, : target.end].bool()
        where = f"For {source.text!r} and {target.text!r} "
        if not bool(((mapper == 0) | (mapper == 1)).all()) or bool((mapper.sum(0) > 1).any()):
            raise Wrong(where + "a column holds something else than one 1 and zeros.")
        if not torch.equal(mapper.sum(0) > 0, matched):
            raise Wrong(where + "matched and the columns of the mapper do not say the same.")
        rows = [int(mapper[:, j].argmax()) if matched[j] else None for j in range(target.end)]
        names = [[str(i) for i in prompt.ids[: prompt.end]] for prompt in (source, target)]
        judge_alignment(rows, *names)
    return "Real prompts: as many tokens as possible keep their attention, in order."


QUESTIONS = (
    Question(
        id="ps1.words",
        title="The tokens of each word",
        signature="f(text, offsets: the characters (start, stop) of each token) -> list of "
        "(first, stop), the token range of each word",
        hints=(
            "Special tokens have the offsets (0, 0). Words are what spaces separate; a word may "
            "stand twice, so look at places, not at spellings.",
            "re.finditer(r'\\S+', text) gives each word's characters; its tokens are those whose "
            "offsets lie within them and are not empty.",
        ),
        judge=_judge_words,
        control=lambda text, offsets: [(0, 1)] * len(text.split()),
    ),
    Question(
        id="ps1.alignment",
        title="The alignment A(j)",
        signature="f(source: list of words, target: list of words) -> list; for each target word "
        "its source position, or None",
        hints=(
            "As many equal pairs as possible, in order: fill a table of the most matches of the "
            "first i source and the first j target words.",
            "best[i][j] = max(best[i-1][j], best[i][j-1], best[i-1][j-1] + equal); then walk back "
            "from the corner and note where a pair was made.",
        ),
        judge=_judge_alignment,
        control=lambda source, target: [None] * len(target),
    ),
    Question(
        id="ps1.refine_mapper",
        title="From A(j) to a mapper",
        signature="f(partner: list of int or None, length) -> mapper (L, L), matched (L,)",
        hints=(
            "Column j has its single 1 in row A(j). A new token's column is zero, and it is not "
            "matched.",
            "Token j from len(partner) on is padding: mapper[j, j] = 1, and it is matched.",
        ),
        judge=_judge_refine_mapper,
        control=lambda partner, length: (torch.zeros(length, length), torch.zeros(length)),
    ),
    Question(
        id="ps1.swap_mapper",
        title="The mapper of a word swap",
        signature="f(source_spans, target_spans, length) -> mapper (L, L) for words that change "
        "places one by one, and may grow or shrink",
        hints=(
            "Take the words in pairs. With as many tokens they go one to one.",
            "Else the block mapper[a:b, c:d] is filled with 1 / (d - c), so the m new tokens share "
            "all the attention that the old word had.",
        ),
        judge=_judge_swap_mapper,
        control=lambda source, target, length: torch.zeros(length, length),
    ),
    Question(
        id="ps1.prompts",
        title="Align two real prompts",
        signature="f(source: Prompt, target: Prompt) -> mapper (L, L), matched (L,)",
        hints=(
            "A token's number says which token it is: align prompt.ids[: prompt.end].",
            "partner = alignment(source.ids[: source.end], target.ids[: target.end]), then your "
            "mapper of length len(target).",
        ),
        judge=_judge_prompts,
        control=lambda source, target: (torch.zeros(len(target), len(target)),
                                        torch.zeros(len(target))),
    ),
)  # fmt: skip
