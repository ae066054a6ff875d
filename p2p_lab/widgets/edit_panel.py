"""The edit panel: prompts, windows, faders and a local edit, with both pictures beside each other.

The controls fill in a `Recipe`; `generate` and `edit` do the rest. An edit starts from the cached
source, and from the step where it parts from the edit before it, so faders answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from p2p_lab.edits import Edit, default_edits
from p2p_lab.figures import LabFigure, show_pictures
from p2p_lab.metrics import psnr
from p2p_lab.models import Denoiser, load
from p2p_lab.models.vocabulary import about_unknown_words
from p2p_lab.sampling import Run
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import code_box
from p2p_lab.widgets.edit_controls import EditControls
from p2p_lab.widgets.export import Frame, save_gif, save_strip
from p2p_lab.widgets.panel import Panel
from p2p_lab.widgets.recipe import Recipe, recipe_of
from p2p_lab.widgets.worker import RequestToken

MOST_FRAMES = 12


class EditPanel(Panel):
    """Edit a picture by its prompt, and see the edit beside its source.

    Args:
        model: A denoiser; None takes the source's, or the best bundled one.
        source: The source's prompt, or a run: generated, inverted or itself an edit.
        target: The edit's prompt; None starts with the source's.
        seed: Of the source's noise, if `source` is a prompt.
        edits: What the controls start with: at most one `Replace` or `Refine`, any `Reweight`,
            a `LocalBlend`.
        steps: Number of denoising steps; None takes the model's.
        guidance_scale: Strength of guidance; None takes the model's.
        threaded: Whether to work beside the kernel; None: where there is a kernel. The first
            picture is always made at once.

    Attributes:
        run: the source.
        edited: the newest finished edit.
        recipe: what made it, all of it.
        controls: what a reader can move.

    Raises:
        ValueError: the first edit cannot be made; later ones say why in the status line.
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
        owner = model or (run.model if run is not None else None)
        self.model: Denoiser = owner or load()
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
        """Open a panel with a saved recipe: a `Recipe`, its JSON text or its file.

        Raises:
            ValueError: it is no recipe, or needs the run of a photograph.
        """
        if not isinstance(recipe, Recipe):
            text = str(recipe)
            recipe = Recipe.from_json(text if "{" in text else Path(text).read_text("utf-8"))
        if recipe.seed is None:
            raise ValueError(
                "This recipe edits a measured picture, which it does not hold. Invert the picture "
                "again and use recipe.apply(run)."
            )
        panel = cls.__new__(cls)
        panel.model = model or load(recipe.model or None)
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
        self.frames: list[Frame] = []
        self._pictures = [widgets.HTML(layout=style.picture_layout()) for _ in range(2)]
        self.controls = EditControls(self.model, start, fixed=run is not None, changed=self.refresh)
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

    def _lay_out(self) -> None:
        next_seed = style.button("Next", "Draw the source from the next seed", icon="refresh")
        next_seed.disabled = self._source_run is not None
        next_seed.on_click(lambda _: self._next_seed())
        reset = style.button("Reset", "Set every control back to where it began", icon="undo")
        reset.on_click(lambda _: self.set(self.controls.start))
        self._code = code_box()
        self.copy_button = style.button("Copy as code", "Show and copy the lines of this edit")
        self.copy_button.on_click(lambda _: self._show_code())
        self.recipe_button = style.button("Save recipe", "Write the settings to a JSON file")
        self.recipe_button.on_click(lambda _: self._save("recipe"))
        self.strip_button = style.button("PNG strip", "Write source and edits side by side")
        self.strip_button.on_click(lambda _: self._save("strip"))
        self.gif_button = style.button("GIF", "Write source and edits one after another")
        self.gif_button.on_click(lambda _: self._save("gif"))
        fields = self.fields
        self.show(
            style.row(fields["source"], fields["seed"], next_seed),
            style.row(fields["target"], fields["method"]),
            style.row(*self._pictures, self.controls.column(), align_items="flex-start"),
            style.head("Faders", "how loud each word is: 1 as it was, 0 off, below 0 away from it"),
            self.controls.desk,
            self.footer(
                reset, self.copy_button, self.recipe_button, self.strip_button, self.gif_button
            ),
            self._code,
        )

    def set(self, recipe: Recipe) -> None:
        """Set the controls to a recipe, and make its picture."""
        with self.handling():
            self.controls.set(recipe)
        self.refresh()

    def code(self) -> str:
        """Return the Python lines that make the picture that is shown, without the panel."""
        edits = self.recipe.edits(self.run.prompt, self.edited.prompt)
        return self.recipe.to_code(edits, source=self.run)

    # Handlers: each calls one public function

    def _next_seed(self) -> None:
        self.fields["seed"].value = self.fields["seed"].value + 1

    def refresh(self) -> None:
        """Make the picture that the controls ask for; only the newest request is shown."""
        with self.handling():
            self.controls.fill_desk(self.controls.wanted())

        def job(token: RequestToken) -> None:
            recipe, run = self.controls.wanted(), self.run
            again = self._source_run is None and recipe.another_source(run)
            self._paint(old=True, source_too=again)
            if again:
                on_step = self.report(token, "Drawing the source")
                run = recipe.generate(self.model, on_step=on_step, cancel=token)
            on_step = self.report(token, "Editing")
            edited = recipe.apply(run, on_step=on_step, cancel=token)
            if token.newest:
                self.run, self.edited, self.recipe = run, edited, recipe
                self._finished()

        self.request(job)

    def _show_code(self) -> None:
        with self.handling():
            self._code.value = self.code()
            self._code.layout.display = "flex"
            self.say("These lines make the same picture.")

    def _save(self, what: str) -> None:
        with self.handling():
            if what == "recipe":
                path = self.recipe.made_with(self.model).save()
            else:
                path = (save_strip if what == "strip" else save_gif)(self.frames)
            self.say(f"Saved {path}")

    # Painting

    def _finished(self) -> None:
        self._paint()
        frame = Frame(self.edited.image, self.edited.prompt.text, _summary(self.recipe))
        first = Frame(self.run.image, self.run.prompt.text, "source")
        same = bool(self.frames) and self.frames[0].caption == first.caption
        kept = self.frames[1:] if same and self.frames[0].image == first.image else []
        self.frames = [first, *[f for f in kept if f != frame], frame]
        self.frames = [first, *self.frames[1:][-(MOST_FRAMES - 1) :]]
        self._code.layout.display = "none"
        self.say(self._why())

    def _why(self) -> str:
        """Say which alignment was used and why, and which words the model does not know."""
        source, target = self.run.prompt, self.edited.prompt
        auto = self.recipe.method == "auto"
        why = default_edits(source, target)[1] if auto else f"Done with {self.recipe.method}."
        known = self.model.card.vocabulary
        messages = [about_unknown_words(one, known, self.model.name) for one in (source, target)]
        return " ".join(filter(None, dict.fromkeys([why, *messages])))

    def after_failure(self) -> None:
        """Show the last finished pictures at full strength again."""
        self._paint()

    def _paint(self, *, old: bool = False, source_too: bool = False) -> None:
        source, edited = self.run, self.edited
        seed = "a measured picture" if source.seed is None else f"seed {source.seed}"
        self._pictures[0].value = style.figure_html(
            source.image,
            f"Source: {source.prompt.text}",
            source.prompt.text or "(empty prompt)",
            f"{seed}, {source.steps} steps",
            old=source_too,
        )
        self._pictures[1].value = style.figure_html(
            edited.image,
            f"Edit: {edited.prompt.text}",
            edited.prompt.text or "(empty prompt)",
            _numbers(source, edited),
            old=old,
        )

    # Static form

    def figure(self) -> LabFigure:
        """Return source and edit side by side, as a figure."""
        titles = [f"source: {self.run.prompt.text}", f"edit: {self.edited.prompt.text}"]
        figure = show_pictures([self.run, self.edited], titles)
        figure.alt = f"{figure.alt} {_numbers(self.run, self.edited)}."
        return figure

    def __repr__(self) -> str:
        """Return prompts, edits and numbers as text, the same on every run."""
        prompts = f"{self.run.prompt.text!r} -> {self.edited.prompt.text!r}"
        seed = "measured" if self.run.seed is None else f"seed {self.run.seed}"
        return (
            f"EditPanel: {prompts}, {seed}, {self.run.steps} steps\n"
            f"  {_summary(self.recipe)}\n"
            f"  {_numbers(self.run, self.edited)}"
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


def _numbers(source: Run, edited: Run) -> str:
    """Say how far the edit is from its source."""
    value = psnr(source.array, edited.array)
    return "equal to the source" if value == float("inf") else f"{value:.1f} dB to the source"


def _summary(recipe: Recipe) -> str:
    """Say in one line what a recipe does."""
    parts = [f"τ cross {recipe.cross:g}", f"τ self {recipe.self_attention:g}"]
    parts += [f"{word} × {scale:g}" for word, _, scale in recipe.scales]
    if recipe.blend is not None:
        parts.append(f"only at {' / '.join(dict.fromkeys(filter(None, recipe.blend)))}")
    return ", ".join(parts)
