"""The panels as instruments, in a real browser: the hand moves, and pictures, masks, bars follow.

One notebook with all of it, in JupyterLab and in Notebook 7, with the bundled model: what is
dragged is judged by what the pictures hold.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from test_browser import (
    EDITED,
    changed,
    chromium,
    jupyter,
    open_notebook,
    real_errors,
    run_all,
    write_notebook,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELLS = [
    "from p2p_lab import AttentionExplorer, EditPanel, generate, load\n"
    "from p2p_lab.widgets import guess\nmodel = load()\n"
    'source = generate(model, "a cat in a field", seed=3)',
    'guess("02.radical", ["the old one", "the new one", "mush"])',
    "print('the hidden result')",
    'EditPanel(model, source, "a dog in a field")',
    "AttentionExplorer(source)",
    'from p2p_lab.figures import show_pictures\nshow_pictures([source, source], ["one", "two"])',
]
PANEL = "document.querySelector('.p2p-faders').closest('.p2p')"
FINAL = f"{PANEL}.querySelector('.p2p-status').textContent.includes('Final')"


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def opened(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A notebook with every panel whose cells were run, and the console's errors so far."""
    folder = tmp_path_factory.mktemp("panels")
    write_notebook(folder / "panels.ipynb", CELLS)
    with chromium() as browser, jupyter(folder, request.param) as lab:
        page, errors = open_notebook(browser, lab, "panels.ipynb", height=2400)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        run_all(page)
        page.wait_for_selector(".p2p-faders .noUi-handle")
        page.set_default_timeout(90_000)
        yield page, errors


def at_rest(page: Any) -> None:
    """Wait until a final picture has been shown for a second."""
    for _ in range(60):
        page.wait_for_function(FINAL)
        shown = page.evaluate(EDITED)
        page.wait_for_timeout(1000)
        if page.evaluate(FINAL) and page.evaluate(EDITED) == shown:
            return
    raise AssertionError("The panel did not come to rest.")


def fold(page: Any, name: str) -> None:
    """Open one of the edit panel's folds."""
    button = page.locator(f".p2p-bar button:has-text('{name}')")
    if "mod-active" not in (button.get_attribute("class") or ""):
        button.click()


def drag(page: Any, start: tuple[float, float], end: tuple[float, float], seconds: float) -> None:
    """Drag by the mouse, slowly, as a hand does."""
    page.mouse.move(*start)
    page.mouse.down()
    until, begun = time.monotonic() + seconds, time.monotonic()
    while (now := time.monotonic()) < until:
        part = (now - begun) / seconds
        page.mouse.move(*(a + part * (b - a) for a, b in zip(start, end, strict=True)))
        page.wait_for_timeout(25)
    page.mouse.move(*end)
    page.mouse.up()


def middle(box: dict[str, float], down: float = 0.5, right: float = 0.5) -> tuple[float, float]:
    return box["x"] + right * box["width"], box["y"] + down * box["height"]


def picture_of(page: Any) -> Image.Image:
    """Return the edit that is shown."""
    data = page.evaluate(EDITED).split(",")[1]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_a_guess_hides_the_next_result_until_it_is_made_by_key(opened: Any) -> None:
    page, _ = opened
    result = page.locator(".jp-OutputArea-output:has-text('the hidden result')")
    expect(result).to_be_hidden()
    page.locator(".p2p-guess button").nth(1).focus()
    page.keyboard.press("Enter")
    result.wait_for(state="visible")
    guessed = page.locator(".p2p-guess-read")
    expect(guessed).to_contain_text("You guessed b")
    page.locator(".p2p-guess button").nth(0).click(force=True)
    page.wait_for_timeout(500)
    expect(guessed).to_contain_text("You guessed b")  # it counts once


def test_a_fader_shows_four_pictures_while_it_is_still_dragged(opened: Any) -> None:
    page, _ = opened
    page.wait_for_timeout(3000)  # what a first touch needs is made ready
    page.evaluate(
        f"""() => {{ window.seen = new Set([{EDITED}]);
        window.watching = setInterval(() => window.seen.add({EDITED}), 20); }}"""
    )
    handle = page.locator(".p2p-faders .noUi-handle").nth(1)
    handle.scroll_into_view_if_needed()
    x, y = middle(handle.bounding_box())
    page.mouse.move(x, y)
    page.mouse.down()
    until, step = time.monotonic() + 60, 0  # however slow the machine: the hand has not let go
    while page.evaluate("window.seen.size") < 1 + 4 and time.monotonic() < until:
        step += 1
        page.mouse.move(x, y - 50 * abs((step / 40 + 1) % 2 - 1))  # up and down, a second each
        page.wait_for_timeout(25)
    seen = page.evaluate("() => { clearInterval(window.watching); return window.seen.size; }")
    page.mouse.move(x, y - 50)
    page.mouse.up()
    assert seen - 1 >= 4  # one was there before
    at_rest(page)
    page.wait_for_function("document.body.textContent.includes('dB to the source')")


