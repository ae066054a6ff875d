"""Laws of the panels, without a kernel: what is set is made, the newest paints, errors show.

They hold with ipywidgets 8 and with 7.7.1, which Colab has. To run them on the latter, beside the
usual environment and without a second torch: "With ipywidgets 7" in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_lab
from p2p_lab.edits import LocalBlend, Refine, Replace, Reweight, compile_edits
from p2p_lab.models import ModelCard
from p2p_lab.recipes import Recipe, recipe_of, to_code
from p2p_lab.sampling import Cancelled, Run, edit, generate
from p2p_lab.tokens import AlignmentError
from p2p_lab.widgets import AttentionExplorer, EditPanel, InversionPanel, StepPanel
from p2p_lab.widgets import edit_panel as edit_panel_room
from p2p_lab.widgets.edit_controls import EditControls
from p2p_lab.widgets.export import save_gif, save_strip
from p2p_lab.widgets.panel import VIEW, Panel
from p2p_lab.widgets.saver import uploaded
from p2p_lab.widgets.views import outline_url, self_view, word_view
from p2p_lab.widgets.worker import RequestToken, Worker

ROOM = Path(edit_panel_room.__file__).parent
SOURCE, TARGET = "a cat on grass", "a dog on grass"
STEPS = 5

# The widgets and traits of ipywidgets 7.7.1 that panels may use; TagsInput and Stack are newer.
CORE_7 = {
    *("BoundedIntText", "Button", "Checkbox", "Dropdown", "FileUpload", "FloatSlider", "HBox"),
    *("HTML", "IntProgress", "IntSlider", "Label", "Layout", "Play", "Text", "ToggleButton"),
    *("ToggleButtons", "VBox", "jslink"),
}
TRAITS_7 = {
    *("accept", "button_style", "continuous_update", "description", "disabled", "icon", "indent"),
    "interval",
    *("layout", "max", "min", "multiple", "options", "orientation", "placeholder", "readout"),
    *("readout_format", "rows", "step", "style", "tooltip", "value"),
}


@pytest.fixture(scope="module")
def run(sd32: Any) -> Run:
    return generate(sd32, SOURCE, seed=3, steps=STEPS)


@pytest.fixture
def panel(run: Run) -> EditPanel:
    run.cache.clear()  # else an edit of another test may be found again, without steps
    return EditPanel(source=run, target=TARGET, threaded=False)


def from_browser(widget: Any, **state: Any) -> None:
    """Do what arrives from the front end when a reader moves a control."""
    widget.set_state(state)


def shown(panel: Any, which: int) -> Image.Image:
    """Return the picture in a panel's page."""
    found = re.search(r'src="data:image/png;base64,([^"]+)"', panel._pictures[which].value)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def same(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda _, __: EditPanel(SOURCE, TARGET), r"model is a str.*EditPanel\(source="),
        (lambda run, _: EditPanel(run), r"model is a Run.*EditPanel\(source="),
        (lambda _, __: EditPanel.from_recipe(Recipe(SOURCE, TARGET), "m"), "model is a str"),
        (lambda _, __: InversionPanel("cat.png"), r"model is a str.*InversionPanel\(image="),
        (lambda run, _: InversionPanel(run.image), r"model is a Image.*InversionPanel\(image="),
        (lambda run, model: InversionPanel(model, None, run), "“It shows” holds a text.*got a Run"),
        (lambda _, model: AttentionExplorer(model), "run is a StableDiffusion, not a Run"),
        (lambda _, model: StepPanel(model), "run is a StableDiffusion, not a Run"),
        (lambda _, __: StepPanel(SOURCE), "run is a str, not a Run"),
    ],
)
def test_what_stands_in_another_ones_place_is_named_and_where_it_belongs(
    call: Any, sentence: str, run: Run, sd32: Any
) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(run, sd32)


# The edit panel


def test_the_panel_shows_the_same_edit_that_the_call_makes(panel: EditPanel, run: Run) -> None:
    made = edit(run, TARGET, [Replace(cross=(0, 0.8), self_attention=(0, 0.4))])
    assert torch.equal(panel.edited.pixels, made.pixels)
    assert same(shown(panel, 0), run.image) and same(shown(panel, 1), made.image)


def test_a_fader_moved_in_the_browser_makes_that_edit(panel: EditPanel, run: Run) -> None:
    before = panel.edited.pixels
    from_browser(panel.faders["dog"], value=3.0)
    how = [Replace(cross=(0, 0.8), self_attention=(0, 0.4)), Reweight("dog", 3.0)]
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, how).pixels)
    assert not torch.equal(panel.edited.pixels, before)
    assert same(shown(panel, 1), panel.edited.image)


def test_every_control_reaches_the_plan(panel: EditPanel) -> None:
    from_browser(panel.fields["cross"], value=0.4)
    from_browser(panel.fields["self_attention"], value=0.2)
    from_browser(panel.fields["blend_source"], value="cat")
    from_browser(panel.fields["blend_target"], value="dog")
    from_browser(panel.fields["threshold"], value=0.5)
    from_browser(panel.fields["blend"], value=True)
    from_browser(panel.faders["grass"], value=-1.0)
    plan = panel.edited.plan
    assert plan is not None and plan.blend is not None
    assert plan.source_gain.any(dim=1).tolist() == [True, True, False, False, False]
    assert plan.self_steps == range(0, 1)
    assert plan.blend.threshold == 0.5 and plan.blend.source_tokens == (2,)
    assert float(plan.target_gain[-1].min()) == -1.0


