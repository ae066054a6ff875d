"""Film the edit panel in a real browser and write docs/panel.gif, at most 1 MB.

    python tools/panel_gif.py [FILE]

JupyterLab runs a notebook with one panel; a fader is moved by keys, and each new picture is one
frame. It needs a Chromium on the PATH, as the browser tests do.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import test_browser as browser  # noqa: E402

MOST_BYTES = 1_000_000
WIDTH = 760
COLOURS = 256
FRAME_MS = 900
STOPS = 4  # frames to each side; a stop is some presses of an arrow key
PRESSES = 7
WORD = 8  # "snowy", counted from 0
CELL = """from p2p_lab import EditPanel, load
EditPanel(load(), "a cat next to a house in a snowy field",
          "a dog next to a house in a snowy field", seed=0)"""
FINAL = "document.querySelector('.p2p-status').textContent.startsWith('Final')"


def shot(page: Any) -> Image.Image:
    """Return a picture of the panel."""
    taken = page.locator(".p2p").first.screenshot()
    image = Image.open(io.BytesIO(taken)).convert("RGB")
    return image.resize(
        (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS
    )


def film(page: Any) -> list[Image.Image]:
    """Turn the fader down, below zero and up again; return a frame of each stop."""
    page.wait_for_function("document.querySelectorAll('.p2p figure img').length === 3")
    frames = [shot(page)]
    handle = page.locator(".p2p-faders [role=slider]").nth(WORD)
    for key in ["ArrowLeft"] * STOPS + ["ArrowRight"] * STOPS:
        before = page.evaluate(browser.EDITED)
        handle.focus()
        for _ in range(PRESSES):
            page.keyboard.press(key)
        browser.changed(page, browser.EDITED, before)
        page.wait_for_timeout(500)
        page.wait_for_function(FINAL)
        frames.append(shot(page))
    return frames


def write_gif(frames: list[Image.Image], path: Path) -> None:
    """Write the frames with one palette, made of the first frame and of the one farthest from it.

    Raises:
        ValueError: If the file is larger than 1 MB.
    """
    both = Image.new("RGB", (WIDTH, 2 * frames[0].height))
    both.paste(frames[0])
    both.paste(frames[STOPS], (0, frames[0].height))
    palette = both.quantize(COLOURS)
    first, *rest = [frame.quantize(COLOURS, palette=palette) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {MOST_BYTES}.")


def main() -> int:
    """Film and write."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "panel.gif"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        browser.write_notebook(folder / "panel.ipynb", [CELL])
        with browser.chromium() as chromium, browser.jupyter(folder) as lab:
            page, _ = browser.open_notebook(chromium, lab, "panel.ipynb")
            browser.run_all(page)
            page.wait_for_timeout(3000)
            frames = film(page)
    write_gif(frames, path)
    print(f"{path}: {len(frames)} frames, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
