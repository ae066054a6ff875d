"""The whole round trip of the course kit through nbgrader: `make course-test`, some minutes.

Every model answer, a blank one, every known wrong answer, and students who try to break the
grading. It prints how long a submission takes, and what a class of 30 would.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import course
from tests.course_answers import WRONG, WrongAnswer
from tests.course_rounds import Course, cell_of, graded_cells, id_of, lost

CLASS = 30
LIMIT_MINUTES = 20


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """A course in which all problem sets are released."""
    made = Course(tmp_path_factory.mktemp("round-trip") / "course")
    made.release(*course.SETS)
    yield made


def full(name: str) -> dict[str, int]:
    return graded_cells(nbformat.read(course.source_of(name), as_version=4))


def test_nothing_secret_is_released(kit: Course) -> None:
    assert course.leaks(kit.folder) == []


@pytest.mark.parametrize("name", course.SETS)
def test_reference_blank_and_wrong_answers_earn_what_they_should(kit: Course, name: str) -> None:
    handed = {"reference": kit.handed(name), "blank": kit.released(name)}
    for n, wrong in enumerate(WRONG[name]):
        handed[f"wrong-{n}"] = kit.handed(name, wrong)
    for student, notebook in handed.items():
        kit.submit(name, student, notebook)
    done = kit.grade(name)
    assert done.returncode == 0, done.stderr[-3000:]
    each = kit.seconds[name] / len(handed)
    print(f"\n{name}: {each:.1f} CPU s a submission, {CLASS * each / 60:.1f} min for {CLASS}")
    assert CLASS * each < LIMIT_MINUTES * 60

    assert lost(kit.points(name, "reference"), full(name)) == set()
    assert kit.points(name, "reference")["written"] is None  # waits for a reader
    blank = kit.points(name, "blank")
    assert set(blank.values()) == {0}
    for n, wrong in enumerate(WRONG[name]):
        assert lost(kit.points(name, f"wrong-{n}"), full(name)) == set(wrong.fails), wrong.name


# Students who break things, all in problem set 1 ------------------------------------------------


def answer(cell: str, text: str) -> WrongAnswer:
    return WrongAnswer("", cell, text, ())


LOOP = """
def words(text, offsets):
    while True:
        pass
"""
DEAF_LOOP = """
def words(text, offsets):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
HUGE = """
def words(text, offsets):
    return torch.ones(10**10).tolist()
"""
DEATH = """
import os
os._exit(1)
"""
PATCHES = """
import sys
import torch

torch.allclose = lambda *args, **more: True
grade = check = lambda *args, **more: True
for name, module in list(sys.modules.items()):
    if name.startswith("p2p_lab.checks") and hasattr(module, "grade"):
        module.grade = lambda *args, **more: True
"""
WORDS = {"words-easy", "words-own", "words-hidden"}


def blank_with(kit: Course, text: str) -> Any:
    notebook = kit.released("ps1")
    notebook.cells.insert(4, nbformat.v4.new_code_cell(text))
    return notebook


def without(notebook: Any, *names: str) -> Any:
    changed = copy.deepcopy(notebook)
    changed.cells = [cell for cell in changed.cells if id_of(cell) not in names]
    return changed


def grade_only(kit: Course, handed: dict[str, Any], *options: str) -> None:
    """Grade these submissions of problem set 1, and no others that lie there."""
    for student in list((kit.folder / "submitted").glob("*")):
        student.rename(kit.folder / f"graded-{student.name}")
    for student, notebook in handed.items():
        kit.submit("ps1", student, notebook)
    done = kit.grade("ps1", *options)
    print(f"\n{len(handed)} who break things: {kit.seconds['ps1']:.0f} s")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def broken(kit: Course) -> Course:
    """The course after grading those who break things."""
    right = kit.handed("ps1")
    renamed = copy.deepcopy(right)
    stub = cell_of(renamed, "words")
    stub.source = stub.source.replace("def words", "def my_words")
    easier = copy.deepcopy(right)
    cell_of(easier, "words-hidden").source = "pass"
    cell_of(easier, "words").source = "words = None"
    cell_of(easier, "words-own").metadata.nbgrader["points"] = 100
    handed = {
        "loop": kit.handed("ps1", answer("words", LOOP)),
        "deaf-loop": kit.handed("ps1", answer("words", DEAF_LOOP)),
        "huge": kit.handed("ps1", answer("words", HUGE)),
        "death": kit.handed("ps1", answer("swap_mapper", DEATH)),
        "renamed": renamed,
        "deleted-tests": without(right, "words-easy", "words-hidden", "setup"),
        "deleted-stub": without(right, "words", "words-easy"),
        "rewritten-tests": easier,
        "patches": blank_with(kit, PATCHES),
    }
    loops = {student: handed.pop(student) for student in ("loop", "deaf-loop")}
    grade_only(kit, loops, "--GuardedExecute.timeout=10")
    grade_only(kit, handed, "--GuardedExecute.timeout=240")
    return kit


@pytest.mark.parametrize("student", ["huge", "renamed", "deleted-stub", "rewritten-tests"])
def test_what_breaks_one_question_costs_that_question(broken: Course, student: str) -> None:
    assert lost(broken.points("ps1", student), full("ps1")) == WORDS


def test_an_endless_loop_ends_the_run_after_three_cells(broken: Course) -> None:
    assert lost(broken.points("ps1", "loop"), full("ps1")) == set(full("ps1"))


def test_a_loop_that_catches_the_interrupt_gets_nothing(broken: Course) -> None:
    assert lost(broken.points("ps1", "deaf-loop"), full("ps1")) == set(full("ps1"))


def test_a_dead_kernel_keeps_what_was_earned_before(broken: Course) -> None:
    kept = {name for name, points in broken.points("ps1", "death").items() if points}
    assert kept == {f"{q}-{part}" for q in ("words", "alignment", "refine_mapper")
                    for part in ("easy", "own", "hidden")}  # fmt: skip


def test_deleted_tests_come_back(broken: Course) -> None:
    assert lost(broken.points("ps1", "deleted-tests"), full("ps1")) == set()


def test_overwritten_checks_earn_nothing(broken: Course) -> None:
    assert lost(broken.points("ps1", "patches"), full("ps1")) == set(full("ps1"))


def test_feedback_and_grades_come_out(broken: Course, tmp_path: Path) -> None:
    done = course.nbgrader(broken.folder, "generate_feedback", "ps1", "--force")
    assert done.returncode == 0, done.stderr[-3000:]
    page = (broken.folder / "feedback" / "renamed" / "ps1" / "ps1.html").read_text("utf-8")
    assert "my_words" in page
    table = tmp_path / "grades.csv"
    done = course.nbgrader(broken.folder, "export", "--to", str(table))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = table.read_text("utf-8")
    assert "renamed" in rows and "ps4" in rows
