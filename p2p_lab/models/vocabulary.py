"""Tell a user which words of a prompt a small model has never seen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from p2p_lab.tokens import Prompt
from p2p_lab.warn import warn_caller

_SUGGESTIONS = 3
_WEIGHT = re.compile(  # (cat:1.3), ((cat)), [cat:dog:0.5]
    r"\([^()]*:\s*[\d.]+\s*\)|\(\([^()]*\)\)|\[[^\[\]]*:[^\[\]]*\]"
)


def unknown_words(prompt: Prompt, vocabulary: frozenset[str]) -> list[str]:
    """List the words of a prompt that are not in the vocabulary, each once.

    Punctuation is no word; an empty vocabulary means that it is not known, and gives none.
    """
    if not vocabulary:
        return []
    spoken = [word for word in prompt.words if any(letter.isalnum() for letter in word)]
    return list(dict.fromkeys(word for word in spoken if word.lower() not in vocabulary))


def warn_of_unknown_words(prompt: Prompt, vocabulary: frozenset[str], name: str) -> None:
    """Warn of words that the model was not trained on, and of weights that are none here."""
    for message in (about_unknown_words(prompt, vocabulary, name), about_weights(prompt.text)):
        if message:
            warn_caller(message)


def about_unknown_words(prompt: Prompt, vocabulary: frozenset[str], name: str) -> str:
    """Return the sentence that names a prompt's unknown words and what is near; "" for none."""
    unknown = unknown_words(prompt, vocabulary)
    if not unknown:
        return ""
    hints = "; ".join(_hint(word, sorted(vocabulary)) for word in unknown)
    return (
        f"{name} was not trained on {', '.join(map(repr, unknown))}, so the picture may ignore "
        f"{'it' if len(unknown) == 1 else 'them'} ({hints})."
    )


def about_weights(text: str) -> str:
    """Return the sentence that a weight as other programs write it is plain text; "" for none."""
    found = _WEIGHT.search(text)
    if found is None:
        return ""
    return (
        f"The prompt holds {found[0]!r}, which some programs read as a weight or a switch. Here it "
        "is plain text: its signs are tokens as any other. Use Reweight(word, scale) in an edit."
    )


def _hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=_SUGGESTIONS, cutoff=0.5)
    if not near:
        return f"nothing known is near {word!r}"
    return f"near {word!r}: {', '.join(near)}"
