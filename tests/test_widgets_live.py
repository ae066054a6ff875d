"""Laws of the live edit panel: drafts follow the hand, the final picture is the call's own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_lab.edits import Replace, Reweight, compile_edits
from p2p_lab.inversion import invert
from p2p_lab.recipes import Recipe
from p2p_lab.sampling import Run, edit, generate
from p2p_lab.widgets import EditPanel
from p2p_lab.widgets.drafts import DRAFT_STEPS, Drafts, draft_recipe, draft_source
from test_widgets import SOURCE, TARGET, Gate, button, from_browser, same, shown

STEPS = 2 * DRAFT_STEPS


@pytest.fixture(scope="module")
def run(sd32: Any) -> Run:
    return generate(sd32, SOURCE, seed=3, steps=STEPS)


@pytest.fixture
def live(run: Run) -> Iterator[EditPanel]:
    run.cache.clear()
    panel = EditPanel(source=run, target=TARGET, threaded=True)
    yield panel
    panel.cancel()
    assert panel.wait(30, ahead=True)


def painted(panel: EditPanel) -> list[str]:
    """Collect what is written in the place of the edit from now on."""
    seen: list[str] = []
    panel._pictures[1].observe(lambda change: seen.append(change["new"]), "value")
    return seen


PARTS = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(cross=PARTS, own=PARTS, start=PARTS)
def test_recipes_that_share_a_draft_ask_for_the_same_in_its_steps(
    run: Run, cross: float, own: float, start: float
) -> None:
    recipe = Recipe(
        SOURCE, TARGET, cross=cross, self_attention=own, blend=("cat", "dog"), start=start
    )
    prompts = run.prompt, run.model.prompt(TARGET)  # type: ignore[union-attr]
    wanted, drawn = (
        compile_edits(one.edits(*prompts), *prompts, DRAFT_STEPS)
        for one in (recipe, draft_recipe(recipe))
    )
    assert wanted == drawn


def test_pictures_follow_a_hand_that_does_not_rest(live: EditPanel) -> None:
    seen = painted(live)
    end = time.monotonic() + 4
    value = 1.0
    while time.monotonic() < end:  # newer moves come all the time: what has begun is shown still
        value = 1.0 if value >= 3.9 else value + 0.1
        from_browser(live.faders["dog"], value=round(value, 1))
        time.sleep(0.02)
    drafts = [one for one in seen if "draft of 5 steps" in one]
    assert len(set(drafts)) >= 4 and len(drafts) == len(seen)


def test_at_rest_the_final_picture_is_that_of_the_call(live: EditPanel, run: Run) -> None:
    before = live.edited
    seen = painted(live)
    for value in (2.0, 2.5, 3.0):
        from_browser(live.faders["dog"], value=value)
    assert live.wait(60)
    how = [Replace(cross=(0, 0.8), self_attention=(0, 0.4)), Reweight("dog", 3.0)]
    made = edit(run, TARGET, how)
    assert torch.equal(live.edited.pixels, made.pixels) and live.edited is not before
    assert same(shown(live, 1), made.image)
    assert "draft" in seen[0] and "draft" not in seen[-1]
    assert f"Final, {STEPS} steps" in live.status.value


class DraftOnly:
    """Let a panel's drafts pass and hold its final pictures back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        real = EditPanel._make

        def make(panel: EditPanel, *args: Any, **named: Any) -> None:
            self.entered.set()
            assert self.open.wait(30)
            real(panel, *args, **named)

        monkeypatch.setattr(EditPanel, "_make", make)


def text_of(page: str) -> str:
    """What a reader sees of HTML: a picture's data may hold any letters."""
    return re.sub(r"<[^>]*>", " ", page)


