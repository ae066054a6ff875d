"""Laws of what is published: pages show the numbers of the last run that is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest

from benchmarks.editing import report
from benchmarks.editing.results import Results
from benchmarks.rivalry.results import read_results
from p2p_lab.models import load

ROOT = Path(__file__).resolve().parent.parent
RESULTS, README = ROOT / "benchmarks" / "results", ROOT / "README.md"
EDITING = {  # a row of the README, and the row of the results
    "prompt-to-prompt + local blend": "p2p + blend",
    "the same, with settings that 160 other scenes chose": "p2p tuned",
    "prompt-to-prompt": "p2p",
    "the new prompt with the old seed": "re-prompt",
}
INVERSION = {
    "DDIM": "ddim",
    "negative-prompt": "negative-prompt",
    "null-text": "null-text",
    "direct (default)": "direct",
    "edit-friendly": "edit-friendly",
}


def first_rows(path: Path) -> dict[str, list[str]]:
    """Return the first row of each name in the tables of a page: its cells, intervals left out."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|"):
            found.setdefault(name, [cell.partition(" [")[0] for cell in cells])
    return found


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda page: page.stem)
def test_results_are_of_the_bundled_model(page: Path) -> None:
    name = load(None, "cpu").name
    assert name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("shown", EDITING)
def test_the_readme_s_edits_are_those_of_the_results(shown: str) -> None:
    success, kept, both, background, *rest = first_rows(RESULTS / "edits.md")[EDITING[shown]]
    seconds = rest[4]
    assert both and first_rows(README)[shown] == [success, kept, background, seconds]


@pytest.mark.parametrize("shown", INVERSION)
def test_the_readme_s_inversions_are_those_of_the_results(shown: str) -> None:
    cells = first_rows(RESULTS / "inversion.md")[INVERSION[shown]]
    back, background, success, seconds = (cells[i] for i in (0, 2, 6, 9))
    assert first_rows(README)[shown] == [back.removesuffix(".0"), background, success, seconds]


@pytest.mark.parametrize("method", INVERSION.values())
def test_lesson_05_shows_the_inversions_of_the_results(method: str) -> None:
    cells = first_rows(RESULTS / "inversion.md")[method]
    back, blended, free, success, seconds, calls = (cells[i] for i in (0, 2, 7, 6, 9, 11))
    lesson = nbformat.read(ROOT / "notebooks" / "05_inversion.ipynb", as_version=4)
    shown = [f"{float(back):.0f}", blended, free, success, seconds, calls]
    assert any(f"| `{method}` | " + " | ".join(shown) + " |" in c.source for c in lesson.cells)


def test_the_readme_s_moves_are_those_of_the_results() -> None:
    rows = first_rows(RESULTS / "moving.md")
    which = rows[""].index("Move + LocalBlend")
    page = README.read_text(encoding="utf-8")
    found = re.search(r"(\d+) % land within a quarter of their size\)\s+and resizes (\d+) %", page)
    measured = (float(rows[name][which]) for name in ("landed_where_moved", "sized_where_resized"))
    assert found and [int(share) for share in found.groups()] == [round(100 * m) for m in measured]


def test_the_rivals_are_those_of_the_bundled_model() -> None:
    name = read_results()["about"]["model"]
    assert name == load(None, "cpu").name
    assert f"drawn by `{name}`" in README.read_text(encoding="utf-8")


def test_the_report_shows_the_run_whose_results_are_committed() -> None:
    notebook = json.loads((ROOT / "benchmarks" / "report.ipynb").read_text(encoding="utf-8"))
    run = Results.read(RESULTS / "edits.csv")
    shown = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    printed = "".join("".join(output.get("text", "")) for output in shown)
    assert printed.strip() == str(run)
    tables = [
        "".join(output["data"]["text/markdown"])
        for output in shown
        if "text/markdown" in output.get("data", {})
    ]
    wanted = (
        "\n".join(report.main_table(run.table)),
        report.defaults_table(run.trials),
        "\n".join(report.where_words_look(run.maps)),
    )
    assert tables == list(wanted)
