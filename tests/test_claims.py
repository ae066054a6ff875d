"""Laws of what the lessons claim: each comparison follows from a number that is printed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import claims

CLAIMS = claims.read_claims()


def lesson(text: str, said: str = "The second is larger.") -> Any:
    cell = new_code_cell("c = 1", outputs=[new_output("stream", name="stdout", text=text)])
    return new_notebook(cells=[new_markdown_cell(said), cell])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.lesson}-{claim.says[:40]}")
def test_every_claim_of_a_lesson_follows_from_its_printed_numbers(claim: claims.Claim) -> None:
    notebook = nbformat.read(claims.LESSONS / f"{claim.lesson}.ipynb", as_version=4)
    assert claims.fault_of(claim, notebook) == ""


@pytest.mark.parametrize("path", sorted(claims.LESSONS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_sentence_that_compares_is_a_claim_or_claims_no_result(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    stated = [" ".join(claim.says.split()) for claim in CLAIMS if claim.lesson == path.stem]
    plain = [piece for lesson, piece in claims.read_plain() if lesson == path.stem]
    sentences = claims.comparing(notebook)
    for sentence in sentences:
        known = any(one in sentence or sentence in one for one in stated)
        assert known or any(one in sentence for one in plain), sentence
    for piece in plain:
        assert any(piece in sentence for sentence in sentences), f"no lesson says {piece!r}"


def test_a_sentence_that_compares_is_found_and_folded_answers_are_not() -> None:
    said = "It keeps more. It is one.\nIs it the\nlargest? <details>It is best.</details>"
    assert claims.comparing(lesson("a 1", said)) == ["It keeps more.", "Is it the largest?"]


@pytest.mark.parametrize("path", sorted(claims.LESSONS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_no_lesson_prints_that_something_it_says_is_false(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    lines = [line for cell in cells for line in claims.text_of(cell).splitlines()]
    assert not [line for line in lines if re.search(r": False\b", line)]


def test_every_lesson_has_claims() -> None:
    assert {claim.lesson for claim in CLAIMS} == {p.stem for p in claims.LESSONS.glob("*.ipynb")}


def test_a_claim_fails_when_its_numbers_turn_its_sentence_goes_or_its_cell_goes() -> None:
    claim = claims.Claim("x", "second is larger", "c = 1", "n('b', 1) > n('a', 2)")
    assert claims.fault_of(claim, lesson("a 1.0 of 2\nb 3 dB\n")) == ""
    assert "but not" in claims.fault_of(claim, lesson("a 1.0 of 4\nb 3 dB\n"))
    assert "no number 2" in claims.fault_of(claim, lesson("a 1.0\nb 3 dB\n"))
    words = claims.Claim("x", "second is larger", "c = 1", "'cat' in after('sees')")
    assert claims.fault_of(words, lesson("it sees a cat\n")) == ""
    assert "but not" in claims.fault_of(words, lesson("a cat: it sees a dog\n"))
    assert "there is no 'sees'" in claims.fault_of(words, lesson("a cat\n"))
    assert "does not say" in claims.fault_of(claim, lesson("a 1 2\nb 3\n", "The first."))
    other = claims.Claim("x", "second is larger", "d = 1", "n('b') > 0")
    assert "0 code cells" in claims.fault_of(other, lesson("a 1 2\nb 3\n"))


def figures_of_the_paper() -> list[tuple[str, ...]]:
    """Return figure, lesson's file and place of each row of docs/paper.md."""
    table = (claims.ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    row = r"^\| (\d+) \| .* \| \[\d+b?\]\(\.\./notebooks/(\S+)\) \| (.+) \|$"
    return re.findall(row, table, re.M)


@pytest.mark.parametrize(("figure", "lesson", "place"), figures_of_the_paper())
def test_each_figure_of_the_paper_has_its_place_in_a_lesson(
    figure: str, lesson: str, place: str
) -> None:
    notebook = nbformat.read(claims.LESSONS / lesson, as_version=4)
    assert any(place in cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_no_figure_of_the_paper_is_left_out() -> None:
    assert [figure for figure, _, _ in figures_of_the_paper()] == [str(n) for n in range(1, 13)]


def test_a_minus_sign_is_read_in_either_form() -> None:
    text = "c = −4: -0.5 dB"
    n = claims.reader(text)
    assert (n("c ="), n("c =", 2)) == (-4, -0.5)
    assert claims.reader_before(text)(" dB") == -0.5


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("SEED = 3", "SEED = 9"),
        ("SEED, SEEDS, STEPS = 1, [1, 4, 5], 12", "SEED, SEEDS, STEPS = 9, [1, 4, 5], 12"),
        ("A = 1\nSTEPS, SEED = (2, 3), 3", "A = 1\nSTEPS, SEED = (2, 3), 9"),
        ("SEED, SCENE_SEED = 3, 1", "SEED, SCENE_SEED = 9, 9"),
        ("SCENE_SEED = 7\nSEEDS = [SEED, SEED + 1]", "SCENE_SEED = 9\nSEEDS = [SEED, SEED + 1]"),
    ],
)
def test_another_seed_takes_the_place_of_the_lessons_own(source: str, right: str) -> None:
    assert claims.reseeded(source, 9) == right


def test_every_lesson_can_be_run_with_another_seed() -> None:
    for path in claims.LESSONS.glob("*.ipynb"):
        assert claims.with_seed(nbformat.read(path, as_version=4), 9), path.stem


def test_a_lesson_without_a_seed_is_left_as_it_is() -> None:
    notebook = lesson("a 1")
    notebook.cells[1].source = "SEEDS, STEPS = [0, 1], 12"
    assert not claims.with_seed(notebook, 9)
    assert notebook.cells[1].source == "SEEDS, STEPS = [0, 1], 12"
