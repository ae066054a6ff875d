"""The step panel: one play bar over a run's steps, and what happens in each of them.

z_t and the clean picture that the step takes it for; for a word its maps at that step; in an edit
the source's map, the target's own, and which of the two the plan takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image

from p2p_lab.figures import LabFigure, overlay, show_trajectory
from p2p_lab.images import to_image
from p2p_lab.sampling import Run, maps_at, pictures_at, word_step
from p2p_lab.sampling.runs import checked_run
from p2p_lab.widgets import style
from p2p_lab.widgets.edit_fields import words_of_prompt
from p2p_lab.widgets.panel import Panel

FRAME_MS = 500  # between two steps while it plays


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a step.

    Attributes:
        image: The picture.
        title: What it is.
        note: Its numbers.
        lit: Whether it is what the plan takes in this step.
    """

    image: Image.Image
    title: str
    note: str
    lit: bool = False


class StepPanel(Panel):
    """Watch a run step by step.

    Args:
        run: A run with its model. Maps of single steps need a tape: of the run, or in an edit of
            its source.
        word: The word whose maps are shown first; None takes the first word that is changed, or
            the second one.

    Attributes:
        fields: The controls by name: step (from 1) and word.

    Raises:
        ValueError: If the run was loaded without its model.
    """

    def __init__(self, run: Run, word: str | None = None) -> None:
        super().__init__(threaded=False)
        self.run = checked_run(run)
        self._kept: dict[tuple[int, str], list[Cell]] = {}
        self._filling = False
        self._play = widgets.Play(
            value=1, min=1, max=run.steps, interval=FRAME_MS, description="Play the steps"
        )
        self.fields: dict[str, Any] = {
            "step": widgets.IntSlider(
                value=1, min=1, max=run.steps, description="Step",
                style={"description_width": "3em"},
                layout=widgets.Layout(flex="1 1 12em", width="auto"),
            ),
            "word": widgets.ToggleButtons(
                options=["-"], description="Word",
                style={"button_width": "auto", "description_width": "auto"},
                layout=widgets.Layout(width="auto"),
            ),
        }  # fmt: skip
        widgets.jslink((self._play, "value"), (self.fields["step"], "value"))
        self._row = style.row(align_items="flex-start")
        self._fill(word)
        for field in self.fields.values():
            field.observe(lambda _: self.refresh(), "value")
        self.show(
            style.row(self._play, self.fields["step"], flex_flow="row nowrap"),
            self.fields["word"],
            self._row,
            self.status,
        )
        self.refresh()

    def set_run(self, run: Run) -> None:
        """Watch another run, at the same step and word as far as it has them."""
        self.run, before = run, self.fields["word"].value
        self._kept.clear()
        self._fill(before)
        self.refresh()

    def _fill(self, word: str | None) -> None:
        """Offer the run's steps and words."""
        labels = [label for label, _, _ in words_of_prompt(self.run.prompt)]
        for control in (self._play, self.fields["step"]):
            control.max = self.run.steps
        chosen, field = word if word in labels else self._first(labels), self.fields["word"]
        self._filling = True  # the words change one trait after the other
        field.options = labels or ["-"]
        field.value = chosen
        self._filling = False

    def _first(self, labels: list[str]) -> str:
        """Return the word to begin with: one that the source does not have, else the second."""
        source = self.run.source
        if source is not None:
            before = {word.casefold() for word in source.prompt.words}
            changed = [label for label in labels if label.split(" (")[0].casefold() not in before]
            if changed:
                return changed[0]
        return (labels or ["-"])[min(1, max(len(labels) - 1, 0))]

    def refresh(self) -> None:
        """Show the step and word that are chosen."""
        if self._filling:
            return
        step, word = self.fields["step"].value - 1, self.fields["word"].value
        with self.handling():
            found = self.cells(step, word)
            self._row.children = tuple(_shown(self._row.children, found))
            self.say(self._sentence(step, found))

    def cells(self, step: int, word: str) -> list[Cell]:
        """Return the pictures of a step (0 … T − 1), with a word's maps if they are at hand."""
        key = (step, word)
        if key not in self._kept:
            noisy, clean = (to_image(pixels) for pixels in pictures_at(self.run, step))
            self._kept[key] = [
                Cell(noisy, f"z, {self.run.steps - step} steps to go", "the latents, decoded"),
                Cell(clean, "taken for", "the clean picture that this step predicts"),
                *self._maps(step, word, clean),
            ]
        return self._kept[key]

    def _maps(self, step: int, word: str, clean: Image.Image) -> list[Cell]:
        places = {label: (w, n) for label, w, n in words_of_prompt(self.run.prompt)}
        if word not in places:
            return []
        text, n = places[word]
        if self.run.plan is None:
            heat = maps_at(self.run, step).map(text, occurrence=n)
            return [_map_cell(clean, heat, f"“{word}”", "its map in this step", lit=False)]
        found = word_step(self.run, text, step, occurrence=n)
        source, target = found.source_gain, found.target_gain
        return [
            _map_cell(clean, found.source, "the source's map", f"× {source:g}", lit=source != 0),
            _map_cell(clean, found.target, f"“{word}”, its own", f"× {target:g}", lit=target != 0),
            _map_cell(clean, found.used, "what is used", "after the edit", lit=False),
        ]

    def _sentence(self, step: int, found: list[Cell]) -> str:
        if len(found) < 5:
            return f"Step {step + 1} of {self.run.steps}."
        source, target = found[2].lit, found[3].lit
        what = {
            (True, False): "the source's map is copied",
            (False, True): "the word keeps its own map",
            (True, True): "both maps are added",
            (False, False): "the word is switched off",
        }[source, target]
        return f"Step {step + 1} of {self.run.steps}: {what}."

    def figure(self) -> LabFigure:
        """Return some steps of the run, decoded."""
        return show_trajectory(self.run)

    def __repr__(self) -> str:
        """Return the run and its number of steps, the same on every run."""
        return f"StepPanel: {self.run.prompt.text!r}, {self.run.steps} steps"


def _shown(before: tuple[Any, ...], found: list[Cell]) -> list[Any]:
    """Return the widgets of some cells: those that were there, with new pictures."""
    made = list(before[: len(found)])
    made += [
        widgets.HTML(layout=widgets.Layout(flex="1 1 8em", width="auto", max_width="14em"))
        for _ in range(len(found) - len(made))
    ]
    for one, cell in zip(made, found, strict=True):
        one.value = style.figure_html(
            cell.image, f"{cell.title}: {cell.note}", cell.title, cell.note, lit=cell.lit
        )
    return made


def _map_cell(
    picture: Image.Image, heat: torch.Tensor, title: str, note: str, *, lit: bool
) -> Cell:
    """Return the picture lit by a map; what is below 0 pushes away as much as it draws."""
    values = heat.detach().cpu().abs().float().numpy()
    shown = to_image(overlay(picture, values))
    return Cell(shown, title, f"{note}, max {float(values.max()):.2f}", lit)
