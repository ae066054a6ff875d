"""The page in a real browser: it loads, draws what Python draws, and follows the hand.

Chromium is the system's own; without one, or without the runtime's package, these are skipped.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from p2p_lab.judge import load_judge
from p2p_lab.models import load
from p2p_lab.page import serve
from p2p_lab.recipes import Recipe
from p2p_lab.widgets import EditPanel
from tests.test_browser import SECONDS, chromium, find_chromium, real_errors

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxscript")

STATE = "p2pPage.state.fields"
DRAWN = (
    f"globalThis.p2pPage && {STATE}.ready && {STATE}.shown.edit"
    " && ['source', 'edit', 'reprompt'].every((part) => p2pPage.state.fresh(part))"
)
IDLE = f"{DRAWN} && {STATE}.idle"  # all drafts are drawn too


@pytest.fixture(scope="module")
def folder(bundled_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("host")
    shutil.copytree(bundled_page, place / "some" / "course")
    return place


@contextmanager
def host(folder: Path) -> Iterator[str]:
    """Serve a folder and yield its address."""
    server = serve.server_of(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield serve.address_of(server)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A host that serves the page in a subfolder."""
    with host(folder) as found:
        yield f"{found}some/course/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


class Tab:
    """A page that was opened, with the console's errors so far."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"page: {error}"))
        self.page.on("console", self._hear)
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"console: {message.text}")

    def drawn(self) -> Any:
        """Wait until all is drawn."""
        self.page.wait_for_function(DRAWN)
        return self.page

    def recipe(self) -> Recipe:
        return Recipe.from_json(self.page.evaluate(f"JSON.stringify({STATE}.recipe)"))

    def picture(self, part: str) -> Any:
        values = self.page.evaluate(f"Array.from({STATE}.shown.{part}.picture)")
        return np.array(values, dtype=np.float32)

    def seen(self, part: str) -> Any:
        """What is on a canvas, (H, W, 3) from 0 to 255."""
        text = self.page.evaluate(f"document.querySelector('#figure-{part} canvas').toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))) as picture:
            return np.asarray(picture.convert("RGB"), dtype=float)

    def close(self) -> None:
        assert real_errors(self.errors) == []
        self.context.close()


@pytest.fixture(scope="module")
def tab(browser: Any, address: str) -> Iterator[Tab]:
    one = Tab(browser, address)
    one.drawn()
    yield one
    one.close()


def alike(one: Any, other: Any) -> bool:
    """Whether two canvases show the same; the browser's smoothing varies by a level."""
    return bool(np.abs(one - other).max() <= 2)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true of the page."""
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "The page did not come to show it."
        time.sleep(0.05)


def link(address: str, recipe: Recipe) -> str:
    from urllib.parse import quote

    return f"{address}?ahead=0#recipe={quote(json.dumps(asdict(recipe)))}"


def set_range(tab: Tab, selector: str, value: float) -> None:
    """Drag a slider's handle with the mouse to a value."""
    handle = tab.page.locator(selector)
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    low, high = (float(handle.get_attribute(name)) for name in ("min", "max"))
    now = float(handle.input_value())

    def x(number: float) -> float:
        return float(box["x"] + 8 + (box["width"] - 16) * (number - low) / (high - low))

    middle = box["y"] + box["height"] / 2
    tab.page.mouse.move(x(now), middle)
    tab.page.mouse.down()
    for part in (0.3, 0.7, 1.0):
        tab.page.mouse.move(x(now + (value - now) * part), middle)
    tab.page.mouse.up()


def test_the_page_loads_alone_from_its_own_folder_and_has_threads(tab: Tab, address: str) -> None:
    strangers = [url for url in tab.asked if not url.startswith((address, "blob:", "data:"))]
    assert strangers == []
    assert tab.page.evaluate("crossOriginIsolated")
    expect(tab.page.locator("#loading")).to_be_hidden()
    tab.page.wait_for_function(IDLE)
    expect(tab.page.locator("#status")).to_have_text("Ready")


