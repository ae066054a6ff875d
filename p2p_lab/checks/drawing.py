"""Texts, prompt pairs and token ranges that the questions of problem set 1 are asked about."""

from __future__ import annotations

import random

from p2p_lab.checks.loaded import bundled
from p2p_lab.scenes import caption, sample_scene
from p2p_lab.tokens import Prompt

Spans = list[tuple[int, int]]
NOUNS = ("cat", "castle", "croissant", "mountain", "hat", "kitten", "bicycle", "lemon", "polar")
LINKS = ("on", "with", "under", "in", "near")


def draw_text(rng: random.Random, easy: bool) -> tuple[str, list[tuple[int, int]], Spans]:
    """Draw a text, the character offsets of its tokens, and the tokens of each word."""
    words = rng.sample(NOUNS, 4) if easy else [rng.choice(NOUNS[:4]) for _ in range(6)]
    text, offsets, spans = "", [(0, 0)], []
    for word in words:
        text += (" " if easy else " " * rng.randint(1, 2)) if text else ""
        cuts = sorted(rng.sample(range(1, len(word)), 0 if easy else rng.randint(0, 2)))
        edges = [0, *cuts, len(word)]
        spans.append((len(offsets), len(offsets) + len(edges) - 1))
        offsets += [(len(text) + a, len(text) + b) for a, b in zip(edges, edges[1:], strict=False)]
        text += word
    return text, [*offsets, (0, 0), (0, 0), (0, 0)], spans


def draw_pair(rng: random.Random, easy: bool) -> tuple[list[str], list[str]]:
    """Draw a prompt and its edit: a phrase goes in and, unless easy, words go or change."""
    nouns = rng.sample(NOUNS, 4)
    if easy:
        source = [nouns[0], LINKS[0], nouns[1]]
        at = rng.randrange(3)
        return source, [*source[:at], "very", nouns[2], *source[at:]]
    source = ["a", nouns[0], rng.choice(LINKS), "a", nouns[1], "and", "a", nouns[2]]
    target = list(source)
    target[target.index(nouns[1])] = nouns[3]  # a swap
    at = rng.choice([i for i, word in enumerate(target) if word == "a"])
    target[at:at] = rng.sample(["a", "snowy", "a", "red", "of"], 3)  # an insertion that repeats
    if rng.random() < 0.5:
        del target[-3 - rng.randrange(2)]
    return source, target


def draw_spans(rng: random.Random, easy: bool) -> tuple[Spans, Spans, int]:
    """Draw the tokens of four words before and after a swap."""
    before = [rng.randint(1, 3) for _ in range(4)]
    after = list(before)
    for word in () if easy else rng.sample(range(4), 2):
        after[word] = rng.choice([n for n in (1, 2, 3) if n != before[word]])
    starts = [[1 + sum(sizes[:i]) for i in range(4)] for sizes in (before, after)]
    source, target = (
        [(a, a + n) for a, n in zip(start, sizes, strict=True)]
        for start, sizes in zip(starts, (before, after), strict=True)
    )
    return source, target, max(source[-1][1], target[-1][1]) + 1


def draw_prompts(seed: int, number: int = 4, *, easy: bool = False) -> list[tuple[Prompt, Prompt]]:
    """Draw captions of scenes and longer ones, tokenized for the bundled model.

    Unless easy, an "a" goes in some words before one that was there: pairing it with the next
    equal word then costs other pairs.
    """
    rng, model = random.Random(seed), bundled()
    pairs: list[tuple[Prompt, Prompt]] = []
    while len(pairs) < (1 if easy else number):
        words = caption(sample_scene(rng.randrange(2**31), "small")).text.split()
        last = max((i for i, word in enumerate(words) if word == "a"), default=0)
        new = [word for word in ("red", "golden", "icy", "snowy") if word not in words]
        if last >= 2 and len(new) >= 2:
            at, more = rng.randrange(1, last), rng.sample(new, 2)
            text = " ".join([*words[:at], *([] if easy else ["a"]), *more, *words[at:]])
            pairs.append((model.prompt(" ".join(words)), model.prompt(text)))
    return pairs
