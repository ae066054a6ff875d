"""`p2p_lab doctor`: what is installed, what it runs on, whether it works, and what is wrong."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from p2p_lab.commands._edit_options import add_model_options

OPTIONAL = ("jupyterlab", "notebook")
LEAST_MEGABYTES = 1000
Facts = dict[str, Any]


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser("doctor", help="say what is installed and what is wrong")
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")


def run(options: argparse.Namespace) -> int:
    """Print the findings; the exit code is 1 when something is wrong."""
    facts, wrong = examine(options.model, options.device)
    if options.json:
        print(json.dumps({**facts, "wrong": wrong}))
        return 1 if wrong else 0
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    print("\n" + ("\n".join(f"wrong: {sentence}" for sentence in wrong) or "Nothing is wrong."))
    return 1 if wrong else 0


def examine(model: str | None = None, device: str | None = None) -> tuple[Facts, list[str]]:
    """Return the facts by name, and a sentence for each thing that is wrong."""
    facts: Facts = {}
    wrong: list[str] = []
    parts: list[Callable[[], Iterator[tuple[str, Any] | str]]] = [
        place, versions, machine, lambda: models(model, device),
    ]  # fmt: skip
    for part in parts:
        for found in part():
            if isinstance(found, str):
                wrong.append(found)
            else:
                facts[found[0]] = found[1]
    return facts, wrong


HOSTS = {
    "Colab": "COLAB_RELEASE_TAG",
    "Kaggle": "KAGGLE_KERNEL_RUN_TYPE",
    "Binder": "BINDER_REPO_URL",
    "Codespaces": "CODESPACES",
    "a dev container": "REMOTE_CONTAINERS",
}


def where(environment: Mapping[str, str] = os.environ, prefix: str = sys.prefix) -> str:
    """Return where this Python runs: the host, and what kind of environment."""
    host = next((name for name, mark in HOSTS.items() if environment.get(mark)), None)
    if host is None:
        host = "a container" if Path("/.dockerenv").exists() else "this machine"
    if (Path(prefix) / "conda-meta").is_dir():
        return f"{host}, conda environment {prefix}"
    if prefix != sys.base_prefix:
        return f"{host}, virtual environment {prefix}"
    return f"{host}, the Python of the system ({prefix})"


def place() -> Iterator[tuple[str, Any] | str]:
    """Yield where this runs, where the lessons are, and what JupyterLab lacks to open them."""
    from p2p_lab.commands.lessons import originals

    yield "place", where()
    try:
        yield "lessons", str(originals()[0].parent)
    except FileNotFoundError as error:
        yield str(error)
    hosted = any(os.environ.get(mark) for mark in HOSTS.values())
    if find_spec("jupyterlab") is None and not hosted:
        yield "JupyterLab is missing, which opens the lessons. Run: pip install jupyterlab"


def versions() -> Iterator[tuple[str, Any] | str]:
    """Yield every requirement's version, and what is missing or too old."""
    from packaging.requirements import Requirement

    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    try:
        yield "p2p_lab", version("p2p_lab")
        lines = requires("p2p_lab") or []
    except PackageNotFoundError:
        lines = []
        yield "p2p_lab is imported but not installed. Run: pip install -e ."
    needed = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate()]
    for need in needed:
        try:
            have = version(need.name)
        except PackageNotFoundError:
            yield f"{need.name} is missing. Run: pip install '{need}'"
            continue
        yield need.name, have
        if not need.specifier.contains(have, prereleases=True):
            yield f"{need.name} is {have}, needed is {need.specifier}. Run: pip install '{need}'"
    for name in OPTIONAL:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed (optional)"


def machine() -> Iterator[tuple[str, Any] | str]:
    """Yield device, threads and memory, and what is too little."""
    import torch

    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield "device", f"cuda, {torch.cuda.get_device_name()}"
        yield "device memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        yield "device", "mps" if torch.backends.mps.is_available() else "cpu"
    free_mb = free_memory()
    yield "memory", f"{free_mb:.0f} MB free"
    if free_mb < LEAST_MEGABYTES:
        yield f"only {free_mb:.0f} MB of memory are free; a lesson needs up to {LEAST_MEGABYTES}."


def free_memory(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the memory that is free for this process, in MB.

    A container's limit counts, where there is one: Binder gives less than its machine has.
    """
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = (group / name for name in ("memory.max", "memory.current"))
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max"
        free = min(free, float(limit.read_text()) - float(used.read_text()))
    return free / 2**20


def models(name: str | None, device: str | None) -> Iterator[tuple[str, Any] | str]:
    """Yield the bundled models and whether the chosen one is whole and works."""
    from p2p_lab.models import DeepFloydUpscaler, list_models, load
    from p2p_lab.sampling.peak_memory import peak_memory

    yield "bundled models", ", ".join(list_models()) or "none"
    started = time.perf_counter()
    try:
        model = load(name, device)
    except (ValueError, OSError) as error:
        yield str(error)
        return
    parts = [model.module, getattr(model, "vae", None), getattr(model, "text_encoder", None)]
    count = sum(p.numel() for part in parts if part is not None for p in part.parameters())
    yield "model", f"{model.name}, {count / 1e6:.1f} M parameters, {model.dtype}, {model.device}"
    yield "checksum", _checksum(model)
    if not isinstance(model, DeepFloydUpscaler):  # it needs a picture before it can be asked
        yield "peak memory", str(peak_memory(model))
    yield "loaded in", f"{time.perf_counter() - started:.1f} s"
    yield from engine(model)


def _checksum(model: Any) -> str:
    """Return whether the files were compared with the card, as `load` does for listed ones."""
    listed = len(model.card.raw.get("files", {}))
    return f"{listed} files match their SHA-256" if listed else "no card lists this model's files"


def engine(model: Any) -> Iterator[tuple[str, Any] | str]:
    """Run a two-step edit and see that the identity changes nothing and maps are probabilities."""
    import torch

    from p2p_lab.edits import Refine, Reweight
    from p2p_lab.models import DeepFloydUpscaler
    from p2p_lab.sampling import edit, generate

    started = time.perf_counter()
    words = sorted(model.card.vocabulary)[:2] or ["cat", "hat"]
    text = " ".join(words)
    try:
        if isinstance(model, DeepFloydUpscaler):  # a later stage: it enlarges a picture
            model = model.on(torch.full((3, 16, 16), 0.5), seed=0)
        run = generate(model, text, seed=0, steps=2)
        same = edit(run, text, [Refine()])
        turned_up = edit(run, text, [Reweight(words[0], 4.0)])
    except Exception as error:
        yield f"a two-step edit failed: {type(error).__name__}: {error}"
        return
    yield "engine", f"source and two edits of 2 steps in {time.perf_counter() - started:.1f} s"
    if not torch.allclose(same.pixels, run.pixels, atol=1e-3):
        yield "an edit that should change nothing changed the picture."
    if torch.equal(turned_up.pixels, run.pixels):
        yield "a word that was turned up changed nothing: the attention is not reached."
    if not torch.isfinite(turned_up.pixels).all():
        yield f"the picture holds NaN: {model.dtype} overflows here. Try another device."
