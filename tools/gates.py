"""The gates that every committed notebook must pass; each yields a sentence per fault."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

MOST_BYTES = 1_000_000
MOST_LINES = 12
MOST_LESSON_LINES = 15
MOST_SETUP_LINES = 5
MOST_COLUMNS = 120
MOST_SKIPPED = 0.10
MOST_SECONDS = 60
MOST_MEGABYTES = 800

DEFINING_TAGS = {"lesson", "exercise", "solution"}
SKIP_TAGS = {"nbval-skip", "nbval-ignore-output", "raises-exception", "skip-execution"}
REASON = re.compile(r"^\s*# (skipped|not compared|fails on purpose):? \S", re.M)
ABSOLUTE = re.compile(
    r"(?<![\w.:/<~$\\\-*)\]}])(?:/[A-Za-z_][\w.\-]*){2,}|\b[A-Z]:\\\w|/(?:home|root)\b"
)
HTML_PICTURE = re.compile(r"<img\b[^>]*>")
MARKDOWN_PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\(|<img\b(?P<tag>[^>]*)>")

Cell = Any
Notebook = Any


def code_cells(notebook: Notebook) -> list[Cell]:
    """Return the code cells that say something."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell: Cell) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _first(cell: Cell) -> str:
    """Return the cell's first line of code, for messages."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return repr(lines[0][:50]) if lines else "an empty cell"


def executed(notebook: Notebook) -> Iterator[str]:
    """Every code cell was run, in order, from a fresh kernel: else nbval compares nothing."""
    wanted = 0
    for cell in code_cells(notebook):
        if "skip-execution" in tags(cell) or "nbval-skip" in tags(cell):
            continue
        count = cell.execution_count
        if count is None:
            yield f"{_first(cell)} was not executed. Run `tools/notebooks.py run`."
        elif count <= wanted:
            yield f"{_first(cell)} has count {count} after {wanted}: not run in order."
        wanted = count or wanted


def no_errors(notebook: Notebook) -> Iterator[str]:
    """No cell ended in an exception, unless it is tagged to show one."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                yield f"{_first(cell)} raised {output.ename}: {output.evalue[:80]}"


def skip_budget(notebook: Notebook) -> Iterator[str]:
    """At most one code cell in ten escapes nbval, and each says why in a comment."""
    cells = code_cells(notebook)
    skipped = [c for c in cells if tags(c) & SKIP_TAGS]
    if len(skipped) > max(1, MOST_SKIPPED * len(cells)):
        yield f"{len(skipped)} of {len(cells)} code cells are skipped by tag; at most 10 % may be."
    for cell in skipped:
        if not REASON.search(cell.source):
            yield f"{_first(cell)} is skipped by tag without a comment '# not compared: why'."
    for cell in cells:
        if re.search(r"^\s*#\s*(NBVAL_|PYTEST_)", cell.source, re.M):
            yield f"{_first(cell)} carries an nbval comment marker; use a cell tag."


def cell_length(notebook: Notebook) -> Iterator[str]:
    """Code cells fit on a screen: 12 lines of 120 columns, 15 for the mechanism of a lesson."""
    for cell in code_cells(notebook):
        most = MOST_LESSON_LINES if "lesson" in tags(cell) else MOST_LINES
        count = len([line for line in cell.source.splitlines() if line.strip()])
        if count > most and not tags(cell) & {"solution"}:
            yield f"{_first(cell)} has {count} lines; at most {most} are read."
        widest = max(len(line) for line in cell.source.splitlines())
        if widest > MOST_COLUMNS:
            yield f"{_first(cell)} is {widest} columns wide; {MOST_COLUMNS} fit beside the menu."


