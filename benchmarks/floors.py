"""Install the oldest releases that pyproject.toml allows, and see that the engine works on them.

    python benchmarks/floors.py [--json]

Every requirement is taken at its floor (uv's `lowest-direct`), but for PyTorch, which is the build
of constraints.txt: an old one is gigabytes of CUDA. `p2p_lab doctor` then opens the bundled model
and edits with it. It takes some minutes and about 1.5 GB of temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLOOR = re.compile(r"^torch==.*$", re.M)


def lowest() -> str:
    """Return the requirements at their floors, PyTorch as in constraints.txt."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tool = shutil.which("uv", path=places)
    if tool is None:
        raise SystemExit("uv is missing. Run: make setup-dev")
    said = subprocess.run(
        [tool, "pip", "compile", "--quiet", "--resolution=lowest-direct", "--no-header",
         "--no-annotate", f"--python={sys.executable}", "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    pinned = FLOOR.search((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert pinned is not None
    lines = [x for x in said.splitlines() if not re.match(r"nvidia-|cuda-|triton|torch==", x)]
    return "\n".join([*lines, pinned[0]]) + "\n"


def floor_of(name: str) -> str:
    """Return a requirement with its floor, as pyproject.toml has it."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["project"]["dependencies"]
    return next(line for line in listed if re.match(rf"{name}\W", line))


def examine(folder: Path) -> dict[str, Any]:
    """Install the floors into a new environment there and return what doctor says."""
    wanted = folder / "floors.txt"
    wanted.write_text(lowest(), encoding="utf-8")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    started = time.perf_counter()
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", ROOT], check=True)
    seconds = time.perf_counter() - started
    left_out = f"torch, which is that of constraints.txt in place of {floor_of('torch')}"
    said = subprocess.run(
        [python, "-m", "p2p_lab", "doctor", "--json"], cwd=folder, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1]) if said.stdout else {}
    return {
        "install_seconds": round(seconds),
        "left out": left_out,
        "stderr": said.stderr[-2000:],
        **found,
    }


def main() -> int:
    """Print the findings; the exit code is 1 if the engine does not work on the floors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = examine(Path(name))
    # The lessons' own JupyterLab is no part of the floors of the package.
    wrong = [s for s in found.get("wrong", ["doctor said nothing"]) if "JupyterLab" not in s]
    if given.json:
        print(json.dumps({**found, "wrong": wrong}))
    else:
        print("\n".join(f"{key:18} {value}" for key, value in found.items()))
        print("\n".join(f"wrong: {s}" for s in wrong) or "The floors work.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