def test_a_draft_is_said_to_be_one_and_never_saved_scored_or_copied(
    live: EditPanel, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = DraftOnly(monkeypatch)
    before, frames, recipe = live.edited, list(live.frames), live.recipe
    from_browser(live.faders["dog"], value=3.0)
    assert gate.entered.wait(30)
    assert "Draft, 5 of 10 steps" in live.status.value
    caption = text_of(live._pictures[1].value)
    assert "dB" not in caption and "draft of 5 steps" in caption
    for one in (live.saver.recipe_button, live.saver.strip_button):
        one.click()
        assert "is a draft" in live.status.value and "p2p-error" in live.status.value
    assert live.edited is before and live.frames == frames and live.recipe is recipe
    live.sharing.code_button.click()
    assert "comes with the final picture" in live.status.value
    assert list(tmp_path.iterdir()) == [] and live.sharing.box.value == ""
    gate.open.set()
    assert live.wait(60) and len(live.frames) == len(frames) + 1
    assert live.sharing.box.value == live.code() and "Reweight('dog', 3)" in live.sharing.box.value
    assert live.sharing.box.layout.display == "flex"
    live.saver.strip_button.click()
    assert [one.name for one in tmp_path.iterdir()] == ["edit-strip.png"]


@pytest.mark.parametrize("control", ["fader dog", "cross", "threshold"])
def test_the_other_stops_are_drawn_ahead_so_a_second_pass_predicts_nothing(
    live: EditPanel, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    if control == "threshold":
        from_browser(live.fields["blend"], value=True)
        assert live.wait(60)
    slider = live.faders["dog"] if control == "fader dog" else live.fields[control]
    with live.controls.quietly():
        slider.step = (slider.max - slider.min) / 6  # few stops, so that a test does not last
    from_browser(slider, value=round(slider.min + slider.step, 4))
    assert live.wait(60) and live.wait(60, ahead=True)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a picture was made that was there")

    drafts = live._drafts
    monkeypatch.setattr("p2p_lab.recipes.recipe.edit", refuse)
    stops = live.controls.stops(control)
    assert len(stops) == 7 and len(set(stops)) == 7
    for recipe in stops:
        assert drafts.find(recipe, live.run) is drafts.draw(recipe, live.run)


def test_work_ahead_gives_way_to_the_hand(live: EditPanel) -> None:
    from_browser(live.faders["dog"], value=1.5)
    assert live.wait(60)  # 60 stops of this fader are drawn now
    from_browser(live.faders["cat" if "cat" in live.faders else "grass"], value=2.0)
    assert live.wait(20)
    assert ("grass", 0, 2.0) in live.recipe.scales


def test_cancel_sets_the_controls_back_to_the_picture_that_is_kept(
    sd32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = EditPanel(sd32, SOURCE, TARGET, seed=4, steps=6, threaded=True)
    gate = Gate(sd32, monkeypatch)
    button(panel, "Next").click()
    assert gate.entered.wait(30) and panel.fields["seed"].value == 5
    panel.cancel_button.click()
    gate.open.set()
    assert panel.wait(60)
    assert panel.fields["seed"].value == panel.run.seed == 4
    assert "cancelled" in panel.status.value and "p2p-old" not in panel._pictures[0].value


def test_cancel_after_a_draft_brings_the_final_picture_back(
    live: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = live._pictures[1].value
    gate = Gate(live.model, monkeypatch)
    from_browser(live.faders["dog"], value=3.0)
    assert gate.entered.wait(30)
    live.cancel_button.click()
    gate.open.set()
    assert live.wait(60)
    assert live._pictures[1].value == kept and live.faders["dog"].value == 1.0


def test_off_the_kernel_and_for_short_runs_there_is_no_draft(sd32: Any, run: Run) -> None:
    for source, threaded in ((run, False), (generate(sd32, SOURCE, seed=3, steps=3), True)):
        panel = EditPanel(source=source, target=TARGET, threaded=threaded)
        seen = painted(panel)
        from_browser(panel.faders["dog"], value=2.0)
        assert panel.wait(60) and panel.wait(60, ahead=True)
        assert seen and not any("draft" in one for one in seen)


def test_the_draft_of_a_source_is_the_same_picture_in_few_steps(sd32: Any, run: Run) -> None:
    drawn = draft_source(run)
    assert torch.equal(drawn.pixels, generate(sd32, SOURCE, seed=3, steps=DRAFT_STEPS).pixels)
    measured = invert(sd32, run.image, SOURCE, steps=STEPS)
    assert draft_source(measured).steps == DRAFT_STEPS and draft_source(measured).seed is None
    short = generate(sd32, SOURCE, seed=1, steps=2)
    assert draft_source(short) is short
    drafts = Drafts()
    assert drafts.source(run) is drafts.source(run)
    assert drafts.source(measured) is not drafts.source(run)


def test_the_third_picture_is_the_prompt_alone_and_is_made_once(
    sd32: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = EditPanel(source=run, target=TARGET, threaded=True)
    assert "being drawn" in panel._pictures[2].value
    from_browser(panel._guard, shown=1)  # a front end has drawn the panel
    assert panel.wait(60) and panel.wait(60, ahead=True)
    plain = generate(sd32, TARGET, seed=3, steps=STEPS, record="none")
    assert same(shown(panel, 2), plain.image) and "dB" in text_of(panel._pictures[2].value)
    assert panel.reprompt() is panel.reprompt()
    from_browser(panel.fields["target"], value=SOURCE)
    assert panel.wait(60)
    assert panel._pictures[2].layout.display == "none" and panel.reprompt() is None


def test_the_plain_re_prompt_of_a_measured_picture_starts_from_its_noise(
    sd32: Any, run: Run
) -> None:
    measured = invert(sd32, run.image, SOURCE, steps=3)
    panel = EditPanel(source=measured, target=TARGET, threaded=False)
    plain = panel.reprompt()
    assert plain is not None
    assert torch.equal(plain.trajectory.latents[0], measured.trajectory.latents[0])
    same_text = Recipe(SOURCE, SOURCE, None).reprompt(measured)
    assert torch.equal(same_text.trajectory.latents[0], measured.trajectory.latents[0])


def test_drafts_take_bounded_memory_and_slow_ones_are_not_drawn_ahead(
    live: EditPanel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p_lab.widgets.drafts.KEPT_BYTES", 4 * 3 * run.size[0] * run.size[1])
    drafts = Drafts()
    recipes = [live.recipe.with_(scales=(("dog", 0, 1.0 + i / 10),)) for i in range(6)]
    for recipe in recipes:
        drafts.draw(recipe, run)
    assert [drafts.find(recipe, run) is not None for recipe in recipes] == [False] * 2 + [True] * 4
    monkeypatch.setattr("p2p_lab.widgets.drafts.QUICK_SECONDS", 0.0)  # now all of them are slow
    from_browser(live.faders["dog"], value=1.5)
    assert live.wait(60) and live.wait(60, ahead=True)
    stops = live.controls.stops("fader dog")
    assert sum(live._drafts.find(recipe, live.run) is not None for recipe in stops) == 1