def test_the_threshold_moves_the_mask_and_a_mask_can_be_painted(opened: Any) -> None:
    page, _ = opened
    fold(page, "Local edit")
    page.locator(".p2p-fold input[type=checkbox]").first.check()
    at_rest(page)
    fields = page.locator(".p2p-fold input[placeholder='word, word']")
    for i, word in enumerate(("cat", "dog")):
        expect(fields.nth(i)).to_have_value(word)
    canvas = page.locator(".p2p-stage-canvas").first
    canvas.wait_for(state="visible")
    read = page.locator(".p2p-stage-read").first
    before = read.inner_text()
    handle = page.locator(".p2p-fold:visible .noUi-handle").first
    handle.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "(old) => document.querySelector('.p2p-stage-read').innerText !== old", arg=before
    )
    page.locator(".p2p-fold button:has-text('paint one')").click()
    page.wait_for_function("document.querySelector('.p2p-stage-read').innerText.includes('Paint')")
    box = canvas.bounding_box()
    drag(page, middle(box, 0.3, 0.3), middle(box, 0.7, 0.7), 0.4)
    page.wait_for_function("!document.querySelector('.p2p-stage-read').innerText.includes(' 0 %')")
    canvas.focus()
    painted = read.inner_text()
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowRight", " "):
        page.keyboard.press(key)
    page.wait_for_function(
        "(old) => document.querySelector('.p2p-stage-read').innerText !== old", arg=painted
    )
    page.locator(".p2p-stage-tools button:has-text('Clear')").first.click()
    page.locator(".p2p-fold input[type=checkbox]").first.uncheck()
    at_rest(page)


def test_a_thing_that_is_dragged_lands_where_it_was_dropped(opened: Any) -> None:
    from p2p_lab import load_judge

    page, _ = opened
    page.locator(".p2p button:has-text('Reset')").first.click()
    at_rest(page)
    edit = page.locator(".p2p input[type=text]").nth(1)
    edit.fill("a cat in a field")
    edit.press("Enter")
    page.wait_for_function(
        f"{PANEL}.querySelectorAll('figcaption')[1].textContent.startsWith('a cat in a fieldedit,')"
    )
    at_rest(page)
    before = page.evaluate(EDITED)
    judge = load_judge()

    def centre() -> tuple[float, float, float]:
        mask = judge.read(picture_of(page)).masks["cat"] > 0.5
        inside = mask.nonzero().float()
        assert len(inside) > 0
        down, right = ((inside.mean(0) + 0.5) / mask.shape[0]).tolist()
        return down, right, float((inside.amax(0) - inside.amin(0)).max()) / mask.shape[0]

    down, right, size = centre()
    fold(page, "Move")
    page.locator(".p2p-fold select:visible").first.select_option("cat")
    canvas = page.locator(".p2p-stage-canvas:visible").last
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    to = right + (0.25 if right < 0.5 else -0.25)
    box = canvas.bounding_box()
    drag(page, middle(box, down, right), middle(box, down, to), 1.0)
    changed(page, EDITED, before)
    at_rest(page)
    moved = centre()
    assert abs(moved[1] - to) < size / 4 and abs(moved[0] - down) < size / 4
    canvas.focus()
    there = page.evaluate(EDITED)
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    changed(page, EDITED, there)
    page.keyboard.press("+")
    page.wait_for_function(
        "[...document.querySelectorAll('.p2p-stage-read')].some((r) => "
        "r.innerText.includes('size × 1.1'))"
    )
    at_rest(page)


