"""Run, check and publish the lessons.

python tools/notebooks.py run [NOTEBOOK ...]      execute, measure, write the fact strip
python tools/notebooks.py check [NOTEBOOK ...]    the gates of tools/gates.py
python tools/notebooks.py badges [ORG/REPO@TAG]   links of the hosts and the clone line
python tools/notebooks.py student FOLDER          the lessons without their solutions
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from gates import failures, tags
from p2p_lab.commands.lessons import without_solutions

ROOT = Path(__file__).resolve().parents[1]
THREADS = "1"  # what a free Binder has
FACTS = re.compile(r"(<!-- measured -->).*?(<!-- /measured -->)", re.S)
READER = re.compile(r"(<!-- reader -->).*?(<!-- /reader -->)", re.S)
WORDS_A_MINUTE, LINES_A_MINUTE = 180, 15  # read in a foreign language; four seconds a line
BADGES = re.compile(r"(<!-- badges -->).*?(<!-- /badges -->)", re.S)
PLACE = r"[\w.\-]+/[\w.\-]+@[\w.\-/]+"
CLONE = re.compile(r"git clone .* p2p_lab$", re.M)
SETUP = """from importlib.util import find_spec
if find_spec("p2p_lab") is None:  # Colab, Kaggle and the like: the package is not there yet
    {install}
import p2p_lab
model = p2p_lab.load()"""
SETTING = re.compile(r'^repository = "(.*)"$', re.M)
LIVE_ONLY = "application/vnd.jupyter.widget-view+json"
PROBE = """
import json, os, resource, sys, time
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak = peak / 2**20 if sys.platform == "darwin" else peak / 2**10
if os.path.exists("/proc/self/status"):
    lines = open("/proc/self/status").read().splitlines()
    peak = int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10
print(json.dumps({"cpu_seconds": time.process_time(), "peak_mb": peak}))
"""


def all_notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def write(notebook: Any, path: Path) -> None:
    """Write a notebook whole or not at all."""
    partial = path.with_name(path.name + ".part")
    nbformat.write(notebook, partial)
    os.replace(partial, path)


# run --------------------------------------------------------------------------------------------


def fixed_environment() -> dict[str, str]:
    """Return what makes a run come out the same elsewhere: threads, no hub, no colours."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), THREADS)
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    plain = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "NO_COLOR": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return {**inherited, **threads, **offline, **plain}


def execute(notebook: Any, folder: Path, *, timeout: int = 300) -> dict[str, float]:
    """Execute all cells in a fresh kernel of this Python and return what they cost."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        skip_cells_with_tag="nbval-skip",
    )
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    probe = nbformat.v4.new_code_cell(PROBE)
    notebook.cells.append(probe)
    started = time.perf_counter()
    try:
        client.execute(env=fixed_environment())
    finally:
        notebook.cells.remove(probe)
    cost = json.loads("".join(o.text for o in probe.outputs if o.output_type == "stream"))
    return {"seconds": time.perf_counter() - started, **cost}


def tidy(notebook: Any) -> None:
    """Leave out what differs from run to run and what means nothing without its kernel."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    facts = notebook.metadata.get("p2p_lab", {})
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}, "p2p_lab": facts}
    )
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(LIVE_ONLY, None)


def state_cost(notebook: Any, cost: dict[str, float]) -> None:
    """Write the measured cost into the metadata and the fact strip."""
    facts = {
        "seconds": round(cost["seconds"]),
        "cpu_seconds": round(cost["cpu_seconds"]),
        "peak_mb": int(round(cost["peak_mb"], -1)),
    }
    notebook.metadata["p2p_lab"] = nbformat.from_dict(facts)
    said = "{seconds} s ({cpu_seconds} CPU s, 1 thread), {peak_mb} MB peak".format(**facts)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FACTS.sub(rf"\g<1>{said}\g<2>", cell.source)


def count_for_reader(notebook: Any, name: str) -> dict[str, int]:
    """Return what a reader meets: words, lines of code, exercises, and minutes, to the next five.

    Words of the text, with the options of guesses, and lines of the other visible code. Folded
    answers, the set-up, references and cells that wait for a GPU are left out. An exercise brings
    minutes of its own.
    """
    from p2p_lab.checks import exercises

    words = lines = 0
    for cell in notebook.cells[1:]:
        if tags(cell) & {"solution", "setup", "nbval-skip"}:
            continue
        if cell.cell_type == "code" and not cell.source.startswith("guess("):
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
        else:
            text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
            words += len(re.findall(r"\w+", text.split("**References.**")[0]))
    number = name.split("_")[0]
    asked = [one for one in exercises().values() if one.id.split(".")[0] == number]
    minutes = words / WORDS_A_MINUTE + lines / LINES_A_MINUTE + sum(one.minutes for one in asked)
    return {
        "minutes": 5 * round(minutes / 5),
        "words": words,
        "lines": lines,
        "exercises": len(asked),
    }


