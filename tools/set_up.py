"""Make a virtual environment and install p2p_lab into it; what `make setup` and `make lab` run.

python tools/set_up.py lab     what the lessons need
python tools/set_up.py dev     that, and what tests, grading, the emoji art and the page need

Only the standard library is used. A set-up that fails or is stopped removes the environment that it
began; one that was killed is removed by the next. An environment that was there before is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
EXTRAS = {"lab": "lab", "dev": "lab,test,grading,art,page"}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VOCABULARY = "clip-anytorch"  # for its list of CLIP's merges; what it depends on is not needed
UNFINISHED = ".unfinished"
NVIDIA = ("/proc/driver/nvidia", "/dev/nvidia0", "/usr/lib/wsl/lib/nvidia-smi")
# Measured on Linux (x86-64) with the versions of constraints.txt.
SIZES = {
    "cpu": "about 0.3 GB to fetch, 1.6 GB on disk, 2 to 5 minutes",
    "default": "up to 2.9 GB to fetch, 5.3 GB on disk (on Linux most is CUDA), 5 to 15 minutes",
}


class SetUpError(Exception):
    """A set-up cannot go on; the message says why and what to do."""


def sees_nvidia() -> bool:
    """Return whether this machine shows an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None or any(Path(p).exists() for p in NVIDIA)


def choose_torch(wish: str, platform: str = sys.platform, *, nvidia: bool | None = None) -> str:
    """Return "cpu" or "default": which build of PyTorch to take.

    Only Linux has a choice to make: there the usual build brings CUDA along, gigabytes of it.
    """
    if wish != "auto":
        return wish
    seen = sees_nvidia() if nvidia is None else nvidia
    return "cpu" if platform.startswith("linux") and not seen else "default"


def python_of(environment: Path) -> Path:
    """Return the interpreter of an environment."""
    windows = environment / "Scripts" / "python.exe"
    return windows if os.name == "nt" else environment / "bin" / "python"


def check_version(python: Path, environment: Path) -> str:
    """Return an interpreter's version.

    Raises:
        SetUpError: If it is too old.
    """
    code = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    version = said.stdout.strip()
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise SetUpError(
            f"{environment} has Python {version}, and p2p_lab needs 3.11 or newer. "
            "Delete that folder, or name another one: make setup VENV=.venv-new"
        )
    return version


def begin(environment: Path) -> None:
    """Make the environment if it is not there, marked as unfinished; drop one that was killed.

    Raises:
        SetUpError: If something else lies there.
    """
    if (environment / UNFINISHED).exists():
        print(f"{environment} was not finished the last time: it is made anew.", flush=True)
        shutil.rmtree(environment)
    if python_of(environment).exists():
        return
    if environment.exists() and (not environment.is_dir() or any(environment.iterdir())):
        raise SetUpError(
            f"{environment} is there and is no environment of Python. Delete it, or name another "
            "one: make setup VENV=.venv-new"
        )
    environment.mkdir(parents=True, exist_ok=True)
    (environment / UNFINISHED).touch()
    venv.create(environment, with_pip=True)


def pip_lines(extras: str, torch: str, index: str = CPU_INDEX) -> list[list[str]]:
    """Return the arguments of each call of pip: PyTorch's CPU build first if it is wanted.

    That call may see PyTorch's own index only, or pip might prefer the build with CUDA.
    """
    bounds = ["-c", "constraints.txt"]
    lines = [["install", *bounds, "-e", f".[{extras}]"]]
    if "test" in extras.split(","):
        lines.append(["install", *bounds, "--no-deps", VOCABULARY])
    if torch == "cpu":
        lines.insert(0, ["install", *bounds, "--no-deps", "--index-url", index, "torch"])
    return lines


def install(environment: Path, extras: str, torch: str) -> None:
    """Run pip, showing what it does.

    Raises:
        SetUpError: If pip fails.
    """
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for line in pip_lines(extras, torch):
        command = [str(python_of(environment)), "-m", "pip", *line]
        if subprocess.call(command, cwd=ROOT, env={**os.environ, **quiet}):
            hint = (
                " Without the CPU build: make setup TORCH=default" if "--index-url" in line else ""
            )
            raise SetUpError(f"pip {' '.join(line)} failed; its reason stands above.{hint}")


def set_up(environment: Path, which: str, wish: str) -> None:
    """Make or update an environment; one that was begun here is removed again if it fails."""
    torch = choose_torch(wish)
    try:
        begin(environment)
        version = check_version(python_of(environment), environment)
        size = f": {SIZES[torch]}" if (environment / UNFINISHED).exists() else ""
        print(f"Installing p2p_lab[{EXTRAS[which]}] for Python {version} in {environment}{size}.")
        if torch == "cpu":
            print("No NVIDIA GPU was seen: PyTorch's CPU build is taken. For the other one delete "
                  f"{environment}, then: make setup TORCH=default", flush=True)  # fmt: skip
        install(environment, EXTRAS[which], torch)
        (environment / UNFINISHED).unlink(missing_ok=True)
    finally:
        if (environment / UNFINISHED).exists():
            shutil.rmtree(environment, ignore_errors=True)
            print(f"{environment} was removed again: nothing half-made is left.", file=sys.stderr)


def _stop(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(argv: Sequence[str] | None = None) -> int:
    """Set up and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=EXTRAS)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", choices=("auto", "cpu", "default"), default="auto")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        set_up(given.venv, given.which, given.torch)
    except SetUpError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
