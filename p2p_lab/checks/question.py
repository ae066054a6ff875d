"""What a question of a problem set is: an exercise whose inputs are drawn from a seed.

    judge(answer, seed, easy) -> what was checked, or Wrong, or NotAttempted

The same judge serves the visible test (the student's own seed) and the hidden one (other seeds),
and its easy cases give partial credit. There is no reference answer here: a judge compares with
what the package itself computes, and a model answer is the teacher's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Judge = Callable[[Callable[..., Any], int, bool], str]


@dataclass(frozen=True)
class Question:
    """Hold one question of a problem set.

    Attributes:
        id: the problem set's number and a name, as "ps1.words".
        title: what is asked for, in a few words.
        signature: how the answer is called and what it returns, with shapes.
        hints: two sentences, the second one nearly gives it away.
        judge: given an answer, a seed and whether to take only the easy cases, raises `Wrong` or
            `NotAttempted`, or returns what was checked.
        control: a wrong answer of the right form. Checks that let it pass have been tampered with.
    """

    id: str
    title: str
    signature: str
    hints: tuple[str, str]
    judge: Judge
    control: Callable[..., Any]

    def test(self, answer: Callable[..., Any]) -> str:
        """Judge an answer in full, on inputs that are always the same."""
        return self.judge(answer, 0, False)


def seed_of(student: str, what: str, salt: str = "") -> int:
    """Return the seed of a student for one thing: 31 bits of a hash of all three.

    Args:
        student: the id that the teacher knows the student by; case and outer spaces do not count.
        what: the question, as "ps1.words".
        salt: what makes a hidden test's inputs differ from the visible one's.
    """
    text = "\n".join([student.strip().lower(), what, salt])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
