"""`p2p_lab lab`: open the lessons in JupyterLab."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FIRST = "00_start_here.ipynb"


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser("lab", help="open the lessons in JupyterLab")
    parser.add_argument("folder", nargs="?", type=Path, help="folder of notebooks to open")
    parser.add_argument("--port", type=int, help="port of the server (default: JupyterLab's)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def lessons(folder: Path | None) -> Path:
    """Return the folder to open: the one named, or the lessons beside the package or here.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if folder is not None:
        if not folder.is_dir():
            raise NotADirectoryError(f"There is no folder {folder}. Name one that holds notebooks.")
        return folder
    beside = Path(__file__).resolve().parents[2] / "notebooks"
    for candidate in (Path("notebooks"), beside):
        if (candidate / FIRST).is_file():
            return candidate
    raise NotADirectoryError(
        "The lessons are not here: they come with the source, not with the wheel. Clone the "
        "repository and run `make lab`, or name a folder: p2p_lab lab FOLDER."
    )


def command(given: argparse.Namespace) -> list[str]:
    """Return the command that starts JupyterLab."""
    folder = lessons(given.folder)
    start = folder / FIRST
    line = [sys.executable, "-m", "jupyterlab", str(start if start.is_file() else folder)]
    line += [f"--ServerApp.root_dir={folder.resolve()}"]
    line += ["--no-browser"] if given.no_browser else []
    return line + ([f"--port={given.port}"] if given.port else [])


def run(given: argparse.Namespace) -> int:
    """Start JupyterLab and wait for it."""
    line = command(given)
    if find_spec("jupyterlab") is None:
        raise OSError("JupyterLab is not installed. Run: pip install 'p2p_lab[lab]'")
    # Kernels beside a browser share their cores: threads that wait must sleep, not spin.
    return subprocess.call(line, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ})
