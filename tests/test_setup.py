"""Laws of the set-up: one list of requirements, said the same to pip, conda, Binder and Colab."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import set_up

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
    return {re.split(r"[=<>]", line)[0]: line for line in lines if isinstance(line, str)}


def claimed() -> list[str]:
    """Return the Pythons that the package says it runs on, as 3.11."""
    found = (re.search(r":: Python :: (3\.\d+)$", line) for line in project()["classifiers"])
    return [match[1] for match in found if match]


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
    assert line.split("=")[1] in claimed()


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
    for name, requirement in requirements("lab", "test", "grading", "art", "page").items():
        key = re.sub(r"[-_.]+", "-", name)
        assert key in pins, f"{name} is not in constraints.txt"
        assert Version(pins[key]) in requirement.specifier, f"{name}=={pins[key]}"


def test_one_oldest_python_is_claimed_everywhere() -> None:
    oldest = claimed()[0]
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project()["requires-python"] == f">={oldest}"
    assert config["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert config["tool"]["mypy"]["python_version"] == oldest
    assert ".".join(map(str, set_up.OLDEST)) == oldest
    tried = re.findall(r"python(3\.\d+)", (ROOT / "Makefile").read_text())
    assert set(tried) <= set(claimed())
    for name in ("README.md", "CONTRIBUTING.md", "Makefile"):
        older = re.findall(r"[Pp]ython (?:≥ )?(3\.\d+)", (ROOT / name).read_text())
        assert set(older) <= set(claimed()), f"{name} names {older}"


@pytest.mark.parametrize("python", claimed())
def test_every_pinned_release_takes_every_python_that_is_claimed(python: str) -> None:
    for name, pin in pinned().items():
        try:
            found = distribution(name)
        except ModuleNotFoundError:
            continue  # of another platform
        if found.version.partition("+")[0] != pin:
            continue  # this environment was not made from constraints.txt
        needs = found.metadata.get("Requires-Python")
        assert needs is None or f"{python}.0" in SpecifierSet(needs), f"{name}=={pin}: {needs}"


def resolve(*words: str) -> str:
    """Return what uv resolves; skip where it is missing or no index can be reached."""
    tool = shutil.which("uv", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("uv is missing, so nothing was resolved: run `make setup-dev`")
    said = subprocess.run(
        [tool, "pip", "compile", "--quiet", *words, f"--python={sys.executable}", "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if re.search("dns error|[Cc]onnect|timed out", said.stderr):
        pytest.skip(f"The package index cannot be reached: {said.stderr[-200:]}")
    assert said.returncode == 0, said.stderr[-2000:]
    return said.stdout


@pytest.mark.slow
@pytest.mark.parametrize("python", claimed())
def test_requirements_and_constraints_can_be_resolved_for_every_python_that_is_claimed(
    python: str,
) -> None:
    """A resolver is asked for each Python, so that none but this one needs to be there."""
    extras = [f"--extra={name}" for name in project()["optional-dependencies"]]
    bounds = ["--constraints=constraints.txt", f"--python-version={python}.0"]
    assert f"torch=={pinned()['torch']}" in resolve(*extras, *bounds)


@pytest.mark.slow
def test_the_floors_can_be_installed_together_on_the_oldest_python() -> None:
    found = resolve("--resolution=lowest-direct", f"--python-version={claimed()[0]}.0")
    for name in ("torch", "diffusers", "transformers", "pillow", "tqdm"):
        floor = next(iter(requirements()[name].specifier)).version
        assert re.search(rf"^{name}=={re.escape(floor)}(\.0)*$", found, re.M), name


def foreign_imports() -> Iterator[tuple[Path, str]]:
    """Yield each module that the package imports from elsewhere, with the file that does."""
    for path in sorted((ROOT / "p2p_lab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            yield from ((path, name.split(".")[0]) for name in names)


def test_whatever_the_package_imports_is_declared() -> None:
    declared = {re.sub(r"[-_.]+", "-", name) for name in requirements("page")}
    homes = packages_distributions()
    for path, module in foreign_imports():
        if module not in sys.stdlib_module_names and module != "p2p_lab":
            home = {re.sub(r"[-_.]+", "-", name).lower() for name in homes[module]}
            assert home & declared, f"{path.name} imports {module}, which pyproject.toml lacks"


def test_constraints_name_no_local_build_and_no_path() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "+" not in re.sub(r"^#.*$", "", text, flags=re.M)
    assert "@" not in text and "file:" not in text


def test_binder_reads_the_root_environment_and_conda_installs_the_package_beside_it() -> None:
    """Binder's conda runs in binder/, where `-e .` would find nothing: postBuild installs there."""
    ours = yaml.safe_load((ROOT / "environment.yml").read_text())
    binders = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    assert ours["dependencies"].pop() == {"pip": ["-e ."]}
    assert binders == ours


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


