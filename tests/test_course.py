"""Laws of the course kit: what is asked, what it is worth, and that grading cannot be talked over.

The whole round trip, every wrong answer through nbgrader, is `make course-test`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

import course
from p2p_lab import checks
from p2p_lab.checks import NotRight, check, grade, hint, questions, seed_of, solution
from tests.course_answers import WRONG
from tests.course_rounds import Course, failing_cells, graded_cells, id_of, lost, with_answer

QUESTIONS = list(questions())
QUICK = [i for i in QUESTIONS if i not in ("ps2.scene", "ps3.edits", "ps4.retrace")]


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
def test_only_the_hidden_cells_hide_tests_and_each_asks_its_question(name: str) -> None:
    for cell in source(name).cells:
        hides = "### BEGIN HIDDEN TESTS" in cell.source
        assert hides == id_of(cell).endswith("-hidden")
        if id_of(cell) in graded_cells(source(name)):
            assert f'grade("{name}.{id_of(cell).split("-")[0]}", ' in cell.source
        assert not cell.get("outputs")


@pytest.mark.parametrize("name", ["ps1", "ps2"])
def test_the_model_answers_pass_every_test(name: str) -> None:
    assert failing_cells(source(name)) == []


@pytest.mark.parametrize("name", ["ps3", "ps4"])
def test_the_model_answers_pass_every_test_that_needs_no_sampling(name: str) -> None:
    assert failing_cells(source(name), skip=("edits", "retrace")) == []


@pytest.mark.parametrize("name", course.SETS)
def test_there_are_five_known_wrong_answers_and_each_costs_points(name: str) -> None:
    assert len(WRONG[name]) == 5
    assert all(wrong.lost >= 3 for wrong in WRONG[name])
    assert len({wrong.name for wrong in WRONG[name]}) == 5


CASES = [(name, n) for name in ("ps1", "ps2") for n in range(5)]


@pytest.mark.parametrize(("name", "n"), CASES)
def test_a_wrong_answer_loses_exactly_the_points_that_it_should(name: str, n: int) -> None:
    wrong = WRONG[name][n]
    assert set(failing_cells(with_answer(source(name), wrong))) == set(wrong.fails)


@pytest.mark.parametrize("question_id", QUESTIONS)
def test_a_question_has_two_hints_and_keeps_its_solution_to_itself(question_id: str) -> None:
    assert hint(question_id).text != hint(question_id, 2).text
    with pytest.raises(ValueError, match="your teacher's"):
        solution(question_id)


def stub(*args: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("question_id", QUICK)
@pytest.mark.parametrize("answer", [stub, None, ..., lambda *args: None])
def test_a_blank_answer_is_not_attempted_and_fails_its_cell(question_id: str, answer: Any) -> None:
    assert check(question_id, answer).state == "not attempted"
    with pytest.raises(NotRight, match="not attempted"):
        grade(question_id, answer, "ada", easy=True)


@pytest.mark.parametrize("question_id", QUICK)
def test_the_control_of_a_question_is_wrong(question_id: str) -> None:
    assert check(question_id, questions()[question_id].control).state == "wrong"


def right_mapper(source: Any, target: Any, length: int) -> Any:
    mapper = torch.zeros(length, length)
    for (a, b), (c, d) in zip(source, target, strict=True):
        if b - a == d - c:
            mapper[range(a, b), range(c, d)] = 1
        else:
            mapper[a:b, c:d] = 1 / (d - c)
    return mapper


def test_comparisons_that_were_talked_over_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    grade("ps1.swap_mapper", right_mapper, "ada")
    monkeypatch.setattr(torch, "allclose", lambda *args, **more: True)
    with pytest.raises(NotRight, match="let a known wrong answer pass"):
        grade("ps1.swap_mapper", right_mapper, "ada")


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
        seen.setdefault("ada", right_mapper(source, target, length))
        return right_mapper(source, target, length)

    grade("ps1.swap_mapper", answer, "ada", easy=True)
    with pytest.raises(NotRight):
        grade("ps1.swap_mapper", lambda *given: seen["ada"], "bob")


def test_a_warning_costs_no_points(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def answer(source: Any, target: Any, length: int) -> Any:
        warnings.warn("a warning", stacklevel=1)
        print("a note", file=sys.stderr)
        return right_mapper(source, target, length)

    grade("ps1.swap_mapper", answer, "ada")
    assert capsys.readouterr().err == ""


def test_the_sources_and_the_rubric_name_the_same_problem_sets() -> None:
    rubric = (course.KIT / "RUBRIC.md").read_text(encoding="utf-8")
    for name in course.SETS:
        assert re.search(rf"^## {name} ", rubric, re.M)


def test_a_released_solution_would_be_found(tmp_path: Path) -> None:
    for name in course.SETS:
        assert len(list(course.secrets(name))) > 20
        path = tmp_path / "release" / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(course.solved(name), path)
    assert len(course.leaks(tmp_path)) > 80


@pytest.mark.slow
def test_nbgrader_restores_what_was_deleted_and_trusts_only_the_package(tmp_path: Path) -> None:
    kit = Course(tmp_path / "course")
    kit.release("ps1")
    assert course.leaks(kit.folder) == []
    full = graded_cells(source("ps1"))

    half = kit.handed("ps1")
    gone = ("setup", "words-own", "swap_mapper-hidden")
    half.cells = [cell for cell in half.cells if id_of(cell) not in gone]
    renamed = next(cell for cell in half.cells if id_of(cell) == "refine_mapper")
    renamed.source = renamed.source.replace("def refine_mapper", "def my_mapper")
    kit.submit("ps1", "ada", half)

    cheat = kit.released("ps1")
    cheat.cells.insert(4, nbformat.v4.new_code_cell(CHEAT))
    kit.submit("ps1", "bob", cheat)

    done = kit.grade("ps1", "--GuardedExecute.timeout=240")  # other tests may run beside this
    assert done.returncode == 0, done.stderr[-3000:]
    refined = {f"{q}-{part}" for q in ("refine_mapper", "prompts")
               for part in ("easy", "own", "hidden")}  # fmt: skip
    assert lost(kit.points("ps1", "ada"), full) == refined
    assert lost(kit.points("ps1", "bob"), full) == set(full)


def test_after_the_seal_all_checks_are_of_one_make() -> None:
    guards = (course.KIT / "guards.py").read_text(encoding="utf-8")
    seal = guards.split('SEAL = """')[1].split('"""')[0].format(student="ada")
    code = """
import p2p_lab.checks.looks as old
import p2p_lab.checks
p2p_lab.checks.questions()
grade = lambda *args, **more: True
exec({seal!r})
from p2p_lab.checks import looks, ps2
from p2p_lab.scenes import render
assert looks is not old and ps2.draw_scenes is looks.draw_scenes
assert grade is p2p_lab.checks.grade and STUDENT == "ada"
render(looks.draw_scenes(1, 1)[0])
"""
    command = [sys.executable, "-c", code.replace("{seal!r}", repr(seal))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=course.ROOT)
    assert done.returncode == 0, done.stderr


CHEAT = """
import sys
import p2p_lab.checks

check = grade = lambda *args, **more: True
for name, module in list(sys.modules.items()):
    if name.startswith("p2p_lab.checks"):
        for old in ("check", "grade", "verdict", "agree", "find_question"):
            if hasattr(module, old):
                setattr(module, old, lambda *args, **more: True)
"""


def test_the_room_hands_out_what_the_problem_sets_import() -> None:
    assert {"check", "grade", "hint", "seed_of", "questions"} <= set(checks.__all__)
