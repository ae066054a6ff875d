"""`p2p_lab lessons [DIR]`: write the lessons, without their outputs, into a folder of one's own.

A notebook is read as plain JSON, so that nothing but Python is needed. Each written lesson carries
a digest of its cells: a file whose cells no longer match was changed by the reader, and is kept.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_lab.commands._files import write_whole
from p2p_lab.files import check_may_write

FOLDER = Path("p2p_lessons")
DIGEST = "written"
REGION = re.compile(r"^([ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION", re.S | re.M)
PACKAGE = Path(__file__).resolve().parents[1]

Notebook = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What became of the lessons.

    Attributes:
        wrote: Names of the files that were made or renewed.
        kept: Names of the files that the reader has changed and that were left alone.
    """

    wrote: tuple[str, ...]
    kept: tuple[str, ...]


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser("lessons", help="write the lessons into a folder of your own")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help=f"(default: ./{FOLDER})"
    )
    parser.add_argument("--solutions", action="store_true", help="keep the folded solutions")


def run(options: argparse.Namespace) -> int:
    """Write the lessons and print what was written and what was kept."""
    written = write_lessons(options.folder, solutions=options.solutions)
    print(report(options.folder, written))
    return 0


def report(folder: Path, written: Written) -> str:
    """Return sentences on what was written and what was kept."""
    lines = [f"Wrote {len(written.wrote)} lesson(s) to {folder}: {', '.join(written.wrote)}."]
    if not written.wrote:
        lines = [f"The lessons in {folder} are there already."]
    if written.kept:
        lines.append(
            f"Kept {len(written.kept)} that you changed: {', '.join(written.kept)}. "
            "To get one anew, rename or delete yours."
        )
    return "\n".join(lines)


def originals() -> list[Path]:
    """Return the lessons that come with the package: of the checkout, or of the wheel.

    Raises:
        FileNotFoundError: If there are none.
    """
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "lessons"):
        found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
        if found:
            return found
    raise FileNotFoundError("This installation holds no lessons. Install it again: pip install .")


def write_lessons(folder: Path, *, solutions: bool = False) -> Written:
    """Write every lesson that is not there or that the reader has not changed.

    Raises:
        NotADirectoryError: If the folder is a file.
        PermissionError: If there is no right to write in it.
        FileNotFoundError: If the installation holds no lessons.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. Name a folder for the lessons.")
    lessons = originals()
    check_may_write(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wrote, kept = [], []
    for path in lessons:
        blank = to_read(json.loads(path.read_text(encoding="utf-8")), solutions=solutions)
        target = folder / path.name
        if target.exists() and not unchanged(target):
            kept.append(path.name)
        elif not target.exists() or digest_in(target) != blank["metadata"]["p2p_lab"][DIGEST]:
            text = json.dumps(blank, indent=1, ensure_ascii=False) + "\n"
            write_whole(target, text.encode(), force=True)
            wrote.append(path.name)
    return Written(tuple(wrote), tuple(kept))


def to_read(notebook: Notebook, *, solutions: bool) -> Notebook:
    """Return a copy for a reader: nothing run yet, no solutions unless wanted, and its digest."""
    blank = copy.deepcopy(notebook) if solutions else without_solutions(notebook)
    for cell in code_cells(blank):
        cell["outputs"], cell["execution_count"] = [], None
    facts = blank["metadata"].setdefault("p2p_lab", {})
    facts[DIGEST] = digest(blank)
    return blank


def without_solutions(notebook: Notebook) -> Notebook:
    """Return a copy without solutions, and without what the exercises printed."""
    blank = copy.deepcopy(notebook)
    blank["cells"] = [cell for cell in blank["cells"] if "solution" not in tags_of(cell)]
    for cell in blank["cells"]:
        cell["source"] = REGION.sub(
            r"\1raise NotImplementedError('your turn')", text_of(cell["source"])
        )
    for cell in code_cells(blank):
        if "exercise" in tags_of(cell):
            cell["outputs"], cell["execution_count"] = [], None
    return blank


def code_cells(notebook: Notebook) -> Iterator[dict[str, Any]]:
    """Yield the cells that hold code."""
    return (cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def tags_of(cell: dict[str, Any]) -> set[str]:
    """Return a cell's tags."""
    return set(cell["metadata"].get("tags", ()))


def text_of(source: str | list[str]) -> str:
    """Return a cell's text, which a file may hold as a list of lines."""
    return source if isinstance(source, str) else "".join(source)


def digest(notebook: Notebook) -> str:
    """Return a checksum of what a reader may change: the cells' kinds, texts and outputs."""
    lines = [
        (cell["cell_type"], text_of(cell["source"]), bool(cell.get("outputs")))
        for cell in notebook["cells"]
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def digest_in(path: Path) -> str | None:
    """Return the digest that a written lesson carries, None if it carries none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["metadata"]["p2p_lab"][DIGEST]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def unchanged(path: Path) -> bool:
    """Return whether a file is a lesson as it was written; what cannot be read was changed."""
    try:
        now = digest(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return now == digest_in(path)
