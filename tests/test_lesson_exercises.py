"""Laws of the lessons' exercises: each is promised, starts as a stub, helps, and has a solution."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from p2p_lab.checks import check, exercises

LESSONS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
CHECK = re.compile(r'check\("([\w.]+)", (\w+)\)')
PYTHON = re.compile(r"```python\n(.*?)```", re.S)

Found = tuple[str, str, str]  # id, name of the function, the solution's code


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def imports(cells: list[Any]) -> str:
    """Return all import lines of a lesson, but those of cells that are skipped."""
    lines = []
    for cell in cells:
        if cell.cell_type == "code" and "nbval-skip" not in tags(cell):
            plain = re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M)
            nodes = [
                n for n in ast.parse(plain).body if isinstance(n, (ast.Import, ast.ImportFrom))
            ]
            lines += [ast.unparse(node) for node in nodes]
    return "\n".join(lines)


def found_in(cells: list[Any]) -> list[Found]:
    """Return the exercises of a lesson with the first solution that follows each."""
    found = []
    for i, cell in enumerate(cells):
        asked = CHECK.search(cell.source) if "exercise" in tags(cell) else None
        if asked:
            shown = next(c for c in cells[i:] if "solution" in tags(c))
            code = PYTHON.search(shown.source)
            found.append((asked[1], asked[2], code[1] if code else ""))
    return found


READ = {path: nbformat.read(path, as_version=4).cells for path in LESSONS}
EACH = [(path, *one) for path in LESSONS for one in found_in(READ[path])]


@pytest.mark.parametrize(
    ("path", "exercise_id", "name", "code"), EACH, ids=[one[1] for one in EACH]
)
def test_the_folded_solution_of_every_exercise_is_right(
    path: Path, exercise_id: str, name: str, code: str
) -> None:
    space: dict[str, Any] = {}
    exec(imports(READ[path]), space)
    exec(code, space)
    answer = check(exercise_id, space[name])
    assert answer.state == "right", answer


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_asks_promises_and_helps_with_exactly_its_own_exercises(path: Path) -> None:
    text = "\n".join(cell.source for cell in READ[path])
    promised = READ[path][1].source
    asked = [one[0] for one in found_in(READ[path])]
    number = path.stem.split("_")[0]
    assert asked == [known for known in exercises() if known.split(".")[0] == number]
    for one in asked:
        assert f"`{one}`" in promised, f"{one} is not in 'Afterwards you can'"
        assert f'hint("{one}", 1)' in text and "Common mistake" in text


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_exercise_says_its_difficulty_and_minutes_in_its_heading(path: Path) -> None:
    text = "\n".join(cell.source for cell in READ[path])
    for one, _, _ in found_in(READ[path]):
        assert re.search(rf"^### .*`{one}` {exercises()[one].effort}$", text, re.M), one


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_exercise_is_stored_as_not_attempted(path: Path) -> None:
    for cell in READ[path]:
        if "exercise" in tags(cell) and CHECK.search(cell.source):
            said = [output.data["text/plain"] for output in cell.outputs if "data" in output]
            assert said and "not attempted" in said[-1], cell.source
