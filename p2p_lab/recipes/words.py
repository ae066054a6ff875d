"""Words of a prompt as a recipe names them: one fader a word, several words in one text."""

from __future__ import annotations

import csv
import io
from typing import Any

from p2p_lab.tokens import Prompt
from p2p_lab.tokens.words import normal


def fader_words(prompt: Prompt) -> list[tuple[int, str, int]]:
    """Return number, word and occurrence of each word that can have a fader."""
    found: list[tuple[int, str, int]] = []
    seen: dict[str, int] = {}
    for i, word in enumerate(prompt.words):
        if any(character.isalnum() for character in word):
            n = seen.get(normal(word), 0)
            seen[normal(word)] = n + 1
            found.append((i, word, n))
    return found


def listed(words: str) -> tuple[str, ...]:
    """Read 'cat, hat' as two words; a phrase that has a comma itself stands in double quotes."""
    rows = csv.reader([words], skipinitialspace=True)
    return tuple(word.strip() for row in rows for word in row if word.strip())


def written(words: Any) -> str:
    """Write words as `listed` reads them."""
    rows = [(words,)] if isinstance(words, str) else [(word,) for word in words]
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(row)
        lines.append(line.getvalue())
    return ", ".join(line for line in lines if line != '""')
