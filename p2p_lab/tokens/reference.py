"""The authors' own way of finding words and tokens, kept for exact comparison.

Only `compat="reference"` comes here. Each function reproduces a quirk on purpose and says which.
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2p_lab.tokens.prompt import AlignmentError, Prompt


def reference_tokens_of(prompt: Prompt, word: str | int) -> list[int]:
    """Find the tokens of a word by counting characters after `split(" ")`.

    The quirk: punctuation, double spaces or a phrase give no token, without any error.

    Args:
        prompt: The prompt to look in.
        word: The word exactly as it stands between two spaces, or its number.
    """
    words = prompt.text.split(" ")
    wanted = {i for i, w in enumerate(words) if w == word} if isinstance(word, str) else {word}
    found: list[int] = []
    place = seen = 0
    for token in range(prompt.end):
        if token in prompt.specials or place >= len(words):
            continue
        seen += len(prompt.pieces[token].strip("#"))
        if place in wanted:
            found.append(token)
        if seen >= len(words[place]):
            place, seen = place + 1, 0
    return found


def reference_swap_mapper(source: Prompt, target: Prompt) -> Tensor:
    """Return the (L, L) mapper of a word swap as the authors' code builds it.

    Two quirks: the number of words must be equal, and after the last swapped word the identity
    is written at (j, j) instead of (i, j), so a swap that changes the number of tokens
    misaligns every later word. A swapped word of k source and m target tokens has the value 1/m
    in its k x m block.

    Raises:
        AlignmentError: If the prompts have different numbers of words.
    """
    before, after = source.text.split(" "), target.text.split(" ")
    if len(before) != len(after):
        raise AlignmentError(
            f"compat='reference' swaps words only between prompts of equally many words, got "
            f"{len(before)} and {len(after)}. Leave compat out to align them."
        )
    swapped = [i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    blocks = [(reference_tokens_of(source, i), reference_tokens_of(target, i)) for i in swapped]
    return _walk(blocks, len(source))


def _walk(blocks: list[tuple[list[int], list[int]]], length: int) -> Tensor:
    mapper = torch.zeros(length, length, dtype=torch.float64)
    i = j = 0
    while i < length and j < length:
        if blocks and blocks[0][0] and blocks[0][0][0] == i:
            rows, columns = blocks.pop(0)
            if len(rows) == len(columns):
                mapper[rows, columns] = 1.0
            else:
                for column in columns:
                    mapper[rows, column] = 1.0 / len(columns)
            i, j = i + len(rows), j + len(columns)
        else:
            mapper[i if blocks else j, j] = 1.0
            i, j = i + 1, j + 1
    return mapper
