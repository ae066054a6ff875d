"""A text with its tokens: `Prompt`, found through the tokenizer's own character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2p_lab.tokens.reading import added_words, read_tokens
from p2p_lab.tokens.words import Span, group_tokens, normal

_NO_LIMIT = 100_000  # tokenizers without a limit report about 1e30


class AlignmentError(ValueError):
    """A word is not in a prompt, or two prompts cannot be aligned."""


@dataclass(frozen=True, repr=False)
class Prompt:
    """A text, its padded token ids and the tokens of each word.

    Attributes:
        text: The prompt as it was written.
        ids: Token ids, padded to the model's length L.
        spans: For each word its half-open range of token positions; special tokens are in none.
        chars: For each word its half-open range of characters of `text`.
        pieces: For each of the L tokens the text that it shows, special tokens included.
        specials: Positions of the special tokens that frame the text (start, end), not padding.
        end: Number of tokens before the (last) padding.
        parts: The same text as each of several text encoders reads it, where the model puts their
            tokens one after another (SD3); else empty. Then `spans` are those of the first.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    chars: tuple[Span, ...]
    pieces: tuple[str, ...]
    specials: tuple[int, ...]
    end: int
    parts: tuple[Prompt, ...] = ()

    @classmethod
    def of(cls, text: str, tokenizer: Any, length: int | None = None) -> Prompt:
        """Tokenize a text and find the tokens of each word.

        Args:
            text: The prompt; it may be empty.
            tokenizer: A fast tokenizer of the transformers library.
            length: Number of tokens L to pad to; the tokenizer's own limit by default.

        Raises:
            ValueError: If the text has more tokens than fit, or the tokenizer states no limit.
            TypeError: If the text is no string, or the tokenizer reports no offsets.
        """
        if not isinstance(text, str):
            raise TypeError(f"A prompt is a string, got {type(text).__name__}: {text!r:.60}.")
        length = _length(tokenizer, length)
        tokens = read_tokens(text, tokenizer, length)
        ids, offsets = [token.id for token in tokens], [token.chars for token in tokens]
        end = sum(token.real for token in tokens)
        special = [token.special for token in tokens]
        if len(ids) > length:
            raise ValueError(_too_long(text, offsets, special, length))
        inside = [i for i in range(end) if not special[i]]
        chars, spans = group_tokens(text, inside, offsets, added_words(tokens, tokenizer))
        raw = tokenizer.convert_ids_to_tokens(ids)
        pieces = [text[slice(*offsets[i])].strip() if i in inside else "" for i in range(length)]
        return cls(
            text=text,
            ids=tuple(ids),
            spans=tuple(spans),
            chars=tuple(chars),
            pieces=tuple(piece or str(name) for piece, name in zip(pieces, raw, strict=True)),
            specials=tuple(i for i in range(end) if special[i]),
            end=end,
        )

    @classmethod
    def joined(cls, parts: Sequence[Prompt]) -> Prompt:
        """Put one text's prompts of several text encoders one after another.

        A word then stands for its tokens in every part, and two such prompts are aligned part by
        part: a token of one encoder never feeds one of another.

        Args:
            parts: Prompts of the same text, in the order of the model's tokens.
        """
        first, starts = parts[0], _starts(parts)
        framed = zip(parts, starts, strict=True)
        return cls(
            text=first.text,
            ids=tuple(i for part in parts for i in part.ids),
            spans=first.spans,
            chars=first.chars,
            pieces=tuple(piece for part in parts for piece in part.pieces),
            specials=tuple(start + i for part, start in framed for i in part.specials),
            end=starts[-1] + parts[-1].end,
            parts=tuple(parts),
        )

    def __repr__(self) -> str:
        """Return one line: the text, and how much of the room for tokens it takes."""
        return f"<Prompt {self.text!r}: {len(self.words)} words, {self.end} of {len(self)} tokens>"

    def __len__(self) -> int:
        """Return L, the number of tokens with padding."""
        return len(self.ids)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words as they are written; a run of punctuation counts as a word."""
        return tuple(self.text[start:stop] for start, stop in self.chars)

    def tokens_of(self, word: str, occurrence: int | None = None) -> list[int]:
        """Return the token positions of a word or phrase, ignoring case.

        Args:
            word: A word or several words in a row, as "polar bear".
            occurrence: 0 is the first place where it stands; None takes all places.

        Raises:
            AlignmentError: If it does not stand in the prompt, or not that often.
        """
        if self.parts:
            framed = zip(self.parts, _starts(self.parts), strict=True)
            return [start + t for part, start in framed for t in part.tokens_of(word, occurrence)]
        places = self.find(word)
        if not places:
            raise AlignmentError(
                f"{word!r} is not in the prompt {self.text!r}. {_listing(self.words)}"
            )
        if occurrence is None:
            chosen = places
        elif 0 <= occurrence < len(places):
            chosen = [places[occurrence]]
        else:
            raise AlignmentError(
                f"{word!r} stands {len(places)} time(s) in the prompt {self.text!r}, so there is "
                f"no occurrence {occurrence}. Count from 0 to {len(places) - 1}, or leave "
                f"occurrence out to take all of them."
            )
        return [t for first, last in chosen for t in range(*self.token_range(first, last))]

    def tokens_at(self, word: int) -> list[int]:
        """Return the token positions of the word of that number, in every part."""
        if not self.parts:
            return list(range(*self.spans[word]))
        start, stop = self.chars[word]
        return [
            first + token
            for part, first in zip(self.parts, _starts(self.parts), strict=True)
            for chars, span in zip(part.chars, part.spans, strict=True)
            if chars[0] < stop and start < chars[1]
            for token in range(*span)
        ]

    def named_tokens(self, *, special: bool = False) -> list[tuple[str, list[int]]]:
        """Return each word with its token positions, in the order of the prompt.

        Args:
            special: Add the start and the end token in their places, and the padding at the end.
        """
        named = [(word, self.tokens_at(i)) for i, word in enumerate(self.words)]
        if not special:
            return named
        frame = [(self.pieces[i], [i]) for i in self.specials]
        rest = [("padding", self.padding)] if self.padding else []
        return sorted(named + frame, key=lambda entry: entry[1][0]) + rest

    @property
    def padding(self) -> list[int]:
        """Return the token positions of the padding, in every part."""
        parts = self.parts or (self,)
        starts = _starts(parts)
        return [
            start + i
            for part, start in zip(parts, starts, strict=True)
            for i in range(part.end, len(part))
        ]

    def find(self, phrase: str) -> list[Span]:
        """Return where a phrase stands, as half-open ranges of word numbers; may be empty."""
        wanted = normal(phrase)
        places: list[Span] = []
        first = 0
        while wanted and first < len(self.chars):
            stop = self._match(wanted, first)
            if stop is not None:
                places.append((first, stop))
            first = stop or first + 1
        return places

    def token_range(self, first: int, stop: int) -> Span:
        """Return the half-open token range of the words `first` to `stop` (exclusive)."""
        return self.spans[first][0], self.spans[stop - 1][1]

    def phrase(self, first: int, stop: int) -> str:
        """Return the text from word `first` to word `stop` (exclusive), as it is written."""
        return self.text[self.chars[first][0] : self.chars[stop - 1][1]]

    def _match(self, wanted: str, first: int) -> int | None:
        stops = range(first + 1, len(self.chars) + 1)
        return next((stop for stop in stops if normal(self.phrase(first, stop)) == wanted), None)


def check_prompts(**prompts: Any) -> None:
    """See that prompts were read by a tokenizer.

    Raises:
        TypeError: If one is something else, such as its text.
    """
    for name, value in prompts.items():
        if not isinstance(value, Prompt):
            text = f" ({value!r:.60})" if isinstance(value, str) else ""
            raise TypeError(
                f"{name} is a {type(value).__name__}{text}, not a Prompt: text becomes one by the "
                "model that is to read it, model.prompt(text)."
            )


def _starts(parts: Sequence[Prompt]) -> list[int]:
    """Return where each part's tokens start among those of all parts."""
    return [sum(len(part) for part in parts[:i]) for i in range(len(parts))]


def _length(tokenizer: Any, length: int | None) -> int:
    if length is None:
        length = int(tokenizer.model_max_length)
        if length > _NO_LIMIT:
            raise ValueError(
                "This tokenizer states no limit. Pass length=..., the number of text tokens "
                "that the model was trained with (77 for most)."
            )
    if length < 1:
        raise ValueError(f"A prompt needs a length of at least 1 token, got {length}.")
    return length


def _too_long(text: str, offsets: Sequence[Span], special: Sequence[bool], length: int) -> str:
    frame = sum(special)
    inside = [offset for offset, mark in zip(offsets, special, strict=True) if not mark]
    room = max(length - frame, 0)
    cut = inside[room][0] if room < len(inside) else len(text)
    kept, lost = text[:cut].rstrip(), text[cut:].lstrip()
    return (
        f"The prompt is {len(offsets) - length} token(s) too long: it has {len(offsets)} with "
        f"its {frame} special token(s), the model takes {length}. It would be cut after "
        f"{kept[-40:]!r}, losing {lost[:40]!r}. Shorten it."
    )


def _listing(words: Sequence[str]) -> str:
    if not words:
        return "The prompt has no words."
    return "Its words are: " + ", ".join(repr(word) for word in words) + "."
