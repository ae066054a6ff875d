"""How quickly pictures follow a hand on a fader, measured on a real kernel.

    python benchmarks/panel.py [--json] [--model NAME] [--seconds 3] [--threads 1]

A Jupyter kernel opens an edit panel, and this program plays the browser: it sends what a dragged
fader sends, some thirty values a second, and takes the time of what comes back.

    first_seconds      from the first move of the hand to the first new picture
    per_second         new pictures a second while the hand moves
    final_seconds      from the last move to the final picture
    draft_to_final_db  PSNR of the last draft to the final picture of the same setting
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import queue
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jupyter_client.manager import KernelManager
from PIL import Image

from p2p_lab import psnr

OPEN = """
from p2p_lab import EditPanel, load
panel = EditPanel(load({model!r}), "a cat next to a house in a snowy field", seed=1,
                  target="a dog next to a house in a snowy field")
fader, picture = panel.faders["snowy"], panel._pictures[1]
print(fader.model_id, picture.model_id, panel._guard.model_id)
"""
FRAME_SECONDS = 0.03  # between two messages of a dragged fader
WAIT_SECONDS = 120
TARGETS = {"first_seconds": 0.3, "per_second": 4.0, "final_seconds": 1.2}


@dataclass
class Drag:
    """What came back from one drag.

    Attributes:
        begun, ended: when the hand began and ended to move, in seconds.
        pictures: time and HTML of each picture of the edit.
    """

    begun: float
    ended: float = 0.0
    pictures: list[tuple[float, str]] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the four numbers of a drag.

        Raises:
            RuntimeError: no picture or no final one came.
        """
        drafts = [(at, html) for at, html in self.pictures if "draft of" in html]
        finals = [(at, html) for at, html in self.pictures if "draft of" not in html]
        if not drafts or not finals or finals[-1][0] < self.ended:
            raise RuntimeError(f"{len(drafts)} drafts and {len(finals)} final pictures came.")
        while_moving = {html for at, html in drafts if at <= self.ended}
        return {
            "first_seconds": self.pictures[0][0] - self.begun,
            "per_second": len(while_moving) / (self.ended - self.begun),
            "final_seconds": finals[-1][0] - self.ended,
            "draft_to_final_db": psnr(picture_of(drafts[-1][1]), picture_of(finals[-1][1])),
        }


def picture_of(html: str) -> Any:
    """Return the picture in a caption's HTML as an array (H, W, 3) in [0, 1]."""
    found = re.search(r"base64,([A-Za-z0-9+/=]+)", html)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


class Browser:
    """Stand for the browser: send what controls send, and hear what the kernel answers."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str) -> str:
        """Run a cell, and return what it printed.

        Raises:
            RuntimeError: the cell failed.
        """
        printed = ""

        def hear(message: Any) -> None:
            nonlocal printed
            if message["msg_type"] == "stream":
                printed += message["content"]["text"]

        reply = self._client.execute_interactive(code, output_hook=hear, timeout=WAIT_SECONDS)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return printed

    def set(self, model: str, **state: Any) -> None:
        """Send a control's new state."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self._client.session.msg("comm_msg", {"comm_id": model, "data": data})
        self._client.shell_channel.send(message)

    def hear(self, model: str, seconds: float) -> Iterator[str]:
        """Yield the values that a widget of the page is given, for a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                message = self._client.get_iopub_msg(timeout=left)
            except queue.Empty:
                return
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["comm_id"] == model:
                value = content["data"].get("state", {}).get("value")
                if value is not None:
                    yield value


@contextmanager
def browser(threads: int) -> Iterator[Browser]:
    """Start a kernel with a number of threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    manager = KernelManager()
    manager.start_kernel(env={**os.environ, **dict.fromkeys(names, str(threads))})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=WAIT_SECONDS)
        yield Browser(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def drag(page: Browser, fader: str, picture: str, values: list[float], seconds: float) -> Drag:
    """Drag a fader over some values again and again, and wait for the final picture."""
    done = Drag(time.monotonic())
    for i in range(round(seconds / FRAME_SECONDS)):
        page.set(fader, value=values[i % len(values)])
        for html in page.hear(picture, FRAME_SECONDS):
            done.pictures.append((time.monotonic(), html))
    done.ended = time.monotonic()
    for html in page.hear(picture, WAIT_SECONDS):
        done.pictures.append((time.monotonic(), html))
        if "draft of" not in html:
            break
    return done


def measure(
    model: str | None, seconds: float, threads: int, *, again: bool = True
) -> dict[str, Any]:
    """Open a panel, touch it as a reader does, and return the numbers of a first and a second pass.

    The first pass goes over values that were never drawn; the second comes back to them.
    """
    with browser(threads) as page:
        fader, picture, guard = page.run(OPEN.format(model=model)).split()
        page.set(guard, shown=1)  # a front end has drawn the panel
        for _ in page.hear(picture, 5.0):
            pass  # it makes ready what a first touch needs
        down = [round(1.0 - 0.1 * i, 1) for i in range(1, 31)]
        first = drag(page, fader, picture, down[: round(seconds / FRAME_SECONDS)], seconds)
        found: dict[str, Any] = {k: round(v, 3) for k, v in first.figures().items()}
        if again:
            page.run("_ = panel.wait(120, ahead=True)")
            second = drag(page, fader, picture, down[::-1], 1.0)
            found["second_pass_per_second"] = round(second.figures()["per_second"], 1)
    return {**found, "threads": threads, "pictures": len(first.pictures)}


def main() -> int:
    """Measure, and print the numbers beside what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--model", default=None, help="name or folder; the bundled one by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long the hand moves")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--first-pass", action="store_true", help="leave the second pass out")
    options = parser.parse_args()
    found = measure(options.model, options.seconds, options.threads, again=not options.first_pass)
    if options.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        wanted = TARGETS.get(name)
        side = (
            "" if wanted is None else f"   wanted: {'≥' if name == 'per_second' else '≤'} {wanted}"
        )
        print(f"{name:24}{value}{side}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
