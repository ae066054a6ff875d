"""The runtime that the browser computes with: onnxruntime-web, one pinned package of npm.

It is fetched once, when a page is built, and kept in the user's cache; what was fetched is compared
with the digest below. A page fetches nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import platformdirs

from p2p_lab.files import whole_folder
from p2p_lab.page.export import PageError
from p2p_lab.page.packing import pack_file

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The runtime for every browser, and the one that is fetched where there is a graphics card.
FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


def runtime_folder() -> Path:
    """Return where the runtime's files are kept on this machine."""
    cache = platformdirs.user_cache_path("p2p_lab", appauthor=False)
    return cache / "page" / f"onnxruntime-web-{VERSION}-packed"


def runtime(archive: Path | None = None) -> Path:
    """Return a folder with the runtime's files, fetched with npm if they are not there yet.

    What is large in it is packed, as the page reads it.

    Args:
        archive: The package as a file that was fetched by hand, for machines without network.

    Raises:
        PageError: If npm is missing or fails, or the package is not the pinned one.
    """
    check_given(archive)
    folder = runtime_folder()
    if folder.is_dir():  # it is written whole or not at all
        return folder
    with tempfile.TemporaryDirectory() as place:
        packed = archive or fetch(Path(place))
        check_archive(packed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as draft, tarfile.open(packed) as package:
            for name in FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None
                (draft / name).write_bytes(member.read())
            for path in sorted(draft.glob("*.wasm")):
                pack_file(path, 1)
    return folder


def fetch(place: Path) -> Path:
    """Fetch the package with npm into a folder and return its file.

    Raises:
        PageError: If npm is not installed, or could not fetch it.
    """
    npm = shutil.which("npm")
    by_hand = (
        f"or on another machine type: npm pack {PACKAGE}, and give the file: --runtime {ARCHIVE}"
    )
    if npm is None:
        raise PageError(
            f"The page needs {PACKAGE}, which npm fetches, and npm is not installed. Install "
            f"Node.js (https://nodejs.org), {by_hand}"
        )
    done = subprocess.run(
        [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    packed = place / ARCHIVE
    if done.returncode or not packed.is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PageError(f"npm could not fetch {PACKAGE}: {reason:.200} Try again later, {by_hand}")
    return packed


def check_given(archive: Path | None) -> None:
    """See that a package that was fetched by hand, if one is given, is the pinned one.

    Raises:
        PageError: If it is not there, or another one.
    """
    if archive is not None:
        check_archive(archive)


def check_archive(packed: Path) -> None:
    """See that a file is the pinned package.

    Raises:
        PageError: If it is not there, or another one.
    """
    if not packed.is_file():
        raise PageError(f"There is no file {packed}. Fetch it with: npm pack {PACKAGE}")
    digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode("ascii")
    if digest != SHA512:
        raise PageError(
            f"{packed} is not {PACKAGE} as it was published (SHA-512 differs). Fetch it again "
            f"with: npm pack {PACKAGE}"
        )
