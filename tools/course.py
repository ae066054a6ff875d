"""Build the course kit from one source, and prove that nothing secret is handed out.

python tools/course.py build FOLDER [--secret TEXT]   a course folder for nbgrader
python tools/course.py leaks FOLDER                   look for solutions in FOLDER/course/release
python tools/course.py grade FOLDER ps1               autograde again, and write the feedback pages
python tools/course.py table FOLDER ps1 --form canvas --to FILE   points, a column a question
python tools/course.py hints FOLDER ps1               the hints that stand in each hand-in

The folder gets `course/` (an nbgrader course: source, release, configuration, the secret of the
hidden inputs), `solutions/`, the hand-out `p2p_lab-problem-sets.zip`, and the teacher's pages.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

import grade_table
from p2p_lab.files import check_may_write

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "assignments"
SETS = ("ps1", "ps2", "ps3", "ps4")
PAGES = ("GUIDE.md", "RUBRIC.md", "PLANS.md", "CONCEPTS.md", "PROJECTS.md", "PRACTICE.md")
STUDENTS = ("SYLLABUS.md", "HONESTY.md")  # they go into the hand-out too
REGION = re.compile(r"### BEGIN SOLUTION\n(.*?)^[ \t]*### END SOLUTION", re.S | re.M)
MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)\n?", re.M)
HINT = re.compile(r"""\bhint\(\s*["']([\w.]+)["']\s*(?:,\s*(\d)\s*)?\)""")
HANDOUT = """Problem sets of p2p_lab.

1. Install p2p_lab with its extra [lab], from where your teacher says.
2. Start JupyterLab in this folder, open psN/psN.ipynb, and write your id in its first code cell.
3. Hand in the notebook psN.ipynb under the name it has.
"""


def source_of(name: str) -> Path:
    """Return the source notebook of a problem set."""
    return KIT / "source" / name / f"{name}.ipynb"


# build ------------------------------------------------------------------------------------------


def start_course(course: Path, secret: str = "", sets: Sequence[str] = SETS) -> Path:
    """Make an nbgrader course folder with sources, configuration and a secret.

    A secret that is there already stays, unless another one is given: the same one draws the same
    hidden inputs.
    """
    for name in sets:
        target = course / "source" / name / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source_of(name), target)
    for name in ("nbgrader_config.py", "guards.py"):
        shutil.copy(KIT / name, course / name)
    file = course / "secret.txt"
    if secret or not file.exists():
        file.write_text((secret or secrets.token_hex(16)) + "\n", encoding="utf-8")
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


def build(folder: Path, secret: str = "") -> int:
    """Build everything into a folder."""
    course = start_course(folder / "course", secret)
    (folder / "solutions").mkdir(parents=True, exist_ok=True)
    for name in SETS:
        release(course, name)
        nbformat.write(solved(name), folder / "solutions" / f"{name}.ipynb")
    found = leaks(course)
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    pack(course / "release", folder / "p2p_lab-problem-sets.zip")
    for page in (*PAGES, *STUDENTS):
        text = (KIT / page).read_text(encoding="utf-8")
        (folder / page).write_text(moved(text), encoding="utf-8")
    print(f"{len(SETS)} problem sets in {folder}: release, solutions, zip and the teacher's pages.")
    return 0


def moved(page: str) -> str:
    """Return a page whose links fit the built folder, where there are no lessons."""
    page = re.sub(r"\[([^\]]+)\]\(\.\./notebooks/[^)]+\)", r"\1", page)
    return page.replace("](source/", "](course/source/")


def pack(released: Path, target: Path) -> None:
    """Zip what students get; the same content gives the same bytes."""
    files = {f"problem-sets/{p.relative_to(released).as_posix()}": p.read_bytes()
             for p in released.rglob("*.ipynb")}  # fmt: skip
    for page in STUDENTS:
        files[f"problem-sets/{page}"] = moved((KIT / page).read_text(encoding="utf-8")).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
        archive.writestr(zipfile.ZipInfo("problem-sets/READ ME FIRST.txt"), HANDOUT)


# leaks ------------------------------------------------------------------------------------------


def hidden_lines(name: str) -> Iterator[str]:
    """Yield the lines that no student may see: solutions and model answers."""
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
        line = line.strip()
        if len(line) > 12 and line not in shown:
            yield line


def leaks(course: Path) -> list[str]:
    """Return a sentence for each secret line that stands in a released notebook."""
    found = []
    file = course / "secret.txt"
    hidden = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    for name in SETS:
        path = course / "release" / name / f"{name}.ipynb"
        if not path.exists():
            continue
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source + str(cell.get("outputs", "")) for cell in cells)
        found += [
            f"{name}: the release holds {line!r}" for line in hidden_lines(name) if line in text
        ]
        found += [f"{name}: the release holds a mark" for _ in MARKER.findall(text)[:1]]
        if hidden and hidden in text:
            found.append(f"{name}: the release holds the secret of the hidden inputs")
    return found


