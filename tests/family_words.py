"""Tiny tokenizers of the other families, with the words of `tests.worlds`."""

from __future__ import annotations

from typing import Any

from tests.worlds import SPLIT, WORDS

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = ",.!'-"


def wordpiece_tokenizer(length: int = 77) -> Any:
    """BERT's kind: lower case, "##" before what continues a word."""
    from transformers import BertTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    for first, *rest in SPLIT.values():
        pieces += [first, *(f"##{piece}" for piece in rest)]
    pieces += [*SIGNS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizerFast(vocab=vocab, model_max_length=length)


def unigram_tokenizer(length: int) -> Any:
    """T5's kind: pieces with scores, "▁" before what starts a word, no token at the start."""
    from transformers import T5TokenizerFast

    pieces: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -2.0}
    pieces |= {f"▁{word}": -1.0 for word in WORDS}
    for first, *rest in SPLIT.values():
        pieces |= {f"▁{first}": -1.5, **dict.fromkeys(rest, -1.5)}
    pieces |= dict.fromkeys([*LETTERS, *SIGNS], -5.0)
    return T5TokenizerFast(vocab=list(pieces.items()), extra_ids=0, model_max_length=length)
