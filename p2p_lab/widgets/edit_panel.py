"""The edit panel: prompts, faders and three pictures; windows, masks and moves fold away.

The controls fill in a `Recipe`; `generate` and `edit` do the rest. While a control is moved, drafts
of a few steps follow it; the final picture is made when the hand rests. An edit starts from the
cached source, and from the step where it parts from the edit before it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL.Image import Image

from p2p_lab.edits import Edit
from p2p_lab.figures import LabFigure, show_pictures
from p2p_lab.models import Denoiser, load
from p2p_lab.models.denoiser import checked_model
from p2p_lab.recipes import Recipe, recipe_of, to_code
from p2p_lab.recipes.links import read_recipe
from p2p_lab.sampling import Cancelled, Run
from p2p_lab.widgets import style
from p2p_lab.widgets.drafts import DRAFT_STEPS, Drafts
from p2p_lab.widgets.edit_controls import EditControls
from p2p_lab.widgets.edit_tools import EditTools
from p2p_lab.widgets.edit_words import numbers, summary, why
from p2p_lab.widgets.export import Frame
from p2p_lab.widgets.panel import Panel
from p2p_lab.widgets.saver import Saver
from p2p_lab.widgets.sharing import Sharing
from p2p_lab.widgets.worker import RequestToken

REST_SECONDS = 0.15  # without a touch, after which the final picture is made
PAUSE_SECONDS = 0.01  # between two drafts that nobody has asked for: others may want the model
_IS_SOURCE = "A prompt or a run is the source: EditPanel(source=...)."


class EditPanel(Panel):
    """Edit a picture by its prompt, and see the edit beside its source and the plain re-prompt.

    Args:
        model: A denoiser; None takes the source's, or the best bundled one.
        source: The source's prompt, or a run: generated, inverted or itself an edit.
        target: The edit's prompt; None starts with the source's.
        seed: Of the source's noise, if `source` is a prompt.
        edits: What the controls start with: at most one `Replace` or `Refine`, any `Reweight`,
            a `LocalBlend`, a `Move`.
        steps: Number of denoising steps; None takes the model's.
        guidance_scale: Strength of guidance; None takes the model's.
        threaded: Whether to work beside the kernel; None: where there is a kernel. The first
            picture is always made at once.

    Attributes:
        run: The source.
        edited: The newest finished edit.
        recipe: What made it, all of it.
        controls: What a reader can move.
        folds: What can be opened below.

    Raises:
        ValueError: If the first edit cannot be made; later ones say why in the status line.
    """

    def __init__(
        self,
        model: Denoiser | None = None,
        source: str | Run = "a cat on a beach",
        target: str | None = None,
        *,
        seed: int = 0,
        edits: Sequence[Edit] = (),
        steps: int | None = None,
        guidance_scale: float | None = None,
        threaded: bool | None = None,
    ) -> None:
        run = source if isinstance(source, Run) else None
        owner = run.model if model is None and run is not None else model
        self.model: Denoiser = load() if owner is None else checked_model(owner, _IS_SOURCE)
        text = source.prompt.text if isinstance(source, Run) else source
        start = Recipe(text, text if target is None else target, model=self.model.name)
        if isinstance(source, Run):
            start = _settings_of(source, start)
        else:
            start = start.with_(seed=seed, steps=steps, guidance_scale=guidance_scale)
        self._begin(start, run, edits, threaded)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe | str | Path,
        model: Denoiser | None = None,
        *,
        threaded: bool | None = None,
    ) -> EditPanel:
        """Open a panel with a saved recipe: a `Recipe`, its JSON, its file, or a link of the page.

        Raises:
            ValueError: If it is no recipe, or needs the run of a photograph.
        """
        if not isinstance(recipe, Recipe):
            recipe = read_recipe(str(recipe))
        _check_drawn(recipe)
        panel = cls.__new__(cls)
        panel.model = load(recipe.model or None) if model is None else checked_model(model)
        panel._begin(recipe.met(panel.model), None, (), threaded)
        return panel

    def _begin(
        self, start: Recipe, run: Run | None, edits: Sequence[Edit], threaded: bool | None
    ) -> None:
        """Make the first pictures, then the controls."""
        super().__init__(threaded=threaded)
        self.run: Run = start.generate(self.model) if run is None else run
        if edits:
            start = recipe_of(self.run, start.target, edits, base=start)
        self.edited: Run = start.apply(self.run)
        self.recipe: Recipe = start
        self._source_run = run
        self._drafts = Drafts()
        self._draft_shown = False
        self._reprompts: dict[str, Run] = {}
        self._pictures = [widgets.HTML(layout=style.picture_layout()) for _ in range(3)]
        self.controls = EditControls(self.model, start, fixed=run is not None, changed=self.refresh)
        self.tools = EditTools(self.controls)
        self.saver = Saver(
            say=self.say, recipe=self._final_recipe, reopen=self.reopen, guard=self.handling
        )
        self.sharing = Sharing(
            say=self.say,
            guard=self.handling,
            code=self.code,
            recipe=self._final_recipe,
            waits=lambda: self._draft_shown,
        )
        self.folds = style.Folds({**self.tools.boxes, "Save": self.saver.box}, self._fill_tools)
        self._lay_out()
        self._finished()

    @property
    def fields(self) -> dict[str, Any]:
        """Return the controls by name: source, target, seed, method, cross, and so on."""
        return self.controls.fields

    @property
    def faders(self) -> dict[str, Any]:
        """Return the words' faders, by word; a second occurrence is "word (2)"."""
        return self.controls.faders

    @property
    def frames(self) -> list[Frame]:
        """Return the pictures that were shown, the source first."""
        return self.saver.frames

    def _lay_out(self) -> None:
        next_seed = style.button("Next", "Draw the source from the next seed", icon="refresh")
        if self._source_run is not None:
            next_seed.disabled, next_seed.layout.display = True, "none"
        next_seed.on_click(lambda _: self._next_seed())
        reset = style.button("Reset", "Set every control back to where it began", icon="undo")
        reset.on_click(lambda _: self.set(self.controls.start))
        fields = self.fields
        why_fixed = style.note("This source is given as a run, so its prompt and seed are fixed.")
        self.show(
            style.row(fields["source"], fields["seed"], next_seed),
            *([why_fixed] if self._source_run is not None else []),
            style.row(fields["target"]),
            style.row(*self._pictures, align_items="flex-start"),
            style.head("Faders", "weight of each word: 1 as it was, 0 off, below 0 away from it"),
            self.controls.desk,
            self.footer(reset, self.sharing.code_button, self.sharing.link_button),
            self.sharing.box,
            self.folds.box,
        )

    def set(self, recipe: Recipe) -> None:
        """Set the controls to a recipe, and make its picture."""
        with self.handling():
            self.controls.set(recipe)
        self.refresh()

    def reopen(self, recipe: Recipe) -> None:
        """Go on with a recipe that was saved.

        Raises:
            ValueError: If it belongs to another source than the one that this panel was given.
        """
        if self._source_run is not None and recipe.source != self._source_run.prompt.text:
            raise ValueError(
                f"The recipe edits {recipe.source!r}, and this panel's source is "
                f"{self._source_run.prompt.text!r}. Open it with EditPanel.from_recipe."
            )
        if self._source_run is None:
            _check_drawn(recipe)
        else:
            recipe = _settings_of(self._source_run, recipe)
        self.controls.start = recipe.met(self.model).with_(model=self.model.name)
        self.set(self.controls.start)

    def code(self) -> str:
        """Return the Python lines that make the newest final picture, without the panel."""
        edits = self.recipe.edits(self.run.prompt, self.edited.prompt)
        return to_code(self.recipe, edits, source=self.run)

    def reprompt(self, cancel: Any = None) -> Run | None:
        """Return the target's picture from the same noise without control; it is made once.

        None where the prompts are the same: that is the source.
        """
        text = self.edited.prompt.text
        if text == self.run.prompt.text:
            return None
        if text not in self._reprompts:
            how: dict[str, Any] = {"record": "none", "cancel": cancel}
            self._reprompts[text] = self.recipe.reprompt(self.run, **how)
        return self._reprompts[text]

    # Handlers: each calls one public function

    def _next_seed(self) -> None:
        self.fields["seed"].value = self.fields["seed"].value + 1

    def refresh(self, moved: str = "") -> None:
        """Make the picture that the controls ask for; only the newest request is shown.

        Args:
            moved: The control that was moved, whose other stops are drawn ahead afterwards.
        """
        if moved in ("", "source", "target"):
            with self.handling():
                self.controls.fill_desk(self.controls.wanted())

        def job(token: RequestToken) -> None:
            recipe, run = self.controls.wanted(), self.run
            again = self._source_run is None and recipe.another_source(run)
            if self.worker.threaded and not again and run.steps > DRAFT_STEPS:
                self._show_draft(recipe, token)
                if not token.rest(REST_SECONDS):
                    if token.stopped.is_set():
                        raise Cancelled("The final picture was not made.")
                    return
            self._make(recipe, token, again=again)

        self.request(job, lambda token: self._work_ahead(token, moved))

    def _show_draft(self, recipe: Recipe, token: RequestToken) -> None:
        """Show the edit in few steps; one that has begun is shown though the hand moves on."""
        draft = self._drafts.draw(recipe, self.run, token.stopped)
        self._draft_shown = True
        self._paint_edit(draft, recipe.target, f"draft of {DRAFT_STEPS} steps")
        count = f"{DRAFT_STEPS} of {self.run.steps} steps"
        self.say(f"Draft, {count}; the final picture comes at rest.")

    def _make(self, recipe: Recipe, token: RequestToken, *, again: bool) -> None:
        """Make the final picture."""
        run = self.run
        if not self._draft_shown:
            self._paint(old=True, source_too=again)
        if again:
            on_step = self.report(token, "Drawing the source")
            run = recipe.generate(self.model, on_step=on_step, cancel=token)
        edited = recipe.apply(run, on_step=self.report(token, "Editing"), cancel=token)
        if token.newest:
            if again:
                self._reprompts.clear()
            self.run, self.edited, self.recipe = run, edited, recipe
            self._finished()

    def on_shown(self) -> None:
        """Make ready what a first touch needs, and the third picture."""
        if self.worker.threaded:
            self.request(lambda _: None, lambda token: self._work_ahead(token, ""))

    def _work_ahead(self, token: RequestToken, moved: str) -> None:
        """Draw what will be asked for next: the third picture, and the other stops of a fader."""
        if self.run.steps > DRAFT_STEPS:
            self._drafts.source(self.run, token)
        if self.reprompt(token) is not None:
            self._paint_reprompt()
            self._fill_tools()
        for recipe in self.controls.stops(moved) if self.run.steps > DRAFT_STEPS else ():
            if token.is_set() or not self._drafts.quick:
                return
            self._drafts.draw(recipe, self.run, token)
            time.sleep(PAUSE_SECONDS)

    def _final_recipe(self) -> Recipe:
        """Return what made the picture that is shown.

        Raises:
            ValueError: If it is a draft.
        """
        if self._draft_shown:
            raise ValueError("What is shown is a draft. Wait for the final picture, then save.")
        return self.recipe.made_with(self.model)

    def _fill_tools(self) -> None:
        opened = {name for name in self.tools.boxes if self.folds.is_open(name)}
        found = self._reprompts.get(self.edited.prompt.text)
        more = {} if found is None else {"re-prompt": found}
        with self.handling():
            self.tools.update(opened, self.recipe, self.run, self.edited, **more)

    # Painting

    def _finished(self) -> None:
        self._paint()
        frame = Frame(self.edited.image, self.edited.prompt.text, summary(self.recipe))
        self.saver.add(Frame(self.run.image, self.run.prompt.text, "source"), frame)
        self._fill_tools()
        self.say(f"Final, {self.edited.steps} steps. {why(self.recipe, self.run, self.edited)}")
        self.sharing.finished()

    def after_failure(self) -> None:
        """Show the last finished pictures at full strength again."""
        self._paint()

    def after_cancel(self) -> None:
        """Set the controls back to the picture that is kept, and show it."""
        self.controls.set(self.recipe)
        self._paint()

    def _paint(self, *, old: bool = False, source_too: bool = False) -> None:
        source, edited = self.run, self.edited
        self._draft_shown = False
        seed = "a measured picture" if source.seed is None else f"seed {source.seed}"
        self._pictures[0].value = style.figure_html(
            source.image,
            f"Source: {source.prompt.text}",
            source.prompt.text or "(empty prompt)",
            f"source, {seed}, {source.steps} steps",
            old=source_too,
        )
        note = f"edit, {numbers(source, edited)}"
        self._paint_edit(edited.image, edited.prompt.text, note, old=old)
        self._paint_reprompt()

    def _paint_edit(self, image: Image, text: str, note: str, *, old: bool = False) -> None:
        caption = text or "(empty prompt)"
        self._pictures[1].value = style.figure_html(image, f"Edit: {text}", caption, note, old=old)

    def _paint_reprompt(self) -> None:
        """Show the third picture if it was made."""
        found = self._reprompts.get(self.edited.prompt.text)
        same = self.edited.prompt.text == self.run.prompt.text
        self._pictures[2].layout.display = "none" if same else None
        self._pictures[2].value = style.figure_html(
            None if found is None else found.image,
            "being drawn" if found is None else f"Re-prompt: {found.prompt.text}",
            self.edited.prompt.text or "(empty prompt)",
            "re-prompt, without control"
            + ("" if found is None else f", {numbers(self.run, found)}"),
        )

    # Static form

    def figure(self) -> LabFigure:
        """Return source and edit side by side, as a figure."""
        titles = [f"source: {self.run.prompt.text}", f"edit: {self.edited.prompt.text}"]
        figure = show_pictures([self.run, self.edited], titles)
        figure.alt = f"{figure.alt} {numbers(self.run, self.edited)}."
        return figure

    def __repr__(self) -> str:
        """Return prompts, edits and numbers as text, the same on every run."""
        prompts = f"{self.run.prompt.text!r} -> {self.edited.prompt.text!r}"
        seed = "measured" if self.run.seed is None else f"seed {self.run.seed}"
        return (
            f"EditPanel: {prompts}, {seed}, {self.run.steps} steps\n"
            f"  {summary(self.recipe)}\n"
            f"  {numbers(self.run, self.edited)}"
        )


def _settings_of(run: Run, recipe: Recipe) -> Recipe:
    return recipe.with_(
        seed=run.seed if run.plan is None else None,
        steps=run.steps,
        guidance_scale=run.guidance_scale,
        negative=run.negative,
        size=run.size,
        sampler=run.sampler,
    )


def _check_drawn(recipe: Recipe) -> None:
    if recipe.seed is None:
        raise ValueError(
            "This recipe edits a measured picture, which it does not hold. Invert the picture "
            "again and use recipe.apply(run)."
        )
