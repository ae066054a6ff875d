"""Laws of looking into steps, places and guesses: what is shown is what was computed."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

import p2p_lab
from p2p_lab.edits import Replace, Reweight
from p2p_lab.figures import show_row
from p2p_lab.sampling import Run, edit, generate, maps_at, pictures_at, word_step
from p2p_lab.widgets import AttentionExplorer, EditPanel, StepPanel, guess, guesses, guessing
from p2p_lab.widgets.panel import VIEW
from test_widgets import SOURCE, TARGET, from_browser

STEPS = 5
HOW = [Replace(cross=(0, 0.6)), Reweight("grass", 2.0)]


@pytest.fixture(scope="module")
def run(sd32: Any) -> Run:
    return generate(sd32, SOURCE, seed=3, steps=STEPS)


@pytest.fixture(scope="module")
def edited(run: Run) -> Run:
    return edit(run, TARGET, HOW)


def picture(url: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def bytes_of(pixels: Any) -> np.ndarray[Any, Any]:
    return (pixels.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype("uint8")


# Step by step


def test_each_step_shows_its_latents_and_what_they_are_taken_for(edited: Run) -> None:
    panel = StepPanel(edited)
    for step in range(STEPS):
        from_browser(panel.fields["step"], value=step + 1)
        noisy, clean = pictures_at(edited, step)
        cells = panel.cells(step, panel.fields["word"].value)
        assert np.array_equal(np.asarray(cells[0].image), bytes_of(noisy))
        assert np.array_equal(np.asarray(cells[1].image), bytes_of(clean))
        assert len(panel._row.children) == len(cells) == 5
        assert f"Step {step + 1} of {STEPS}" in panel.status.value


def test_what_the_plan_copies_is_lit(edited: Run) -> None:
    panel = StepPanel(edited)
    assert panel.fields["word"].value == "dog"  # the word that is new
    for step in range(STEPS):
        cells = panel.cells(step, "dog")
        found = word_step(edited, "dog", step)
        assert [cell.lit for cell in cells] == [
            False,
            False,
            found.source_gain != 0,
            found.target_gain != 0,
            False,
        ]
    from_browser(panel.fields["step"], value=1)
    values = [child.value for child in panel._row.children]
    assert ["p2p-lit" in value for value in values] == [False, False, True, False, False]
    assert "the source&#x27;s map is copied" in panel.status.value
    from_browser(panel.fields["step"], value=STEPS)
    assert "keeps its own map" in panel.status.value


def test_a_picture_that_was_drawn_shows_one_map_a_step(run: Run) -> None:
    panel = StepPanel(run, word="grass")
    cells = panel.cells(2, "grass")
    heat = maps_at(run, 2).map("grass")
    assert len(cells) == 3 and f"max {float(heat.max()):.2f}" in cells[2].note


def test_without_a_tape_it_is_said_what_is_missing(sd32: Any) -> None:
    panel = StepPanel(generate(sd32, SOURCE, steps=2, record="store"))
    assert "record=&#x27;tape&#x27;" in panel.status.value


def test_the_fold_of_the_edit_panel_follows_the_edit(run: Run) -> None:
    panel = EditPanel(source=run, target=TARGET, threaded=False)
    assert panel.tools.steps is None
    panel.folds.open("Step by step")
    assert panel.tools.steps is not None and panel.tools.steps.run is panel.edited
    from_browser(panel.tools.steps.fields["step"], value=3)
    from_browser(panel.fields["target"], value="a red bear on grass")
    assert panel.tools.steps.run is panel.edited and panel.tools.steps.fields["step"].value == 3
    assert "red" in panel.tools.steps.fields["word"].options


def test_the_explorer_at_a_step_lights_what_the_step_sees(run: Run, edited: Run) -> None:
    for one in (run, edited):
        explorer = AttentionExplorer(one)
        assert np.array_equal(picture(explorer._shown.widget.picture), np.asarray(one.image))
        from_browser(explorer.fields["step"], value=2)
        shown = picture(explorer._shown.widget.picture)
        assert np.abs(shown.astype(int) - bytes_of(pictures_at(one, 1)[1])).max() <= 1
        word = "grass"
        index = explorer.view.labels.index(word)
        assert np.allclose(explorer.view.maps[index], maps_at(one, 1).map(word).numpy(), atol=1e-6)
        from_browser(explorer.fields["step"], value=0)
        assert np.array_equal(picture(explorer._shown.widget.picture), np.asarray(one.image))


# Ask a place


def test_a_place_that_is_asked_answers_with_its_row_of_all_words_and_padding(run: Run) -> None:
    explorer = AttentionExplorer(run)
    shares = explorer.ask(3, 5)
    assert list(shares) == ["‹start›", "a", "cat", "on", "grass", "‹end›", "‹padding›"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["cat"] == pytest.approx(float(run.map("cat")[3, 5]), abs=1e-6)
    sent = explorer._shown.widget
    assert sent.asked == 3 * sent.columns + 5 and list(sent.row_labels) == list(shares)
    rows = np.frombuffer(sent.row_maps, "<u2").reshape(len(shares), sent.rows, sent.columns)
    assert np.abs(rows[:, 3, 5] / 65535 - np.array([*shares.values()])).max() < 1e-4
    with pytest.raises(ValueError, match="no row of words at"):
        explorer.ask(99, 0)


def test_a_row_is_drawn_as_a_figure_too(run: Run) -> None:
    figure = show_row(run, (3, 5))
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    shares = AttentionExplorer(run).ask(3, 5)
    assert np.allclose(widths, [*shares.values()], atol=1e-5)
    most = max(shares, key=lambda word: shares[word])
    assert f'"{most}" {shares[most]:.1%}' in figure.alt
    with pytest.raises(ValueError, match="no place"):
        show_row(run, (99, 0))


# Guesses

OPTIONS = ["the old animal again", "the <b>new</b> animal", "mush"]


def test_a_guess_counts_once_and_the_tally_says_what_was_right() -> None:
    guessing._asked.clear()
    assert "not guessed yet" in repr(guesses("02"))
    right, wrong = guess("02.radical", OPTIONS), guess("02.window", OPTIONS)
    guess("03.lazy", OPTIONS)
    assert right.chosen is None and right.right is None
    from_browser(right.buttons, chosen=guessing.ANSWERS["02.radical"])
    from_browser(wrong.buttons, chosen=(guessing.ANSWERS["02.window"] + 1) % 3)
    assert right.right and wrong.right is False
    assert repr(guesses("02")) == ("You guessed 1 of 2 right: 02.radical. Look again at 02.window.")
    assert repr(guesses()).endswith("Not guessed: 03.lazy.")


def test_a_guess_reads_as_text_without_a_kernel() -> None:
    one = guess("02.radical", OPTIONS)
    data = one._repr_mimebundle_()
    assert set(data) == {VIEW, "text/html", "text/plain"}
    assert (
        data["text/plain"]
        == repr(one)
        == ("(a) the old animal again\n(b) the <b>new</b> animal\n(c) mush")
    )
    assert "&lt;b&gt;new" in data["text/html"] and data["text/html"].count("<li>") == 3
    from_browser(one.buttons, chosen=2)
    assert one._repr_mimebundle_()["text/plain"] == data["text/plain"]  # nothing to compare


def test_a_question_that_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError, match=r"There are: 00\.seed"):
        guess("99.what", OPTIONS)
    with pytest.raises(ValueError, match="at least 2 answers"):
        guess("02.radical", ["one"])


def test_every_lesson_has_a_question_with_an_answer() -> None:
    folder = Path(p2p_lab.__file__).parents[1] / "notebooks"
    lessons = {path.name.split("_")[0] for path in folder.glob("0*_*.ipynb")}
    assert lessons <= {question.split(".")[0] for question in guessing.ANSWERS}
    for path in folder.glob("*.ipynb"):  # where a lesson asks, its question is known
        text = "".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
        for question in re.findall(r"\bguess\(\s*[\"']([\w.]+)", text):
            assert question in guessing.ANSWERS
            assert question.split(".")[0] == path.name.split("_")[0]
