"""The whole round trip of the course kit through nbgrader: `make course-test`.

Twelve students of problem set 1 and two more, the model answers of all sets, feedback and export.
It prints how long a submission takes, and what a class of 30 would.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import course
import grade_table
from p2p_lab.checks import questions, seed_of
from tests.course_rounds import SECRET, Course, cell_of, graded_cells, id_of, lost
from tests.course_students import STUDENTS, Student

CLASS = 30
LIMIT_MINUTES = 20
QUESTION_SECONDS = 15


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """A course in which all problem sets are released."""
    made = Course(tmp_path_factory.mktemp("round-trip") / "course")
    made.release(*course.SETS)
    yield made


def full(name: str) -> dict[str, int]:
    return graded_cells(nbformat.read(course.source_of(name), as_version=4))


def handed(kit: Course, who: str, student: Student) -> Any:
    if who != "hard-coded":
        return kit.of("ps1", who, student)
    text = student.answers["shares"].replace("{table}", _visible(who))
    return kit.of("ps1", who, Student({"shares": text}))


def _visible(who: str) -> str:
    """Return all values that a student can see to be right, as a table."""
    table: dict[str, Any] = {}
    question = questions()["ps1.shares"]

    def answer(source: Any, target: Any, length: int) -> Any:
        value = question.right(source, target, length)
        table[repr((source, target))] = value.tolist()
        return value

    seed = seed_of(who, question.id)
    free = dataclasses.replace(question, rules=None)
    for easy in (True, False):
        free.judge(answer, seed, easy)
    return repr(table)


@pytest.fixture(scope="module")
def graded(kit: Course) -> Course:
    """The course after grading problem set 1 of all students."""
    for who, student in STUDENTS.items():
        notebook = handed(kit, who, student)
        if who == "perfect":
            notebook = without(notebook, "words-easy", "words-hidden", "setup", "shares-own")
        if who == "half":
            cell_of(notebook, "words-hidden").source = "pass"
            cell_of(notebook, "words-own").metadata.nbgrader["points"] = 100
        kit.submit("ps1", who, notebook)
    done = kit.grade("ps1", f"--GuardedExecute.question_seconds={QUESTION_SECONDS}")
    each = kit.seconds["ps1"] / len(STUDENTS)
    print(f"\nps1: {each:.1f} CPU s a submission, {CLASS * each / 60:.1f} min for {CLASS}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert CLASS * each < LIMIT_MINUTES * 60
    return kit


def without(notebook: Any, *names: str) -> Any:
    changed = copy.deepcopy(notebook)
    changed.cells = [cell for cell in changed.cells if id_of(cell) not in names]
    return changed


def test_nothing_secret_is_released(kit: Course) -> None:
    assert course.leaks(kit.folder) == []


@pytest.mark.parametrize("who", STUDENTS)
def test_a_student_earns_exactly_what_the_answers_are_worth(graded: Course, who: str) -> None:
    assert lost(graded.points("ps1", who), full("ps1")) == set(STUDENTS[who].fails)


def test_a_loop_is_told_as_timed_out_and_costs_its_own_question(graded: Course) -> None:
    assert "timed out" in graded.told("ps1", "loop-first", "words-easy")
    assert "timed out" in graded.told("ps1", "loop-last", "prompts-hidden")
    assert "right" in graded.told("ps1", "loop-first", "alignment-easy")


def test_who_lets_a_library_do_the_work_is_told_so(graded: Course) -> None:
    assert "p2p_lab.tokens.alignment.align_tokens do the work" in graded.told(
        "ps1", "imported", "prompts-own"
    )


def test_the_secret_and_the_right_answers_reach_no_student(graded: Course) -> None:
    pages = list((graded.folder / "autograded").rglob("*.ipynb"))
    assert len(pages) == len(STUDENTS)
    for page in pages:
        assert SECRET not in page.read_text(encoding="utf-8")
    assert "not read while a problem set is graded" not in graded.told(
        "ps1", "perfect", "words-own"
    )


def test_an_honest_hand_in_raises_no_warning_and_a_changed_one_does(graded: Course) -> None:
    said = graded.said["ps1"]
    assert "cell words-hidden has changed" in said  # half rewrote it
    assert said.count("checksum") == 1
    assert "wrong-id's notebook says STUDENT = 'perfect'" in said


def test_feedback_comes_out_and_holds_no_secret(graded: Course) -> None:
    done = course.nbgrader(graded.folder, "generate_feedback", "ps1", "--force")
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((graded.folder / "feedback").rglob("*.html"))
    assert len(pages) == len(STUDENTS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert SECRET not in text and "salt=" not in text
    half = graded.folder / "feedback" / "half" / "ps1" / "ps1.html"
    assert "the rows do" in half.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", grade_table.FORMS)
def test_a_table_has_a_column_a_question(graded: Course, form: str, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    assert course.main(["table", str(graded.folder.parent), "ps1", "--form", form,
                        "--to", str(target)]) == 0  # fmt: skip
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert "ps1.words" in rows[0] and "ps1.written" in rows[0]
    line = next(row for row in rows if "loop-first" in row)
    assert line[rows[0].index("ps1.words")] == "0"
    assert line[rows[0].index("ps1.alignment")] == "4"
    assert len({len(row) for row in rows}) == 1


def test_zip_files_from_a_learning_platform_are_collected(graded: Course) -> None:
    downloaded = graded.folder / "downloaded" / "ps2" / "archive"
    downloaded.mkdir(parents=True)
    for name in ("zoe_ps2_attempt_2026-01-31-15-30-10_ps2.ipynb", "yan_12345_678_ps2-1.ipynb"):
        nbformat.write(graded.handed("ps2"), downloaded / name)
    done = course.nbgrader(graded.folder, "zip_collect", "ps2", "--force")
    assert done.returncode == 0, done.stderr[-3000:]
    for student in ("zoe", "yan"):
        assert (graded.folder / "submitted" / student / "ps2" / "ps2.ipynb").exists()


@pytest.mark.parametrize("name", ["ps2", "ps3", "ps4"])
def test_the_model_answers_earn_everything_in_every_set(kit: Course, name: str) -> None:
    kit.submit(name, "perfect", kit.handed(name))
    done = kit.grade(name, "--student=perfect")
    print(f"\n{name}: {kit.seconds[name]:.1f} CPU s for one submission and the judge's start")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "has changed" not in done.stderr
    assert lost(kit.points(name, "perfect"), full(name)) == set()
    assert kit.points(name, "perfect")["written"] is None
