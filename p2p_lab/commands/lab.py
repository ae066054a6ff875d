"""`p2p_lab lab`: open the lessons in JupyterLab.

Without a folder the lessons are written to one of the reader's own (`p2p_lab lessons`), so that
notes and outputs never lie among the lessons that the package came with.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from p2p_lab.commands.lessons import FOLDER, report, write_lessons

FIRST = "00_start_here.ipynb"
# Switches off the question about news and, where tests and grading are installed too, nbgrader.
QUIET = Path(__file__).with_name("jupyter")
AS_ROOT = "--allow-root"


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser(
        "lab",
        help="open the lessons in JupyterLab",
        epilog="Other options go to JupyterLab, written as --name=value: --ip=0.0.0.0",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help=f"of notebooks (default: the lessons, in ./{FOLDER})"
    )
    parser.add_argument("--port", type=int, help="port of the server (default: JupyterLab's)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def folder_of(options: argparse.Namespace) -> Path:
    """Return the folder to open: the one named, or the reader's own lessons, written if missing.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    if options.folder is None:
        print(report(FOLDER, write_lessons(FOLDER)), flush=True)
        return FOLDER
    folder: Path = options.folder
    if not folder.is_dir():
        raise NotADirectoryError(
            f"There is no folder {folder}. Name one that holds notebooks; an option of JupyterLab "
            "is written with its value as --name=value."
        )
    return folder


def command(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command that starts JupyterLab; the address that it prints opens lesson 00."""
    line = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
    if (folder / FIRST).is_file():
        line.append(f"--LabApp.default_url=/lab/tree/{FIRST}")
    line += ["--no-browser"] if options.no_browser else []
    line += [f"--port={options.port}"] if options.port else []
    return line + list(options.unknown)


def environment() -> dict[str, str]:
    """Return the server's environment."""
    paths = [str(QUIET), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    # Kernels beside a browser share their cores: threads that wait must sleep, not spin.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return {**env, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}


def check(options: argparse.Namespace) -> None:
    """See that JupyterLab is there and will start.

    Raises:
        OSError: If JupyterLab is not installed.
        PermissionError: If root did not say that root may run it.
    """
    if find_spec("jupyterlab") is None:
        raise OSError("JupyterLab is not installed. Run: pip install jupyterlab")
    if getattr(os, "geteuid", lambda: 1)() == 0 and AS_ROOT not in options.unknown:
        raise PermissionError(
            "You are root, and JupyterLab does not start for root unless told to. In a container "
            f"that is usual: add {AS_ROOT} (with make: make lab ARGS={AS_ROOT})."
        )


def run(options: argparse.Namespace) -> int:
    """Become JupyterLab, so that Ctrl-C and signals reach it; on Windows start it and wait."""
    check(options)
    line, around = command(options, folder_of(options)), environment()
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(line[0], line, around)
    with subprocess.Popen(line, env=around) as server:
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:  # the server got it too, and asks its own question
                continue
