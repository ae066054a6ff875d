"""`p2p_lab web`: the lab as a page in the browser; `--build DIR` writes it for any static host."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from p2p_lab.commands._early import check_model

PORT = 8620  # the address that a panel's links name, unless P2P_LAB_PAGE says another one


def add(parsers: Any) -> None:
    """Add the command's options."""
    parser = parsers.add_parser("web", help="open the lab as a page in the browser, or build it")
    parser.add_argument(
        "--build", type=Path, metavar="DIR", help="write the page as a static folder and stop"
    )
    parser.add_argument("--model", help="a bundled model's name or a model folder")
    parser.add_argument(
        "--port", type=int, help=f"of the server (default: {PORT}, or a free one if it is taken)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--runtime", type=Path, metavar="FILE", help="the runtime's npm package, fetched by hand"
    )


def run(options: argparse.Namespace) -> int:
    """Build the page; serve it on this machine unless it was only to be built.

    Raises:
        ValueError: If something to build with is missing, or a folder or model does not fit.
    """
    check_model(options.model)
    if not 0 <= (options.port or 0) <= 65535:
        raise ValueError(f"--port {options.port} is not possible: give a number from 0 to 65535.")
    if options.build is not None:
        return _build(options)
    from p2p_lab.page.build import cached_page

    print("Preparing the page; the first time this takes about a minute.", flush=True)
    return _serve(cached_page(options.model, archive=options.runtime), options)


def _build(options: argparse.Namespace) -> int:
    from p2p_lab.page.build import build_page, wire_bytes

    record = build_page(options.build, options.model, archive=options.runtime)
    print(
        f"Wrote the page to {options.build}: {len(record['files'])} files; a reader fetches "
        f"{wire_bytes(record) / 1e6:.1f} MB. Any static host can serve the folder."
    )
    return 0


def _serve(folder: Path, options: argparse.Namespace) -> int:
    from p2p_lab.page.serve import address_of, first_server_of

    ports = (PORT, 0) if options.port is None else (options.port,)
    with first_server_of(folder, ports) as server:
        address = address_of(server)
        print(f"The page is at {address} (Ctrl-C stops it).", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.")
    return 0