# grade ------------------------------------------------------------------------------------------


def grade(course: Path, name: str) -> int:
    """Autograde every hand-in of a problem set, old ones again, and write the feedback pages."""
    for words in (("autograde", name, "--force"), ("generate_feedback", name, "--force")):
        done = nbgrader(course, *words)
        print(done.stderr[-4000:], file=sys.stderr)
        if done.returncode:
            return done.returncode
    return 0


def hints_in(notebook: Any) -> list[str]:
    """Return the hints that cells of a hand-in ask for, each once, as "ps1.words 2"."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return sorted({f"{found[1]} {found[2] or 1}" for found in HINT.finditer(code)})


def count_hints(course: Path, name: str) -> int:
    """Print how many hints stand in each hand-in; a deleted cell leaves no trace.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = sorted((course / "submitted").glob(f"*/{name}/{name}.ipynb"))
    if not found:
        raise FileNotFoundError(
            f"Nobody handed in {name}: hand-ins lie in {course / 'submitted'}, each in "
            f"STUDENT/{name}/{name}.ipynb."
        )
    for path in found:
        used = hints_in(nbformat.read(path, as_version=4))
        print(f"{path.parts[-3]}: {len(used)} {', '.join(used)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("build", help="build the course into a folder")
    make.add_argument("--secret", default="", help="what hidden inputs are drawn with")
    verbs.add_parser("leaks", help="look for solutions in what is handed out")
    for verb, said in (
        ("grade", "autograde and write feedback"),
        ("table", "write the points, a column a question"),
        ("hints", "count the hints in the hand-ins"),
    ):
        verbs.add_parser(verb, help=said)
    for verb, parsed in verbs.choices.items():
        parsed.add_argument("folder", type=Path)
        if verb not in ("build", "leaks"):
            parsed.add_argument("name", choices=SETS)
    verbs.choices["table"].add_argument("--form", choices=grade_table.FORMS, default="plain")
    verbs.choices["table"].add_argument("--to", type=Path, required=True)
    try:
        return run(parser.parse_args(argv))
    except OSError as error:
        print(f"course.py: {error}", file=sys.stderr)
        return 2


def run(given: argparse.Namespace) -> int:
    """Do what was asked for.

    Raises:
        OSError: If there is no course to do it with, or no folder to build it in.
    """
    course = given.folder / "course"
    if given.verb == "build":
        check_may_write(course)
        return build(given.folder, given.secret)
    if not course.is_dir():
        raise FileNotFoundError(
            f"There is no course in {given.folder}: build it first with "
            f"python tools/course.py build {given.folder}"
        )
    if given.verb == "grade":
        return grade(course, given.name)
    if given.verb == "hints":
        return count_hints(course, given.name)
    if given.verb == "table":
        if not (course / "gradebook.db").is_file():
            raise FileNotFoundError(
                f"Nothing was graded in {given.folder}: do so first with "
                f"python tools/course.py grade {given.folder} {given.name}"
            )
        reach_tools()
        rows = grade_table.read(course / "gradebook.db", given.name)
        grade_table.write(rows, given.form, given.to)
        return 0
    found = leaks(course)
    print("\n".join(found) or "No solution and no secret is in the release.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
