"""`p2p_lab cache`: how much the kept inversions take, and `p2p_lab cache clear` to drop them."""

from __future__ import annotations

import argparse
from typing import Any


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser("cache", help="show or clear the inversions kept on disk")
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show")


def run(options: argparse.Namespace) -> int:
    """Print what is kept, or throw it away."""
    from p2p_lab.inversion import InversionCache

    cache = InversionCache()
    size = cache.nbytes / 2**20
    left = f", {len(cache.leftovers())} half-written file(s) among them" * bool(cache.leftovers())
    if options.action == "clear":
        print(f"Threw away {cache.clear()} inversion(s), {size:.1f} MiB{left}, of {cache.folder}.")
        return 0
    limit = cache.limit / 2**20
    count = len(cache.files())
    print(f"{count} inversion(s), {size:.1f} of {limit:.0f} MiB{left}, in {cache.folder}.")
    return 0
