"""Words, tokens and which of them correspond.

The room answers three questions about text and knows nothing of images, attention or edits:
which tokens does a word have (`Prompt`), which target word took the place of which source word
(`align_words`, used by a word swap) and which target token was already in the source
(`align_tokens`, used when a phrase is added). The answer to the last two is an `Alignment`, the
matrix P of the edit equation M_hat = M P (Hertz et al. 2022, section 3.2).
"""

from p2p_lab.tokens.alignment import (
    Alignment,
    align_tokens,
    align_words,
    no_common_word,
    word_blocks,
)
from p2p_lab.tokens.by_hand import align_by_hand, links_of
from p2p_lab.tokens.prompt import AlignmentError, Prompt
from p2p_lab.tokens.reading import ids_that_fit
from p2p_lab.tokens.reference import reference_tokens_of

__all__ = [
    "Alignment",
    "AlignmentError",
    "Prompt",
    "align_by_hand",
    "align_tokens",
    "align_words",
    "ids_that_fit",
    "links_of",
    "no_common_word",
    "reference_tokens_of",
    "word_blocks",
]
