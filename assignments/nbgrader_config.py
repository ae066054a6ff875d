"""How nbgrader runs this course: offline, without Docker, each submission in a guarded kernel.

It needs `guards.py` beside it. Used by `make course` and `make course-test`, and by a teacher's own
course folder, into which `make course` copies both.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from guards import GuardedExecute, RestoreCells
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    IgnorePattern,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)

c = get_config()  # noqa: F821 - traitlets gives it

c.CourseDirectory.course_id = "p2p_lab"

# What a student sees in an empty cell.
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError('your turn')"}
c.ClearSolutions.text_stub = "*Your answer here.*"

# A submission: what was deleted comes back, what was locked is as it was handed out.
c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    RestoreCells,
    OverwriteCells,
    CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    GuardedExecute,
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]

# Files from a learning platform are named STUDENT_anything_psN.ipynb: what stands before the first
# underscore is the id. Change it if yours are named in another way.
c.FileNameCollectorPlugin.named_regexp = (
    r"(?:.*[\\/])?(?P<student_id>[^_\\/]+)_(?:[^\\/]*_)?(?P<file_id>ps\d+)(?:-\d+)?\.ipynb$"
)

# A question has 60 seconds for its three tests, every other cell 60 too. An answer may take 4 GiB.
c.GuardedExecute.timeout = 60
c.GuardedExecute.question_seconds = 60
c.GuardedExecute.memory_gib = 4.0
c.GuardedExecute.kernel_name = "python3"

# What the hidden inputs are drawn with. It stands in a file of its own, beside this one, and in no
# notebook: never hand it out. The same secret draws the same inputs again.
_secret = Path(__file__).resolve().parent / "secret.txt"
c.GuardedExecute.secret = _secret.read_text(encoding="utf-8").strip() if _secret.exists() else ""
if not c.GuardedExecute.secret:
    raise SystemExit(f"{_secret} is missing or empty: put a long phrase of your own in it.")
