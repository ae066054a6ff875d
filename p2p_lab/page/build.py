"""The static folder: the site's files, the runtime and a model, with a list of what is fetched.

Every address in it is relative, so it may lie in any folder of any host.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import platformdirs

from p2p_lab import __version__
from p2p_lab.files import remove_folder, sha256_of, whole_folder
from p2p_lab.models import Denoiser
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
from p2p_lab.page.runtime import VERSION, runtime

SITE = Path(__file__).parent / "site"
LIST = "page.json"
KEPT = 3  # built pages in the cache


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
        ValueError: If the page cannot run the model.
    """
    check_exporters()
    check_folder(folder)
    network = open_for_export(model)
    checked(network)
    files = runtime(archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.new"), ignore_errors=True)  # of a killed build
    old = folder.with_name(f"{folder.name}.old")
    with whole_folder(folder.with_name(f"{folder.name}.new")) as draft:
        found = write_page(draft, network, files)
    if folder.exists():
        folder.rename(old)
    folder.with_name(f"{folder.name}.new").rename(folder)
    if old.exists():
        remove_folder(old)
    return found


def write_page(folder: Path, model: Denoiser, files: Path) -> dict[str, Any]:
    """Fill an empty folder with a page, from an open model and the runtime's files."""
    shutil.copytree(SITE, folder, dirs_exist_ok=True)
    shutil.copytree(files, folder / "runtime")
    (folder / "model").mkdir()
    facts = export_model(model, folder / "model")
    copy_tokenizer(checked(model), folder / "model")
    write_pictures(model, facts, folder / "model")
    for path in sorted(folder.rglob("*.onnx")):
        pack_file(path, HALF)
    (folder / ".nojekyll").write_bytes(b"")  # else some hosts leave files out
    return write_list(folder)


def check_folder(folder: Path) -> None:
    """See that a folder is free, or holds a page that may be replaced.

    Raises:
        PageError: If it holds something else.
    """
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
    network = open_for_export(model)
    mark = hashlib.sha256()
    for path in sorted([*SITE.rglob("*"), *Path(__file__).parent.glob("*.py")]):
        if path.is_file():
            mark.update(sha256_of(path).encode())
    mark.update(f"{network.name} {json.dumps(dict(network.card.raw), sort_keys=True)}".encode())
    home = platformdirs.user_cache_path("p2p_lab", appauthor=False) / "page" / "built"
    folder = home / mark.hexdigest()[:16]
    if not (folder / LIST).is_file():
        build_page(folder, model, archive=archive)
        for old in sorted(home.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def wire_bytes(record: dict[str, Any]) -> int:
    """Return how many bytes a reader fetches of a page, as most hosts send them."""
    later = ("webgpu", "asyncify", "strip.")
    sizes = record["files"].items()
    return sum(size["wire"] for name, size in sizes if not any(part in name for part in later))