def test_binder_starts_with_one_thread_that_sleep_when_they_wait() -> None:
    script = ROOT / "binder" / "start"
    done = subprocess.run(
        [str(script), "env"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert {"OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=PASSIVE"} <= set(done.stdout.splitlines())


def test_the_wheel_carries_weights_assets_and_the_typing_marker() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    globs = tables["package-data"]["p2p_lab"]
    for path in ("py.typed", "weights/**/*", "assets/**/*"):
        assert path in globs
    assert (ROOT / "p2p_lab" / "py.typed").exists()


@pytest.mark.slow
def test_the_wheel_carries_the_lessons_and_writes_them_without_a_checkout(tmp_path: Path) -> None:
    source, built, home = tmp_path / "source", tmp_path / "built", tmp_path / "home"
    for name in ("p2p_lab", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    said = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(built), str(source)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if re.search("NewConnectionError|No matching distribution found for setuptools", said.stderr):
        pytest.skip("The package index cannot be reached, so no wheel was built.")
    assert said.returncode == 0, said.stderr[-2000:]
    shutil.unpack_archive(next(built.glob("*.whl")), home, "zip")
    subprocess.run(
        [sys.executable, "-m", "p2p_lab", "lessons"], cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(home)}, capture_output=True,
    )  # fmt: skip
    wrote = {path.name for path in (tmp_path / "p2p_lessons").glob("*.ipynb")}
    assert wrote == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert (home / "p2p_lab" / "commands" / "jupyter" / "labconfig" / "page_config.json").is_file()


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


def copy_of_the_set_up(folder: Path) -> None:
    (folder / "tools").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/set_up.py"):
        shutil.copy(ROOT / name, folder / name)


# What pip says without any index, whatever this machine's own settings are.
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def test_a_set_up_that_fails_leaves_nothing_behind_and_says_what_failed(tmp_path: Path) -> None:
    copy_of_the_set_up(tmp_path)
    said = subprocess.run(
        ["make", "lab", f"PYTHON={sys.executable}"],
        cwd=tmp_path, env={**os.environ, **NO_INDEX}, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode != 0 and "failed; its reason stands above" in said.stderr
    assert "GB to fetch" in said.stdout and "minutes" in said.stdout, "size and time come first"
    assert not (tmp_path / ".venv").exists()


def test_a_set_up_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    copy_of_the_set_up(tmp_path)
    there = tmp_path / ".venv"
    with subprocess.Popen(
        [sys.executable, "tools/set_up.py", "lab"], cwd=tmp_path, env={**os.environ, **NO_INDEX}
    ) as running:
        end = time.monotonic() + 60
        while not there.exists() and time.monotonic() < end:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
    assert running.returncode == 130 and not there.exists()


def test_a_set_up_that_was_killed_is_made_anew_and_an_environment_of_ones_own_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(set_up.venv, "create", lambda path, **_: made.append(path))
    killed = tmp_path / "killed"
    python = set_up.python_of(killed)
    python.parent.mkdir(parents=True)
    python.touch()
    set_up.begin(killed)
    assert not made and python.exists(), "an environment that make did not begin is used"
    (killed / set_up.UNFINISHED).touch()
    set_up.begin(killed)
    assert made == [killed] and not python.exists()


def test_a_folder_that_is_no_environment_is_neither_used_nor_removed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(set_up.SetUpError, match="no environment of Python"):
        set_up.set_up(mine, "lab", "auto")
    assert (mine / "thesis.txt").read_text() == "years"


def test_an_environment_with_an_older_python_is_named_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(set_up, "OLDEST", (9, 9))
    with pytest.raises(set_up.SetUpError, match=r"has Python 3\.\d+.*Delete that folder"):
        set_up.check_version(Path(sys.executable), Path(".venv"))


def test_the_cpu_build_is_taken_on_linux_without_a_gpu_and_nowhere_else() -> None:
    assert set_up.choose_torch("auto", "linux", nvidia=False) == "cpu"
    assert set_up.choose_torch("auto", "linux", nvidia=True) == "default"
    for platform in ("win32", "darwin"):
        assert set_up.choose_torch("auto", platform, nvidia=False) == "default"
    assert set_up.choose_torch("default", "linux", nvidia=False) == "default"
    first, last = set_up.pip_lines("lab", "cpu")
    assert first[-3:] == ["--index-url", set_up.CPU_INDEX, "torch"]
    assert set_up.pip_lines("lab", "default") == [last] and "--quiet" not in last
    *_, alone = set_up.pip_lines(set_up.EXTRAS["dev"], "default")
    assert alone[-2:] == ["--no-deps", set_up.VOCABULARY]


def test_readers_get_no_test_grading_or_art_and_make_test_adds_them() -> None:
    line = set_up.pip_lines(set_up.EXTRAS["lab"], "default")[0]
    assert line[-2:] == ["-e", ".[lab]"]
    assert set(set_up.EXTRAS["dev"].split(",")) == set(project()["optional-dependencies"])
    said = subprocess.run(
        ["make", "-n", "lab", "VENV=none"], cwd=ROOT, capture_output=True, text=True
    )
    assert "set_up.py lab" in said.stdout and "set_up.py dev" not in said.stdout
    said = subprocess.run(
        ["make", "-n", "test", "VENV=none"], cwd=ROOT, capture_output=True, text=True
    )
    assert "set_up.py dev" in said.stdout


def test_make_without_a_fit_python_says_so_in_a_sentence(tmp_path: Path) -> None:
    copy_of_the_set_up(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sed", "make"):
        (tools / name).symlink_to(shutil.which(name))
    said = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert said.returncode != 0
    assert "needs Python 3.11 or newer" in said.stderr


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
