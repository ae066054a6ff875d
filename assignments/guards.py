"""Guards for grading: cells that were deleted come back, and answers are judged from outside.

`RestoreCells` runs before nbgrader overwrites the locked cells; `GuardedExecute` takes the place of
nbgrader's `Execute`. It does not run a test cell in the student's process. It draws the inputs
here, sends them there, has the student's function called, and judges what comes back. So neither
the right answers nor the secret of the hidden inputs is ever in the student's process. GUIDE.md
says what these guards can and cannot stop.
"""

from __future__ import annotations

import ast
import pickle
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import Execute, NbGraderPreprocessor
from traitlets import Float, Integer, Unicode

FENCE = """
from p2p_lab.checks.engine import fence as _fence
_fence.put_up({course!r}, {gib!r})
del _fence
"""
FENCE_NAME = "p2p_lab.checks.engine.fence"
ASK = "__import__('sys').modules['" + FENCE_NAME + "'].serve({request!r}, {reply!r}, globals())"


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


class Stopped(Exception):
    """Say that the student's process is to be started anew, and why."""


class GuardedExecute(Execute):
    """Run a submission in a fenced process, and judge its answers from this one."""

    question_seconds = Integer(60, help="Seconds for the three tests of a question").tag(
        config=True
    )
    most_restarts = Integer(8, help="Times a submission's process may be lost").tag(config=True)
    memory_gib = Float(4.0, help="Memory that an answer may take, GiB (Linux)").tag(config=True)
    secret = Unicode("", help="What hidden inputs are drawn with").tag(config=True)

    def preprocess(self, nb: Any, resources: Any, km: Any = None) -> tuple[Any, Any]:
        """Run and judge all cells; test cells that were not reached fail with the reason."""
        self._spent: dict[str, float] = {}
        self._lost: dict[str, str] = {}
        self._kept: list[str] = []
        self._ran: set[str | None] = set()
        self._restarts, self._fresh = 0, True
        self._warn_of_another_id(nb, resources["nbgrader"]["student"])
        reason = "The run ended before this cell."
        with tempfile.TemporaryDirectory(prefix="p2p-grading-") as folder:
            self._folder = Path(folder)
            try:
                nb, resources = super().preprocess(nb, resources, km=km)
            except Stopped as error:
                reason = str(error)
        for cell in nb.cells:
            if _is_test(cell) and _id(cell) not in self._ran:
                cell.outputs = [_failed("NotRun", reason)]
        return nb, resources

    def _warn_of_another_id(self, nb: Any, student: str) -> None:
        for cell in nb.cells:
            found = re.search(r"^STUDENT\s*=\s*[\"'](.*?)[\"']", cell.source, re.M)
            if found and found[1].strip().lower() != student.strip().lower():
                self.log.warning("%s's notebook says STUDENT = %r", student, found[1])

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Run a cell of the student, or judge an answer in the place of a test cell."""
        if cell.cell_type != "code" or not cell.source.strip():
            return cell, resources
        self._at = index
        if self._fresh:
            self._start(resources)
        if _is_test(cell):
            cell.outputs = [self._judged(cell, resources)]
            self._ran.add(_id(cell))
            return cell, resources
        try:
            if _id(cell):  # our own cells draw from the name of the student's folder
                self._quietly(f"STUDENT = {resources['nbgrader']['student']!r}")
            self._within(self.timeout, cell)
            self._kept.append(cell.source)
        except Stopped as error:
            cell.outputs = [*cell.outputs, _failed("CellTimeoutError", str(error))]
            self._again(resources)
        return cell, resources

    # Answers ------------------------------------------------------------------------------------

    def _judged(self, cell: Any, resources: Any) -> Any:
        """Judge the answer that a test cell names, and return the cell's output."""
        from p2p_lab.checks.engine.grading import Elsewhere, graded

        asked = Asked.of(cell.source)
        if asked is None:
            return _failed("NotRun", "A test cell is one call of grade(...).")
        if asked.question in self._lost:
            return _failed("NotRight", self._lost[asked.question])
        answer = Elsewhere(lambda question, args: self._ask(asked.name, question, args))
        student = resources["nbgrader"]["student"]
        secret = self.secret if asked.hidden else ""
        try:
            found = graded(asked.question, answer, student, easy=asked.easy, secret=secret)
        except Stopped as error:
            self._lost[asked.question] = f"{asked.question}: {error}"
            self._again(resources)
            return _failed("NotRight", self._lost[asked.question])
        if found.state != "right":
            return _failed("NotRight", str(found))
        return new_output("stream", name="stdout", text=f"{found}\n")

    def _ask(self, name: str, question_id: str, args: tuple[Any, ...]) -> Any:
        """Have the student's function called, and return what came of it.

        Raises:
            Stopped: If it took too long, or its process ended.
        """
        from p2p_lab.checks import questions
        from p2p_lab.checks.engine.answering import Outcome
        from p2p_lab.checks.engine.wire import read

        question = questions()[question_id]
        drive = None if question.drive is None else question.drive.__name__
        request, reply = self._folder / "request", self._folder / "reply"
        request.write_bytes(pickle.dumps((name, args, question.rules, drive)))
        reply.unlink(missing_ok=True)
        left = self.question_seconds - self._spent.get(question_id, 0.0)
        started = time.monotonic()
        source = ASK.format(request=str(request), reply=str(reply))
        self._within(max(left, 1.0), new_code_cell(source))
        self._spent[question_id] = self._spent.get(question_id, 0.0) + time.monotonic() - started
        try:
            kind, value, sentence = read(reply)
            return Outcome(kind, value, str(sentence))
        except (ValueError, TypeError):
            return Outcome("wrong", sentence="Nothing that can be read came back from its process.")

    # The student's process ----------------------------------------------------------------------

    def _within(self, seconds: float, cell: Any) -> None:
        """Run a cell in the student's process.

        Raises:
            Stopped: If it took too long, or the process ended.
        """
        usual, self.timeout = self.timeout, int(seconds + 1)
        late = f"timed out: it had {self.question_seconds} seconds. Is there an endless loop?"
        kept = self.nb.cells[self._at]  # execute_cell puts the cell that it runs in this place
        try:
            self.execute_cell(cell, self._at, store_history=False)
        except CellTimeoutError:
            raise Stopped(late) from None
        except DeadKernelError:
            raise Stopped("its process ended: out of memory, or told to stop.") from None
        finally:
            self.timeout, self.nb.cells[self._at] = usual, kept
        if any(output.get("ename") == "CellTimeoutError" for output in cell.get("outputs", ())):
            raise Stopped(late)

    def _quietly(self, source: str) -> None:
        self._within(self.timeout, new_code_cell(source))

    def _start(self, resources: Any) -> None:
        """Fence the process before the student's first cell."""
        course = str(Path(resources["nbgrader"]["db_url"].removeprefix("sqlite:///")).parent)
        cell = new_code_cell(FENCE.format(course=course, gib=self.memory_gib))
        self._within(max(self.timeout or 0, 240), cell)
        errors = [output.evalue for output in cell.outputs if output.output_type == "error"]
        if errors:
            raise RuntimeError(f"The process for answers could not be fenced: {errors[0]}")
        self._fresh = False

    def _again(self, resources: Any) -> None:
        """Start another process, and run in it what ran well before.

        Raises:
            Stopped: If that has happened too often.
        """
        self._restarts += 1
        if self._restarts > self.most_restarts:
            raise Stopped(f"Its process was lost {self._restarts} times, so this was not run.")
        self.shutdown_kernel = "immediate"
        self._cleanup_kernel()
        self.km = self.create_kernel_manager()
        self.start_new_kernel()
        self.start_new_kernel_client()
        self._start(resources)
        for source in self._kept:
            self._quietly(source)


class Asked:
    """What a test cell asks: `grade("ps1.words", words, STUDENT, hidden=True)`."""

    def __init__(self, call: ast.Call) -> None:
        """Read the call."""
        flags = {word.arg for word in call.keywords if getattr(word.value, "value", False) is True}
        self.question, self.name = call.args[0].value, call.args[1].id  # type: ignore[attr-defined]
        self.easy, self.hidden = "easy" in flags, "hidden" in flags

    @classmethod
    def of(cls, source: str) -> Asked | None:
        """Return what a cell asks, or None if it is no call of grade."""
        try:
            (statement,) = ast.parse(source).body
            call = statement.value  # type: ignore[attr-defined]
            return cls(call) if call.func.id == "grade" else None
        except (SyntaxError, ValueError, AttributeError, IndexError):
            return None


def _is_test(cell: Any) -> bool:
    return bool(utils.is_grade(cell) and cell.cell_type == "code")


def _failed(name: str, sentence: str) -> Any:
    return new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"])
