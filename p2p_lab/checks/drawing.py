"""Texts, prompt pairs and token ranges that the questions of problem set 1 are asked about."""

from __future__ import annotations

import random

from p2p_lab.checks.loaded import bundled
from p2p_lab.scenes import caption, sample_scene
from p2p_lab.tokens import Prompt

Spans = list[tuple[int, int]]
NOUNS = ("cat", "castle", "croissant", "mountain", "hat", "kitten", "bicycle", "lemon", "polar")
LINKS = ("on", "with", "under", "in", "near")
SMALL = ("a", "the", "of", "red")


def draw_text(rng: random.Random, easy: bool) -> tuple[str, list[tuple[int, int]]]:
    """Draw a text and the character offsets of its tokens."""
    words = rng.sample(NOUNS, 4) if easy else [rng.choice(NOUNS[:4]) for _ in range(6)]
    text, offsets = "", [(0, 0)]
    for word in words:
        text += (" " if easy else " " * rng.randint(1, 2)) if text else ""
        cuts = sorted(rng.sample(range(1, len(word)), 0 if easy else rng.randint(0, 2)))
        edges = [0, *cuts, len(word)]
        offsets += [(len(text) + a, len(text) + b) for a, b in zip(edges, edges[1:], strict=False)]
        text += word
    return text, [*offsets, (0, 0), (0, 0), (0, 0)]


def draw_pair(rng: random.Random, easy: bool) -> tuple[list[str], list[str]]:
    """Draw a prompt and its edit: a phrase goes in and, unless easy, words go or change."""
    nouns = rng.sample(NOUNS, 4)
    if easy:
        source = [nouns[0], LINKS[0], nouns[1]]
        at = rng.randrange(3)
        return source, [*source[:at], "very", nouns[2], *source[at:]]
    if rng.random() < 0.3:  # a swap: as many words as before
        source = ["a", nouns[0], rng.choice(LINKS), "the", nouns[1]]
        return source, [nouns[2] if word == nouns[0] else word for word in source]
    if rng.random() < 0.5:  # few words, often repeated
        some = [*SMALL, *nouns[:2]]
        return [rng.choice(some) for _ in range(7)], [rng.choice(some) for _ in range(8)]
    source = ["a", nouns[0], rng.choice(LINKS), "a", nouns[1], "and", "a", nouns[2]]
    target = list(source)
    target[target.index(nouns[1])] = nouns[3]  # a swap
    at = rng.choice([i for i, word in enumerate(target) if word == "a"])
    target[at:at] = rng.sample(["a", "snowy", "a", "red", "of"], 3)  # an insertion that repeats
    if rng.random() < 0.5:
        del target[-3 - rng.randrange(2)]
    return source, target


def draw_weights(rng: random.Random, words: list[str], easy: bool) -> dict[str, int]:
    """Draw what pairing a word is worth: 1 for all in the easy cases, more for nouns else."""
    known = sorted(set(words))
    if easy:
        return dict.fromkeys(known, 1)
    return {word: rng.randint(3, 6) if word in NOUNS else rng.randint(1, 2) for word in known}


def draw_partner(rng: random.Random, length: int) -> list[int | None]:
    """Draw an alignment of some target tokens: partners in order, with new tokens and gaps."""
    at, found = rng.randint(0, 1), []  # type: tuple[int, list[int | None]]
    for _ in range(length):
        new = rng.random() < 0.3
        found.append(None if new else at)
        at += 0 if new else rng.randint(1, 2)
    return found


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


def draw_prompts(rng: random.Random, easy: bool) -> tuple[Prompt, Prompt]:
    """Draw the caption of a scene and a longer one, tokenized for the bundled model.

    Unless easy, an "a" goes in some words before one that was there: pairing it with the next
    equal word then costs other pairs.
    """
    model = bundled()
    while True:
        words = caption(sample_scene(rng.randrange(2**31), "small")).text.split()
        last = max((i for i, word in enumerate(words) if word == "a"), default=0)
        new = [word for word in ("red", "golden", "icy", "snowy") if word not in words]
        if last >= 2 and len(new) >= 2:
            at, more = rng.randrange(1, last), rng.sample(new, 2)
            text = " ".join([*words[:at], *([] if easy else ["a"]), *more, *words[at:]])
            return model.prompt(" ".join(words)), model.prompt(text)