def test_the_method_can_be_chosen(panel: EditPanel) -> None:
    from_browser(panel.fields["method"], index=2)
    assert panel.recipe.method == "Refine"
    made = edit(panel.run, TARGET, [Refine(cross=(0, 0.8), self_attention=(0, 0.4))])
    assert torch.equal(panel.edited.pixels, made.pixels)


def test_a_new_target_brings_new_faders_and_keeps_the_weights_of_words_that_stay(
    panel: EditPanel,
) -> None:
    from_browser(panel.faders["grass"], value=2.0)
    from_browser(panel.fields["target"], value="a red cat on grass")
    assert list(panel.faders) == ["a", "red", "cat", "on", "grass"]
    assert panel.faders["grass"].value == 2.0
    assert panel.edited.prompt.text == "a red cat on grass"
    assert ("grass", 0, 2.0) in panel.recipe.scales


def test_a_word_that_stands_twice_has_two_faders(run: Run) -> None:
    panel = EditPanel(source=run, target="a cat and a cat", threaded=False)
    assert list(panel.faders) == ["a", "cat", "and", "a (2)", "cat (2)"]
    from_browser(panel.faders["cat (2)"], value=2.0)
    edits = panel.recipe.edits(run.prompt, panel.edited.prompt)
    assert Reweight("cat", 2.0, occurrence=1) in edits


def test_a_new_seed_or_source_draws_the_source_again(sd32: Any) -> None:
    panel = EditPanel(sd32, SOURCE, TARGET, seed=1, steps=STEPS, threaded=False)
    from_browser(panel.fields["seed"], value=4)
    assert panel.run.seed == 4
    again = generate(sd32, SOURCE, seed=4, steps=STEPS)
    assert torch.equal(panel.run.pixels, again.pixels)
    from_browser(panel.fields["source"], value="a bear on grass")
    assert panel.run.prompt.text == "a bear on grass"
    assert panel.edited.source is panel.run


def test_the_source_of_a_given_run_is_fixed(panel: EditPanel, run: Run) -> None:
    assert panel.fields["source"].disabled and panel.fields["seed"].disabled
    from_browser(panel.faders["dog"], value=2.0)
    assert panel.run is run


def test_reset_brings_the_first_picture_back(panel: EditPanel) -> None:
    first = panel.edited.pixels
    from_browser(panel.faders["dog"], value=3.0)
    from_browser(panel.fields["cross"], value=0.1)
    button(panel, "Reset").click()
    assert torch.equal(panel.edited.pixels, first)
    assert panel.faders["dog"].value == 1.0


def test_a_recipe_keeps_the_size_and_sampler_of_its_source(sd32: Any) -> None:
    wide = generate(sd32, SOURCE, seed=1, steps=3, size=(24, 32), sampler="euler")
    panel = EditPanel(source=wide, target=TARGET, threaded=False)
    again = EditPanel.from_recipe(panel.recipe.to_json(), sd32, threaded=False)
    assert torch.equal(again.edited.pixels, panel.edited.pixels)


def test_an_edit_of_an_edit_is_no_picture_of_a_seed(panel: EditPanel) -> None:
    second = EditPanel(source=panel.edited, target="a red dog on grass", threaded=False)
    assert second.recipe.seed is None
    assert "# source = the run" in second.code() and "generate" not in second.code()


def test_the_panel_opens_with_the_edits_that_it_is_given(run: Run) -> None:
    how = [
        Refine(cross=(0, 0.6), self_attention=(0, 0.2)),
        Reweight("dog", 2.0),
        LocalBlend("cat", "dog", threshold=0.4),
    ]
    panel = EditPanel(source=run, target=TARGET, edits=how, threaded=False)
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, how).pixels)
    assert panel.faders["dog"].value == 2.0 and panel.fields["blend"].value
    with pytest.raises(ValueError, match="no control for Replace"):
        EditPanel(source=run, target=TARGET, edits=[Replace(cross=(0.2, 0.5))])


