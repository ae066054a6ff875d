"""Laws of the lessons: each gate catches its fault, and every committed lesson passes them all."""

from __future__ import annotations

import base64
import configparser
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import gates
import nbval_pictures
import notebooks as tool

ROOT = Path(__file__).resolve().parents[1]
LESSONS = tool.all_notebooks()
NBVAL = [
    *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "120", "-q"),
    f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}",
]


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def code(source: str, *tags: str, count: int | None = 1, outputs: Any = ()) -> Any:
    cell = new_code_cell(source, execution_count=count, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return cell


def good() -> Any:
    """A notebook that passes every gate."""
    picture = new_output(
        "display_data",
        {"image/png": png((9, 9, 9)), "text/plain": "Figure: a dark picture."},
        metadata={"image/png": {"alt": "a dark picture, all grey"}},
    )
    notebook = new_notebook(
        cells=[
            new_markdown_cell(
                "# A lesson\n\n<!-- badges --><!-- /badges -->\n\nBy 2/3 of <b>all</b>."
            ),
            new_markdown_cell("Cost: <!-- measured -->?<!-- /measured -->"),
            code("import p2p_lab", "setup", count=1),
            code("def f(x):\n    return x", "lesson", count=2),
            code("f(1)", count=3, outputs=[picture]),
            new_markdown_cell("**Done?** *Kernel → Shut Down Kernel* gives the memory back."),
        ]
    )
    notebook.metadata["p2p_lab"] = {"seconds": 5, "cpu_seconds": 9, "peak_mb": 400}
    return notebook


def saved(notebook: Any, folder: Path, name: str = "lesson.ipynb") -> Path:
    path = folder / name
    nbformat.write(notebook, path)
    return path


# The gates --------------------------------------------------------------------------------------


def test_a_good_notebook_passes_every_gate(tmp_path: Path) -> None:
    assert gates.failures(saved(good(), tmp_path)) == []


def _unexecuted(n: Any) -> None:
    n.cells[3].execution_count = None


def _out_of_order(n: Any) -> None:
    n.cells[2].execution_count = 7


def _error(n: Any) -> None:
    n.cells[4].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def _skipped_silently(n: Any) -> None:
    n.cells[4].metadata["tags"] = ["nbval-skip"]


def _too_many_skipped(n: Any) -> None:
    for cell in n.cells[2:5]:
        cell.metadata["tags"] = ["nbval-ignore-output"]
        cell.source = "# not compared: a clock\n1"


def _comment_marker(n: Any) -> None:
    n.cells[4].source = "# NBVAL_IGNORE_OUTPUT\nf(1)"


def _long(n: Any) -> None:
    n.cells[4].source = "\n".join(f"x{i} = {i}" for i in range(13))


def _wide(n: Any) -> None:
    n.cells[4].source = "x = '" + "y" * 120 + "'"


def _definition(n: Any) -> None:
    n.cells[4].source = "%matplotlib inline\ndef g():\n    pass"


def _path_in_source(n: Any) -> None:
    n.cells[4].source = "load('/srv/data/models/mine')"


def _path_in_output(n: Any) -> None:
    n.cells[4].outputs = [new_output("stream", text="warning in /opt/lib/python/site.py:3")]


def _no_alternative(n: Any) -> None:
    n.cells[4].outputs[0].metadata = {}
    n.cells[4].outputs[0].data["text/plain"] = "<Figure size 640x480 with 1 Axes>"


def _bare_markdown_picture(n: Any) -> None:
    n.cells[1].source += "\n![](hero.png)"


def _no_title(n: Any) -> None:
    n.cells[0].source = "Welcome"


def _long_setup(n: Any) -> None:
    n.cells[2].source = "\n".join(f"x{i} = {i}" for i in range(6))


def _shell_setup(n: Any) -> None:
    n.cells[2].source = "!test -n x\nimport p2p_lab"


def _no_end(n: Any) -> None:
    n.cells[-1].source = "**Next:** another lesson."


def _unmeasured(n: Any) -> None:
    del n.metadata["p2p_lab"]


def _slow(n: Any) -> None:
    n.metadata["p2p_lab"]["cpu_seconds"] = 121


def _heavy(n: Any) -> None:
    n.metadata["p2p_lab"]["peak_mb"] = 1400


def _big(n: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 900_000, dtype=np.uint8)
    n.cells[4].outputs[0].data["image/png"] = base64.b64encode(noise.tobytes()).decode()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_unexecuted, "was not executed"),
        (_out_of_order, "not run in order"),
        (_error, "raised ValueError"),
        (_skipped_silently, "without a comment"),
        (_too_many_skipped, "at most 10 %"),
        (_comment_marker, "use a cell tag"),
        (_long, "has 13 lines"),
        (_wide, "columns wide"),
        (_definition, "defines g"),
        (_path_in_source, "absolute path"),
        (_path_in_output, "absolute path"),
        (_no_alternative, "no alternative text"),
        (_bare_markdown_picture, "without alternative text"),
        (_no_title, "the title"),
        (_long_setup, "set-up has 6 lines"),
        (_shell_setup, "calls a shell"),
        (_no_end, "Shut Down Kernel"),
        (_unmeasured, "no measured seconds"),
        (_slow, "121 CPU seconds"),
        (_heavy, "1400 MB"),
        (_big, "MB on disk"),
    ],
)
def test_each_gate_catches_its_fault_and_only_that(
    spoil: Callable[[Any], None], sentence: str, tmp_path: Path
) -> None:
    notebook = good()
    spoil(notebook)
    found = gates.failures(saved(notebook, tmp_path))
    assert found and all(sentence in said for said in found), found


