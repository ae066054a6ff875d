"""The points of a problem set as a table, a column a question, for Canvas, Moodle or a spreadsheet.

A question's points are those of its three test cells together; what a reader gave for the written
answer counts, and an answer that waits for a reader has an empty field.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORMS = ("plain", "canvas", "moodle")


@dataclass(frozen=True)
class Row:
    """The points of one student.

    Attributes:
        student: The id, which is the name of the folder.
        name: Last name, first name, where the gradebook knows them.
        points: Points by question, None where a reader is waited for.
    """

    student: str
    name: str
    points: dict[str, float | None]

    @property
    def total(self) -> float:
        """The sum of all points that are known."""
        return sum(points or 0.0 for points in self.points.values())


@dataclass(frozen=True)
class Table:
    """The rows of a problem set, and what each question is worth."""

    problem_set: str
    most: dict[str, float]
    rows: tuple[Row, ...]


def read(gradebook: Path, problem_set: str) -> Table:
    """Read a problem set's points from nbgrader's database."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{gradebook}") as book:
        handed = book.find_notebook(problem_set, problem_set)
        most: dict[str, float] = {}
        for cell in handed.grade_cells:
            most[_question(cell.name)] = most.get(_question(cell.name), 0.0) + cell.max_score
        rows = []
        for submission in book.notebook_submissions(problem_set, problem_set):
            points: dict[str, float | None] = dict.fromkeys(most, 0.0)
            for grade in submission.grades:
                question, score = _question(grade.name), _score(grade)
                known = points[question]
                points[question] = None if score is None or known is None else known + score
            who = submission.student
            name = ", ".join(part for part in (who.last_name, who.first_name) if part)
            rows.append(Row(who.id, name or who.id, points))
        return Table(problem_set, most, tuple(sorted(rows, key=lambda row: row.student)))


def _question(cell: str) -> str:
    return cell.rsplit("-", 1)[0] if cell.endswith(("-easy", "-own", "-hidden")) else cell


def _score(grade: object) -> float | None:
    """Return a cell's points, None where only a reader can give them and has not."""
    manual, auto = getattr(grade, "manual_score", None), getattr(grade, "auto_score", None)
    known = manual if manual is not None else auto
    extra = getattr(grade, "extra_credit", None) or 0.0
    return None if known is None else float(known) + extra


def lines(table: Table, form: str) -> list[list[str]]:
    """Return the table as lines of text.

    Raises:
        ValueError: If there is no such form.
    """
    heads = [f"{table.problem_set}.{question}" for question in table.most]
    marks = [[_text(row.points[question]) for question in table.most] for row in table.rows]
    if form == "canvas":
        return _canvas(table, heads, marks)
    if form == "moodle":
        body = [[row.student, *points] for row, points in zip(table.rows, marks, strict=True)]
        return [["ID number", *heads], *body]
    if form != "plain":
        raise ValueError(f"A table's form is one of {', '.join(FORMS)}; got {form!r}.")
    body = [[row.student, *points, _text(row.total)]
            for row, points in zip(table.rows, marks, strict=True)]  # fmt: skip
    return [["student", *heads, f"{table.problem_set} total"], *body]


def _canvas(table: Table, heads: Sequence[str], marks: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lines of Canvas's own export: it finds students by their SIS Login ID."""
    first = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    most = ["    Points Possible", "", "", "", "", *(_text(n) for n in table.most.values())]
    body = [[row.name, "", "", row.student, "", *points]
            for row, points in zip(table.rows, marks, strict=True)]  # fmt: skip
    return [[*first, *heads], most, *body]


def _text(points: float | None) -> str:
    return "" if points is None else f"{points:g}"


def write(table: Table, form: str, target: Path) -> None:
    """Write the table as CSV."""
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines(table, form))
