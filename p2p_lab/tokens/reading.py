"""A text as a tokenizer reads it: token by token, with all vectors of an added word.

Textual inversion stores a word of several vectors as the tokens `<toy>`, `<toy>_1`, `<toy>_2`. In a
text the word is written once, and its other tokens follow it here, as in diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from p2p_lab.tokens.words import Span


class Token(NamedTuple):
    """One token of a text.

    Attributes:
        id: Its number in the vocabulary.
        chars: The characters of the text that it shows.
        real: Whether it is more than padding.
        special: Whether it frames the text or is padding.
    """

    id: int
    chars: Span
    real: bool
    special: bool


def read_tokens(text: str, tokenizer: Any, length: int) -> list[Token]:
    """Return the tokens of a text, padded to `length`; more if it has more.

    Raises:
        TypeError: If the tokenizer reports no offsets.
        ValueError: If it pads on the left, or the text holds half of a character.
    """
    _check_whole(text)
    encoded = _encode(text, tokenizer, length)
    fields = ("input_ids", "offset_mapping", "attention_mask", "special_tokens_mask")
    columns = zip(*(encoded[name] for name in fields), strict=True)
    tokens = [Token(i, tuple(chars), bool(real), bool(s)) for i, chars, real, s in columns]
    tokens = _with_vectors(tokens, tokenizer)
    while len(tokens) > length and not tokens[-1].real:
        tokens.pop()
    return tokens


def added_words(tokens: Sequence[Token], tokenizer: Any) -> list[Span]:
    """Return which characters show words that were added to the vocabulary, in order."""
    numbers = set(tokenizer.get_added_vocab().values())
    return sorted({t.chars for t in tokens if t.id in numbers and not t.special})


def ids_that_fit(text: str, tokenizer: Any, length: int) -> list[int]:
    """Return the ids of a text, padded or cut to `length`; the token that ends it is kept."""
    ids = [token.id for token in read_tokens(text, tokenizer, length)]
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _with_vectors(tokens: Sequence[Token], tokenizer: Any) -> list[Token]:
    """Put the other vectors of each added word behind its first, unless they are written out."""
    added = tokenizer.get_added_vocab()
    names = {number: name for name, number in added.items() if f"{name}_1" in added}
    found: list[Token] = []
    for place, token in enumerate(tokens):
        found.append(token)
        others = _others(names[token.id], added) if token.id in names else []
        following = [after.id for after in tokens[place + 1 : place + 1 + len(others)]]
        if following != others:
            found += [token._replace(id=number) for number in others]
    return found


def _others(name: str, added: dict[str, int]) -> list[int]:
    """Return the ids of a word's vectors after the first, in order."""
    ids: list[int] = []
    while f"{name}_{len(ids) + 1}" in added:
        ids.append(added[f"{name}_{len(ids) + 1}"])
    return ids


def _check_whole(text: str) -> None:
    """Refuse halves of characters (lone surrogates), which are no text and have no bytes.

    Raises:
        ValueError: If there is one.
    """
    place = next((i for i, sign in enumerate(text) if "\ud800" <= sign <= "\udfff"), None)
    if place is not None:
        raise ValueError(
            f"The text {text!r:.80} holds half of a character at position {place}, as text read in "
            "a wrong encoding does. Read it in its own encoding, or write it again."
        )


def _encode(text: str, tokenizer: Any, length: int) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"{type(tokenizer).__name__} reports no character offsets. Use the fast tokenizer "
            f"of the same model: AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"Prompts are padded on the right, this tokenizer pads on the "
            f"{tokenizer.padding_side}. Set tokenizer.padding_side = 'right'."
        )
    return tokenizer(
        text,
        padding="max_length",
        max_length=length,
        truncation=False,
        return_attention_mask=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # a text over the limit gets our own sentence
    )
