"""The static folder: the site's files, the runtime and a model, with a list of what is fetched.

Every address in it is relative, so it may lie in any folder of any host.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from p2p_lab import __version__
from p2p_lab.files import check_may_write, remove_folder, sha256_of, whole_folder
from p2p_lab.models import Denoiser
from p2p_lab.models.identity import digest_of
from p2p_lab.models.loading import WEIGHTS
from p2p_lab.page.export import (
    PageError,
    check_exporters,
    copy_tokenizer,
    export_model,
    open_for_export,
)
from p2p_lab.page.networks import checked
from p2p_lab.page.packing import ENDING, HALF, pack_file
from p2p_lab.page.pictures import write_pictures
from p2p_lab.page.runtime import VERSION, check_given, runtime

HERE = Path(__file__).parent
SITE = HERE / "site"
LIST = "page.json"
KEPT = 3  # of each kind in the cache, and any that was used within `RECENT` seconds
RECENT = 24 * 3600.0
# What the files of a model depend on beside the model: all of the package but its surfaces, and
# what writes the graphs.
SURFACES = ("recipes", "widgets", "commands", "figures", "training", "checks")
WRITERS = ("torch", "diffusers", "transformers", "tokenizers", "onnx", "onnxscript", "pillow")


def build_page(
    folder: Path, model: str | None = None, *, archive: Path | None = None
) -> dict[str, Any]:
    """Write the page as a static folder.

    Args:
        folder: Where; a page that was built there before is replaced.
        model: Name or folder of a model; None takes the best bundled one.
        archive: The runtime's package as a file, for machines without npm.

    Returns:
        The list that the page reads: its files with their sizes.

    Raises:
        PageError: If something to build with is missing, or the folder holds something else.
        OSError: If the folder cannot be written.
        ValueError: If the page cannot run the model.
    """
    check_exporters()
    check_folder(folder)
    check_given(archive)
    network = open_for_export(model)
    checked(network)
    files = runtime(archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.new"), ignore_errors=True)  # of a killed build
    old = folder.with_name(f"{folder.name}.old")
    with whole_folder(folder.with_name(f"{folder.name}.new")) as draft:
        found = write_page(draft, files, cached_model(network))
    if folder.exists():
        folder.rename(old)
    folder.with_name(f"{folder.name}.new").rename(folder)
    if old.exists():
        remove_folder(old)
    return found


def write_page(folder: Path, files: Path, graphs: Path) -> dict[str, Any]:
    """Fill an empty folder with a page.

    Args:
        folder: Where.
        files: The runtime's files, from `runtime`.
        graphs: A model's files, from `write_model`.

    Returns:
        The list that the page reads.
    """
    shutil.copytree(SITE, folder, dirs_exist_ok=True)
    shutil.copytree(files, folder / "runtime")
    shutil.copytree(graphs, folder / "model")
    (folder / ".nojekyll").write_bytes(b"")  # else some hosts leave files out
    return write_list(folder)


def write_model(folder: Path, model: Denoiser) -> Path:
    """Write a model as the page reads it into a folder that is there, and return the folder."""
    facts = export_model(model, folder)
    copy_tokenizer(checked(model), folder)
    write_pictures(model, facts, folder)
    for path in sorted(folder.rglob("*.onnx")):
        pack_file(path, HALF)
    return folder


def check_folder(folder: Path) -> None:
    """See that a folder is free, or holds a page that may be replaced.

    Raises:
        PageError: If it holds something else.
        OSError: If it cannot be written.
    """
    check_may_write(folder.absolute().parent)
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / LIST).is_file()):
        return
    if folder.exists():
        raise PageError(
            f"{folder} is there and is not a page that was built before, so nothing is written. "
            "Name a folder that is not there yet."
        )


def write_list(folder: Path) -> dict[str, Any]:
    """Write the list of a folder's files: sizes, sizes as most hosts send them, one digest."""
    found: dict[str, Any] = {}
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        data = path.read_bytes()
        digest.update(name.encode() + hashlib.sha256(data).digest())
        wire = len(data) if name.endswith(ENDING) else len(gzip.compress(data, 6, mtime=0))
        found[name] = {"bytes": len(data), "wire": wire}
    record: dict[str, Any] = {
        "version": __version__,
        "runtime": VERSION,
        "build": digest.hexdigest()[:16],
    }
    record["files"] = found
    (folder / LIST).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def cached_page(model: str | None = None, *, archive: Path | None = None) -> Path:
    """Return a page of a model in the user's cache, built if there is none of this version."""
    check_exporters()
    check_given(archive)
    network = open_for_export(model)
    mark = hashlib.sha256(f"{mark_of(network)} {VERSION}".encode())
    for path in sorted(path for path in SITE.rglob("*") if path.is_file()):
        mark.update(f"{path.relative_to(SITE).as_posix()} {sha256_of(path)}\n".encode())
    folder = _cache("built") / mark.hexdigest()[:16]
    if not (folder / LIST).is_file():
        build_page(folder, model, archive=archive)
    return _used(folder)


def cached_model(model: Denoiser, home: Path | None = None) -> Path:
    """Return a model's files for the page from a cache; they are written if they are not there.

    Writing them takes most of a build, and a page that only looks different needs no new ones.

    Args:
        model: The model.
        home: The cache; None takes the user's.
    """
    folder = (_cache("models") if home is None else home) / mark_of(model)
    if not folder.is_dir():  # it is written whole or not at all
        try:
            with whole_folder(folder) as draft:
                write_model(draft, model)
        except OSError:
            if not folder.is_dir():  # else another process has written it meanwhile
                raise
    return _used(folder)


def mark_of(model: Denoiser) -> str:
    """Return a text that two models' files for the page share only if they are equal."""
    taken = checked(model)
    parts = [taken.name, digest_of(taken), repr(taken.defaults), *map(version, WRITERS)]
    parts.append(json.dumps(dict(taken.card.raw), sort_keys=True))
    parts.append(taken.tokenizer.backend_tokenizer.to_str())
    room = HERE.parent
    code = [path for path in room.rglob("*.py") if path.relative_to(room).parts[0] not in SURFACES]
    parts += [f"{path.relative_to(room)} {sha256_of(path)}" for path in sorted(code)]
    parts += [sha256_of(path) for path in sorted(WEIGHTS.glob("judge-v*/*")) if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cache(kind: str) -> Path:
    return platformdirs.user_cache_path("p2p_lab", appauthor=False) / "page" / kind


def _used(folder: Path) -> Path:
    """Note that a folder of the cache is used now, and delete those that nobody uses any more."""
    os.utime(folder)
    oldest_first = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    for old in oldest_first[:-KEPT]:
        if old.stat().st_mtime < time.time() - RECENT:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def wire_bytes(record: dict[str, Any]) -> int:
    """Return how many bytes a reader fetches of a page, as most hosts send them."""
    later = ("webgpu", "asyncify", "strip.")
    sizes = record["files"].items()
    return sum(size["wire"] for name, size in sizes if not any(part in name for part in later))