def test_source_and_edit_are_pythons_pictures(tab: Tab) -> None:
    recipe = tab.recipe()
    source = recipe.generate(load(None, "cpu"))
    for part, run in (("source", source), ("edit", recipe.apply(source))):
        ours = np.rint(run.pixels.numpy().ravel() * 255)
        theirs = np.rint(tab.picture(part) * 255)
        assert np.abs(ours - theirs).max() <= 1, part
    seen = load_judge().read(source).probabilities.values()
    judged = tab.page.evaluate(f"Array.from({STATE}.shown.source.judged.present)")
    assert np.allclose(judged, list(seen), atol=1e-2)


def test_a_word_that_is_hovered_lights_its_map_and_its_like_in_the_other_picture(tab: Tab) -> None:
    before = tab.seen("source"), tab.seen("edit")
    word = tab.page.locator("#figure-edit .word", has_text="house")
    word.hover()
    until(lambda: not alike(tab.seen("source"), before[0]))
    until(lambda: not alike(tab.seen("edit"), before[1]))
    expect(tab.page.locator("#figure-edit .scale")).to_contain_text("house")
    canvas = tab.page.locator("#figure-edit canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("“house”"))
    tab.page.mouse.move(2, 2)
    until(lambda: alike(tab.seen("source"), before[0]) and alike(tab.seen("edit"), before[1]))


def test_a_pixel_that_is_tapped_shows_the_words_that_it_looks_at(tab: Tab) -> None:
    canvas = tab.page.locator("#figure-source canvas")
    map_of_cat = tab.page.evaluate(
        "(() => { const s = p2pPage.state; const p = s.fields.source;"
        " return Array.from(s.mapOf('source', p.tokensAt(p.words.indexOf('cat')))); })()"
    )
    place = int(np.argmax(map_of_cat))
    rows, columns = tab.page.evaluate("p2pPage.state.facts.map_grid")
    box = canvas.bounding_box()
    x, y = place % columns, place // columns
    canvas.click(
        position={
            "x": (x + 0.5) / columns * box["width"],
            "y": (y + 0.5) / rows * box["height"],
        }
    )
    bars = {
        row.locator("span").inner_text(): float(row.locator("output").inner_text().split()[0])
        for row in tab.page.locator("#pixel .bar").all()
    }
    assert bars["cat"] == pytest.approx(100 * max(map_of_cat), abs=0.06)
    assert max(bars, key=lambda word: bars[word]) == "cat"
    canvas.press("Escape")
    expect(tab.page.locator("#pixel .bar")).to_have_count(0)


def test_a_fader_that_is_dragged_changes_the_edit_to_pythons(tab: Tab) -> None:
    before = tab.picture("edit")
    set_range(tab, "input[data-word=snowy]", -1)
    tab.drawn()
    recipe = tab.recipe()
    assert recipe.scales == (("snowy", 0, -1.0),)
    assert np.abs(tab.picture("edit") - before).max() > 0.05
    run = recipe.apply(recipe.generate(load(None, "cpu")))
    assert np.abs(run.pixels.numpy().ravel() - tab.picture("edit")).max() * 255 <= 1
    expect(tab.page.locator("#figure-edit")).to_contain_text("×-1")
    tab.page.locator("#faders button", has_text="All to 1").click()
    tab.drawn()
    assert np.array_equal(tab.picture("edit"), before)


def test_windows_that_were_drawn_ahead_answer_at_once(tab: Tab) -> None:
    tab.page.wait_for_function(IDLE)
    set_range(tab, "input[name=cross]", 0.2)
    tab.page.wait_for_function("p2pPage.state.fresh('edit')", timeout=2000)
    assert tab.recipe().cross == pytest.approx(0.2, abs=0.051)
    set_range(tab, "input[name=cross]", 0.8)
    tab.drawn()


def test_the_newest_wish_wins_over_those_before_it(tab: Tab) -> None:
    tab.page.evaluate(
        "for (let k = 1; k <= 12; k++) p2pPage.state.change({ scales: [['house', 0, k / 4]] })"
    )
    tab.drawn()
    recipe = tab.recipe()
    assert recipe.scales == (("house", 0, 3.0),)
    run = recipe.apply(recipe.generate(load(None, "cpu")))
    assert np.abs(run.pixels.numpy().ravel() - tab.picture("edit")).max() * 255 <= 1
    tab.page.evaluate("p2pPage.state.change({ scales: [] })")
    tab.drawn()


def test_a_local_edit_shows_its_mask_and_keeps_the_rest(tab: Tab) -> None:
    tab.page.locator("input[name=local]").check()
    tab.drawn()
    assert tab.recipe().blend == ("cat", "dog")
    plain = tab.seen("edit")
    tab.page.locator("input[name=mask]").check()
    until(lambda: not alike(tab.seen("edit"), plain))
    mask = np.array(tab.page.evaluate(f"Array.from({STATE}.shown.edit.masks.at(-1))"))
    run = tab.recipe().apply(tab.recipe().generate(load(None, "cpu")))
    assert run.masks is not None and np.array_equal(mask, run.masks[-1].numpy().ravel())
    assert 0 < mask.mean() < 0.6
    tab.page.locator("input[name=local]").uncheck()
    tab.drawn()


def test_the_wipe_and_the_play_bar_show_the_source_and_the_steps(tab: Tab) -> None:
    whole, source = tab.seen("edit"), tab.seen("source")
    tab.page.locator("input.wipe").fill("1")
    assert not alike(source, whole)
    until(lambda: alike(tab.seen("edit")[:, :-4], source[:, :-4]))
    tab.page.locator("input.wipe").fill("0")
    tab.page.locator("input[name=step]").fill("1")
    tab.page.wait_for_function(f"{STATE}.previews.source")
    until(lambda: not alike(tab.seen("source"), source) and not alike(tab.seen("edit"), whole))
    expect(tab.page.locator("#play output")).to_contain_text("after step 1")
    tab.page.locator("input[name=step]").fill("5")
    until(lambda: alike(tab.seen("source"), source) and alike(tab.seen("edit"), whole))


def test_another_word_is_chosen_from_the_menu_and_unknown_words_are_marked(tab: Tab) -> None:
    tab.page.locator("#figure-edit select.swap").first.select_option("penguin")
    tab.drawn()
    assert tab.recipe().target == "a penguin next to a house in a snowy field"
    field = tab.page.locator("label.target input")
    field.fill("a zebra next to a hous in a snowy field")
    field.press("Enter")
    tab.drawn()
    expect(tab.page.locator("#figure-edit .word.unknown")).to_have_text(["zebra", "hous"])
    tab.page.locator(".strange button", has_text="house").click()
    field.fill("a dog next to a house in a snowy field")
    field.press("Enter")
    tab.drawn()
    expect(tab.page.locator(".word.unknown")).to_have_count(0)


def test_what_a_user_types_stays_text_and_a_prompt_that_is_too_long_is_said(tab: Tab) -> None:
    field = tab.page.locator("label.target input")
    field.fill("a dog <img onerror=1> <b>house</b>")
    field.press("Enter")
    tab.drawn()
    tab.page.locator("#actions button", has_text="Python").click()
    expect(tab.page.locator("dialog pre")).to_contain_text("a dog <img onerror=1> <b>house</b>")
    tab.page.keyboard.press("Escape")
    expect(tab.page.locator("main img, dialog img, main b:has-text('house')")).to_have_count(0)
    field.fill("dog " * 40)
    field.press("Enter")
    expect(tab.page.locator("#numbers .wrong")).to_contain_text("too long")
    field.fill("a dog next to a house in a snowy field")
    field.press("Enter")
    tab.drawn()
    expect(tab.page.locator("#numbers .wrong")).to_have_count(0)


def test_a_panels_link_shows_its_edit_in_the_page_and_the_pages_link_opens_a_panel(
    browser: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2P_LAB_PAGE", f"{address}?ahead=0")
    model = load(None, "cpu")
    recipe = Recipe(
        "a red car in a city",
        "a wooden car in a city",
        seed=4,
        method="Replace",
        cross=0.6,
        self_attention=0.2,
        scales=(("city", 0, 1.75),),
        blend=("car", "car"),
        threshold=0.4,
        steps=3,
        guidance_scale=4.0,
        model=model.name,
    )
    panel = EditPanel.from_recipe(recipe, model, threaded=False)
    panel.sharing.link_button.click()
    other = Tab(browser, panel.sharing.box.value, permissions=["clipboard-read", "clipboard-write"])
    page = other.drawn()
    assert other.recipe() == recipe.made_with(model)
    ours = panel.edited.pixels.numpy().ravel()
    assert np.abs(ours - other.picture("edit")).max() * 255 <= 1

    set_range(other, "input[data-word=wooden]", 2)
    other.drawn()
    page.locator("#actions button", has_text="Link").click()
    page.wait_for_function("document.querySelector('#status').textContent.includes('copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    again = EditPanel.from_recipe(copied, model, threaded=False)
    assert again.recipe.made_with(model) == other.recipe() != recipe.made_with(model)
    assert again.faders["wooden"].value == 2
    theirs = again.edited.pixels.numpy().ravel()
    assert np.abs(theirs - other.picture("edit")).max() * 255 <= 1
    assert np.abs(theirs - ours).max() > 0.05
    for wrong, said in (
        ("%7B%22cross%22%3A7%7D", "no saved recipe"),
        ("%7B%22source%22%3A%22a%20cat%22%2C%22size%22%3A%5B32%2C32%5D%7D", "32 by 32"),
    ):
        page.evaluate(f"location.hash = '#recipe={wrong}'")
        page.wait_for_function(f"document.querySelector('#status').textContent.includes('{said}')")
    other.close()


def test_it_draws_without_a_network_once_it_is_loaded(browser: Any, address: str) -> None:
    one = Tab(browser, f"{address}?ahead=0")
    one.drawn()
    one.context.set_offline(True)
    one.page.evaluate("p2pPage.state.change({ seed: 7 })")
    one.drawn()
    with one.page.expect_download() as png:
        one.page.locator("#actions button", has_text="PNG").click()
    assert Path(png.value.path()).read_bytes().startswith(b"\x89PNG")
    with one.page.expect_download() as gif:
        one.page.locator("#actions button", has_text="GIF").click()
    check_gif(Path(gif.value.path()), frames=5)
    one.close()


def check_gif(path: Path, *, frames: int) -> None:
    with Image.open(path) as picture:
        assert (picture.format, picture.n_frames) == ("GIF", frames)
        first = np.asarray(picture.convert("RGB"), dtype=float)
        picture.seek(frames - 1)
        last = np.asarray(picture.convert("RGB"), dtype=float)
    assert first.std() > 20 and np.abs(first - last).mean() > 3


def test_a_narrow_screen_in_the_dark_shows_everything_without_scrolling_sideways(
    browser: Any, address: str
) -> None:
    one = Tab(
        browser, f"{address}?ahead=0", viewport={"width": 390, "height": 844}, color_scheme="dark",
        reduced_motion="reduce", has_touch=True,
    )  # fmt: skip
    one.drawn()
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
    one.page.locator("#figure-edit .word", has_text="dog").tap()
    assert one.page.evaluate(f"{STATE}.pinned") == {"part": "edit", "index": 1}
    one.page.locator("#actions button", has_text="Tour").tap()
    box = one.page.locator("#tour").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    one.close()


def test_one_screen_is_enough_at_1280_by_800(tab: Tab) -> None:
    assert tab.page.evaluate("document.documentElement.scrollHeight") <= 800
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_whole_edit_is_made_with_the_keyboard_alone(tab: Tab) -> None:
    page = tab.page
    page.locator("h1").click()  # begin at the top
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "(() => { const e = document.activeElement; return e.getAttribute('data-word')"
            " || e.getAttribute('name') || e.getAttribute('aria-label') || e.textContent; })()"
        )
        reached.append(str(here))
        if here == "dog" and page.evaluate("document.activeElement.tagName") == "INPUT":
            break
    assert {"cross", "self_attention", "cat", "house"} <= set(reached)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    tab.drawn()
    assert tab.recipe().scales == (("dog", 0, 2.0),)


def test_the_tour_has_six_stops_and_each_draws(tab: Tab) -> None:
    page = tab.page
    page.locator("#actions button", has_text="Tour").click()
    titles = []
    for _ in range(6):
        titles.append(page.locator("#tour h2").inner_text())
        tab.drawn()
        expect(page.locator("#tour .try")).to_have_text(re.compile("^Try:"))
        expect(page.locator(".spot")).to_have_count(1)
        page.locator("#tour .line button").last.click()
    assert len(set(titles)) == 6
    expect(page.locator("#tour")).to_be_hidden()
    tab.page.evaluate("p2pPage.state.change({ blend: null })")
    tab.drawn()


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] > 0.5) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("main *, header *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const box = node.getBoundingClientRect();
    if (!own || !box.width || node.closest(":disabled, .swap, option, .wiper")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${node.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""
UNNAMED = """() => [...document.querySelectorAll("button, input, select, canvas, img")]
  .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length
    || e.hasAttribute("alt"))).map((e) => e.outerHTML)"""


def test_controls_have_names_and_texts_have_contrast_in_light_and_in_dark(
    browser: Any, address: str
) -> None:
    one = Tab(browser, f"{address}?ahead=0")
    page = one.drawn()
    page.locator("input[name=local]").check()
    page.locator("#figure-edit .word", has_text="dog").click()
    one.drawn()
    page.mouse.move(2, 2)
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(CONTRAST) == [], scheme
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    one.close()


def test_a_graphics_card_draws_what_python_draws(
    browser: Any, tiny_page: Path, v_folder: Path
) -> None:
    """A computed card (SwiftShader) takes many seconds a step: one step of the tiny model, whose
    graph is the bundled one's with fewer channels, is enough."""
    flags = [
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
    ]
    args = ["--no-sandbox", "--disable-dev-shm-usage", *flags]
    recipe = Recipe("a cat on grass", "a dog on grass", seed=1, steps=1, guidance_scale=3.0)
    other = browser.browser_type.launch(executable_path=find_chromium(), args=args)
    with host(tiny_page) as address, closing(other):
        one = Tab(other, link(address, recipe).replace("?", "?provider=webgpu&"))
        if not one.page.evaluate("navigator.gpu?.requestAdapter().then((found) => found !== null)"):
            pytest.skip("This Chromium has no WebGPU, not even a computed one.")
        one.page.wait_for_function(f"globalThis.p2pPage && {STATE}.shown.edit", polling=200)
        used, message, apart = one.page.evaluate(
            f"[{STATE}.provider, {STATE}.message, {STATE}.apart]"
        )
        assert (used, message) == ("webgpu", "")
        assert 0 < apart <= 1e-2  # not the processor's own numbers, and near enough to them
        source = recipe.generate(load(v_folder, "cpu"))
        for part, run in (("source", source), ("edit", recipe.apply(source))):
            assert np.abs(run.pixels.numpy().ravel() - one.picture(part)).max() <= 1e-2, part


def test_a_host_that_sends_no_headers_gets_threads_and_offline_use_from_the_service_worker(
    browser: Any, folder: Path
) -> None:
    class Plain(serve.Handler):
        def end_headers(self) -> None:
            super(serve.Handler, self).end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Plain, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one = Tab(browser, f"{serve.address_of(server)}some/course/?ahead=0")
    one.page.wait_for_function("globalThis.p2pPage && crossOriginIsolated")
    one.drawn()
    server.shutdown()
    server.server_close()
    one.page.reload()
    one.page.wait_for_function(f"globalThis.p2pPage && {STATE}.shown.source")
    one.close()


def test_a_browser_that_cannot_run_it_gets_a_sentence_and_the_strip(
    browser: Any, address: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete globalThis.OffscreenCanvas")
    page.goto(address)
    page.wait_for_selector("#loading .strip")
    expect(page.locator("#loading")).to_contain_text("too old")
    page.wait_for_function("document.querySelector('.strip').naturalWidth > 100")
    context.close()