def test_the_matrix_can_be_broken_and_mended_by_keys(opened: Any) -> None:
    page, _ = opened
    page.locator(".p2p button:has-text('Reset')").first.click()
    at_rest(page)
    before = page.evaluate(EDITED)
    fold(page, "Alignment")
    cell = page.locator(".p2p-grid button[aria-pressed='true']").nth(2)
    cell.wait_for()
    label = cell.get_attribute("aria-label")
    cell.focus()
    page.keyboard.press("Space")
    same = page.locator(f".p2p-grid button[aria-label='{label}'][aria-pressed='false']")
    same.first.wait_for()
    changed(page, EDITED, before)
    page.keyboard.press("ArrowRight")
    expect(page.locator(":focus")).not_to_have_attribute("aria-label", label)
    at_rest(page)
    page.locator(".p2p-fold button:has-text('Reset alignment')").click()
    page.wait_for_function(f"(old) => ({EDITED}) === old", arg=before)


def test_two_pictures_are_compared_by_a_wipe_and_by_what_differs(opened: Any) -> None:
    page, _ = opened
    fold(page, "Compare")
    canvas = "document.querySelector('.p2p-compare-canvas').toDataURL()"
    page.wait_for_function(f"{canvas}.length > 3000")
    for act in (
        lambda: page.locator(".p2p-compare input[type=range]").press("ArrowRight"),
        lambda: page.locator(".p2p-compare input[type=checkbox]").check(),
        lambda: page.locator(".p2p-compare select").nth(1).select_option(index=0),
    ):
        before = page.evaluate(canvas)
        act()
        changed(page, canvas, before)
    expect(page.locator(".p2p-compare .p2p-stage-read")).to_contain_text("identical")


def test_steps_are_played_and_the_explorer_shows_the_step_that_is_chosen(opened: Any) -> None:
    page, _ = opened
    fold(page, "Step by step")
    clean = "[...document.querySelectorAll('.p2p-fold .p2p figure img')][1]?.src"
    page.wait_for_function(f"({clean}) !== undefined")
    before = page.evaluate(clean)
    handle = page.locator(".p2p-fold .p2p .noUi-handle").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    changed(page, clean, before)
    after = page.evaluate(clean)
    page.locator(".p2p-fold .p2p .widget-play button").first.click()
    changed(page, clean, after)
    page.locator(".p2p-fold .p2p .widget-play button").first.click()
    explorer = page.locator(".p2p:has(.p2p-map)").last
    lit = "document.querySelector('.p2p-map canvas').toDataURL()"
    before = page.evaluate(lit)
    explorer.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    changed(page, lit, before)


def test_a_pixel_that_is_asked_shows_its_row_as_bars(opened: Any) -> None:
    page, _ = opened
    explorer = page.locator(".p2p:has(.p2p-map)").last
    canvas = explorer.locator("canvas")
    canvas.scroll_into_view_if_needed()
    canvas.click(position={"x": 60, "y": 200})
    bars = explorer.locator(".p2p-bars [role=listitem]")
    bars.first.wait_for()
    labels = bars.evaluate_all("(all) => all.map((bar) => bar.getAttribute('aria-label'))")
    assert labels[0].startswith("‹start›") and labels[-1].startswith("‹padding›")
    assert sum(float(one.split()[-2]) for one in labels) == pytest.approx(100, abs=1)
    canvas.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.wait_for_function(
        "(old) => document.querySelector('.p2p-bars div')?.getAttribute('aria-label') !== old",
        arg=labels[0],
    )
    page.keyboard.press("Escape")
    explorer.locator(".p2p-bars").wait_for(state="hidden")


def test_the_same_code_is_copied_twice(opened: Any) -> None:
    page, _ = opened
    copy = page.locator(".p2p button:has-text('Copy as code')").first
    for _ in range(2):
        page.evaluate("navigator.clipboard.writeText('something else')")
        copy.click()
        page.wait_for_function(
            "navigator.clipboard.readText().then((t) => t.includes('edited = edit('))"
        )


def test_every_picture_of_the_page_says_what_it_shows(opened: Any) -> None:
    page, _ = opened
    figure = page.locator(".jp-OutputArea-output img[alt^='Pictures side by side: one; two']")
    expect(figure).to_have_count(1)
    silent = page.evaluate(
        "[...document.querySelectorAll('.jp-OutputArea-output img')].filter((i) => !i.alt && "
        "i.offsetParent && !i.classList.contains('p2p-thumb')).map((i) => i.outerHTML.slice(0, 80))"
    )
    assert [one for one in silent if "p2p-outline" not in one] == []


def test_the_console_has_no_error(opened: Any) -> None:
    _, errors = opened
    assert real_errors(errors) == []
