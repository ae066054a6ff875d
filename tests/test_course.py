"""Laws of the course kit: what is asked, what it is worth, and that grading cannot be talked over.

The whole round trip, every wrong answer through nbgrader, is `make course-test`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor

import course
import grade_table
from p2p_lab.checks import (
    NotRight,
    allow_hints,
    check,
    grade,
    hint,
    questions,
    seed_of,
    solution,
)
from p2p_lab.checks.engine.exercise import Wrong
from tests.course_rounds import Course, failing_cells, graded_cells, id_of, lost
from tests.course_students import PATCHES, cells

QUESTIONS = list(questions())
SLOW = ("ps2.scene", "ps3.edits", "ps4.retrace")
QUICK = [i for i in QUESTIONS if i not in SLOW]
SEEDS = 6


def source(name: str) -> Any:
    return nbformat.read(course.source_of(name), as_version=4)


@pytest.mark.parametrize("name", course.SETS)
def test_each_question_has_a_stub_and_three_test_cells_and_one_answer_is_written(name: str) -> None:
    notebook = source(name)
    asked = [i.split(".")[1] for i in QUESTIONS if i.startswith(name)]
    assert len(asked) == 5
    points = {f"{q}-{part}": n for q in asked
              for part, n in (("easy", 1), ("own", 1), ("hidden", 2))}  # fmt: skip
    assert graded_cells(notebook) == points and sum(points.values()) == 20
    manual = [c for c in notebook.cells if c.cell_type == "markdown" and id_of(c)]
    assert [(id_of(c), c.metadata.nbgrader.points) for c in manual] == [("written", 4)]
    stubs = {id_of(c) for c in notebook.cells if "### BEGIN SOLUTION" in c.source}
    assert stubs == set(asked)


@pytest.mark.parametrize("name", course.SETS)
def test_a_test_cell_is_one_call_and_hides_nothing(name: str) -> None:
    for cell in source(name).cells:
        assert "HIDDEN TESTS" not in cell.source and "salt" not in cell.source
        if id_of(cell) in graded_cells(source(name)):
            question, part = id_of(cell).rsplit("-", 1)
            assert cell.source.startswith(f'grade("{name}.{question}", ')
            assert ("hidden=True" in cell.source) == (part == "hidden")
            assert ("easy=True" in cell.source) == (part == "easy")
        assert not cell.get("outputs")


@pytest.mark.parametrize("name", ["ps1", "ps2"])
def test_the_model_answers_pass_every_test(name: str) -> None:
    assert failing_cells(source(name)) == []


@pytest.mark.parametrize("name", ["ps3", "ps4"])
def test_the_model_answers_pass_every_test_that_needs_no_sampling(name: str) -> None:
    assert failing_cells(source(name), skip=("edits", "retrace")) == []


# Mistakes ---------------------------------------------------------------------------------------


def free(question_id: str) -> Any:
    """Return a question that lets its own answers, which lie in the package, be called."""
    return dataclasses.replace(questions()[question_id], rules=None)


def verdict(question: Any, answer: Any, seed: int, easy: bool) -> str:
    try:
        question.judge(answer, seed, easy)
    except Wrong as error:
        return str(error)
    return "right"


@pytest.mark.parametrize("question_id", QUESTIONS)
def test_a_question_names_its_mistakes_and_each_has_a_sentence_of_its_own(question_id: str) -> None:
    said = [mistake.sentence for mistake in questions()[question_id].mistakes]
    assert len(said) >= 4 and len(set(said)) == len(said)
    assert not any("largest difference" in sentence for sentence in said)


@pytest.mark.parametrize("question_id", QUICK)
def test_the_right_answer_is_right_for_every_seed(question_id: str) -> None:
    question = free(question_id)
    for seed in range(SEEDS):
        for easy in (True, False):
            assert verdict(question, question.right, seed, easy) == "right"


@pytest.mark.parametrize("question_id", QUICK)
def test_every_named_mistake_is_refused_for_every_seed(question_id: str) -> None:
    question = free(question_id)
    for seed in range(SEEDS):
        for mistake in question.mistakes:
            assert verdict(question, mistake.answer, seed, False) != "right", mistake.sentence


@pytest.mark.parametrize("question_id", QUICK)
def test_a_mistake_costs_everybody_the_same(question_id: str) -> None:
    question = free(question_id)
    for seed in range(SEEDS):
        for mistake in question.mistakes:
            passed = verdict(question, mistake.answer, seed, True) == "right"
            assert passed != mistake.easy, mistake.sentence


LESSONS_ANSWER = {
    "ps1.alignment": "as in lesson 03",
    "ps1.shares": "as in lesson 02",
    "ps2.probs": "The mask is not used",
    "ps2.processor": "The gain is not used",
    "ps3.refine": "The strength is not used",
    "ps3.reweight": "The scale of step 0",
    "ps4.inverse": "as in lesson 05",
}


@pytest.mark.parametrize("question_id", LESSONS_ANSWER)
def test_a_lessons_solution_earns_what_the_page_on_practice_says(question_id: str) -> None:
    made = [
        m for m in questions()[question_id].mistakes if LESSONS_ANSWER[question_id] in m.sentence
    ]
    page = (course.KIT / "PRACTICE.md").read_text(encoding="utf-8")
    line = next(one for one in page.splitlines() if one.startswith(f"| {question_id} "))
    assert len(made) == 1
    assert line.split("|")[-2].strip() == ("nothing" if made[0].easy else "the easy point")


def test_the_page_on_practice_names_every_question() -> None:
    page = (course.KIT / "PRACTICE.md").read_text(encoding="utf-8")
    assert list(re.findall(r"^\| (ps\d\.\w+) ", page, re.M)) == QUESTIONS


@pytest.mark.parametrize("question_id", [i for i in QUICK if i != "ps2.recorder"])
def test_a_mistake_is_told_its_own_sentence(question_id: str) -> None:
    question = free(question_id)
    for mistake in question.mistakes:
        said = [verdict(question, mistake.answer, seed, False) for seed in range(4)]
        assert said.count(mistake.sentence) >= 3, (mistake.sentence, said)


def test_a_recorder_is_told_how_many_maps_were_expected() -> None:
    question = free("ps2.recorder")
    said = [verdict(question, mistake.answer, 1, False) for mistake in question.mistakes]
    assert sum("Append one for each cross-attention call" in sentence for sentence in said) == 3


# Hints, hand-ins, tables ------------------------------------------------------------------------


def stub(*args: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("question_id", QUICK)
@pytest.mark.parametrize("answer", [stub, None, ..., lambda *args: None])
def test_a_blank_answer_is_not_attempted_and_fails_its_cell(question_id: str, answer: Any) -> None:
    assert check(question_id, answer).state == "not attempted"
    with pytest.raises(NotRight, match="not attempted"):
        grade(question_id, answer, "ada", easy=True)


@pytest.mark.parametrize("question_id", QUESTIONS)
def test_a_question_has_a_ladder_of_three_hints_and_keeps_its_solution_to_itself(
    question_id: str,
) -> None:
    notes = [hint(question_id, n) for n in (1, 2, 3)]
    assert len({note.text for note in notes}) == 3
    assert [note.next for note in notes] == [
        f'Next: hint("{question_id}", 2)', f'Next: hint("{question_id}", 3)', ""]  # fmt: skip
    with pytest.raises(ValueError, match="your teacher's"):
        solution(question_id)


@pytest.mark.parametrize("question_id", QUESTIONS)
def test_no_hint_is_a_line_of_the_model_answer(question_id: str) -> None:
    name, cell = question_id.split(".")
    stub_of = next(c.source for c in source(name).cells if id_of(c) == cell)
    (answer,) = course.REGION.findall(stub_of)
    parts = [line.strip() for line in answer.splitlines() if len(line.strip()) > 12]
    for n in (1, 2, 3):
        assert not any(part in hint(question_id, n).text for part in parts)


def test_a_course_may_allow_fewer_hints() -> None:
    try:
        allow_hints(1)
        assert hint("ps1.words").next == "" and "of 1" in hint("ps1.words").title
        with pytest.raises(ValueError, match="allows 1 hint"):
            hint("ps1.words", 2)
        assert hint("02.mapper", 2)  # lessons keep theirs
    finally:
        allow_hints(3)
    with pytest.raises(ValueError, match="0, 1, 2 or 3"):
        allow_hints(4)


def test_hints_in_a_hand_in_are_counted_once_each() -> None:
    new = nbformat.v4.new_notebook
    notebook = new(cells=[nbformat.v4.new_code_cell('hint("ps1.words")\nhint("ps1.words", 1)'),
                          nbformat.v4.new_code_cell("hint('ps1.shares', 3)")])  # fmt: skip
    assert course.hints_in(notebook) == ["ps1.shares 3", "ps1.words 1"]


def test_a_table_for_canvas_and_moodle_has_a_column_a_question() -> None:
    rows = (grade_table.Row("ada", "Lovelace, Ada", {"words": 3.0, "written": None}),)
    table = grade_table.Table("ps1", {"words": 4.0, "written": 4.0}, rows)
    assert grade_table.lines(table, "plain") == [
        ["student", "ps1.words", "ps1.written", "ps1 total"], ["ada", "3", "", "3"]]  # fmt: skip
    canvas = grade_table.lines(table, "canvas")
    assert canvas[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert canvas[1] == ["    Points Possible", "", "", "", "", "4", "4"]
    assert canvas[2] == ["Lovelace, Ada", "", "", "ada", "", "3", ""]
    assert grade_table.lines(table, "moodle")[0] == ["ID number", "ps1.words", "ps1.written"]


def test_a_hidden_test_does_nothing_where_no_teacher_grades(
    capsys: pytest.CaptureFixture[str],
) -> None:
    grade("ps1.words", None, "ada", hidden=True)
    assert "when your teacher grades" in capsys.readouterr().out


def right_shares(source: Any, target: Any, length: int) -> Any:
    found = torch.zeros(length, length)
    for (a, b), (c, d) in zip(source, target, strict=True):
        found[a:b, c:d] = torch.eye(b - a) if b - a == d - c else 1 / (d - c)
    return found


def test_a_student_has_inputs_of_their_own_and_always_the_same() -> None:
    assert seed_of("Ada ", "ps1.words") == seed_of("ada", "ps1.words")
    seeds = {seed_of(student, what, salt) for student in ("ada", "bob") for what in QUESTIONS
             for salt in ("", "lighthouse")}  # fmt: skip
    assert len(seeds) == 4 * len(QUESTIONS)
    asked: list[list[Any]] = []
    for student in ("ada", "bob", "ada"):
        asked.append([])
        with pytest.raises(NotRight):
            grade("ps1.words", lambda text, offsets: asked[-1].append(text) or [], student)
    assert asked[0] == asked[2] != asked[1]


def test_numbers_copied_from_another_student_are_wrong() -> None:
    seen: dict[str, Any] = {}

    def answer(source: Any, target: Any, length: int) -> Any:
        seen[repr((source, target))] = right_shares(source, target, length)
        return right_shares(source, target, length)

    grade("ps1.shares", answer, "ada")
    with pytest.raises(NotRight):
        grade("ps1.shares", lambda *given: seen[repr(given[:2])], "bob")


def test_a_warning_costs_no_points(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def answer(source: Any, target: Any, length: int) -> Any:
        warnings.warn("a warning", stacklevel=1)
        print("a note", file=sys.stderr)
        return right_shares(source, target, length)

    grade("ps1.shares", answer, "ada")
    assert capsys.readouterr().err == ""


def test_the_sources_and_the_rubric_name_the_same_problem_sets() -> None:
    rubric = (course.KIT / "RUBRIC.md").read_text(encoding="utf-8")
    for name in course.SETS:
        assert re.search(rf"^## {name} ", rubric, re.M)


def losses_of(students: Sequence[str]) -> Tensor:
    """Return what ps4's last cell prints for each scene of some students: three numbers of dB."""
    notebook, names = source("ps4"), {}
    for cell in notebook.cells[3:]:  # the cell before holds the student's id
        if id_of(cell) in ("setup", "inverse", "loop", "retrace"):
            exec(cell.source, names)
    shown = next(cell.source for cell in notebook.cells if id_of(cell) == "written-data")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for student in students:
            exec(shown, names | {"STUDENT": student})
    rows = re.findall(r"(\d+\.\d) dB.*?(\d+\.\d) dB.*?(\d+\.\d) dB", printed.getvalue())
    return torch.tensor([[float(number) for number in row] for row in rows])


