"""Two guards for grading: cells that were deleted come back, and the checks are the package's own.

`RestoreCells` runs before nbgrader overwrites the locked cells; `GuardedExecute` takes the place of
nbgrader's `Execute`. What they can and cannot stop is in GUIDE.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import Execute, NbGraderPreprocessor
from traitlets import Float, Integer

# Run unseen before every test cell: the leaves that decide are read from disk again.
SEAL = """
def _seal():
    import importlib, sys
    rooms = ("checks", "metrics", "scenes")
    kept = "p2p_lab.checks.loaded"  # holds the loaded model
    for name in list(sys.modules):
        parts = name.split(".")
        if parts[0] == "p2p_lab" and parts[1:2] and parts[1] in rooms and name != kept:
            del sys.modules[name]
    return importlib.import_module("p2p_lab.checks").grade
grade, STUDENT = _seal(), {student!r}
del _seal
"""


class RestoreCells(NbGraderPreprocessor):
    """Put back every test, stub and locked cell that a student deleted, where it stood.

    nbgrader's own `add_missing_cells` fails when the cell before a deleted one is gone or locked.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return the notebook with all cells of the hand-out, in its order."""
        facts = resources["nbgrader"]
        with Gradebook(facts["db_url"]) as gradebook:
            handed = gradebook.find_notebook(facts["notebook"], facts["assignment"])
            points = {cell.name: cell.max_score for cell in handed.grade_cells}
            graded = set(points)
            solved = {cell.name for cell in handed.solution_cells}
            at = 0
            for source in handed.source_cells:
                places = [i for i, cell in enumerate(nb.cells) if _id(cell) == source.name]
                if places:
                    at = places[0] + 1
                    continue
                self.log.warning("Cell %s was deleted; it is put back", source.name)
                about = {
                    "grade": source.name in graded,
                    "solution": source.name in solved,
                    "points": points.get(source.name),
                }
                nb.cells.insert(at, _restored(source, about))
                at += 1
        return nb, resources


def _id(cell: Any) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _restored(source: Any, about: dict[str, Any]) -> Any:
    new = new_code_cell if source.cell_type == "code" else new_markdown_cell
    cell = new(source.source)
    cell.metadata["nbgrader"] = {
        "grade": about["grade"],
        "grade_id": source.name,
        "locked": bool(source.locked),
        "schema_version": 3,
        "solution": about["solution"],
        "task": False,
        "cell_type": source.cell_type,
        "checksum": source.checksum,
        **({"points": about["points"]} if about["grade"] else {}),
    }
    return cell


class GuardedExecute(Execute):
    """Run a submission with a limit of memory, and seal the checks before each test cell.

    A cell that never ran counts as failed: nbgrader alone gives a silent cell full points.
    """

    most_timeouts = Integer(3, help="Cells over time after which the run ends").tag(config=True)
    memory_gib = Float(4.0, help="Data memory of the kernel in GiB, on Linux").tag(config=True)

    def preprocess(self, nb: Any, resources: Any, km: Any = None) -> tuple[Any, Any]:
        """Run all cells; test cells that were not reached fail with the reason."""
        self._late, self._ran = 0, set()
        reason = "The run ended before this cell."
        try:
            with limited(self.memory_gib):
                nb, resources = super().preprocess(nb, resources, km=km)
        except DeadKernelError:
            reason = "The kernel died before this cell: out of memory, or told to stop."
        except _TooLate:
            reason = f"{self.most_timeouts} cells ran over their time, so this one was not run."
        for cell in nb.cells:
            if utils.is_grade(cell) and cell.cell_type == "code" and _id(cell) not in self._ran:
                cell.outputs = [_failed("NotRun", reason)]
        return nb, resources

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Run one cell; before a test cell the seal."""
        test = utils.is_grade(cell) and cell.cell_type == "code"
        if test:
            sealed = new_code_cell(SEAL.format(student=resources["nbgrader"]["student"]))
            self._run(sealed, resources, index)
            if any(output.output_type == "error" for output in sealed.outputs):
                cell.outputs = [_failed("NotSealed", "The checks could not be read from disk.")]
                self._ran.add(_id(cell))
                return cell, resources
        cell, resources = self._run(cell, resources, index)
        if test:
            self._ran.add(_id(cell))
        return cell, resources

    def _run(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        except CellTimeoutError:
            cell.outputs = [_failed("CellTimeoutError", "No reply from the kernel in time.")]
        if any(o.get("ename") == "CellTimeoutError" for o in cell.get("outputs", ())):
            self._late += 1
            if self._late >= self.most_timeouts:
                raise _TooLate
        return cell, resources


class _TooLate(Exception):
    """Say that too many cells ran over their time."""


def _failed(name: str, sentence: str) -> Any:
    return new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"])


@contextlib.contextmanager
def limited(gib: float) -> Iterator[None]:
    """Let processes started inside have at most this much data memory, where the system can."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        yield
        return
    old = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)
