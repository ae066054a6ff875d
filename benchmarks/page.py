"""Time the page in Chromium and weigh it; the table goes to benchmarks/results/page.md.

    python benchmarks/page.py                     one WASM thread and two
    python benchmarks/page.py --threads 1 --edits 9

Chromium has no window and no graphics card here. `first picture` is from the moment at which the
model is open; an edit is a new weight of a word, so that no step is shared with an earlier one, and
its time is the median over several; memory is the most that the page's own process took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from p2p_lab.page.build import LIST, cached_page, wire_bytes  # noqa: E402
from p2p_lab.page.serve import address_of, server_of  # noqa: E402
from tests.test_browser import chromium  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "page.md"
FIELDS = "p2pPage.state.fields"
BUDGETS = {
    "fetched, MB": "20",
    "first picture, s": "6",
    "edit of 5 steps, s": "0.9 (1 thread), 0.5 (2)",
    "fader to picture, s": "",
    "memory, MB": "600",
}
READY = f"globalThis.p2pPage && {FIELDS}.ready"
DRAWN = "p2pPage.state.fresh('reprompt') && p2pPage.state.fresh('edit')"


def renderers() -> list[psutil.Process]:
    """Return the browser's processes that run pages."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def processor_seconds() -> float:
    """Return the processor time that the browser's pages have taken so far."""
    times = [process.cpu_times() for process in renderers()]
    return sum(one.user + one.system for one in times)


def most_memory(stop: threading.Event, found: list[float]) -> None:
    """Note the most memory that one of the browser's page processes takes, in MB."""
    while not stop.wait(0.2):
        for process in renderers():
            with suppress(psutil.Error):
                found.append(process.memory_full_info().uss / 1e6)


def measure(address: str, threads: int, edits: int) -> dict[str, float]:
    """Open the page with a number of threads and time it."""
    stop, memory = threading.Event(), list[float]()
    watcher = threading.Thread(target=most_memory, args=(stop, memory), daemon=True)
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(600_000)
        watcher.start()
        start = time.perf_counter()
        page.goto(f"{address}?threads={threads}&ahead=0")
        page.wait_for_function(READY, polling=20)
        ready = time.perf_counter()
        page.wait_for_function(f"{FIELDS}.shown.source", polling=20)
        first = time.perf_counter()
        page.wait_for_function(DRAWN)
        drawn, felt, work = zip(*(one_edit(page, i) for i in range(edits)), strict=True)
        stop.set()
        watcher.join()
    return {
        "open, s": ready - start,
        "first picture, s": first - ready,
        "edit of 5 steps, s": statistics.median(drawn),
        "the same, processor s": statistics.median(work),
        "fader to picture, s": statistics.median(felt),
        "memory, MB": max(memory),
    }


def one_edit(page: Any, number: int) -> tuple[float, float, float]:
    """Return the seconds that the worker took, those until it was shown, those of the processor."""
    scale = 1.125 + number / 16  # nothing that was drawn ahead
    page.wait_for_function(f"{FIELDS}.idle")
    before = processor_seconds()
    took: list[float] = page.evaluate(
        f"""async (scale) => {{
          const word = {FIELDS}.target.words.at(-1);
          const start = performance.now();
          p2pPage.state.change({{ scales: [[word, 0, scale]] }});
          while (!p2pPage.state.fresh("edit")) await new Promise((go) => setTimeout(go, 5));
          return [{FIELDS}.shown.edit.seconds, (performance.now() - start) / 1000];
        }}""",
        scale,
    )
    work = processor_seconds() - before
    page.wait_for_function(DRAWN)
    return took[0], took[1], work


def table(name: str, rows: dict[int, dict[str, float]], wire: int) -> str:
    """Return the results as Markdown."""
    names = ["fetched, MB", *next(iter(rows.values()))]
    head = [f"{n} thread{'s' * (n > 1)}" for n in rows]
    lines = [
        f"Measured by `python benchmarks/page.py`: {name} in Chromium without a graphics card, on "
        f"{platform.machine()} with {os.cpu_count()} cores at a load of {os.getloadavg()[0]:.1f}. "
        "Processor seconds do not grow with what else the machine does; the others do.",
        "",
        f"| | {' | '.join(head)} | budget |",
        f"|---|{'--:|' * len(head)}---|",
    ]
    for one in names:
        values = [wire / 1e6 if one == "fetched, MB" else row[one] for row in rows.values()]
        digits = 0 if one == "memory, MB" else 1 if one == "fetched, MB" else 2
        cells = " | ".join(f"{value:.{digits}f}" for value in values)
        lines.append(f"| {one} | {cells} | {BUDGETS.get(one, '')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled model's name or a model folder")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--edits", type=int, default=7)
    options = parser.parse_args()
    folder = cached_page(options.model)
    record = json.loads((folder / LIST).read_text())
    facts = json.loads((folder / "model" / "model.json").read_text())
    with server_of(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = {n: measure(address_of(server), n, options.edits) for n in options.threads}
        server.shutdown()
    text = table(facts["name"], rows, wire_bytes(record))
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
