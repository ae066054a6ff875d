"""Laws of words on CLIP's real vocabulary: every word's tokens decode to the word.

The merges are those of OpenAI's CLIP, which Stable Diffusion 1.x reads; a package that only the
tests need ships them.
"""

from __future__ import annotations

import gzip
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from p2p_lab.edits import Reweight, compile_edits
from p2p_lab.models.vocabulary import about_weights
from p2p_lab.tokens import Prompt

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # those that show themselves
LENGTH = 77
WORDS = {
    "a cat's hat": ("a", "cat", "'s", "hat"),
    "the dogs' well-known hat": ("the", "dogs", "'", "well", "-", "known", "hat"),
    "Café à la crème": ("Café", "à", "la", "crème"),
    "cafe\u0301 au lait": ("cafe\u0301", "au", "lait"),
    "e\u0301\u0302\u0303 cat": ("e\u0301\u0302\u0303", "cat"),
    "a 🐱 and a 👩‍🚀 cat": ("a", "🐱", "and", "a", "👩‍🚀", "cat"),
    "3 cats, 1024 dogs": ("3", "cats", ",", "1024", "dogs"),
    "(cat:1.3) and [dog]": ("(", "cat", ":", "1", ".", "3", ")", "and", "[", "dog", "]"),
    "قطة على العشب": ("قطة", "على", "العشب"),
    "חתול על הדשא": ("חתול", "על", "הדשא"),
    "一只猫 在 草地上": ("一只猫", "在", "草地上"),
    "a  photo\tof a\ncat": ("a", "photo", "of", "a", "cat"),
    "an antidisestablishmentarianist photorealistic cat": (
        "an", "antidisestablishmentarianist", "photorealistic", "cat",
    ),
    "naïve Straße ÆØÅ": ("naïve", "Straße", "ÆØÅ"),
}  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> Any:
    """CLIP's tokenizer, built from the merges as its authors build it."""
    from transformers import CLIPTokenizerFast

    found = find_spec("clip")
    assert found is not None and found.origin is not None, "make setup-dev installs it"
    file = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    others = [byte for byte in range(256) if byte not in BYTES]
    signs = [chr(byte) for byte in BYTES] + [chr(256 + i) for i in range(len(others))]
    entries = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {entry: i for i, entry in enumerate(entries)}
    return CLIPTokenizerFast(vocab=vocab, merges=merges, model_max_length=LENGTH)


def plain(text: str) -> str:
    """A text as CLIP reads it: composed, in small letters, without spaces."""
    return "".join(unicodedata.normalize("NFC", text).lower().split())


def test_the_tokens_are_those_of_the_published_vocabulary(clip: Any) -> None:
    assert len(clip) == 49408
    assert clip("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("text", WORDS)
def test_every_words_tokens_decode_to_the_word(text: str, clip: Any) -> None:
    prompt = Prompt.of(text, clip)
    assert prompt.words == WORDS[text]
    taken = [token for span in prompt.spans for token in range(*span)]
    assert taken == [i for i in range(prompt.end) if i not in prompt.specials]
    for word, span in zip(prompt.words, prompt.spans, strict=True):
        ids = [prompt.ids[token] for token in range(*span)]
        assert plain(clip.decode(ids)) == plain(word), (word, clip.convert_ids_to_tokens(ids))
        assert set(range(*span)) <= set(prompt.tokens_of(word))


def test_seventy_five_tokens_fit_and_the_seventy_sixth_is_one_too_many(clip: Any) -> None:
    text = "cat " * 75
    assert Prompt.of(text, clip).end == LENGTH
    with pytest.raises(ValueError, match="1 token.s. too long: it has 78"):
        Prompt.of(text + "dog", clip)


def test_a_repeated_word_is_found_at_each_of_its_places(clip: Any) -> None:
    prompt = Prompt.of("a photorealistic cat and a photorealistic dog", clip)
    one, two = (prompt.tokens_of("photorealistic", n) for n in (0, 1))
    assert len(one) == len(two) == 2 and prompt.tokens_of("photorealistic") == one + two


@pytest.mark.parametrize("text", ["a (cat:1.3) on grass", "a ((cat)) hat", "a [cat:dog:0.5]"])
def test_weights_of_other_programs_are_told_to_be_plain_text(text: str, clip: Any) -> None:
    said = about_weights(text)
    assert "plain text" in said and "Reweight" in said
    plan = compile_edits([Reweight("cat", 1.3)], *[Prompt.of(text, clip)] * 2, 4)
    assert not plan.is_identity


def test_a_model_warns_of_a_weight_where_it_reads_the_prompt(sd32: Any) -> None:
    with pytest.warns(UserWarning, match=r"'\(cat:1.3\)'.*plain text"):
        sd32.prompt("a (cat:1.3)")


@pytest.mark.parametrize("text", ["a cat (on grass)", "a cat: a dog", "at 12:30", "a [cat]", "(a)"])
def test_brackets_and_colons_of_prose_are_not_taken_for_weights(text: str) -> None:
    assert about_weights(text) == ""
