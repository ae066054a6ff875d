"""Twelve students of problem set 1 and two more: what they hand in, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("easy", "own", "hidden")
ALL = ("words", "alignment", "refine_mapper", "shares", "prompts")


@dataclass(frozen=True)
class Student:
    """What one student hands in, and the test cells that must fail.

    Attributes:
        answers: Stub cell -> its text; the others hold the model answer.
        fails: The test cells without points.
        before: A cell that is put before all answers.
        blank: Whether the other cells are left as they were handed out.
        student_id: What the first cell says, in place of the folder's name.
    """

    answers: dict[str, str]
    fails: frozenset[str] = frozenset()
    before: str = ""
    blank: bool = False
    student_id: str = ""


def cells(*questions: str, parts: tuple[str, ...] = PARTS) -> frozenset[str]:
    """Return the test cells of questions."""
    return frozenset(f"{question}-{part}" for question in questions for part in parts)


OTHER_WAY = {
    "words": """
def words(text, offsets):
    starts = [i for i, c in enumerate(text) if c != " " and (i == 0 or text[i - 1] == " ")]
    number = [sum(start <= a for start in starts) for a, b in offsets]
    real = [t for t, (a, b) in enumerate(offsets) if b > a]
    for n in range(1, len(starts) + 1):
        mine = [t for t in real if number[t] == n]
        yield mine[0], mine[-1] + 1
""",
    "alignment": """
from functools import cache

def alignment(source, target, weight):
    @cache
    def best(i, j):  # (weight, pairs) of what follows
        if i == len(source) or j == len(target):
            return 0, ()
        ways = [best(i + 1, j), best(i, j + 1)]
        if source[i] == target[j]:
            more, pairs = best(i + 1, j + 1)
            ways.append((more + weight[source[i]], ((i, j), *pairs)))
        return max(ways, key=lambda way: way[0])
    found = dict.fromkeys(range(len(target)))
    found.update((j, i) for i, j in best(0, 0)[1])
    return found.values()
""",
    "refine_mapper": """
def refine_mapper(partner, length):
    whole = [*partner, *range(len(partner), length)]
    rows = [[float(i == whole[j]) for j in range(length)] for i in range(length)]
    return rows, [float(i is not None) for i in whole]
""",
    "shares": """
import numpy as np

def shares(source_spans, target_spans, length):
    S = np.zeros((length, length))
    for (a, b), (c, d) in zip(source_spans, target_spans):
        S[a:b, c:d] = np.eye(b - a) if b - a == d - c else 1 / (d - c)
    return S
""",
}

LOOP = "def {name}(*args):\n    while True:\n        pass\n"
DEAF_LOOP = """
def prompts_are_hard():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass

def align_prompts(source, target):
    prompts_are_hard()
"""

IMPORTED = {
    "words": "from p2p_lab.checks.sets.ps1_words import words\n",
    "alignment": """
import p2p_lab.tokens.alignment as ready
import difflib

def alignment(source, target, weight):
    from p2p_lab.checks.fixtures.aligning import heaviest
    return heaviest(source, target, weight)
""",
    "prompts": """
def align_prompts(source, target):
    found = p2p_lab.align_tokens(source, target)
    return found.mapper, found.matched
""",
}

PATCHES = """
import sys
import torch

torch.allclose = lambda *args, **more: True
torch.equal = lambda *args, **more: True
grade = check = lambda *args, **more: True
for name, module in list(sys.modules.items()):
    if name.startswith("p2p_lab.checks"):
        for old in ("check", "grade", "graded", "verdict", "agree", "close"):
            if hasattr(module, old):
                setattr(module, old, lambda *args, **more: True)
"""

FRAME_READER = '''
import gc
import glob
import inspect
import sys

def _seen():
    """Look through all frames and objects for right answers and for the secret."""
    found = []
    frame = sys._getframe()
    while frame:
        found += [(k, v) for k, v in frame.f_locals.items() if k in ("right", "case", "seed")]
        frame = frame.f_back
    return found

def words(text, offsets):
    for name, value in _seen():
        if name == "case":
            return value.right
        if name == "right":
            return value
    for path in ("../../../secret.txt", "../../../source/ps1/ps1.ipynb", "../../../gradebook.db"):
        try:
            return open(path, "rb").read()
        except OSError as error:
            print(path, error)
    return []

def shares(*args):
    import subprocess
    return subprocess.run(["cat", "../../../secret.txt"], capture_output=True).stdout
'''

HARD_CODED = """
TABLE = {table}

def shares(source_spans, target_spans, length):
    return TABLE[repr((source_spans, target_spans))]
"""

STUDENTS: dict[str, Student] = {
    "perfect": Student({}),
    "alternative": Student(OTHER_WAY),
    "half": Student(
        {
            "words": "def words(text, offsets):\n    return [(n + 1, n + 2) for n, _ in "
            "enumerate(text.split())]\n",
            "shares": "def shares(source, target, length):\n    S = torch.zeros(length, length)\n"
            "    for (a, b), (c, d) in zip(source, target):\n"
            "        S[a:b, c:d] = 1 / (b - a) if b - a != d - c else torch.eye(b - a)\n"
            "    return S\n",
        },
        cells("words", "shares", parts=("own", "hidden")),
    ),
    "blank": Student({}, cells(*ALL), blank=True),
    "syntax-error": Student({"alignment": "def alignment(source, target, weight:\n    return"},
                            cells("alignment", "prompts")),
    "hard-coded": Student({"shares": HARD_CODED}, cells("shares", parts=("hidden",))),
    "imported": Student(IMPORTED, cells("words", "alignment", "prompts")),
    "patched": Student({}, cells(*ALL), before=PATCHES, blank=True),
    "frame-reader": Student({"words": FRAME_READER, "shares": "pass"}, cells("words", "shares")),
    "loop-first": Student({"words": LOOP.format(name="words")}, cells("words")),
    "loop-last": Student({"prompts": DEAF_LOOP}, cells("prompts")),
    "wrong-id": Student({}, student_id="perfect"),
    "memory": Student(
        {
            "words": "import mmap\n\ndef words(text, offsets):\n"
            "    return len(mmap.mmap(-1, 6 * 2**30))\n",
            "shares": "def shares(*args):\n    return torch.ones(10**10).tolist()\n",
        },
        cells("words", "shares"),
    ),
    "death": Student(
        {"refine_mapper": "import os\n\ndef refine_mapper(partner, length):\n    os._exit(1)\n"},
        cells("refine_mapper", "prompts"),
    ),
}  # fmt: skip