def definitions(notebook: Notebook) -> Iterator[str]:
    """Only the mechanism and the exercises define functions; the rest calls the package."""
    for cell in code_cells(notebook):
        plain = re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M)
        try:
            nodes = list(ast.walk(ast.parse(plain)))
        except SyntaxError as error:
            yield f"{_first(cell)} does not parse: {error.msg}."
            continue
        made = [n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        if made and not tags(cell) & DEFINING_TAGS:
            yield f"{_first(cell)} defines {made[0]}; tag the cell lesson or exercise, or call one."


def _texts(cell: Cell) -> Iterator[str]:
    """Yield the source and every text output of a cell."""
    yield cell.source
    for output in cell.get("outputs", ()):
        yield str(output.get("text", ""))
        yield str(output.get("data", {}).get("text/plain", ""))
        yield "\n".join(output.get("traceback", ()))


def no_absolute_paths(notebook: Notebook) -> Iterator[str]:
    """Nothing tells where the author's files lie."""
    for cell in notebook.cells:
        for text in _texts(cell):
            found = ABSOLUTE.search(text)
            if found:
                yield f"{_first(cell)} holds an absolute path: {found.group()!r}."
                break


def alternatives(notebook: Notebook) -> Iterator[str]:
    """Every picture has words: alternative text in markdown and beside every output."""
    for cell in notebook.cells:
        for found in MARKDOWN_PICTURE.finditer(cell.source if cell.cell_type == "markdown" else ""):
            alt = found["alt"] if found["tag"] is None else "alt=" in found["tag"]
            if not alt:
                yield f"{_first(cell)} shows a picture without alternative text."
        for output in cell.get("outputs", ()):
            for tag in HTML_PICTURE.findall(str(output.get("data", {}).get("text/html", ""))):
                if not re.search(r'\balt="[^"]{10,}"', tag):
                    yield f"the picture of {_first(cell)} has no alternative text."
            if "image/png" not in output.get("data", {}):
                continue
            alt = output.metadata.get("image/png", {}).get("alt", "")
            plain = str(output.data.get("text/plain", ""))
            if len(alt) < 10 and (len(plain) < 10 or re.match(r"<[\w.]+ .*0x|<Figure size", plain)):
                yield f"the picture of {_first(cell)} has no alternative text."


def opening(notebook: Notebook) -> Iterator[str]:
    """A title, and a set-up of plain Python in at most five lines, for there may be no shell."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell must be markdown that starts with '# ', the title."
    for cell in code_cells(notebook):
        lines = [x for x in cell.source.splitlines() if x.strip() and not x.startswith("#")]
        if "setup" in tags(cell) and len(lines) > MOST_SETUP_LINES:
            yield f"the set-up has {len(lines)} lines; at most {MOST_SETUP_LINES}."
        if "setup" in tags(cell) and re.search(r"^\s*[!%]", cell.source, re.M):
            yield "the set-up calls a shell or a magic; write it in Python."


def closing(notebook: Notebook) -> Iterator[str]:
    """The last cell says how the kernel's memory is given back: open lessons add up."""
    if not notebook.cells or "Shut Down Kernel" not in notebook.cells[-1].source:
        yield "the last cell does not say how to end it: *Kernel → Shut Down Kernel*."


def measured(notebook: Notebook) -> Iterator[str]:
    """The measured cost is there and within a minute of one core and 800 MB."""
    facts = notebook.metadata.get("p2p_lab", {})
    if not facts:
        yield "no measured seconds and memory. Run `tools/notebooks.py run`."
        return
    if facts["cpu_seconds"] > MOST_SECONDS:
        yield f"takes {facts['cpu_seconds']} CPU seconds; {MOST_SECONDS} are one core's minute."
    if facts["peak_mb"] > MOST_MEGABYTES:
        yield f"takes {facts['peak_mb']} MB; at most {MOST_MEGABYTES}."


GATES = (
    executed,
    no_errors,
    skip_budget,
    cell_length,
    definitions,
    no_absolute_paths,
    alternatives,
    opening,
    closing,
    measured,
)


def failures(path: Path) -> list[str]:
    """Return what is wrong with a notebook file, in sentences; an empty list if nothing is."""
    size = path.stat().st_size
    said = []
    if size > MOST_BYTES:
        said.append(f"is {size / 1e6:.2f} MB on disk; at most {MOST_BYTES / 1e6:.0f} MB.")
    notebook = nbformat.read(path, as_version=4)
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        said.append(f"is no valid notebook: {str(error).splitlines()[0]}")
    return said + [sentence for gate in GATES for sentence in gate(notebook)]