PHRASES = ["a", "dog", "cat", "red cat", "grass", "on", "a dog, red cat", ",", "bear"]
PARTS = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1 / 3, 0.1 + 0.2])
WINDOWS = st.tuples(st.just(0.0), PARTS) | st.just((0.1, 0.7))
SCALES = st.floats(-50, 50) | st.sampled_from([0.0, -0.0, 1.0, 1 / 3, 1e300, -4.0, 8.0])
ALIGNERS = st.builds(
    lambda kind, **options: kind(**options),
    st.sampled_from([Replace, Refine]),
    cross=WINDOWS,
    self_attention=WINDOWS,
    joint=st.sampled_from(["maps", "queries"]),
    self_pixels=st.sampled_from([256, 256, 64]),
    words=st.sampled_from([{}, {}, {"dog": (0, 0.3)}]),
)
SOME_WORDS = st.sampled_from([*PHRASES, (), ("dog", "grass"), ("a", "a dog, red cat")])
FADERS = st.builds(
    Reweight,
    st.sampled_from(PHRASES),
    SCALES,
    st.sampled_from([(0.0, 1.0), (0.0, 1.0), (0.2, 1.0)]),
    st.sampled_from([None, None, 0, 1]),
)
BLENDS = st.builds(
    LocalBlend,
    SOME_WORDS.filter(bool),
    st.none() | SOME_WORDS,
    threshold=PARTS,
    start=PARTS,
    subtract=st.sampled_from([(), (), "grass"]),
)
EDITS = st.tuples(
    st.none() | ALIGNERS, st.none() | FADERS, st.none() | FADERS, st.none() | BLENDS
).map(lambda parts: [one for one in parts if one is not None])
TWICE = "a dog, red cat and a dog on grass"


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(edits=EDITS, target=st.sampled_from([TWICE, TARGET]))
def test_controls_hold_every_edit_that_they_are_given_or_refuse_it(
    run: Run, edits: list[Any], target: str
) -> None:
    prompt = run.model.prompt(target)  # type: ignore[union-attr]

    def plan(some: Any) -> Any:
        return compile_edits(some, run.prompt, prompt, run.steps)

    base = Recipe(run.prompt.text, target, seed=2**31 + 5)
    try:
        wanted = plan(edits)
        recipe = recipe_of(run, target, edits, base=base)
    except ValueError as error:
        assert str(error).endswith((".", "]")) and len(str(error)) > 30
        return
    controls = EditControls(run.model, recipe, fixed=False, changed=lambda _: None)  # type: ignore[arg-type]
    for _ in range(2):
        assert plan(controls.wanted().edits(run.prompt, prompt)) == wanted
        assert controls.wanted().seed == 2**31 + 5
        controls.set(Recipe.from_json(controls.wanted().to_json()))


def test_a_fader_widens_for_what_it_is_given_and_keeps_it_when_another_moves(run: Run) -> None:
    how = [Refine(), Reweight("dog", -4.0), Reweight("grass", 8.0)]
    panel = EditPanel(source=run, target=TARGET, edits=how, threaded=False)
    assert (panel.faders["dog"].value, panel.faders["grass"].value) == (-4.0, 8.0)
    from_browser(panel.fields["cross"], value=0.5)
    how[0] = Refine(cross=(0, 0.5))
    assert torch.equal(panel.edited.pixels, edit(run, TARGET, how).pixels)


def test_a_lone_fader_is_the_same_in_the_panel_and_by_call(run: Run) -> None:
    text, how = "a dog and a dog on grass", [Reweight("a", 3.0)]
    panel = EditPanel(source=run, target=text, edits=how, threaded=False)
    assert panel.recipe.method == "Refine"
    assert panel.faders["a"].value == panel.faders["a (2)"].value == 3.0
    assert torch.equal(panel.edited.pixels, edit(run, text, how).pixels)


def test_a_seed_that_no_browser_can_hold_is_refused_at_once(sd32: Any) -> None:
    with pytest.raises(ValueError, match="seed goes up to"):
        EditPanel(sd32, SOURCE, TARGET, seed=2**62, steps=1, threaded=False)


# Errors, cancelling, order


def test_a_wrong_prompt_is_told_in_the_status_line_and_the_panel_goes_on(
    panel: EditPanel,
) -> None:
    before = panel.edited
    from_browser(panel.fields["target"], value="a " * 40)
    assert "too long" in panel.status.value and "p2p-error" in panel.status.value
    assert panel.edited is before and "p2p-old" not in panel._pictures[1].value
    assert "a dog on grass" in repr(panel) and "a dog on grass" in panel.code()
    from_browser(panel.fields["target"], value="a bear on grass")
    assert panel.edited.prompt.text == "a bear on grass"
    assert "p2p-error" not in panel.status.value


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (TARGET, ("cat", "dog")),
        ("a red cat on grass", ("cat", "red cat")),
        ("a cat on red grass", ("grass", "red grass")),
        ("a dog on hat", ("cat, grass", "dog, hat")),
    ],
)
def test_a_local_edit_is_filled_from_the_words_that_differ(
    run: Run, target: str, words: tuple[str, str]
) -> None:
    panel = EditPanel(source=run, target=target, threaded=False)
    from_browser(panel.fields["blend"], value=True)
    assert "p2p-error" not in panel.status.value
    assert panel.recipe.blend == words
    assert (panel.fields["blend_source"].value, panel.fields["blend_target"].value) == words


def test_a_local_edit_that_cannot_be_made_names_the_fields(run: Run) -> None:
    panel = EditPanel(source=run, target=SOURCE, threaded=False)
    from_browser(panel.fields["blend"], value=True)  # nothing differs, so nothing to fill in
    assert "Name the words whose place may change" in panel.status.value
    from_browser(panel.fields["blend_source"], value="bird")
    assert "The field &#x27;source&#x27;" in panel.status.value
    assert "source_words" not in panel.status.value
    from_browser(panel.fields["blend_source"], value="cat")
    assert "p2p-error" not in panel.status.value
    from_browser(panel.fields["blend_target"], value="bird")
    assert "The field &#x27;edit&#x27;" in panel.status.value
    assert "target_words" not in panel.status.value
    from_browser(panel.fields["blend"], value=False)
    assert "p2p-error" not in panel.status.value


