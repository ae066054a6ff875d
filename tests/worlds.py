"""Small things that tests are made with: a tokenizer of some twelve words.

They are built from scratch, so that no test needs a file or a network.
"""

from __future__ import annotations

from typing import Any

LENGTH = 16
WORDS = ("a", "the", "cat", "dog", "red", "on", "grass", "and", "bear", "with", "hat", "cake")
SPLIT = {"polar": ("pol", "ar"), "snowy": ("sn", "ow", "y"), "caramel": ("car", "am", "el")}
MARKS = (",", ".", "!", "'s", "-")


def tiny_tokenizer(length: int = LENGTH) -> Any:
    """Build a CLIPTokenizer with its own byte-level BPE.

    The words of `WORDS` are one token, those of `SPLIT` two or three, everything else falls
    apart to bytes.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = _merges()
    entries = [*letters, *(letter + "</w>" for letter in letters)]
    entries += ["".join(pair) for pair in merges]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def _merges() -> list[tuple[str, str]]:
    merges: dict[tuple[str, str], None] = {}
    for word in (*WORDS, *MARKS):
        _grow(merges, [*word[:-1], word[-1] + "</w>"])
    for *starts, last in SPLIT.values():
        for piece in starts:
            _grow(merges, list(piece))
        _grow(merges, [*last[:-1], last[-1] + "</w>"])
    return list(merges)


def _grow(merges: dict[tuple[str, str], None], symbols: list[str]) -> None:
    """Add the merges that build one token from left to right."""
    built = symbols[0]
    for symbol in symbols[1:]:
        merges.setdefault((built, symbol))
        built += symbol