def test_the_losses_that_the_rubric_quotes_are_those_of_the_bundled_model() -> None:
    means = losses_of(["ada", "emmy", "grace"]).mean(0)
    lost = -means.diff()
    assert (lost > 1).all()  # there are two losses, and both are real
    rubric = (course.ROOT / "assignments" / "RUBRIC.md").read_text(encoding="utf-8")
    for text in (rubric, course.source_of("ps4").read_text(encoding="utf-8")):
        found = re.search(r"we measured (?:means of )?([\d.]+), ([\d.]+) and ([\d.]+) dB", text)
        assert found and [float(n) for n in found.groups()] == pytest.approx(means, abs=0.15)
    found = re.search(r"([\d.]+) dB are lost without guidance, ([\d.]+) dB\smore", rubric)
    assert found and [float(n) for n in found.groups()] == pytest.approx(lost, abs=0.2)


def test_each_plan_belongs_to_a_lesson_and_has_ninety_minutes_and_three_answers() -> None:
    plans = (course.KIT / "PLANS.md").read_text(encoding="utf-8").split("\n## ")[1:]
    lessons = sorted((course.ROOT / "notebooks").glob("*.ipynb"))
    assert [plan.split()[0] for plan in plans] == [one.name.split("_")[0] for one in lessons]
    for plan in plans:
        minutes = [tuple(map(int, m)) for m in re.findall(r"^\| (\d+)–(\d+) \|", plan, re.M)]
        assert minutes[0][0] == 0 and minutes[-1][1] == 90
        assert all(a[1] == b[0] for a, b in zip(minutes, minutes[1:], strict=False))
        assert len(re.findall(r"^\d\. \*.+?\*", plan, re.M | re.S)) >= 3