def test_words_that_the_model_does_not_know_are_named_in_the_status_line_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    card = ModelCard(frozenset({"a", "cat", "dog", "on", "grass"}))
    monkeypatch.setattr(run.model, "card", card)
    panel = EditPanel(source=run, target=TARGET, threaded=False)
    assert "not trained" not in panel.status.value
    from_browser(panel.fields["target"], value="a dig on grass")
    assert "not trained on &#x27;dig&#x27;" in panel.status.value and "dog" in panel.status.value
    assert not [one for one in recwarn if "not trained" in str(one.message)]


def test_an_unforeseen_error_shows_its_name(
    panel: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory <b>")

    monkeypatch.setattr(Recipe, "apply", broken)
    from_browser(panel.faders["dog"], value=2.0)
    assert "RuntimeError: out of memory &lt;b&gt;" in panel.status.value
    monkeypatch.undo()
    from_browser(panel.faders["dog"], value=2.5)
    assert "p2p-error" not in panel.status.value


def test_prompts_are_escaped_wherever_they_become_html(run: Run) -> None:
    nasty = 'a <img src=x onerror="alert(1)"> dog'
    panel = EditPanel(source=run, target=TARGET, threaded=False)
    object.__setattr__(panel.edited.prompt, "text", nasty)
    panel._paint()
    panel.say(nasty, error=True)
    for text in (panel._pictures[1].value, panel.status.value):
        assert "<img src=x" not in text and "&lt;img src=x onerror=&quot;" in text


def test_word_labels_hold_no_html(run: Run) -> None:
    panel = EditPanel(source=run, target="a <b>dog</b> & cat on grass", threaded=False)
    assert not any(set("<>&") & set(one.description) for one in panel.faders.values())


class Gate:
    """Hold a model's prediction back until a test lets it go on."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        real = type(model).predict

        def predict(denoiser: Any, *args: Any) -> Any:
            self.entered.set()
            assert self.open.wait(30)
            return real(denoiser, *args)

        monkeypatch.setattr(type(model), "predict", predict)


@pytest.fixture
def threaded(run: Run) -> Iterator[EditPanel]:
    run.cache.clear()
    panel = EditPanel(source=run, target=TARGET, threaded=True)
    yield panel
    panel.cancel()
    assert panel.wait(30)


def test_only_the_newest_request_paints(
    threaded: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(threaded.model, monkeypatch)
    painted: list[str] = []
    real = threaded._finished
    monkeypatch.setattr(
        threaded, "_finished", lambda: (painted.append(str(threaded.edited.plan)), real())
    )
    from_browser(threaded.faders["dog"], value=2.0)
    assert gate.entered.wait(30)
    for value in (2.5, 3.0, 3.5):
        from_browser(threaded.faders["dog"], value=value)
    gate.open.set()
    assert threaded.wait(60)
    assert len(painted) == 1
    plan = threaded.edited.plan
    assert plan is not None and float(plan.target_gain.max()) == 3.5


def test_the_kernel_goes_on_while_a_picture_is_made(
    threaded: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(threaded.model, monkeypatch)
    from_browser(threaded.faders["dog"], value=2.0)
    assert gate.entered.wait(30)
    assert not threaded.wait(0) and "p2p-old" in threaded._pictures[1].value
    assert not threaded.cancel_button.disabled
    gate.open.set()
    assert threaded.wait(60)
    assert threaded.cancel_button.disabled and "p2p-old" not in threaded._pictures[1].value


def test_cancel_stops_between_steps_and_keeps_the_last_picture(
    threaded: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threaded.edited
    gate = Gate(threaded.model, monkeypatch)
    from_browser(threaded.faders["dog"], value=2.0)
    assert gate.entered.wait(30)
    threaded.cancel_button.click()
    gate.open.set()
    assert threaded.wait(60)
    assert threaded.edited is before
    assert "cancelled before step 1" in threaded.status.value
    assert "p2p-error" not in threaded.status.value
    from_browser(threaded.faders["dog"], value=2.5)
    assert threaded.wait(60) and threaded.edited is not before


def test_the_progress_moves_with_the_steps(panel: EditPanel) -> None:
    seen: list[int] = []
    panel.progress.observe(lambda change: seen.append(change["new"]), "value")
    from_browser(panel.faders["dog"], value=2.0)
    assert seen == [1, 2, 3, 4, 5, 0]
    assert panel.progress.layout.display == "none"


def test_a_worker_drops_what_waits_and_ends_its_thread() -> None:
    worker, go, done = Worker(threaded=True), threading.Event(), []
    begun = threading.Event()

    def slow(request: RequestToken) -> None:
        begun.set()
        go.wait(30)
        done.append(("slow", request.newest, request.is_set()))

    worker.submit(slow)
    assert begun.wait(30)
    worker.submit(lambda request: done.append(("dropped",)))
    worker.submit(lambda request: done.append(("last", request.newest, request.is_set())))
    go.set()
    assert worker.wait(30)
    assert done == [("slow", False, True), ("last", True, False)]
    for thread in threading.enumerate():
        if thread.name == "p2p_lab panel":
            thread.join(30)
            assert not thread.is_alive()
    assert not worker.cancel()


def test_a_cancelled_job_is_no_error() -> None:
    panel = Panel(threaded=False)

    def job(request: RequestToken) -> None:
        raise Cancelled("The run was cancelled before step 2 of 5.")

    panel.request(job)
    assert "cancelled before step 2" in panel.status.value
    assert "p2p-error" not in panel.status.value


# Code, recipes, files


def button(panel: EditPanel, label: str) -> Any:
    """Find a button by its label."""

    def walk(widget: Any) -> Iterator[Any]:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    return next(w for w in walk(panel.box) if getattr(w, "description", None) == label)


def test_the_code_makes_the_same_picture(sd32: Any, sd_folder: Path) -> None:
    panel = EditPanel(sd32, SOURCE, "a cat and a dog on grass", seed=2, steps=4, threaded=False)
    from_browser(panel.faders["dog"], value=2.2)
    from_browser(panel.faders["a (2)"], value=0.0)
    from_browser(panel.fields["blend_source"], value="cat")
    from_browser(panel.fields["blend"], value=True)
    code = panel.code()
    assert "occurrence=1" in code and "LocalBlend('cat'" in code
    space: dict[str, Any] = {}
    exec(code.replace(f"load({sd32.name!r})", f"load({str(sd_folder)!r}, 'cpu')"), space)
    assert torch.equal(space["edited"].pixels, panel.edited.pixels)


NASTY = [
    "a cat on grass",
    "a $cat$ on\\n grass",
    'a \'dog\'; """ on grass',
    "a {dog} on \ud800 grass",
]


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_the_code_of_any_recipe_makes_its_picture_bit_for_bit(
    sd32: Any, sd_folder: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    recipe = Recipe(
        source=data.draw(st.sampled_from(NASTY[:3])),
        target="a dog and a dog on grass",
        seed=data.draw(st.integers(0, 2**63 - 1)),
        method=data.draw(st.sampled_from(["auto", "Replace", "Refine"])),
        cross=data.draw(PARTS),
        self_attention=data.draw(PARTS),
        scales=(("dog", 1, data.draw(st.floats(-3, 3))), ("a", 0, 1 / 3)),
        blend=data.draw(st.sampled_from([None, ("grass", "dog"), ("grass, on", "grass")])),
        threshold=data.draw(PARTS),
        steps=2,
        guidance_scale=data.draw(st.floats(1, 9)),
        negative=data.draw(st.sampled_from(["", "a 'red' hat\n"])),
        size=data.draw(st.sampled_from([None, (24, 32)])),
        sampler=data.draw(st.sampled_from(["ddim", "euler"])),
        start=data.draw(PARTS),
        model=sd32.name,
    )
    try:
        source = recipe.generate(sd32)
        edited = recipe.apply(source)
    except AlignmentError:  # prompts that share no word
        return
    code = to_code(recipe, recipe.edits(source.prompt, edited.prompt), source=source)
    opened: list[Any] = []
    monkeypatch.setattr(p2p_lab, "load", lambda *named, **more: opened.append(named) or sd32)
    space: dict[str, Any] = {}
    exec(code, space)
    assert opened == [(str(sd_folder),)]  # not its name, which is that of many folders
    assert torch.equal(space["source"].pixels, source.pixels)
    assert torch.equal(space["edited"].pixels, edited.pixels)


def test_code_opens_each_model_as_it_was_opened(sd: Any, sd_folder: Path) -> None:
    recipe = Recipe("a cat", "a dog", model="tiny-sd")
    said = to_code(recipe, [Replace()], source=generate(sd, "a cat", steps=1))
    assert (
        f"load({str(sd_folder)!r}, dtype=torch.float64, digest='float64:" in said
        and "import torch" in said
    )
    bundled = p2p_lab.load()
    said = to_code(recipe, [Replace()], source=generate(bundled, "a cat", steps=1))
    assert f"load({bundled.name!r}, digest='float32:" in said


HOSTILE: dict[str, Any] = {
    "seed": "0, print(1)",
    "seed ": 2**70,
    "seed  ": True,
    "steps": "4",
    "guidance_scale": "7)",
    "cross": 2.0,
    "scales": [["a", 0, "1"]],
    "scales ": [["a"]],
    "size": ["64", "64"],
    "sampler": "euler'); x('",
    "method": "exec",
    "source": 3,
    "blend": ["a"],
    "format": 99,
    "shell": "rm",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_recipe_with_a_field_of_another_kind_is_refused(name: str) -> None:
    fields = json.loads(Recipe("a cat", "a dog").to_json())
    fields[name.strip()] = HOSTILE[name]
    with pytest.raises(ValueError, match="no saved recipe"):
        Recipe.from_json(json.dumps(fields))
    with pytest.raises(ValueError, match="no saved recipe"):
        Recipe.from_json("[" * 100_000)


@pytest.mark.parametrize("text", NASTY)
def test_text_in_copied_code_is_only_text(text: str) -> None:
    recipe = Recipe(text, text, model=text, negative=text, blend=(text, text))
    code = to_code(recipe, [Reweight(text, 2.0)])
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert sorted(ast.unparse(call.func) for call in calls) == sorted(
        ["load", "generate", "edit", "Reweight"]
    )
    assert code.count("\n") < 16
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_the_button_shows_the_code(panel: EditPanel) -> None:
    assert panel.sharing.box.layout.display == "none"
    panel.sharing.code_button.click()
    assert panel.sharing.box.value == panel.code() and panel.sharing.box.layout.display == "flex"
    from_browser(panel.faders["dog"], value=2.0)
    assert panel.sharing.box.layout.display == "none"  # it would be the code of another picture


def test_a_saved_recipe_opens_a_panel_with_the_same_picture(
    sd32: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    panel = EditPanel(sd32, SOURCE, TARGET, seed=5, steps=4, threaded=False)
    from_browser(panel.faders["dog"], value=1.7)
    panel.saver.recipe_button.click()
    panel.saver.recipe_button.click()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a-dog-on-grass-2.json",
        "a-dog-on-grass.json",
    ]
    assert "a-dog-on-grass-2.json" in panel.status.value
    again = EditPanel.from_recipe(tmp_path / "a-dog-on-grass.json", sd32, threaded=False)
    assert torch.equal(again.edited.pixels, panel.edited.pixels)
    assert again.recipe == panel.recipe


def test_a_recipe_is_read_as_it_was_written() -> None:
    recipe = Recipe(
        "a <b> cat", "ein Löwe", 7, "Refine", 0.5, 0.25, (("Löwe", 1, -1.5),), ("cat", "Löwe")
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
    for text in ("", "[]", "{}", '{"format": 99}', json.dumps({"format": 1, "shell": "rm"})):
        with pytest.raises(ValueError, match="no saved recipe"):
            Recipe.from_json(text)


def test_a_recipe_of_a_photograph_says_what_is_missing(sd32: Any) -> None:
    with pytest.raises(ValueError, match="Invert the picture"):
        EditPanel.from_recipe(Recipe("a cat", "a dog", None), sd32)


def test_strip_and_gif_hold_every_picture_shown(
    panel: EditPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (2.0, 3.0):
        from_browser(panel.faders["dog"], value=value)
    assert len(panel.frames) == 4  # the source, the first edit, two faders
    panel.saver.strip_button.click()
    panel.saver.gif_button.click()
    with Image.open(tmp_path / "edit-strip.png") as strip:
        assert strip.width > 3 * strip.height
    with Image.open(tmp_path / "edit.gif") as gif:
        assert gif.n_frames == 4 and min(gif.size) >= 200
    assert save_strip(panel.frames).name == "edit-strip-2.png"
    assert save_gif(panel.frames).name == "edit-2.gif"


def test_a_folder_that_cannot_be_written_is_told(
    panel: EditPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *_: Any, **__: Any) -> Any:
        raise PermissionError("[Errno 13] Permission denied: 'edit.gif'")

    monkeypatch.setattr(Path, "open", refuse)
    panel.saver.gif_button.click()
    assert "Permission denied" in panel.status.value and "p2p-error" in panel.status.value


# The static form


@pytest.mark.parametrize("kind", ["edit", "explore", "invert"])
def test_a_panel_is_widget_picture_and_text_in_one_bundle(kind: str, run: Run, sd32: Any) -> None:
    panel: Any = {
        "edit": lambda: EditPanel(source=run, target=TARGET, threaded=False),
        "explore": lambda: AttentionExplorer(run),
        "invert": lambda: InversionPanel(sd32, run.image, SOURCE, steps=3, threaded=False),
    }[kind]()
    data = panel._repr_mimebundle_()
    assert set(data) == {VIEW, "text/html", "text/plain"}
    assert data[VIEW]["model_id"] == panel.box.model_id
    found = re.search(
        r'<img alt="([^"]{20,})" src="data:image/(png|jpeg);base64,([^"]+)"', data["text/html"]
    )
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[3]))) as picture:
        assert picture.format == found[2].upper() and picture.width > 200
    assert len(data["text/html"]) < 270_000
    assert data["text/plain"] == repr(panel) and "0x" not in repr(panel)


def test_the_text_is_the_same_for_the_same_settings(run: Run) -> None:
    made = [repr(EditPanel(source=run, target=TARGET, threaded=False)) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].splitlines()[0] == (
        "EditPanel: 'a cat on grass' -> 'a dog on grass', seed 3, 5 steps"
    )
    assert repr(AttentionExplorer(run)) == repr(AttentionExplorer(run))


# The explorer


def test_the_explorer_sends_the_maps_of_the_store_once(run: Run) -> None:
    explorer = AttentionExplorer(run)
    sent = explorer._shown.widget
    assert list(sent.labels) == ["a", "cat", "on", "grass"]
    maps = np.frombuffer(sent.maps, "uint8").reshape(4, sent.rows, sent.columns)
    own = run.map("cat").numpy()
    assert np.abs(maps[1] / 255 * sent.peaks[1] - own).max() <= sent.peaks[1] / 255
    assert sent.peaks[1] == pytest.approx(own.max())
    before = sent.maps
    explorer.pin("cat")
    assert sent.pinned == 1 and explorer.pinned == "cat" and sent.maps is before


def test_step_head_and_site_are_those_of_the_tape(run: Run) -> None:
    explorer = AttentionExplorer(run)
    name = explorer.fields["site"].options[1][1]
    explorer.fields["site"].value = name
    from_browser(explorer.fields["step"], value=2)
    explorer.fields["head"].value = 1
    wanted = run.map("cat", site=name, step=1, head=1).numpy()
    assert np.allclose(explorer.view.maps[1], wanted)
    assert "step 2" in repr(explorer) and "head 2" in repr(explorer)


def test_the_choice_before_is_the_mean_of_the_best_sites(run: Run) -> None:
    explorer = AttentionExplorer(run)
    assert explorer.fields["site"].label == "mean of the best"
    assert explorer.fields["head"].label == "mean of all"
    assert np.allclose(explorer.view.maps[1], run.map("cat").numpy())


def test_self_attention_has_a_map_for_every_place(run: Run) -> None:
    explorer = AttentionExplorer(run)
    explorer.fields["kind"].value = "self"
    site = explorer.fields["site"].value
    probs = run.attention.self_map(site)
    assert explorer.view.maps.shape == (len(probs), *run.attention.sites[site].size)
    assert list(explorer._shown.widget.labels) == []
    assert np.allclose(explorer.view.maps[7].reshape(-1), probs[7].numpy())
    explorer._shown.pin(3)
    explorer.fields["kind"].value = "cross"
    assert explorer.view.labels == ("a", "cat", "on", "grass")
    assert explorer.pinned == ""  # the fourth place is not the fourth word


def test_true_masks_bring_scores_and_outlines(run: Run) -> None:
    mask = np.zeros(run.size)
    mask[4:20, 8:24] = 1
    explorer = AttentionExplorer(run, truth={"cat": mask})
    notes = dict(zip(explorer.view.labels, explorer.view.notes, strict=True))
    assert "IoU" in notes["cat"] and "IoU" not in notes["grass"]
    outlines = explorer._shown.widget.outlines
    assert [bool(o) for o in outlines] == [False, True, False, False]
    image = Image.open(io.BytesIO(base64.b64decode(outlines[1].split(",")[1])))
    alpha = np.asarray(image)[..., 3] > 0
    assert 0 < alpha.mean() < 0.1 and not alpha[0].any() and not alpha[:, 0].any()
    with pytest.raises(ValueError, match="Its words are"):
        AttentionExplorer(run, truth={"bird": mask})


def test_a_mask_that_touches_the_edge_has_no_line_on_the_other_side() -> None:
    mask = np.zeros((32, 32))
    mask[10:, 16:] = 1
    image = Image.open(io.BytesIO(base64.b64decode(outline_url(mask, (32, 32)).split(",")[1])))
    alpha = np.asarray(image)[..., 3] > 0
    assert not alpha[:, 0].any() and not alpha[0].any()


def test_an_edit_shows_its_maps_before_and_after(run: Run) -> None:
    edited = edit(run, TARGET, [Replace()])
    explorer = AttentionExplorer(edited)
    after = explorer.view.maps
    explorer.fields["which"].value = "original"
    assert not np.allclose(after, explorer.view.maps)
    wanted = edited.map("dog", which="original").numpy()
    assert np.allclose(explorer.view.maps[1], wanted)


def test_a_run_without_maps_is_refused(sd32: Any) -> None:
    bare = generate(sd32, SOURCE, steps=1, record="none")
    with pytest.raises(ValueError, match="recorded no maps"):
        AttentionExplorer(bare)
    with pytest.raises(ValueError, match="There is no map of 'bird'"):
        AttentionExplorer(generate(sd32, SOURCE, steps=1, record="store")).pin("bird")


def test_without_a_tape_steps_and_heads_are_off_and_it_is_said(sd32: Any) -> None:
    explorer = AttentionExplorer(generate(sd32, SOURCE, steps=1, record="store"))
    assert explorer.fields["step"].disabled and explorer.fields["head"].disabled
    assert explorer.fields["kind"].layout.display == "none"
    notes = [getattr(child, "value", "") for child in explorer.box.children]
    assert any("need a tape" in str(note) for note in notes)


def test_views_are_numbers_first(run: Run) -> None:
    view = word_view(run.attention, {})
    assert view.maps.shape == (4, *run.map("cat").shape)
    site = run.attention.self_sites[0]
    rows = self_view(run.attention, site).maps.sum(axis=(1, 2))
    assert np.allclose(rows, 1, atol=1e-4)


# The inversion panel


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def upload(control: Any, content: bytes) -> None:
    """Choose a file, in the form of the ipywidgets that is installed."""
    about = {"name": "x.png", "type": "image/png", "size": len(content)}
    if isinstance(control.value, dict):  # ipywidgets 7: names, contents, and a count that rises
        sent = {"metadata": [about], "data": [memoryview(content)]}
        control.set_state({**sent, "_counter": control._counter + 1})
    else:
        now = datetime.now(UTC)
        control.value = ({**about, "content": content, "last_modified": now},)


def test_a_picture_that_is_uploaded_is_inverted_and_can_be_edited(sd32: Any, run: Run) -> None:
    panel = InversionPanel(sd32, steps=3, threaded=False)
    assert panel.run is None and "no picture yet" in panel._pictures[0].value
    panel.invert_button.click()
    assert "There is no picture yet" in panel.status.value
    upload(panel.fields["upload"], png(run.image.resize((50, 40))))
    assert "press Invert" in panel.status.value
    panel.invert_button.click()
    assert "Say in a few words" in panel.status.value
    panel.fields["text"].value = SOURCE
    panel.invert_button.click()
    assert panel.run is not None and panel.run.prompt.text == SOURCE
    panel.fields["method"].value = "negative-prompt"
    panel.invert_button.click()
    assert [row[0] for row in panel.table] == ["direct", "negative-prompt"]
    assert "negative-prompt" in panel._table.value
    edited = EditPanel(source=panel.run, target=TARGET, threaded=False)
    assert edited.recipe.seed is None and "# source" in edited.code()


def test_the_reconstruction_is_seen_while_it_is_made(sd32: Any, run: Run) -> None:
    panel = InversionPanel(sd32, run.image, SOURCE, steps=3, threaded=False)
    seen: list[str] = []
    panel._pictures[1].observe(lambda change: seen.append(change["new"]), "value")
    panel.invert_button.click()
    so_far = [value for value in seen if "What is there so far" in value]
    assert so_far and all("data:image/png" in value for value in so_far)
    assert "Reconstruction" in seen[-1] and "dB" in seen[-1]


def test_an_inversion_is_edited_in_the_panel_below(sd32: Any, run: Run) -> None:
    panel = InversionPanel(sd32, steps=3, threaded=False)
    assert panel.edit_button.disabled and panel.editor is None
    upload(panel.fields["upload"], png(run.image))
    panel.fields["text"].value = SOURCE
    panel.invert_button.click()
    panel.edit_button.click()
    first = panel.editor
    assert first is not None and first.run is panel.run and panel._below.children == (first.box,)
    from_browser(first.fields["target"], value=TARGET)
    panel.fields["method"].value = "negative-prompt"
    panel.invert_button.click()
    panel.edit_button.click()
    assert panel.editor is not first and panel.editor.run is panel.run
    assert panel.editor.edited.prompt.text == TARGET  # the same edit, of the other inversion
    upload(panel.fields["upload"], png(run.image.resize((40, 40))))
    assert panel.editor is None and panel._below.children == () and panel.edit_button.disabled


def test_a_picture_that_is_dropped_is_taken_like_one_that_is_chosen(sd32: Any, run: Run) -> None:
    panel = InversionPanel(sd32, steps=3, threaded=False)
    drop(panel, "mine.png", png(run.image))
    assert "press Invert" in panel.status.value and panel.photo is not None
    drop(panel, "holiday.txt", b"no picture")
    assert "p2p-error" in panel.status.value and panel.photo is not None
    assert "holiday.txt cannot be read as a picture" in panel.status.value
    assert "10 bytes" not in panel.status.value


def drop(panel: InversionPanel, name: str, content: bytes) -> None:
    """Do what arrives from the front end when a file is dropped."""
    count = panel._drop.count + 1
    from_browser(panel._drop, name=name, content=memoryview(content), count=count)


def test_enter_in_the_prompt_inverts_and_typing_does_not(sd32: Any, run: Run) -> None:
    panel = InversionPanel(sd32, steps=3, threaded=False)
    drop(panel, "mine.png", png(run.image))
    from_browser(panel.fields["text"], value=SOURCE)
    assert panel.run is None
    panel.fields["text"]._handle_custom_msg({"event": "submit"}, [])
    assert panel.run is not None and panel.run.prompt.text == SOURCE


def test_a_prompt_is_suggested_for_the_picture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = p2p_lab.load()
    panel = InversionPanel(model, steps=3, threaded=False)
    panel.suggest_button.click()
    assert "There is no picture yet" in panel.status.value
    picture = generate(model, "a cat on a beach", seed=4).image
    drop(panel, "mine.png", png(picture))
    panel.suggest_button.click()
    text = p2p_lab.inversion.suggest_prompt(model, picture)
    assert panel.fields["text"].value == text and "cat" in text
    assert panel.run is None


def test_a_file_that_is_no_picture_is_told(sd32: Any) -> None:
    panel = InversionPanel(sd32, steps=3, threaded=False)
    panel._image = b"no picture"
    panel.fields["text"].value = SOURCE
    panel.invert_button.click()
    assert "p2p-error" in panel.status.value


def test_uploads_of_both_versions_are_read() -> None:
    assert uploaded({}) is None and uploaded(()) is None
    assert uploaded({"a.png": {"metadata": {}, "content": b"7"}}) == ("a.png", b"7")
    assert uploaded(({"name": "a.png", "content": memoryview(b"8")},)) == ("a.png", b"8")


# ipywidgets 7.7.1


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "widgets":
                yield node


def test_panels_use_only_what_ipywidgets_7_7_1_has() -> None:
    for path in sorted(ROOM.glob("*.py")):
        for node in calls(path):
            name = node.func.attr  # type: ignore[attr-defined]
            assert name in CORE_7, f"{path.name}:{node.lineno} uses widgets.{name}"
            if name != "Layout":
                given = {keyword.arg for keyword in node.keywords if keyword.arg}
                assert given <= TRAITS_7, f"{path.name}:{node.lineno}: {given - TRAITS_7}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "widgets" or node.attr in CORE_7, node.attr


def test_no_panel_prints_or_touches_the_cell_s_output() -> None:
    for path in sorted(ROOM.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(print|display|clear_output|interact)\(|Output\(", text), path
