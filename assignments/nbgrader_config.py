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

# A cell has 60 seconds; the third one that runs over ends the run. A kernel has 4 GiB.
c.GuardedExecute.timeout = 60
c.GuardedExecute.most_timeouts = 3
c.GuardedExecute.memory_gib = 4.0
c.GuardedExecute.kernel_name = "python3"
