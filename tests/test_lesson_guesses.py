"""Laws of the lessons' guesses: each is known, hides what answers it, and is answered by letter."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from p2p_lab.widgets.guessing import ANSWERS

LESSONS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LETTER = re.compile(r"\(([a-e])\)")
CELLS = {path: nbformat.read(path, as_version=4).cells for path in LESSONS}


def guess_in(cell: Any) -> tuple[str, list[str]] | None:
    """Return id and options of the guess that a cell asks for."""
    if cell.cell_type != "code" or not re.match(r"guess\(", cell.source):
        return None
    call = ast.parse(cell.source).body[-1].value  # type: ignore[attr-defined]
    return tuple(ast.literal_eval(one) for one in call.args)  # type: ignore[return-value]


def guesses_of(path: Path) -> list[tuple[int, str, list[str]]]:
    """Return place, id and options of a lesson's guesses."""
    found = [(i, guess_in(cell)) for i, cell in enumerate(CELLS[path])]
    return [(i, *one) for i, one in found if one]


EACH = [(path, *one) for path in LESSONS for one in guesses_of(path)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_lesson_asks_for_all_its_guesses_once_and_counts_them_at_its_end(path: Path) -> None:
    number = path.stem.split("_")[0]
    known = [one for one in ANSWERS if one.split(".")[0] == number]
    assert known and sorted(one for _, one, _ in guesses_of(path)) == sorted(known)
    code = [cell.source for cell in CELLS[path] if cell.cell_type == "code"]
    assert f'guesses("{number}")' in code[-1] and f'progress("{number}")' in code[-1]


@pytest.mark.parametrize(("path", "at", "name", "options"), EACH, ids=[one[2] for one in EACH])
def test_a_guess_has_its_question_above_its_result_below_and_its_letter_after_that(
    path: Path, at: int, name: str, options: list[str]
) -> None:
    cells = CELLS[path]
    assert 2 <= len(options) <= 5 and ANSWERS[name] < len(options)
    assert "**Your guess" in cells[at - 1].source
    assert cells[at].outputs[0].data["text/plain"].startswith("(a) ")
    below = [i for i, cell in enumerate(cells) if i > at and cell.cell_type == "code"]
    assert guess_in(cells[below[0]]) is None and cells[below[0]].outputs
    assert below[0] - at <= 3, "guess.css hides a result after at most two cells of text"
    texts = [cell.source for cell in cells[below[0] :] if cell.cell_type == "markdown"]
    letters = LETTER.findall(next(text for text in texts if LETTER.search(text)))
    assert letters[0] == chr(97 + ANSWERS[name]), f"{path.name} answers {name} by ({letters[0]})"