def test_the_concept_test_has_twelve_questions_and_a_key() -> None:
    asked, key = (course.KIT / "CONCEPTS.md").read_text(encoding="utf-8").split("## Key")
    assert re.findall(r"^(\d+)\. ", asked, re.M) == [str(n) for n in range(1, 13)]
    right = dict(re.findall(r"^\| (\d+) \| ([a-d]) \|", key, re.M))
    assert list(right) == [str(n) for n in range(1, 13)]


def test_what_students_get_holds_the_pages_for_students(tmp_path: Path) -> None:
    course.pack(tmp_path, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        names = archive.namelist()
        assert "problem-sets/SYLLABUS.md" in names and "problem-sets/HONESTY.md" in names


def test_a_released_solution_or_secret_would_be_found(tmp_path: Path) -> None:
    course.start_course(tmp_path, "a phrase of ours")
    for name in course.SETS:
        assert len(list(course.hidden_lines(name))) > 15
        path = tmp_path / "release" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        notebook = course.solved(name)
        notebook.cells[0].source += "a phrase of ours"
        nbformat.write(notebook, path)
    found = course.leaks(tmp_path)
    assert len(found) > 60 and sum("secret" in line for line in found) == len(course.SETS)


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    course.start_course(tmp_path)
    first = (tmp_path / "secret.txt").read_text(encoding="utf-8")
    course.start_course(tmp_path)
    assert (tmp_path / "secret.txt").read_text(encoding="utf-8") == first
    assert len(first.strip()) == 32


@pytest.mark.parametrize(
    "words", [["hints"], ["grade"], ["table", "--to", "points.csv"], ["leaks"]]
)
def test_a_folder_without_a_course_is_one_sentence_and_exit_code_2(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *options = words
    name = [] if verb == "leaks" else ["ps1"]
    folder = tmp_path / "nosuch"
    assert course.main([verb, str(folder), *name, *options]) == 2
    said = capsys.readouterr().err
    assert f"There is no course in {folder}" in said and "build" in said and said.count("\n") == 1
    assert not folder.exists()


def test_hints_of_a_set_that_nobody_handed_in_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    course.start_course(tmp_path / "course", sets=["ps1"])
    assert course.main(["hints", str(tmp_path), "ps1"]) == 2
    said = capsys.readouterr()
    assert "Nobody handed in ps1" in said.err and said.err.count("\n") == 1 and not said.out


def test_points_that_were_never_graded_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    course.start_course(tmp_path / "course", sets=["ps1"])
    line = ["table", str(tmp_path), "ps1", "--to", str(tmp_path / "points.csv")]
    assert course.main(line) == 2
    said = capsys.readouterr().err
    assert "grade" in said and said.count("\n") == 1
    assert not (tmp_path / "course" / "gradebook.db").exists()


def test_a_course_is_not_built_into_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "afile"
    file.write_text("mine")
    assert course.main(["build", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file} is a file" in said and said.count("\n") == 1 and file.read_text() == "mine"


@pytest.mark.slow
def test_nbgrader_restores_what_was_deleted_and_judges_from_outside(tmp_path: Path) -> None:
    kit = Course(tmp_path / "course")
    kit.release("ps1")
    assert course.leaks(kit.folder) == []
    full = graded_cells(source("ps1"))
    half = kit.handed("ps1", {"refine_mapper": "def my_mapper(partner, length):\n    return None"})
    gone = ("setup", "words-own", "shares-hidden")
    half.cells = [cell for cell in half.cells if id_of(cell) not in gone]
    kit.submit("ps1", "ada", half)
    cheat = kit.released("ps1")
    cheat.cells.insert(4, nbformat.v4.new_code_cell(PATCHES))
    kit.submit("ps1", "bob", cheat)
    done = kit.grade("ps1", "--GuardedExecute.question_seconds=240")  # others may run beside this
    assert done.returncode == 0, done.stderr[-3000:]
    assert lost(kit.points("ps1", "ada"), full) == cells("refine_mapper", "prompts")
    assert lost(kit.points("ps1", "bob"), full) == set(full)
