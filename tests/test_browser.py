"""The panels in a real browser: a front end runs a notebook, keys and the mouse work, nothing errs.

JupyterLab 4 opens the first lesson where it is there, Notebook 7 a notebook with all panels. VS
Code and Colab cannot be started here: what stands for them is the test that panels use no more
than ipywidgets 7.7.1 has, and that they are shown as a picture and text without any widget manager.
Chromium is the system's own; without one these tests are skipped.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import TimeoutError as TooLate
from playwright.sync_api import expect, sync_playwright

from tests.servers import wait_until_up

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
LESSON = ROOT / "notebooks" / "00_start_here.ipynb"
SECONDS = 300  # for what a loaded machine may need
expect.set_options(timeout=SECONDS * 1000)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# All cells stay in the page, and nothing pops up over them.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# Messages of the browser that say nothing about the page's own code.
HARMLESS = (
    *("favicon", "the server responded with a status of 404", "ResizeObserver loop"),
    "reading 'schema'",  # Notebook 7.6 says so while it opens any notebook, before a cell is run
)


def find_chromium() -> str | None:
    return next((found for name in CHROMIUMS if (found := shutil.which(name))), None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def jupyter(folder: Path, front_end: str = "jupyterlab") -> Iterator[str]:
    """Start JupyterLab or Notebook on a folder; yield where it opens files, and the token."""
    port, token = free_port(), secrets.token_hex(16)
    home = folder / ".jupyter-home"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **{f"JUPYTER_{n}_DIR": str(home / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [
        *(sys.executable, "-m", front_end, "--no-browser", "--allow-root", f"--port={port}"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"),
        *(f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"),
        *("--LabApp.news_url=", "--LabApp.extension_manager=readonly"),
    ]
    settings = home / "settings" / "@jupyterlab"
    for name, value in SETTINGS.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    log = (folder / "lab.log").open("wb")
    lab = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        said = (folder / "lab.log").read_text
        wait_until_up(f"{address}/api?token={token}", lab, SECONDS, lambda: said()[-2000:])
        yield f"{address}/{'lab/tree' if front_end == 'jupyterlab' else 'notebooks'}|{token}"
    finally:
        lab.terminate()
        try:
            lab.wait(20)
        except subprocess.TimeoutExpired:
            lab.kill()
        log.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium without a window."""
    path = find_chromium()
    if path is None:
        pytest.skip("No Chromium was found on this machine, so no panel was tried in a browser.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


def close_dialog(dialog: Any) -> None:
    """Accept what a front end asks at any moment, as "Server Connection Error" on a loaded machine.

    The browser's driver calls this whenever a dialog stands before what is to be clicked, again
    for one that comes back, as "Select Kernel" does until the kernel has started.
    """
    print("Accepted:", dialog.last.inner_text())
    dialog.last.locator("button.jp-mod-accept").click()


def open_notebook(
    browser: Any, lab: str, name: str, *, height: int = 1400
) -> tuple[Any, list[str]]:
    """Open a notebook in the simple interface; return the page and the console's errors so far."""
    address, token = lab.split("|")
    context = browser.new_context(viewport={"width": 1280, "height": height})
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.add_locator_handler(page.locator(".jp-Dialog"), close_dialog, no_wait_after=True)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"page: {error}"))
    page.on(
        "console",
        lambda said: errors.append(f"console: {said.text}") if said.type == "error" else None,
    )
    page.goto(f"{address}/{name}?token={token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    return page, errors


PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((p) => p.textContent)"
RUNNING = f"{PROMPTS}.some((p) => p.includes('*'))"
ERRED = "[data-mime-type='application/vnd.jupyter.error']"
DONE = f'{PROMPTS}.every((p) => /\\d/.test(p)) || document.querySelector("{ERRED}") !== null'


def run_all(page: Any, patience: float = 20.0) -> None:
    """Run every cell and wait until the kernel has answered all of them.

    Args:
        page: With the notebook.
        patience: Seconds after which it is seen whether a dialog stands before the cells, or
            whether some of them were never sent.

    Raises:
        AssertionError: If a cell raised an error, with its text; or if some were not run in time.
    """
    end = time.monotonic() + SECONDS
    while True:
        # A click before the kernel is there does nothing. One while extensions are still read may
        # run the first cell and drop the others.
        if not page.evaluate(f"{RUNNING} || {DONE}"):
            page.click(".lm-MenuBar-item:has-text('Run')")
            page.click(".lm-Menu-item:has-text('Run All Cells')")
        try:
            page.wait_for_function(DONE, timeout=1000 * patience)
            break
        except TooLate:
            assert time.monotonic() < end, f"Not every cell was run: {page.evaluate(PROMPTS)}"
        # A wait sees no dialog: "Select Kernel" may come up meanwhile, and nothing runs behind it.
        page.locator(".jp-Notebook").first.click(trial=True)
    errors = page.locator(ERRED).all_inner_texts()
    assert not errors, f"A cell raised an error:\n{errors[0]}"
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")


# A front end of one menu, whose cells are run by what a test puts in.
FRONT_END = """
<div class="lm-MenuBar-item">Run</div>
<div class="lm-Menu-item" onclick="start()">Run All Cells</div>
<div class="jp-Notebook">{cells}</div>
<div class="jp-Notebook-ExecutionIndicator" data-status="idle">idle</div>
<script>
  const prompts = document.querySelectorAll(".jp-InputPrompt");
  {script}
</script>"""
CELL = '<div class="jp-CodeCell"><div class="jp-InputPrompt">[ ]:</div></div>'
LATE_DIALOG = """
  function start() {
    const dialog = document.createElement("div");
    prompts[0].textContent = "[*]:";
    dialog.className = "jp-Dialog";
    dialog.style = "position: fixed; inset: 0";
    dialog.innerHTML = "<button class='jp-mod-accept'>Select</button>";
    dialog.onclick = () => { dialog.remove(); prompts[0].textContent = "[1]:"; };
    setTimeout(() => document.body.append(dialog), 500);
  }"""
DROPPED_CELLS = """
  let starts = 0;
  function start() {
    starts += 1;
    prompts.forEach((prompt, i) => { if (starts > 1 || i === 0) prompt.textContent = `[${i}]:`; });
  }"""
ERROR_IN_A_CELL = """
  function start() {
    prompts[0].textContent = "[1]:";
    prompts[0].insertAdjacentHTML("afterend",
      "<div data-mime-type='application/vnd.jupyter.error'>NameError: cat</div>");
  }"""


@contextmanager
def front_end(script: str, cells: int = 1) -> Iterator[Any]:
    """Open a page that looks like a front end to `run_all`."""
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.add_locator_handler(page.locator(".jp-Dialog"), close_dialog, no_wait_after=True)
        page.set_content(FRONT_END.replace("{cells}", CELL * cells).replace("{script}", script))
        yield page


def test_a_dialog_that_comes_up_while_cells_are_awaited_is_accepted() -> None:
    with front_end(LATE_DIALOG) as page:
        run_all(page, patience=2.0)
        expect(page.locator(".jp-InputPrompt")).to_have_text("[1]:")


def test_cells_that_a_front_end_dropped_are_run_again() -> None:
    with front_end(DROPPED_CELLS, cells=3) as page:
        run_all(page, patience=2.0)
        expect(page.locator(".jp-InputPrompt")).to_have_text(["[0]:", "[1]:", "[2]:"])


def test_an_error_in_a_cell_ends_the_wait_with_its_text() -> None:
    with (
        front_end(ERROR_IN_A_CELL, cells=2) as page,
        pytest.raises(AssertionError, match="NameError: cat"),
    ):
        run_all(page)


def real_errors(errors: list[str]) -> list[str]:
    return [error for error in errors if not any(word in error for word in HARMLESS)]


def write_notebook(path: Path, cells: list[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    nbformat.write(notebook, path)


EXPLORER = """from p2p_lab import AttentionExplorer, generate, load
AttentionExplorer(generate(load({model}), "a cat on grass", seed=1, steps=4))"""
PANEL = """from p2p_lab import EditPanel, load
EditPanel(load({model}), "a cat on grass", "a dog on grass", seed=3, steps=4)"""
INVERSION = """from p2p_lab import InversionPanel, load
InversionPanel(load({model}), steps=4)"""


def prepare(folder: Path, sd_folder: Path, *, lesson: bool) -> str:
    """Put a notebook with all panels in a folder: the first lesson where it can be run."""
    from p2p_lab import list_models

    if lesson and LESSON.exists() and list_models():
        notebook = nbformat.read(LESSON, as_version=4)
        for cell in notebook.cells:  # what is seen afterwards was made in the browser
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        more = [one.format(model="") for one in (EXPLORER, INVERSION)]
        notebook.cells += [nbformat.v4.new_code_cell(code) for code in more]
        nbformat.write(notebook, folder / LESSON.name)
        return LESSON.name
    model = "" if list_models() else f"{str(sd_folder)!r}, 'cpu'"
    cells = [code.format(model=model) for code in (PANEL, EXPLORER, INVERSION)]
    write_notebook(folder / "panels.ipynb", cells)
    return "panels.ipynb"


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def opened(
    tmp_path_factory: pytest.TempPathFactory, sd_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A notebook whose cells were all run in a front end, and the console's errors so far."""
    folder = tmp_path_factory.mktemp("lab")
    name = prepare(folder, sd_folder, lesson=request.param == "jupyterlab")
    with chromium() as browser, jupyter(folder, request.param) as lab:
        page, errors = open_notebook(browser, lab, name)
        run_all(page)
        yield page, errors


def changed(page: Any, read: str, before: Any) -> None:
    """Wait until what a piece of JavaScript reads is another than before."""
    page.wait_for_function(f"(before) => ({read}) !== before", arg=before)


EDITED = (
    "[...document.querySelectorAll('.p2p-faders')].map((desk) => desk.closest('.p2p')"
    ".querySelectorAll('figure img')[1].src)[0]"
)
MAP = "document.querySelector('.p2p-map canvas').toDataURL()"


def test_every_cell_runs_without_an_error(opened: Any) -> None:
    page, _ = opened
    expect(page.locator(ERRED)).to_have_text([])
    for shown in (".p2p-faders", ".p2p-map canvas"):
        expect(page.locator(shown).first).to_be_attached()


def test_a_fader_that_is_moved_by_key_press_changes_the_picture(opened: Any) -> None:
    page, _ = opened
    page.wait_for_selector(".p2p-faders .noUi-handle")
    handle = page.locator(".p2p-faders .noUi-handle").nth(1)
    readout = page.locator(".p2p-faders .widget-readout").nth(1)
    before, value = page.evaluate(EDITED), readout.inner_text()
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    changed(page, EDITED, before)
    page.wait_for_function(
        "(old) => +document.querySelectorAll('.p2p-faders .widget-readout')[1].innerText > old",
        arg=float(value),
    )


def test_keys_that_are_pressed_in_a_panel_are_no_shortcuts_of_the_notebook(opened: Any) -> None:
    page, _ = opened
    count = page.locator(".jp-Cell").count()
    for where in (".p2p-faders .noUi-handle", ".p2p-word", ".p2p button:enabled"):
        control = page.locator(where).first
        control.focus()
        for key in ("d", "d", "a", "ArrowDown"):  # cut the cell, add one, go to the next
            page.keyboard.press(key)
        expect(control, where).to_be_focused()
        control.blur()
    expect(page.locator(".jp-Cell")).to_have_count(count)


def test_a_word_that_is_hovered_changes_the_map(opened: Any) -> None:
    page, _ = opened
    word = page.locator(".p2p-word").nth(1)
    word.scroll_into_view_if_needed()
    page.mouse.move(2, 2)
    before = page.evaluate(MAP)
    word.hover()
    changed(page, MAP, before)
    expect(page.locator(".p2p-read b").first).to_have_text(word.inner_text())
    page.mouse.move(2, 2)
    page.wait_for_function(f"(before) => ({MAP}) === before", arg=before)


def test_a_word_that_is_reached_by_keyboard_changes_the_map_and_enter_keeps_it(
    opened: Any,
) -> None:
    page, _ = opened
    before = page.evaluate(MAP)
    word = page.locator(".p2p-word").nth(1)
    word.focus()
    changed(page, MAP, before)
    page.keyboard.press("Enter")
    expect(word).to_have_attribute("aria-pressed", "true")
    kept = page.evaluate(MAP)
    word.blur()
    assert page.evaluate(MAP) == kept != before


def test_the_code_comes_up_beside_its_button(opened: Any) -> None:
    page, _ = opened
    page.locator(".p2p button:has-text('Copy as code')").first.click()
    code = page.locator("pre.p2p-code").first
    code.wait_for(state="visible")
    page.wait_for_function(
        "document.querySelector('pre.p2p-code').textContent.includes('edited = edit(')"
    )


DROP = """(box) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 40;
  canvas.toBlob((blob) => {
    const files = new DataTransfer();
    files.items.add(new File([blob], "mine.png", { type: "image/png" }));
    const said = { dataTransfer: files, bubbles: true, cancelable: true };
    for (const name of ["dragenter", "dragover", "drop"]) {
      box.dispatchEvent(new DragEvent(name, said));
    }
  });
}"""


def test_a_picture_that_is_dropped_is_taken(opened: Any) -> None:
    page, _ = opened
    panel = page.locator(".p2p:has(.p2p-drop)").first
    expect(panel.locator("figure img")).to_have_count(0)
    panel.locator(".p2p-empty").first.evaluate(DROP)  # on the large empty square, not on the box
    panel.locator("figure img").first.wait_for(state="visible")
    expect(panel.locator(".p2p-status").first).to_contain_text("press Invert")


def test_the_console_has_no_error(opened: Any) -> None:
    _, errors = opened
    assert real_errors(errors) == []