def state_reader(notebook: Any, name: str) -> None:
    """Write into the fact strip what a reader meets."""
    found = count_for_reader(notebook, name)
    said = (
        f"about {found['minutes']} minutes: {found['words']:,} words, {found['lines']} lines of "
        f"code, {found['exercises']} exercise{'s' if found['exercises'] > 1 else ''}"
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = READER.sub(rf"\g<1>{said}\g<2>", cell.source)


def run(paths: Sequence[Path]) -> int:
    """Execute notebooks in place; a failing one is left as it was and named."""
    failed = 0
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        point(notebook, published(), path.name)
        try:
            cost = execute(notebook, path.parent)
        except Exception as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        state_cost(notebook, cost)
        state_reader(notebook, path.stem)
        tidy(notebook)
        write(notebook, path)
        print(f"{path.name}: {cost['seconds']:.0f} s, {cost['peak_mb']:.0f} MB", flush=True)
    return 1 if failed else 0


# check ------------------------------------------------------------------------------------------


def check(paths: Sequence[Path]) -> int:
    """Print what is wrong with each notebook."""
    said = [f"{path.name}: {sentence}" for path in paths for sentence in failures(path)]
    print("\n".join(said) or f"{len(paths)} notebooks pass every gate.")
    return 1 if said else 0


# badges -----------------------------------------------------------------------------------------


def published() -> str:
    """Return ORG/REPO@TAG from pyproject.toml, "" while nothing is published."""
    found = SETTING.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else ""


def setting(new: str | None) -> str:
    """Return ORG/REPO@TAG from pyproject.toml, after writing a new one there."""
    value = published() if new is None else new
    if value and not re.fullmatch(PLACE, value):
        raise SystemExit(f"Expected ORG/REPO@TAG, got {value!r}. Example: you/p2p_lab@v0.1.0")
    if value != published():
        path = ROOT / "pyproject.toml"
        text = SETTING.sub(f'repository = "{value}"', path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    return value


def badge_line(place: str, notebook: str) -> str:
    """Return the links that open one notebook on a host; none without a place."""
    if not place:
        return ""
    where, _, tag = place.partition("@")
    file = f"github/{where}/blob/{tag}/{notebook}"
    hosts = {
        "Binder": f"https://mybinder.org/v2/gh/{where}/{tag}?urlpath=lab/tree/{notebook}",
        "Colab": f"https://colab.research.google.com/{file}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src=https://{file.replace('/', '.com/', 1)}",
        "Codespaces": f"https://codespaces.new/{where}/tree/{tag}",
        "molab": f"https://molab.marimo.io/{file}",
    }
    return "Open in " + " · ".join(f"[{name}]({link})" for name, link in hosts.items())


def rewrite(text: str, place: str, notebook: str) -> str:
    """Return a text with its badges and its clone line pointing to one place, or to none."""
    text = BADGES.sub(lambda m: f"{m[1]}{badge_line(place, notebook)}{m[2]}", text)
    where, _, tag = place.partition("@")
    source = f"--branch {tag} https://github.com/{where}" if place else "ADDRESS-OF-THIS-REPOSITORY"
    return CLONE.sub(f"git clone {source} p2p_lab", text)


def setup_cell(place: str) -> str:
    """Return the first code cell of every lesson: plain Python, which needs no shell anywhere."""
    install = 'print("Install p2p_lab here first: %pip install, and where your copy of it lies.")'
    if place:
        line = f"install -q git+https://github.com/{place}"
        install = f'get_ipython().run_line_magic("pip", "{line}")'
    return SETUP.format(install=install)


def point(notebook: Any, place: str, name: str) -> None:
    """Rewrite all cells of one notebook."""
    for cell in notebook.cells:
        cell.source = rewrite(cell.source, place, f"notebooks/{name}")
        if cell.cell_type == "code" and "setup" in tags(cell):
            cell.source = setup_cell(place)


def badges(new: str | None) -> int:
    """Point README and notebooks to one repository and tag, or to none."""
    place = setting(new)
    readme = ROOT / "README.md"
    first = "notebooks/00_start_here.ipynb"
    readme.write_text(rewrite(readme.read_text("utf-8"), place, first), encoding="utf-8")
    for path in all_notebooks():
        notebook = nbformat.read(path, as_version=4)
        point(notebook, place, path.name)
        write(notebook, path)
    print(f"Links point to {place}." if place else "No links; on Colab a lesson asks for a copy.")
    return 0


# student ----------------------------------------------------------------------------------------


def student(folder: Path) -> int:
    """Write the lessons without solutions into a folder that does not hold other files."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() == (ROOT / "notebooks").resolve():
        raise SystemExit("The student version must not overwrite the lessons; name another folder.")
    for path in all_notebooks():
        write(without_solutions(nbformat.read(path, as_version=4)), folder / path.name)
    print(f"{len(all_notebooks())} lessons without solutions in {folder}.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "check"):
        verbs.add_parser(verb).add_argument("paths", nargs="*", type=Path)
    verbs.add_parser("badges").add_argument("place", nargs="?", metavar="ORG/REPO@TAG")
    verbs.add_parser("student").add_argument("folder", type=Path)
    given = parser.parse_args(argv)
    if given.verb in ("run", "check"):
        missing = [p for p in given.paths if not p.is_file()]
        if missing:
            raise SystemExit(f"No such notebook: {missing[0]}")
        return {"run": run, "check": check}[given.verb](given.paths or all_notebooks())
    return badges(given.place) if given.verb == "badges" else student(given.folder)


if __name__ == "__main__":
    sys.exit(main())
