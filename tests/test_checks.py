"""Laws of the checks: right is right, each known mistake is named, a stub is no mistake."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from p2p_lab import edits, tokens
from p2p_lab.checks import Feedback, check, exercises, hint, progress, solution
from p2p_lab.checks.engine import asking
from tests.worlds import tiny_tokenizer
from tests.wrong_answers import WRONG

IDS = [
    *(
        "00.words",
        "00b.noise",
        "00b.guide",
        "01.attention_probs",
        "01.average_maps",
        "01.pointing",
        "01.processor",
    ),
    *("02.mapper", "02.swap", "02.rows", "02.window", "02.unequal"),
    *("03.refine", "03.blend", "03.alignment"),
    *("04.reweight", "04.compose", "04.negative"),
    *("05.ddim_step", "05.ddim_inverse", "05.null_loss"),
    *("06.resize_map", "06.move_rows"),
    *("07.steps", "07.rows", "07.half"),
    *("08.cascade", "08.hybrid"),
    *("09.flow_edit", "09.pairs"),
]
CASES = [(i, n) for i, answers in WRONG.items() for n in range(len(answers))]


def test_the_lessons_find_the_exercises_that_they_name() -> None:
    assert list(exercises()) == IDS
    assert set(WRONG) == set(IDS)


@pytest.mark.parametrize("exercise_id", IDS)
def test_the_reference_answer_is_right(exercise_id: str) -> None:
    found = check(exercise_id, exercises()[exercise_id].right)
    assert found.state == "right" and found, found


@pytest.mark.parametrize("exercise_id", IDS)
def test_every_exercise_has_at_least_three_known_wrong_answers(exercise_id: str) -> None:
    assert len(WRONG[exercise_id]) >= 3


@pytest.mark.parametrize(("exercise_id", "n"), CASES)
def test_a_known_wrong_answer_is_told_what_is_wrong(exercise_id: str, n: int) -> None:
    answer, sentence = WRONG[exercise_id][n]
    found = check(exercise_id, answer)
    assert found.state == "wrong" and not found
    assert sentence in found.message
    assert f'hint("{exercise_id}", 1)' in found.next


@pytest.mark.parametrize("exercise_id", IDS)
def test_wrong_answers_of_one_exercise_get_different_sentences(exercise_id: str) -> None:
    said = {check(exercise_id, answer).message for answer, _ in WRONG[exercise_id]}
    assert len(said) == len(WRONG[exercise_id])


def test_hardly_a_known_mistake_hears_the_largest_difference_alone() -> None:
    said = [check(i, WRONG[i][n][0]).message for i, n in CASES]
    assert sum("The largest difference is" in message for message in said) <= 3 < len(said)


def test_a_list_of_tensors_is_taken_for_a_tensor_everywhere() -> None:
    reference = exercises()["02.mapper"].right
    assert check("02.mapper", lambda *given: list(reference(*given)))
    reweight = exercises()["04.reweight"].right
    assert check("04.reweight", lambda *given: [list(head) for head in reweight(*given)])


def stub_raise(*args: Any) -> Any:
    raise NotImplementedError("your turn")


STUBS = [stub_raise, lambda *args: None, lambda *args: ..., None, ...]


@pytest.mark.parametrize("exercise_id", IDS)
@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_counts_as_not_attempted(exercise_id: str, stub: Any) -> None:
    found = check(exercise_id, stub)
    assert found.state == "not attempted" and not found
    assert exercises()[exercise_id].signature in found.message


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_shown_solution_runs_in_an_empty_notebook_and_is_right(exercise_id: str) -> None:
    space: dict[str, Any] = {}
    exec(solution(exercise_id).text, space)
    assert check(exercise_id, space[exercises()[exercise_id].right.__name__])


@pytest.mark.parametrize("exercise_id", IDS)
def test_the_hints_differ_and_each_leads_on_to_the_next_and_the_last_to_the_solution(
    exercise_id: str,
) -> None:
    most = len(exercises()[exercise_id].hints)
    notes = [hint(exercise_id, n + 1) for n in range(most)]
    assert most in (2, 3) and len({note.text for note in notes}) == most
    assert min(len(note.text) for note in notes) > 20
    for n, note in enumerate(notes[:-1]):
        assert f'hint("{exercise_id}", {n + 2})' in note.next
    assert f'solution("{exercise_id}")' in notes[-1].next


def test_progress_counts_an_exercise_once_it_is_right_and_names_the_next_one() -> None:
    asking._solved.clear()
    first, second = (one for one in exercises().values() if one.id.startswith("00b."))
    wanted = f"□□ 0 of 2 exercises solved. Next: {first.id}, {first.title} ({first.effort})."
    assert repr(progress("00b")) == wanted
    check(first.id, lambda *given: None), check(first.id, lambda clean, *rest: clean)
    assert repr(progress("00b")) == wanted
    check(first.id, first.right), check(first.id, first.right)
    assert repr(progress("00b")).startswith(f"■□ 1 of 2 exercises solved. Next: {second.id}, ")
    check(second.id, second.right)
    assert repr(progress("00b")) == "■■ 2 of 2 exercises solved."
    assert (progress().solved, progress().asked) == (2, len(IDS))
    asking._solved.clear()


def test_progress_of_a_lesson_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="There are: 00, 00b, 01"):
        progress("99")


def test_a_processor_may_be_a_class_too() -> None:
    class Processor:
        def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None) -> Any:
            return exercises()["01.processor"].right(attn, hidden_states, encoder_hidden_states)

    class Blank:
        def __call__(self, attn: Any, *args: Any) -> Any:
            raise NotImplementedError

    assert check("01.processor", Processor)
    assert check("01.processor", Processor())
    assert check("01.processor", Blank).state == "not attempted"


def test_numpy_and_nested_lists_are_answers_too() -> None:
    reference = exercises()["02.mapper"].right
    assert check("02.mapper", lambda *given: reference(*given).numpy())
    assert check("02.mapper", lambda *given: reference(*given).tolist())


def test_an_exception_is_told_with_its_line() -> None:
    def answer(source: Any, target: Any, mapper: Any, inside: bool) -> Any:
        nothing = {}
        return nothing["mapper"]

    said = check("02.swap", answer).message
    assert said == "It raised KeyError: 'mapper', in line 3 of your function."


def test_an_answer_that_changes_its_arguments_is_told_so() -> None:
    def answer(source: Any, target: Any, partner: Any) -> Any:
        for j, i in enumerate(partner):
            if i is not None:
                target[..., j] = source[..., i]
        return target

    assert "in place" in check("03.refine", answer).message


def test_numbers_that_are_not_finite_are_named() -> None:
    assert "not finite" in check("04.reweight", lambda p, i, c: p * float("nan")).message


def test_a_value_in_place_of_the_function_is_refused_in_a_sentence() -> None:
    assert "without brackets" in check("02.mapper", torch.eye(3)).message
    assert "without brackets" in check("02.mapper", "mapper").message


def test_an_unknown_exercise_names_the_nearest_one() -> None:
    with pytest.raises(KeyError, match="Did you mean '02.mapper'"):
        check("02.maper", None)
    with pytest.raises(KeyError, match="There are: 00.words"):
        solution("zzz")
    with pytest.raises(ValueError, match="hints 1 to 2"):
        hint("02.mapper", 3)


def test_the_text_is_the_same_every_time() -> None:
    for answer, _ in WRONG["02.mapper"]:
        assert repr(check("02.mapper", answer)) == repr(check("02.mapper", answer))
    text = repr(check("02.mapper", None))
    assert text.splitlines()[0] == "02.mapper: not attempted. The word-to-word mapper"
    assert "0x" not in repr(check("02.mapper", lambda *given: object()))


def test_the_card_says_its_state_in_words_and_escapes_the_rest() -> None:
    card = Feedback("x", "<b>title</b>", "wrong", "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in card and "&lt;script&gt;" in card and "<b>" not in card
    assert "x: wrong" in card and 'role="status"' in card
    code = solution("02.window")._repr_html_()
    assert "<pre" in code and "range(round" in code and "-&gt;" in code


def test_the_mapper_and_the_window_of_the_exercises_are_those_of_the_package() -> None:
    words = tiny_tokenizer()
    source = tokens.Prompt.of("a cat on the snowy grass", words)
    target = tokens.Prompt.of("a caramel on the red grass", words)
    found = exercises()["02.mapper"].right(source.spans, target.spans, len(source))
    ours = tokens.align_words(source, target)
    columns = slice(1, target.end - 1)
    assert torch.equal(found[:, columns].double(), ours.mapper[:, columns].float().double())
    plan = edits.compile_edits([edits.Replace(cross=(0.2, 0.7))], source, target, 10)
    taken = plan.source_gain.any(dim=1).nonzero().flatten().tolist()
    assert taken == list(exercises()["02.window"].right((0.2, 0.7), 10))


def test_the_fader_on_a_refinement_has_the_gains_of_the_compiled_plan() -> None:
    words = tiny_tokenizer()
    source = tokens.Prompt.of("a cat on grass", words)
    target = tokens.Prompt.of("a cat with a red hat on grass", words)
    how = [edits.Refine(cross=(0, 0.6)), edits.Reweight("cat", 2.0)]
    plan = edits.compile_edits(how, source, target, 5)
    matched = tokens.align_tokens(source, target).matched
    inside = torch.arange(5) < 3
    gains = exercises()["04.compose"].right(matched, inside, target.tokens_of("cat"), 2.0)
    assert torch.equal(gains[0].double(), plan.source_gain)
    assert torch.equal(gains[1].double(), plan.target_gain)
