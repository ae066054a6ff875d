"""The tokenizer of a run: byte pair merges learned from captions, the same in every process.

The library's trainer breaks ties between equally frequent pairs by the order of a hash table, which
differs from process to process; here the lexicographically first pair wins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from p2p_lab.scenes import caption, sample_scene

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENIZER_CAPTIONS = 20_000
Pair = tuple[str, str]


def learn_merges(words: Mapping[str, tuple[list[str], int]], number: int) -> list[Pair]:
    """Return the most frequent pairs, one after the other (Sennrich et al. 2016).

    Args:
        words: The symbols of each word and how often it occurs.
        number: Of merges; fewer when no pair is left.
    """
    parts = {word: symbols for word, (symbols, _) in words.items()}
    merges: list[Pair] = []
    while len(merges) < number:
        pairs: Counter[Pair] = Counter()
        for word, symbols in parts.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] += words[word][1]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: join(symbols, best) for word, symbols in parts.items()}
    return merges


def letters(word: str) -> list[str]:
    """Return a word's byte symbols, the last one marked as the word's end."""
    symbols = ByteLevel(add_prefix_space=False).pre_tokenize_str(word)
    parts = [letter for piece, _ in symbols for letter in piece]
    return [*parts[:-1], parts[-1] + "</w>"]


def join(parts: Sequence[str], pair: Pair) -> list[str]:
    """Return the symbols with each occurrence of a pair merged, from the left."""
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def build_tokenizer(vocabulary: int, length: int) -> CLIPTokenizer:
    """Learn a byte-level BPE tokenizer from the captions of the full world.

    Common words become one token, rare ones two or more; any text can be encoded.

    Args:
        vocabulary: Number of entries.
        length: Tokens of a prompt, padding included.

    Raises:
        ValueError: If the vocabulary cannot hold the bytes.
    """
    symbols = [BOS, EOS, *byte_symbols()]
    if vocabulary < len(symbols):
        raise ValueError(
            f"The vocabulary must hold {len(symbols) - 2} bytes and 2 marks; got "
            f"{vocabulary} entries. Set TrainConfig.vocabulary to at least 560."
        )
    texts = (caption(sample_scene(i), i).text for i in range(TOKENIZER_CAPTIONS))
    counts = Counter(word for text in texts for word in text.split())
    words = {word: (letters(word), number) for word, number in counts.items()}
    merges = learn_merges(words, vocabulary - len(symbols))
    return assemble(symbols, merges, length)


def byte_symbols() -> list[str]:
    """Return the symbols of all bytes, inside a word and at its end: without them, text is lost."""
    alphabet = sorted(ByteLevel.alphabet())
    return [*alphabet, *(letter + "</w>" for letter in alphabet)]


def assemble(symbols: Sequence[str], merges: Sequence[Pair], length: int) -> CLIPTokenizer:
    """Return a tokenizer with an entry for each symbol and each merge, in this order."""
    entries = [*symbols, *("".join(pair) for pair in merges)]
    vocab = {entry: i for i, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=length)


def extend_tokenizer(tokenizer: Any, words: Iterable[str]) -> CLIPTokenizer:
    """Return a tokenizer with one token for each of some more words; all others keep their ids.

    Bytes that have no symbol yet get one too.

    Args:
        tokenizer: A byte-level BPE tokenizer.
        words: Lower-case words.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    entries = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [(pair[0], pair[1]) for pair in model["merges"]]
    known = set(entries)
    added: list[Pair] = []
    for word in words:
        parts = letters(word)
        for pair in [*merges, *added]:
            parts = join(parts, pair)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            added.append(pair)
            parts = join(parts, pair)
    fresh = [symbol for symbol in byte_symbols() if symbol not in known]
    known |= set(fresh)
    fresh += [joined for joined in map("".join, added) if joined not in known]
    vocab = {entry: i for i, entry in enumerate([*entries, *dict.fromkeys(fresh)])}
    length = tokenizer.model_max_length
    return CLIPTokenizer(vocab=vocab, merges=[*merges, *added], model_max_length=length)
