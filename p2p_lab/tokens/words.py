"""Where the words of a text are, and which tokens show each of them. Characters only."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import groupby

Span = tuple[int, int]


def normal(text: str) -> str:
    """Return a text as it is compared: case folded, composed accents, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def is_punctuation(word: str) -> bool:
    """Return whether a word is nothing but punctuation."""
    return all(unicodedata.category(character)[0] == "P" for character in word)


def word_chars(text: str) -> list[Span]:
    """Split a text in words: runs of letters, marks and digits, or runs of punctuation.

    An apostrophe between two letters starts a word of its own ("cat's" is "cat" and "'s"), as
    the tokenizers of CLIP and BERT cut it.
    """
    found: list[Span] = []
    for kind, run in groupby(range(len(text)), key=lambda i: _kind(text, i)):
        places = list(run)
        if kind != "space":
            found.append((places[0], places[-1] + 1))
    return _with_apostrophes(text, found)


def _kind(text: str, i: int) -> str:
    if text[i].isspace():
        return "space"
    while i > 0 and unicodedata.category(text[i])[0] == "M" and not text[i - 1].isspace():
        i -= 1  # an accent or variation sign belongs to what it stands on
    return "word" if unicodedata.category(text[i])[0] in "LMN" or text[i] == "_" else "mark"


def _with_apostrophes(text: str, found: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, stop in found:
        before = joined[-1] if joined else (0, 0)
        if (
            len(joined) > 1
            and text[slice(*before)] in ("'", "’")
            and before[1] == start
            and joined[-2][1] == before[0]
            and _kind(text, start) == "word"
        ):
            joined[-1] = (before[0], stop)
        else:
            joined.append((start, stop))
    return joined


def words_around(text: str, whole: Sequence[Span]) -> list[Span]:
    """Split a text in words, where each of the stretches `whole` is a word as it is."""
    found: list[Span] = []
    start = 0
    for stretch in (*whole, (len(text), len(text))):
        found += [(start + a, start + b) for a, b in word_chars(text[start : stretch[0]])]
        found += [stretch] if stretch[0] < stretch[1] else []
        start = stretch[1]
    return found


def group_tokens(
    text: str, inside: Sequence[int], offsets: Sequence[Span], whole: Sequence[Span] = ()
) -> tuple[list[Span], list[Span]]:
    """Give each word its tokens; words that share a token become one word.

    Args:
        text: The text.
        inside: Positions of the tokens that are neither special nor padding.
        offsets: For each token the characters that it shows.
        whole: Characters that are one word as they are, such as an added `<toy>`.
    """
    chars: list[Span] = []
    spans: list[Span] = []
    waiting: int | None = None  # a token that shows only the space before a word joins that word
    candidates = words_around(text, whole)
    for token in inside:
        touched = [w for w in candidates if w[0] < offsets[token][1] and offsets[token][0] < w[1]]
        if not touched:
            waiting = token if waiting is None else waiting
            continue
        start, stop = touched[0][0], touched[-1][1]
        if chars and start < chars[-1][1]:
            chars[-1] = (chars[-1][0], max(stop, chars[-1][1]))
            spans[-1] = (spans[-1][0], token + 1)
        else:
            chars.append((start, stop))
            spans.append((token if waiting is None else waiting, token + 1))
        waiting = None
    return chars, spans
