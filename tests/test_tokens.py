"""Laws of the room `tokens`: what a word's tokens are, and which words and tokens correspond."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p_lab.codec import decode
from p2p_lab.tokens import (
    AlignmentError,
    Prompt,
    align_by_hand,
    align_tokens,
    align_words,
    ids_that_fit,
    links_of,
    word_blocks,
)
from p2p_lab.tokens.words import group_tokens
from tests.worlds import LENGTH, SPLIT, WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer(32)
SENTENCES = st.lists(st.sampled_from([*WORDS, *SPLIT]), max_size=7).map(" ".join)
LAWS = settings(max_examples=60, deadline=None, derandomize=True)


def prompt(text: str, length: int | None = None) -> Prompt:
    return Prompt.of(text, TOKENIZER, length)


def shown(found: Prompt, tokens: list[int]) -> str:
    return " ".join(found.pieces[token] for token in tokens)


# --- words and their tokens -----------------------------------------------------------------


def test_the_ids_are_those_that_a_diffusers_pipeline_feeds_to_its_text_encoder() -> None:
    text = "A polar bear, on the snowy grass!"
    fed = TOKENIZER(text, padding="max_length", max_length=32, truncation=True).input_ids
    assert list(prompt(text).ids) == fed
    assert fed[0] == TOKENIZER.bos_token_id
    assert fed[prompt(text).end - 1] == TOKENIZER.eos_token_id


@pytest.mark.parametrize(
    ("text", "word", "pieces"),
    [
        ("a cat on the grass", "cat", "cat"),
        ("a polar bear", "polar", "pol ar"),
        ("a snowy cat", "snowy", "sn ow y"),
        ("a polar bear on grass", "polar bear", "pol ar bear"),
        ("a cat, a dog.", "dog", "dog"),
        ("a cat, a dog.", "cat, a", "cat , a"),
        ("a  red \t cat\n", "red cat", "red cat"),
        ("a red cat", "  red   cat ", "red cat"),
        ("A RED Cat", "red cat", "RED Cat"),
        ("the cat's hat", "cat", "cat"),
        ("the cat's hat", "cat's hat", "cat 's hat"),
        ("a red-hat cat", "red-hat", "red - hat"),
        ("a <|endoftext|> cat", "cat", "cat"),
    ],
)
def test_a_word_or_phrase_has_the_tokens_that_show_it(text: str, word: str, pieces: str) -> None:
    found = prompt(text)
    assert shown(found, found.tokens_of(word)) == pieces


@pytest.mark.parametrize("written", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("asked", ["caf\u00e9", "cafe\u0301", "CAF\u00c9"])
def test_accents_are_found_however_they_are_composed(written: str, asked: str) -> None:
    found = prompt(f"a {written} cat")
    first, *_, last = found.tokens_of(asked)
    assert (first, last + 1) == (2, found.tokens_of("cat")[0])


def test_a_sign_with_a_variation_mark_is_one_word() -> None:
    assert prompt("a \u2764\ufe0f cat").words == ("a", "\u2764\ufe0f", "cat")


def test_all_places_of_a_word_are_taken_unless_one_is_asked_for() -> None:
    found = prompt("a cat and a polar cat")
    first, second = found.tokens_of("cat", 0), found.tokens_of("cat", 1)
    assert found.tokens_of("cat") == [*first, *second]
    assert first != second
    with pytest.raises(AlignmentError, match=r"'cat' stands 2 time\(s\).*Count from 0 to 1"):
        found.tokens_of("cat", 2)
    with pytest.raises(AlignmentError, match="no occurrence -1"):
        found.tokens_of("cat", -1)


def test_places_of_a_phrase_do_not_overlap() -> None:
    assert prompt("a a a cat").tokens_of("a a") == [1, 2]


def test_a_token_that_shows_only_the_space_before_a_word_belongs_to_it() -> None:
    offsets = [(0, 1), (1, 2), (2, 5), (5, 6)]  # "a", a space, "dog", a space at the end
    assert group_tokens("a dog ", range(4), offsets) == ([(0, 1), (2, 5)], [(0, 1), (1, 3)])


@pytest.mark.parametrize("word", ["dog", "ca", "cat the", "", "  "])
def test_a_word_that_is_not_there_is_an_error_that_lists_the_words(word: str) -> None:
    with pytest.raises(AlignmentError, match=r"not in the prompt .*'a', 'red', 'cat'\."):
        prompt("a red cat").tokens_of(word)


def test_an_empty_prompt_is_allowed_and_has_no_words() -> None:
    empty = prompt("")
    assert (empty.words, empty.spans, empty.end, empty.specials) == ((), (), 2, (0, 1))
    with pytest.raises(AlignmentError, match="The prompt has no words"):
        empty.tokens_of("cat")


@LAWS
@given(st.text(max_size=20))
@example("cat''s")
@example("a,\u0301 b")
@example("\u0301")
def test_any_text_gives_every_word_tokens_of_its_own(text: str) -> None:
    found = Prompt.of(text, TOKENIZER, 128)
    covered = [token for start, stop in found.spans for token in range(start, stop)]
    assert all(start < stop for start, stop in found.spans)
    assert covered == sorted(set(covered))
    assert not set(covered) & set(found.specials)
    assert max(covered, default=0) < found.end
    for word, (start, stop) in zip(found.words, found.spans, strict=True):
        assert set(range(start, stop)) <= set(found.tokens_of(word))


@LAWS
@given(SENTENCES)
def test_every_token_between_the_special_ones_belongs_to_a_word(text: str) -> None:
    found = prompt(text)
    covered = [token for start, stop in found.spans for token in range(start, stop)]
    assert covered == list(range(1, found.end - 1))
    assert list(found.words) == text.split()


@LAWS
@given(st.lists(st.sampled_from([*WORDS, *SPLIT]), min_size=7, max_size=12).map(" ".join))
def test_a_prompt_over_the_limit_says_by_how_many_tokens(text: str) -> None:
    excess = len(TOKENIZER(text).input_ids) - 8
    with pytest.raises(ValueError, match=rf"^The prompt is {excess} token\(s\) too long"):
        prompt(text, 8)


def test_a_prompt_that_just_fits_is_taken() -> None:
    assert prompt("a cat on the snowy grass", 10).end == 10
    with pytest.raises(
        ValueError, match="1 token.* cut after 'a cat on the snowy', losing 'grass'"
    ):
        prompt("a cat on the snowy grass", 9)


def test_what_is_no_prompt_is_refused_with_a_sentence() -> None:
    with pytest.raises(TypeError, match="A prompt is a string, got int: 3"):
        prompt(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length of at least 1"):
        prompt("a cat", 0)
    with pytest.raises(ValueError, match="too long"):
        prompt("", 1)
    with pytest.raises(TypeError, match="reports no character offsets"):
        Prompt.of("a cat", SimpleNamespace(is_fast=False, model_max_length=77))
    with pytest.raises(ValueError, match="states no limit"):
        Prompt.of("a cat", SimpleNamespace(is_fast=True, model_max_length=int(1e30)))
    with pytest.raises(ValueError, match="pads on the left"):
        Prompt.of("a", SimpleNamespace(is_fast=True, model_max_length=9, padding_side="left"))


def test_a_prompt_comes_back_from_json_as_it_was() -> None:
    found = prompt("a caf\u00e9, 'a polar' cat")
    assert decode(Prompt, json.loads(json.dumps(asdict(found)))) == found
    assert repr(prompt("a cat")) == "<Prompt 'a cat': 2 words, 4 of 32 tokens>"


# --- other tokenizers -----------------------------------------------------------------------


def test_a_bert_tokenizer_gives_the_same_words() -> None:
    from transformers import BertTokenizer

    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat dog pol ##ar bear , ' s the"
    bert = BertTokenizer(vocab={p: i for i, p in enumerate(words.split())}, model_max_length=16)
    found = Prompt.of("A polar cat, the dog's", bert)
    assert found.words == ("A", "polar", "cat", ",", "the", "dog", "'s")
    assert shown(found, found.tokens_of("polar cat")) == "pol ar cat"
    assert shown(found, found.tokens_of("dog's")) == "dog ' s"
    assert found.specials == (0, found.end - 1)


def test_a_t5_tokenizer_gives_the_same_words_and_needs_no_start_token() -> None:
    from transformers import T5Tokenizer

    words = "<pad> </s> <unk> ▁a ▁cat ▁ dog ▁pol ar ▁bear , ' s"
    vocab = [(piece, 0.0 if i < 3 else -1.0) for i, piece in enumerate(words.split())]
    t5 = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=16)
    found = Prompt.of("a polar  cat, dog's", t5)
    assert found.words == ("a", "polar", "cat", ",", "dog", "'s")
    assert len(found.tokens_of("polar")) == 2
    assert len(found.tokens_of("dog")) == 2  # the sign for the space, and the word
    assert found.specials == (found.end - 1,)
    aligned = align_words(Prompt.of("a cat", t5), Prompt.of("a polar bear", t5))
    assert aligned.partners(1) == aligned.partners(3) == [1]
    assert aligned.partners(4) == [2]  # end to end


# --- alignment by tokens ---------------------------------------------------------------------


def published_alignment(source: str, target: str) -> list[int]:
    """Return A(j), -1 where there is none, by the full table and its trace, as published."""
    x, y = TOKENIZER(source).input_ids, TOKENIZER(target).input_ids
    score = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    trace = [["left"] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, j in product(range(1, len(x) + 1), range(1, len(y) + 1)):
        left, up = score[i][j - 1], score[i - 1][j]
        diagonal = score[i - 1][j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
        best = max(left, up, diagonal)
        score[i][j] = best
        trace[i][j] = "left" if best == left else "up" if best == up else "diagonal"
    partner, i, j = [-1] * len(y), len(x), len(y)
    while i and j:
        step = trace[i][j]
        if step == "diagonal":
            partner[j - 1] = i - 1
        i, j = i - (step != "left"), j - (step != "up")
    return [*partner, *range(len(y), 32)]


@LAWS
@given(SENTENCES, SENTENCES)
def test_tokens_align_as_published(source: str, target: str) -> None:
    partner = published_alignment(source, target)
    compat = align_tokens(prompt(source), prompt(target), compat="reference")
    assert [(compat.partners(j) or [-1])[0] for j in range(32)] == partner
    ours = align_tokens(prompt(source), prompt(target))
    end, pad = prompt(target).end, prompt(source).end
    assert [(ours.partners(j) or [-1])[0] for j in range(end)] == partner[:end]
    assert [ours.partners(j) for j in range(end, 32)] == [[max(j, pad)] for j in range(end, 32)]


def test_padding_without_padding_opposite_is_left_to_the_target() -> None:
    full, short = prompt("a cat on the grass", 7), prompt("a cat", 7)
    for align in (align_tokens, align_words):
        aligned = align(full, short)
        assert not aligned.matched[short.end :].any()
        assert aligned.mapper[:, short.end :].abs().sum() == 0


# --- alignment by words ----------------------------------------------------------------------


@LAWS
@given(SENTENCES, SENTENCES)
def test_a_matched_column_sums_to_one_and_an_unmatched_one_to_zero(
    source: str, target: str
) -> None:
    for align in (align_words, align_tokens):
        try:
            aligned = align(prompt(source), prompt(target))
        except AlignmentError as error:
            assert "share no word" in str(error)
            continue
        assert torch.allclose(aligned.mapper.sum(0), aligned.matched.double(), atol=1e-12)
        assert torch.equal(aligned.gain != 0, aligned.matched)
        assert (aligned.mapper >= 0).all()


def test_a_swap_of_k_tokens_for_m_gives_each_a_share_1_over_m_of_their_sum() -> None:
    source, target = prompt("a snowy cat"), prompt("a polar cat")  # 3 tokens for 2
    aligned = align_words(source, target)
    weights = aligned.mapper * aligned.gain  # what the source's columns are multiplied by
    assert torch.allclose(weights[2:5, 2:4], torch.full((3, 2), 1 / 2, dtype=torch.float64))
    assert weights[2:5, 2:4].sum() == pytest.approx(3)  # the swapped word keeps its attention
    assert aligned.partners(4) == [5]  # "cat" moves up by one and is still fed by "cat"


def test_equally_many_tokens_are_swapped_one_to_one() -> None:
    source, target = prompt("a snowy cat"), prompt("a caramel dog")
    assert torch.equal(align_words(source, target).mapper[:6, :6], torch.eye(6).double())


@pytest.mark.parametrize(
    ("source", "target", "fed"),
    [
        ("a cat on grass", "a polar bear on grass", {"polar bear": "cat", "on": "on"}),
        ("a polar bear on grass", "a cat on grass", {"cat": "polar bear", "grass": "grass"}),
        ("a cat", "a red cat with a hat", {"cat": "cat", "red": "", "with": "", "hat": ""}),
        ("a red cat with a hat", "a cat", {"a": "a", "cat": "cat"}),
        ("a cat on grass", "a polar bear, on grass", {"polar bear": "cat", ",": ""}),
        ("a cat, on grass", "a dog on the grass", {"dog": "cat", "on": "on", "the": ""}),
        ("cat", "dog", {"dog": "cat"}),
        ("a cat!", "a dog.", {"dog": "cat", ".": "!"}),
        ("", "a cat", {"cat": ""}),
    ],
)
def test_words_align_in_equal_and_unequal_numbers(
    source: str, target: str, fed: dict[str, str]
) -> None:
    before, after = prompt(source), prompt(target)
    aligned = align_words(before, after)
    for new, old in fed.items():
        wanted = before.tokens_of(old, 0) if old else []
        fed_by = {i for j in after.tokens_of(new, 0) for i in aligned.partners(j)}
        assert sorted(fed_by) == wanted
    assert aligned.partners(0) == [0]
    assert aligned.partners(after.end - 1) == [before.end - 1]


def test_the_alignment_can_be_set_by_hand() -> None:
    source, target = prompt("a cat and a dog"), prompt("a polar bear and a red hat")
    aligned = align_words(source, target, pairs={"dog": "polar bear", "cat": "hat"})
    assert aligned.partners(target.tokens_of("bear")[0]) == source.tokens_of("dog")
    assert aligned.partners(target.tokens_of("hat")[0]) == source.tokens_of("cat")
    assert aligned.partners(target.tokens_of("and")[0]) == source.tokens_of("and")
    assert aligned.partners(target.tokens_of("red")[0]) == []


def test_a_pair_by_hand_leaves_the_other_swaps_as_they_were() -> None:
    source, target = prompt("a red cat on grass"), prompt("a snowy polar bear on cake")
    aligned = align_words(source, target, pairs={"cat": "polar bear"})
    assert aligned.partners(target.tokens_of("snowy")[0]) == source.tokens_of("red")
    assert aligned.partners(target.tokens_of("cake")[0]) == source.tokens_of("grass")


def test_a_wrong_pair_is_refused_with_a_sentence() -> None:
    source, target = prompt("a cat and a dog"), prompt("a polar bear and a hat")
    with pytest.raises(AlignmentError, match="'bear' is not in the prompt 'a cat and a dog'"):
        align_words(source, target, pairs={"bear": "cat"})
    with pytest.raises(AlignmentError, match="gives 'bear' two partners"):
        align_words(source, target, pairs={"cat": "polar bear", "dog": "bear"})


def test_prompts_that_cannot_be_aligned_are_refused_with_a_sentence() -> None:
    with pytest.raises(AlignmentError, match=r"share no word .*pairs=\{'old': 'new'\}"):
        align_words(prompt("a cat, red"), prompt("snowy grass, the dog on polar cake"))
    with pytest.raises(ValueError, match="source has 32 token positions and the target 16"):
        align_tokens(prompt("a cat"), prompt("a dog", 16))


@pytest.mark.parametrize("align", [align_words, align_tokens, word_blocks])
def test_texts_in_the_place_of_prompts_are_refused_with_a_sentence(align: Any) -> None:
    with pytest.raises(TypeError, match=r"source is a str \('a cat'\), not a Prompt.*model.prompt"):
        align("a cat", "a dog")
    with pytest.raises(TypeError, match=r"target is a str \('a dog'\), not a Prompt"):
        align(prompt("a cat"), "a dog")


def test_a_text_in_the_place_of_an_alignment_is_refused_with_a_sentence() -> None:
    for call in (links_of, lambda base: align_by_hand(base, [(1, 1)])):
        with pytest.raises(TypeError, match="is a str, not an Alignment.*align_words"):
            call("a cat")


def test_the_reference_form_demands_equally_many_words() -> None:
    with pytest.raises(AlignmentError, match="equally many words, got 2 and 3"):
        align_words(prompt("a cat"), prompt("a polar bear"), compat="reference")


def test_an_alignment_prints_as_a_table() -> None:
    text = str(align_words(prompt("a cat on grass"), prompt("a polar bear, on grass")))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["target", "source", "gain"]
    assert ["2", "pol", "<-", "2", "cat", "0.333"] in lines
    assert ["5", ",", "new"] in lines
    assert lines[-1] == ["padding:", "23", "tokens,", "23", "matched"]


def test_a_word_of_thousands_of_combining_marks_is_one_word() -> None:
    from p2p_lab.tokens.words import word_chars

    text = "a cat" + "\u0301" * 2000 + " on grass"
    assert [text[start:stop] for start, stop in word_chars(text)][2:] == ["on", "grass"]


def test_an_added_word_of_several_vectors_takes_its_room_and_is_written_once() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<toy>", "<toy>_1", "<toy>_2", "<one>"])
    toy = tokenizer.convert_tokens_to_ids(["<toy>", "<toy>_1", "<toy>_2"])
    found = Prompt.of("a <toy> and <one>, a <toy>", tokenizer)
    first, second = found.tokens_of("<toy>", 0), found.tokens_of("<toy>", 1)
    assert [found.ids[i] for i in first] == [found.ids[i] for i in second] == toy
    assert len(found.tokens_of("<one>")) == 1 and len(found) == LENGTH == len(found.pieces)
    written_out = Prompt.of("<toy> <toy>_1 <toy>_2", tokenizer)
    assert list(written_out.ids[1:4]) == toy and written_out.end == 5
    with pytest.raises(ValueError, match=r"1 token\(s\) too long.*losing '<toy>'"):
        Prompt.of("<toy> <toy> <toy> <toy> <toy>", tokenizer)


@pytest.mark.parametrize("text", ["", "a cat", "a cat and " * 9])
def test_ids_that_fit_are_what_the_tokenizer_pads_or_cuts(text: str) -> None:
    tokenizer = tiny_tokenizer()
    cut = tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True)
    assert ids_that_fit(text, tokenizer, LENGTH) == cut.input_ids
