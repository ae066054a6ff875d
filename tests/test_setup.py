"""Laws of the set-up: one list of requirements, said the same to pip, conda, Binder and Colab."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - 3.10 only
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]

# Colab, August 2026: what is there already, so that `%pip install` of the package replaces nothing.
COLAB = {
    "python": "3.13",
    "torch": "2.11",
    "diffusers": "0.39",
    "transformers": "5.15",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "pillow": "11.3",
    "anywidget": "0.9.21",
}
CONDA_NAME = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras: str) -> dict[str, Requirement]:
    lines = list(project()["dependencies"])
    for extra in extras:
        lines += project()["optional-dependencies"][extra]
    return {r.name.lower(): r for r in map(Requirement, lines)}


def conda_lines() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return {re.split(r"[=<>]", line)[0]: line for line in lines}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_pyproject_and_environment_yml_ask_for_the_same_packages_and_floors() -> None:
    ours = {CONDA_NAME.get(n, n): str(r.specifier) for n, r in requirements("lab").items()}
    theirs = {
        name: line[len(name) :]
        for name, line in conda_lines().items()
        if name not in {"python", "pip", "setuptools"}
    }
    assert ours == theirs


def test_every_line_of_environment_yml_is_a_conda_match_spec() -> None:
    rattler = pytest.importorskip("rattler")
    for name, line in conda_lines().items():
        assert rattler.MatchSpec(line).name.normalized == name


def test_python_in_environment_yml_is_written_exactly_so_that_binder_takes_it() -> None:
    line = conda_lines()["python"]
    assert re.fullmatch(r"python=3\.\d+", line), f"{line!r}: with >= Binder falls back to 3.10"
    assert Version(line.split("=")[1]) >= Version("3.10")


def test_the_build_backend_is_in_the_conda_environment_since_postbuild_downloads_nothing() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert backend == [conda_lines()["setuptools"]]


def test_every_floor_lies_at_or_below_what_colab_has() -> None:
    for name, have in COLAB.items():
        if name == "python":
            assert Version(have) in Requirement("x" + project()["requires-python"]).specifier
        else:
            assert Version(have) in requirements()[name].specifier, f"{name} {have}"


def test_the_constraints_pin_every_requirement_inside_its_bounds() -> None:
    pins = pinned()
    for name, requirement in requirements("lab", "test", "grading", "art").items():
        key = re.sub(r"[-_.]+", "-", name)
        assert key in pins, f"{name} is not in constraints.txt"
        assert Version(pins[key]) in requirement.specifier, f"{name}=={pins[key]}"


def test_constraints_name_no_local_build_and_no_path() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "+" not in re.sub(r"^#.*$", "", text, flags=re.M)
    assert "@" not in text and "file:" not in text


def test_binder_reads_the_root_environment() -> None:
    ours, binders = ROOT / "environment.yml", ROOT / "binder" / "environment.yml"
    assert binders.read_text() == ours.read_text()


def test_postbuild_is_a_strict_executable_script_that_installs_without_dependencies() -> None:
    script = ROOT / "binder" / "postBuild"
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash" and "set -e" in lines
    assert script.stat().st_mode & 0o111
    assert any(re.match(r"pip install .*--no-deps .*\.$", line) for line in lines)
    assert not re.search(r"curl|wget|git clone|huggingface|https?://", script.read_text())


@pytest.mark.slow
def test_repo2docker_builds_from_the_conda_file_with_our_python(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("jupyter-repo2docker")
    if not tool.exists():
        pytest.fail("jupyter-repo2docker is missing: run `make setup`")
    for name in ("binder", "environment.yml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    done = subprocess.run(
        [str(tool), "--no-build", "--debug", "--user-id", "1000", "--user-name", "jovyan", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert "binder/environment.yml" in said
    assert "Building conda environment for python=3.12" in said, "not the Python we ask for"
    assert "RUN ./binder/postBuild" in said
    assert "binder/start" in said


def test_binder_starts_with_few_threads_that_sleep_when_they_wait() -> None:
    script = ROOT / "binder" / "start"
    done = subprocess.run(
        [str(script), "env"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert {"OMP_NUM_THREADS=2", "OMP_WAIT_POLICY=PASSIVE"} <= set(done.stdout.splitlines())


def test_the_wheel_carries_weights_assets_and_the_typing_marker() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    globs = tables["package-data"]["p2p_lab"]
    for path in ("py.typed", "weights/**/*", "assets/**/*"):
        assert path in globs
    assert (ROOT / "p2p_lab" / "py.typed").exists()


def test_import_p2p_lab_is_quick_and_leaves_torch_alone() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import p2p_lab; s = time.perf_counter() - t;"
        "assert 'torch' not in sys.modules, 'torch was imported'; print(s)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(said.stdout) < 0.3


def test_version_is_the_same_in_pyproject_and_citation() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == project()["version"]
    assert cited["license"] == project()["license"] == "Apache-2.0"


def test_ci_runs_exactly_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()
    assert script[0] == "#!/bin/bash" and script[-1] == "make test"


def test_a_second_setup_does_nothing() -> None:
    stamp = ROOT / ".venv" / ".p2p-lab"
    if not stamp.exists():
        pytest.skip("not running from `make setup`")
    said = subprocess.run(
        ["make", "--question", "setup"], cwd=ROOT, capture_output=True, text=True, timeout=10
    )
    newer = [n for n in ("pyproject.toml", "constraints.txt")
             if (ROOT / n).stat().st_mtime > stamp.stat().st_mtime]  # fmt: skip
    assert said.returncode == (1 if newer else 0), said.stdout + said.stderr


def test_make_without_a_fit_python_says_so_in_a_sentence(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sed", "make"):
        (tools / name).symlink_to(shutil.which(name))
    said = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert said.returncode != 0
    assert "needs Python 3.10 or newer" in said.stderr


def test_the_readme_is_short_and_its_files_and_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for link in re.findall(r"\]\((?!https?:)([\w./]+)\)", text):
        lesson = link.startswith("notebooks/")
        assert lesson or (ROOT / link).exists(), f"README links to {link}, which is not there"
    for lesson in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{lesson.name})" in text, f"the README does not name {lesson.name}"
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert target in targets


def test_the_commands_of_the_readme_are_understood_by_the_command_line() -> None:
    import shlex

    from p2p_lab.__main__ import build_parser

    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"python -m p2p_lab (edit [^`\n]+)", text)
    assert len(lines) >= 3
    for line in lines:
        assert build_parser().parse_args(shlex.split(line)).command == "edit"
