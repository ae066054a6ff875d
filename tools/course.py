"""Build the course kit from one source, and prove that nothing secret is handed out.

python tools/course.py build FOLDER [--salt TEXT]   a course folder for nbgrader, and what it makes
python tools/course.py leaks FOLDER                 look for solutions in FOLDER/course/release

The folder gets `course/` (an nbgrader course: source, release, configuration), `solutions/`, the
hand-out `p2p_lab-problem-sets.zip`, GUIDE.md and RUBRIC.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "assignments"
SETS = ("ps1", "ps2", "ps3", "ps4")
SALT = "lighthouse"  # stands in the sources; a teacher puts another text in its place
REGION = re.compile(
    r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)^[ \t]*### END (?:SOLUTION|HIDDEN TESTS)",
    re.S | re.M,
)
MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)\n?", re.M)
HANDOUT = """Problem sets of p2p_lab.

1. Install p2p_lab with its extra [lab], from where your teacher says.
2. Start JupyterLab in this folder, open psN/psN.ipynb, and write your id in its first code cell.
3. Hand in the notebook psN.ipynb under the name it has.
"""


def source_of(name: str) -> Path:
    """Return the source notebook of a problem set."""
    return KIT / "source" / name / f"{name}.ipynb"


# build ------------------------------------------------------------------------------------------


def start_course(course: Path, salt: str = SALT, sets: Sequence[str] = SETS) -> Path:
    """Make an nbgrader course folder with sources and configuration."""
    for name in sets:
        target = course / "source" / name / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source_of(name).read_text(encoding="utf-8")
        target.write_text(text.replace(f'salt=\\"{SALT}', f'salt=\\"{salt}'), encoding="utf-8")
    for name in ("nbgrader_config.py", "guards.py"):
        shutil.copy(KIT / name, course / name)
    return course


def reach_tools() -> None:
    """Let nbgrader find alembic, which it runs by name, although no environment is activated."""
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, os.environ["PATH"]])


def nbgrader(course: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run nbgrader of this Python in a course folder, and return what it said."""
    reach_tools()
    command = [sys.executable, "-m", "nbgrader", *words]
    return subprocess.run(command, cwd=course, capture_output=True, text=True, check=False)


def release(course: Path, name: str) -> Path:
    """Generate the students' version of a problem set.

    Raises:
        RuntimeError: nbgrader refused, with what it said.
    """
    done = nbgrader(course, "generate_assignment", name, "--force")
    if done.returncode:
        raise RuntimeError(f"nbgrader could not generate {name}:\n{done.stderr[-2000:]}")
    return course / "release" / name / f"{name}.ipynb"


def solved(name: str) -> Any:
    """Return the source notebook without the marks: what a perfect student hands in."""
    notebook = nbformat.read(source_of(name), as_version=4)
    for cell in notebook.cells:
        cell.source = MARKER.sub("", cell.source).rstrip()
    return notebook


def build(folder: Path, salt: str) -> int:
    """Build everything into a folder."""
    if salt and not re.fullmatch(r"[\w .-]+", salt):
        raise SystemExit(f"A salt is made of letters, digits, spaces, '.', '_' or '-'; got {salt}.")
    course = start_course(folder / "course", salt or SALT)
    (folder / "solutions").mkdir(parents=True, exist_ok=True)
    for name in SETS:
        release(course, name)
        nbformat.write(solved(name), folder / "solutions" / f"{name}.ipynb")
    found = leaks(course)
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    pack(course / "release", folder / "p2p_lab-problem-sets.zip")
    for page in ("GUIDE.md", "RUBRIC.md"):
        text = (KIT / page).read_text(encoding="utf-8")
        (folder / page).write_text(moved(text), encoding="utf-8")
    print(f"{len(SETS)} problem sets in {folder}: release, solutions, zip, guide and rubric.")
    return 0


def moved(page: str) -> str:
    """Return a page whose links fit the built folder, where there are no lessons."""
    page = re.sub(r"\[([^\]]+)\]\(\.\./notebooks/[^)]+\)", r"\1", page)
    return page.replace("](source/", "](course/source/")


def pack(released: Path, target: Path) -> None:
    """Zip what students get; the same content gives the same bytes."""
    files = {f"problem-sets/{p.relative_to(released)}": p for p in released.rglob("*.ipynb")}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name].read_bytes())
        archive.writestr(zipfile.ZipInfo("problem-sets/READ ME FIRST.txt"), HANDOUT)


# leaks ------------------------------------------------------------------------------------------


def secrets(name: str) -> Iterator[str]:
    """Yield the lines that no student may see: solutions, hidden tests and model answers."""
    shown = ""
    hidden: list[str] = []
    for cell in nbformat.read(source_of(name), as_version=4).cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("solution") and cell.cell_type == "markdown":
            hidden += cell.source.splitlines()
            continue
        hidden += [line for region in REGION.findall(cell.source) for line in region.splitlines()]
        shown += REGION.sub("", cell.source) + "\n"
    for line in hidden:
        line = line.strip().replace(SALT, "")  # the salt may have been changed
        if len(line) > 12 and line not in shown:
            yield line


def leaks(course: Path) -> list[str]:
    """Return a sentence for each secret line that stands in a released notebook."""
    found = []
    for name in SETS:
        path = course / "release" / name / f"{name}.ipynb"
        if not path.exists():
            continue
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source + str(cell.get("outputs", "")) for cell in cells)
        found += [f"{name}: the release holds {line!r}" for line in secrets(name) if line in text]
        found += [f"{name}: the release holds a mark" for _ in MARKER.findall(text)[:1]]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("build")
    make.add_argument("folder", type=Path)
    make.add_argument("--salt", default="")
    verbs.add_parser("leaks").add_argument("folder", type=Path)
    given = parser.parse_args(argv)
    if given.verb == "build":
        return build(given.folder, given.salt)
    found = leaks(given.folder / "course")
    print("\n".join(found) or "No solution and no hidden test is in the release.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