@pytest.mark.parametrize(
    "text",
    [
        "half/of/it", "https://arxiv.org/abs/2208.01626", "</div></b>", "a / b / c", "and/or",
        "$x/y/z$", "[link](../notebooks/01.ipynb)", "p2p_lab/weights/x", "**/x/y", "`1/2`",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_path_is_no_fault(text: str) -> None:
    assert not gates.ABSOLUTE.search(text)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_committed_lesson_passes_every_gate(path: Path) -> None:
    assert gates.failures(path) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_says_how_long_it_takes_by_what_a_reader_meets(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    strip, found = notebook.cells[0].source, tool.count_for_reader(notebook, path.stem)
    tool.state_reader(notebook, path.stem)
    assert f"about {found['minutes']} minutes" in strip and notebook.cells[0].source == strip
    assert found["minutes"] <= 50


def test_no_other_pattern_of_nbval_meets_a_picture_inside_html() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tests" / "nbval_sanitize.cfg", encoding="utf-8")
    first = config[config.sections()[0]]
    shown = [part["text/html"] for path in LESSONS for part in data_of(path) if "text/html" in part]
    kinds = {kind for html in shown for kind in re.findall(r"data:image/(\w+);base64", html)}
    assert kinds == {"png", "jpeg"}
    for html in shown:
        left = re.sub(first["regex"], first["replace"], html)
        assert "base64" not in left, left[:200]


def data_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield what each output of a notebook shows, by type."""
    for cell in nbformat.read(path, as_version=4).cells:
        yield from (output.get("data", {}) for output in cell.get("outputs", []))


def test_the_readme_adds_the_lessons_minutes_up() -> None:
    counts = [tool.count_for_reader(nbformat.read(p, as_version=4), p.stem) for p in LESSONS]
    total = sum(one["minutes"] for one in counts)
    assert f"{total} minutes by their own count" in (ROOT / "README.md").read_text("utf-8")


def test_the_readme_says_each_lessons_measured_seconds() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for path in LESSONS:
        spent = nbformat.read(path, as_version=4).metadata["p2p_lab"]["cpu_seconds"]
        row = next(line for line in text.splitlines() if f"| [{path.stem}](" in line)
        assert row.split("|")[-2].strip() == str(round(spent)), path.stem


def test_the_count_for_a_reader_leaves_out_what_is_folded_set_up_or_waits() -> None:
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# T\n<!-- reader --><!-- /reader -->"),
            code("import p2p_lab\nmodel = 1", "setup"),
            new_markdown_cell("one two <details>three</details> four\n\n**References.** five six"),
            code("a = 1\n\nb = 2"),
            code("c = 3", "nbval-skip"),
            new_markdown_cell("a b c", metadata={"tags": ["solution"]}),
        ]
    )
    found = tool.count_for_reader(notebook, "00_start")
    assert (found["words"], found["lines"], found["exercises"]) == (3, 2, 1)
    tool.state_reader(notebook, "00_start")
    assert "about 5 minutes: 3 words, 2 lines of code, 1 exercise<!--" in notebook.cells[0].source


def test_a_bad_notebook_makes_check_fail_and_a_good_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = good()
    assert tool.main(["check", str(saved(notebook, tmp_path))]) == 0
    _no_title(notebook)
    assert tool.main(["check", str(saved(notebook, tmp_path))]) == 1
    assert "lesson.ipynb: the first cell must be markdown" in capsys.readouterr().out


# run, student, badges ---------------------------------------------------------------------------


def test_run_executes_measures_and_gives_the_same_file_twice(tmp_path: Path) -> None:
    notebook = good()
    notebook.cells = [
        *notebook.cells[:2],
        code("import os\nos.environ['OMP_NUM_THREADS']", count=None),
    ]
    path = saved(notebook, tmp_path)
    assert tool.main(["run", str(path)]) == 0
    one = nbformat.read(path, as_version=4)
    assert one.cells[-1].execution_count == 1 and len(one.cells) == 3
    assert one.cells[-1].outputs[0].data["text/plain"] == "'1'"
    facts = one.metadata["p2p_lab"]
    assert facts["peak_mb"] > 20
    assert f"{facts['peak_mb']} MB peak" in one.cells[1].source
    assert not list(tmp_path.glob("*.part"))
    assert tool.main(["run", str(path)]) == 0
    two = nbformat.read(path, as_version=4)
    for notebook in (one, two):
        notebook.metadata.pop("p2p_lab")
        notebook.cells[1].source = ""
    assert one == two


def test_a_notebook_that_fails_is_left_as_it_was_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(new_notebook(cells=[code("1 / 0", count=None)]), tmp_path)
    before = path.read_bytes()
    assert tool.main(["run", str(path)]) == 1
    assert "lesson.ipynb" in capsys.readouterr().err and path.read_bytes() == before


def test_a_stored_widget_gives_way_to_its_static_picture() -> None:
    notebook = good()
    output = notebook.cells[4].outputs[0]
    output.data[tool.LIVE_ONLY] = {"model_id": "abc"}
    tool.tidy(notebook)
    assert tool.LIVE_ONLY not in output.data and "image/png" in output.data
    assert notebook.cells[0].id == "cell-00"


def test_the_student_version_holds_no_solution_and_no_answer(tmp_path: Path) -> None:
    notebook = good()
    notebook.cells += [
        code(
            "def g(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION", "exercise"
        ),
        code("g = lambda x: 2 * x", "solution"),
        new_markdown_cell("The answer is 42.", metadata={"tags": ["solution"]}),
    ]
    notebook.cells[-3].outputs = [new_output("stream", text="right")]
    blank = tool.without_solutions(notebook)
    text = nbformat.writes(blank)
    for secret in ("2 * x", "answer is", "right", "SOLUTION"):
        assert secret not in text
    assert "raise NotImplementedError" in blank.cells[-1].source
    assert "2 * x" in nbformat.writes(notebook), "the lesson itself is left alone"


def test_badges_point_every_link_and_the_clone_line_to_one_place() -> None:
    text = "<!-- badges -->old<!-- /badges -->\ngit clone https://github.com/a/b p2p_lab\n"
    new = tool.rewrite(text, "org/repo@v1", "notebooks/x.ipynb")
    assert new.count("org/repo") == 6 and "a/b" not in new and "old" not in new
    assert "mybinder.org/v2/gh/org/repo/v1?urlpath=lab/tree/notebooks/x.ipynb" in new
    assert "colab.research.google.com/github/org/repo/blob/v1/notebooks/x.ipynb" in new
    assert "welcome?src=https://github.com/org/repo/blob/v1/notebooks/x.ipynb" in new
    assert "codespaces.new/org/repo/tree/v1" in new
    assert "molab.marimo.io/github/org/repo/blob/v1/notebooks/x.ipynb" in new
    assert "git clone --branch v1 https://github.com/org/repo p2p_lab\n" in new
    assert tool.rewrite(new, "org/repo@v1", "notebooks/x.ipynb") == new
    back = tool.rewrite(new, "", "notebooks/x.ipynb")
    assert back == "<!-- badges --><!-- /badges -->\ngit clone ADDRESS-OF-THIS-REPOSITORY p2p_lab\n"


def run_setup(
    source: str, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Execute a set-up cell where the package is there or not and no shell may be started."""
    asked: list[tuple[str, str]] = []
    shell = types.SimpleNamespace(run_line_magic=lambda *words: asked.append(words))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a shell was started")

    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object() if there else None)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "p2p_lab", types.SimpleNamespace(load=lambda: "model"))
    names: dict[str, Any] = {"get_ipython": lambda: shell}
    exec(compile(source, "set-up", "exec"), names)
    return asked, names


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_the_first_cell_of_a_lesson_is_the_same_plain_python_everywhere(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert cells[0].source == tool.setup_cell(tool.published())
    asked, names = run_setup(cells[0].source, monkeypatch, there=True)
    assert not asked and names["model"] == "model"


def test_the_first_cell_installs_the_published_package_where_it_is_missing_as_on_colab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, _ = run_setup(tool.setup_cell("org/repo@v1"), monkeypatch, there=False)
    assert asked == [("pip", "install -q git+https://github.com/org/repo@v1")]
    asked, _ = run_setup(tool.setup_cell(""), monkeypatch, there=False)
    assert not asked and "Install p2p_lab here first" in capsys.readouterr().out


@pytest.mark.parametrize("path", [*LESSONS, ROOT / "README.md"], ids=lambda p: p.stem)
def test_links_and_install_lines_name_the_one_repository_or_none(path: Path) -> None:
    lesson = path if path.suffix == ".ipynb" else LESSONS[0]
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert tool.rewrite(text, tool.published(), f"notebooks/{lesson.name}") == text


@pytest.mark.parametrize("place", ["repo", "org/repo", "org/repo@", "a b/c@d"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(SystemExit, match="ORG/REPO@TAG"):
        tool.setting(place)


# Stored pictures and the mutation ---------------------------------------------------------------


def test_equal_and_nearly_equal_pictures_pass_and_others_do_not() -> None:
    differ, most = nbval_pictures.picture_difference, nbval_pictures.SHARE_TOLERANCE
    assert differ(png((90, 90, 90)), png((95, 90, 90))) == 0
    assert differ(png((90, 90, 90)), png((120, 90, 90))) == 1
    assert differ(png((9, 9, 9)), png((9, 9, 9), (80, 30))) == 1
    page = np.full((400, 400, 3), 255, np.uint8)
    moved, other = page.copy(), page.copy()
    page[200, 50:350], moved[201, 50:350] = 0, 0  # a line of text, a pixel lower
    other[40:120, 40:120] = (70, 20, 90)  # one panel of many
    one, two, three = (_png_of(x) for x in (page, moved, other))
    assert differ(one, two) <= most < differ(one, three)


def _png_of(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.slow
def test_nbval_fails_when_a_stored_picture_is_another_one(tmp_path: Path) -> None:
    draw = (
        "from IPython.display import Image, display\nimport io, PIL.Image\nb = io.BytesIO()\n"
        "PIL.Image.new('RGB', (40, 30), (200, 30, 30)).save(b, 'png')\n"
        "Image(b.getvalue())"
    )

    for name, colour in (("same", (200, 30, 30)), ("other", (30, 30, 200))):
        picture = {"image/png": png(colour), "text/plain": "<IPython.core.display.Image object>"}
        output = new_output("execute_result", picture, execution_count=1)
        saved(new_notebook(cells=[code(draw, outputs=[output])]), tmp_path, f"{name}.ipynb")
    line = [sys.executable, "-m", "pytest", *NBVAL, "-p", "nbval_pictures", "-rA", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "differs from the stored one in" in done.stdout


MUTATION = """
from p2p_lab.attention.tape import QueryKey
_right = QueryKey.probs
QueryKey.probs = lambda self: _right(self).roll(1, -1)  # column j is no longer token j
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_breaking_one_attention_rule_fails_at_least_one_cell_of_every_lesson(
    path: Path, tmp_path: Path
) -> None:
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mutate.py").write_text(MUTATION)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *NBVAL, "-x", "--tb=line", str(path)],
        cwd=ROOT,
        env={**os.environ, **tool.fixed_environment(), "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, f"{path.name} does not notice:\n{done.stdout[-1500:]}"
    assert "1 failed" in done.stdout


def test_pictures_are_taken_out_before_patterns_that_would_take_minutes_on_them() -> None:
    from nbval.plugin import get_sanitize_patterns

    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    patterns = get_sanitize_patterns(text)
    assert len(patterns) > 3 and "base64" in patterns[0][0]  # the others see no picture
    shown = f'<img alt="a cat" src="data:image/png;base64,{"iVBOR8+/" * 20_000}">'
    for pattern, replacement in patterns:
        shown = re.sub(pattern, replacement, shown)
    assert shown == '<img alt="a cat" src="PICTURE">'
