"""Laws of graded answers: they are one's own, they run fenced, and what they send is harmless."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import course
import p2p_lab
from p2p_lab.checks import check, questions
from p2p_lab.checks.engine import wire
from p2p_lab.edits import LocalBlend, Replace
from tests.course_students import OTHER_WAY

QUICK = [i for i in questions() if i not in ("ps2.scene", "ps3.edits", "ps4.retrace")]


@pytest.mark.parametrize("question_id", QUICK)
def test_the_right_answer_that_lies_in_the_package_is_refused(question_id: str) -> None:
    found = check(question_id, questions()[question_id].right)
    assert found.state == "wrong" and "do the work" in found.message


def _ready(source_prompt: Any, target: Any) -> Any:
    found = p2p_lab.align_tokens(source_prompt, target)
    return found.mapper, found.matched


def _sdpa(attn: Any, x: Any, context: Any = None, mask: Any = None, gain: Any = None) -> Any:
    context = x if context is None else context
    q, k, v = (
        t.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for t in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
    )
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _diffusers(attn: Any, x: Any, context: Any = None, *more: Any) -> Any:
    from diffusers.models.attention_processor import AttnProcessor

    return AttnProcessor()(attn, x, encoder_hidden_states=context)


BORROWED = [
    ("ps1.prompts", _ready, "align_tokens"),
    ("ps2.processor", lambda attn, *a, **k: attn(*a[:2], **k), "diffusers"),
    ("ps2.processor", _diffusers, "diffusers"),
    ("ps2.processor", _sdpa, "scaled_dot_product_attention"),
    ("ps2.score", lambda heat, mask: (True, p2p_lab.metrics.mask_iou(heat, mask)), "mask_iou"),
    ("ps4.inverse", lambda z, v, a, b: p2p_lab.sampling.ddim_step(z, v, a, b), "ddim_step"),
]


@pytest.mark.parametrize(("question_id", "answer", "name"), BORROWED)
def test_a_library_that_does_the_work_is_named(question_id: str, answer: Any, name: str) -> None:
    said = check(question_id, answer).message
    assert name in said and "do the work" in said


def test_whoever_switches_the_watch_off_is_refused() -> None:
    def answer(source_spans: Any, target_spans: Any, length: int) -> Any:
        sys.setprofile(None)
        return questions()["ps1.shares"].right(source_spans, target_spans, length)

    assert "switches this watch off" in check("ps1.shares", answer).message


def test_a_library_may_be_called_by_another_thread_no_more_than_by_the_first() -> None:
    def answer(source_spans: Any, target_spans: Any, length: int) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            given = (questions()["ps1.shares"].right, source_spans, target_spans, length)
            return pool.submit(*given).result()

    assert "do the work" in check("ps1.shares", answer).message


@pytest.mark.parametrize("cell", OTHER_WAY)
def test_another_way_is_right_too(cell: str) -> None:
    space: dict[str, Any] = {"torch": torch}
    exec(compile(OTHER_WAY[cell], "cell", "exec"), space)
    found = check(f"ps1.{cell}", space[cell])
    assert found.state == "right", found


def test_what_a_student_sends_cannot_run_in_the_process_that_judges(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for data in (pickle.dumps(Bad()), _saved(Bad()), b"nothing"):
        (tmp_path / "reply").write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read"):
            wire.read(tmp_path / "reply")
    assert not (tmp_path / "ran").exists()


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_values_and_edits_arrive_as_they_were_sent(tmp_path: Path) -> None:
    sent = [1, None, 2.5, "word", (True, [torch.eye(2)]), {3: "x"}, Replace(cross=(0, 0.5)),
            LocalBlend("cat", "dog", threshold=0.4)]  # fmt: skip
    (tmp_path / "reply").write_bytes(wire.to_bytes([*sent, {1, 2}, object()]))
    got = wire.read(tmp_path / "reply")
    assert got[:4] == sent[:4] and got[5] == sent[5] and torch.equal(got[4][1][0], torch.eye(2))
    assert got[6].cross == (0, 0.5) and got[7].threshold == 0.4
    assert [one.name for one in got[8:]] == ["set", "object"]


FENCED = """
import mmap, sys
from p2p_lab.checks.engine import fence
fence.put_up({course!r}, 1.0)
tried = {{
    "secret": lambda: open({course!r} + "/secret.txt").read(),
    "checks": lambda: open(fence._CHECKS / "sets/ps1.py").read(),
    "module": lambda: __import__("p2p_lab.checks.sets.ps1"),
    "lesson": lambda: __import__("p2p_lab.checks.lessons.lesson_03"),
    "program": lambda: __import__("subprocess").run(["cat", {course!r} + "/secret.txt"]),
    "shell": lambda: __import__("os").system("true"),
    "network": lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
    "memory": lambda: mmap.mmap(-1, 6 * 2**30),
}}
for name, attempt in tried.items():
    try:
        attempt()
        print(name, "went through")
    except (OSError, ImportError, MemoryError) as error:
        print(name, "refused:", error)
"""


def test_the_fence_refuses_what_an_answer_has_no_need_of(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a secret", encoding="utf-8")
    own = tmp_path / "autograded" / "ada"
    own.mkdir(parents=True)
    code = FENCED.format(course=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=own,
        env={**os.environ, "PYTHONPATH": str(course.ROOT)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = ["secret", "checks", "module", "lesson", "program", "shell", "network"]
    names += ["memory"] if sys.platform == "linux" else []
    assert [line.split()[0] for line in lines if "refused" in line] == names, lines
