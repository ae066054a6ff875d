"""Hand a problem set in, have nbgrader grade it, and read the points: a round trip."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

import course
from tests.course_students import Student

SECRET = "a phrase that stands nowhere else"


def cell_of(notebook: Any, grade_id: str) -> Any:
    """Return the cell of a notebook by its nbgrader id."""
    return next(c for c in notebook.cells if id_of(c) == grade_id)


def id_of(cell: Any) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def graded_cells(notebook: Any) -> dict[str, int]:
    """Return the points of each test cell."""
    found = {}
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("grade") and not about.get("solution"):
            found[about["grade_id"]] = int(about["points"])
    return found


def failing_cells(notebook: Any, student: str = "ada", skip: tuple[str, ...] = ()) -> list[str]:
    """Run a source notebook's answers and tests here, and return the tests that fail."""
    space: dict[str, Any] = {}
    failed = []
    for cell in notebook.cells:
        name = id_of(cell)
        if cell.cell_type != "code" or name == "written-data" or name.startswith(skip or ("\0",)):
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell.source, name or "cell", "exec"), space)
        except Exception:
            failed.append(name)
        if "STUDENT" in space:
            space["STUDENT"] = student
    return failed


def spent_by_children() -> float:
    """Return the processor seconds of all processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


@dataclass
class Course:
    """Hold a course folder in which problem sets were released."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)  # of processor time, by problem set
    said: dict[str, str] = field(default_factory=dict)  # what nbgrader logged, by problem set

    def release(self, *names: str) -> None:
        course.start_course(self.folder, SECRET, sets=names)
        for name in names:
            course.release(self.folder, name)

    def released(self, name: str) -> Any:
        path = self.folder / "release" / name / f"{name}.ipynb"
        return nbformat.read(path, as_version=4)

    def handed(self, name: str, answers: Mapping[str, str] | None = None) -> Any:
        """Return the released notebook, filled in with the model answers or other ones."""
        notebook, model = self.released(name), course.solved(name)
        for cell in notebook.cells:
            about = cell.metadata.get("nbgrader", {})
            if about.get("solution"):
                right = cell_of(model, about["grade_id"]).source
                cell.source = (answers or {}).get(about["grade_id"], right).strip()
        return notebook

    def of(self, name: str, who: str, student: Student) -> Any:
        """Return what a student hands in."""
        notebook = self.released(name) if student.blank else self.handed(name, student.answers)
        if student.before:
            notebook.cells.insert(4, nbformat.v4.new_code_cell(student.before))
        for cell in notebook.cells:
            cell.source = cell.source.replace('"your-id"', repr(student.student_id or who))
        return notebook

    def submit(self, name: str, student: str, notebook: Any) -> None:
        path = self.folder / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)

    def grade(self, name: str, *options: str) -> Any:
        """Autograde all submissions of a problem set; return the finished process."""
        started = spent_by_children()
        done = course.nbgrader(self.folder, "autograde", name, "--force", *options)
        self.seconds[name] = spent_by_children() - started
        self.said[name] = done.stderr
        return done

    def points(self, name: str, student: str) -> dict[str, float | None]:
        """Return the automatic points of each cell; None waits for a reader."""
        from nbgrader.api import Gradebook

        course.reach_tools()
        with Gradebook(f"sqlite:///{self.folder / 'gradebook.db'}") as book:
            notebook = book.find_submission_notebook(name, name, student)
            return {grade.name: grade.auto_score for grade in notebook.grades}

    def told(self, name: str, student: str, cell: str) -> str:
        """Return what the graded notebook shows below a cell."""
        path = self.folder / "autograded" / student / name / f"{name}.ipynb"
        outputs = cell_of(nbformat.read(path, as_version=4), cell).outputs
        return "\n".join(str(output.get("text", output.get("evalue", ""))) for output in outputs)


def lost(points: dict[str, float | None], full: dict[str, int]) -> set[str]:
    """Return the test cells that did not earn their points."""
    return {name for name, most in full.items() if points[name] != most}
