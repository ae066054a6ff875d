"""The edit panel's controls: what they are called, what they start with, what they ask for.

They read and write a `Recipe`, and report to one function what a reader has moved. No picture is
made here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from p2p_lab.models import Denoiser
from p2p_lab.recipes import Recipe, listed
from p2p_lab.recipes.from_edits import word_scales
from p2p_lab.recipes.words import written
from p2p_lab.tokens import Prompt, links_of
from p2p_lab.widgets import style
from p2p_lab.widgets.browser import Grid, Stage
from p2p_lab.widgets.edit_fields import (
    MOST_SEED,
    NOTHING,
    SLIDERS,
    edit_fields,
    numbers_of,
    prompt_fields,
    set_value,
    swapped,
    words_of,
)


class EditControls:
    """The controls of an edit panel.

    Args:
        model: The denoiser, which cuts prompts in words.
        start: What the controls start with; what they have no control for stays as it is there.
        fixed: Whether the source is given and cannot be changed.
        changed: Called after a reader has moved a control, with its name.

    Attributes:
        fields: The controls by name.
        faders: The words' faders, by label.
        desk: The row of faders.
        mask_stage: The local edit's mask, seen or painted.
        mover: The object that is dragged.
        grid: The alignment.
    """

    def __init__(
        self, model: Denoiser, start: Recipe, *, fixed: bool, changed: Callable[[str], None]
    ) -> None:
        self.model, self.start, self.fixed = model, start, fixed
        self._report, self._quiet = changed, False
        self._exact: set[float] = set()
        self._links_of: tuple[str, str, str] | None = None  # what the links belong to
        self._words: dict[str, list[tuple[str, str, int]]] = {}
        if not fixed and (start.seed or 0) > MOST_SEED:
            raise ValueError(
                f"A panel's seed goes up to {MOST_SEED}, got {start.seed}. Make the source with "
                "`generate` and give the panel that."
            )
        self.fields = {**prompt_fields(start, fixed=fixed), **edit_fields(start)}
        self.mask_stage, self.mover, self.grid = Stage(), Stage(tool="move"), Grid()
        self.faders: dict[str, Any] = {}
        self.desk = style.row(flex_flow="row nowrap", align_items="stretch")
        self.desk.add_class("p2p-faders")
        self.set(start)
        for name, field in self.fields.items():
            field.observe(lambda _, name=name: self._changed(name), "value")
        self.mask_stage.observe(lambda _: self._changed("paint"), "painted")
        self.mover.observe(lambda _: self._changed("move"), ["down", "right", "scale"])
        self.grid.observe(lambda _: self._linked(), "links")
        widgets.jslink((self.fields["threshold"], "value"), (self.mask_stage, "threshold"))

    def fill_desk(self, recipe: Recipe) -> None:
        """Give every word of the target a fader; a word that was there keeps its weight.

        Raises:
            ValueError: If the target is no prompt that the model can read.
        """
        prompt = self.model.prompt(recipe.target)
        there = [one for one in recipe.scales if len(prompt.find(one[0])) > one[1]]
        weights = {(w, n): scale for w, n, scale in word_scales(prompt, there)}
        words = self.words(recipe.target)
        if [label for label, _, _ in words] != list(self.faders):
            self.faders = {label: style.fader(label, 1.0) for label, _, _ in words}
            for label, one in self.faders.items():
                one.observe(lambda _, label=label: self._changed(f"fader {label}"), "value")
            self.desk.children = tuple(self.faders.values())
        self._exact |= numbers_of(recipe)
        with self.quietly():
            for label, word, n in words:
                set_value(self.faders[label], weights.get((word, n), 1.0))
            self._fill_words(recipe)

    def words(self, text: str) -> list[tuple[str, str, int]]:
        """Return label, word and occurrence of each word of a prompt that can have a fader."""
        if text not in self._words:  # a hand on a fader asks thirty times a second
            self._words = dict([*self._words.items()][-3:])
            self._words[text] = words_of(self.model, text)
        return self._words[text]

    def _fill_words(self, recipe: Recipe) -> None:
        """Offer the source's words to be moved."""
        field = self.fields["move"]
        words = list(dict.fromkeys(w for _, w, _ in self.words(recipe.source)))
        chosen = recipe.moves[0][0] if recipe.moves else field.value
        options = [NOTHING, *words, *([chosen] if chosen not in (NOTHING, *words) else [])]
        if list(field.options) != options:
            field.options = options
        field.value = chosen if chosen in options else NOTHING

    def wanted(self) -> Recipe:
        """Return what the controls are set to.

        Raises:
            ValueError: If the target is no prompt that the model can read, or a local edit is
                asked for without a word, or with one that is not there.
        """
        value = {name: field.value for name, field in self.fields.items()}
        scales = [
            (word, n, self._tidy(self.faders[label].value))
            for label, word, n in self.words(value["target"])
            if label in self.faders
        ]
        named = (value["source"], value["target"], value["method"])
        return self.start.with_(
            source=value["source"],
            target=value["target"],
            seed=self.start.seed if self.fixed else value["seed"],
            method=value["method"],
            cross=self._tidy(value["cross"]),
            self_attention=self._tidy(value["self_attention"]),
            scales=tuple(entry for entry in scales if entry[2] != 1),
            blend=self._blend(value),
            mask=self._mask() if value["blend"] else (),
            threshold=self._tidy(value["threshold"]),
            moves=self._moves(value["move"]),
            links=self._links() if named == self._links_of else None,
        )

    def _blend(self, value: dict[str, Any]) -> tuple[str, str] | None:
        """Return the words of the local edit, if there is one.

        Raises:
            ValueError: If there is no word and no painted mask, or a word is in neither prompt.
        """
        if not value["blend"]:
            return None
        blend = (value["blend_source"], value["blend_target"])
        if not any(blend):
            if self._mask():
                return None
            raise ValueError(
                "Name the words whose place may change, in the two fields of the local edit: "
                "those of the source, and those of the edit where they differ. Or paint the place."
            )
        texts = (value["source"], value["target"])
        for field, words, text in zip(("source", "edit"), blend, texts, strict=True):
            self._check(field, words, self.model.prompt(text))
        if not blend[1]:
            self._check("edit", blend[0], self.model.prompt(value["target"]), same=True)
        return blend

    def _check(self, field: str, words: str, prompt: Prompt, *, same: bool = False) -> None:
        for word in listed(words):
            if not prompt.find(word):
                more = " The field 'edit' is empty, so the source's words are looked for there too."
                raise ValueError(
                    f"The field '{field}' of the local edit names {word!r}, which is not in "
                    f"{prompt.text!r}. Its words are: {', '.join(prompt.words)}."
                    f"{more if same else ''}"
                )

    def fill_blend(self) -> None:
        """Fill an empty local edit with the words that the prompts do not share."""
        fields = self.fields
        if fields["blend_source"].value or fields["blend_target"].value or self._mask():
            return
        words = swapped(*(self.model.prompt(fields[name].value) for name in ("source", "target")))
        with self.quietly():
            fields["blend_source"].value, fields["blend_target"].value = map(written, words)

    def _mask(self) -> tuple[str, ...]:
        cells, columns = self.mask_stage.painted, self.mask_stage.columns
        if not any(cells):
            return ()
        bits = "".join("1" if cell > 127 else "0" for cell in cells)
        return tuple(bits[i : i + columns] for i in range(0, len(bits), columns))

    def _moves(self, word: str) -> tuple[tuple[str, float, float, float], ...]:
        at = self.mover
        still = (at.down, at.right, at.scale) == (0, 0, 1)
        moved = () if word == NOTHING or still else ((word, at.down, at.right, at.scale),)
        return (*moved, *self.start.moves[1:])

    def _links(self) -> tuple[tuple[int, int], ...]:
        return tuple(sorted((int(i), int(j)) for i, j in self.grid.links))

    def _linked(self) -> None:
        if not self._quiet:
            value = {name: self.fields[name].value for name in ("source", "target", "method")}
            self._links_of = (value["source"], value["target"], value["method"])
            self._changed("links")

    def show_alignment(self, recipe: Recipe, source: Prompt, target: Prompt) -> None:
        """Show the alignment that a recipe takes, in the grid."""
        with self.quietly(), self.grid.hold_sync():
            self.grid.rows, self.grid.columns = map(_names, (source, target))
            links = recipe.links
            if links is None:
                links = tuple(links_of(recipe.alignment(source, target)))
            self.grid.links = [list(link) for link in links]

    def take_found_links(self) -> None:
        """Take the method's own alignment again."""
        self._links_of = None
        self._changed("links")

    def set(self, recipe: Recipe) -> None:
        """Set all controls to a recipe, without telling."""
        blend = recipe.blend or ("", "")
        values = {
            "source": recipe.source,
            "target": recipe.target,
            "seed": min(recipe.seed or 0, MOST_SEED),
            "method": recipe.method,
            "cross": recipe.cross,
            "self_attention": recipe.self_attention,
            "blend": recipe.blend is not None or bool(recipe.mask),
            "blend_source": blend[0],
            "blend_target": blend[1],
            "threshold": recipe.threshold,
        }
        with self.quietly():
            for name, value in values.items():
                set_value(self.fields[name], value)
            if recipe.mask:
                self.mask_stage.rows, self.mask_stage.columns = (
                    len(recipe.mask),
                    len(recipe.mask[0]),
                )
            self.mask_stage.painted = bytes(255 * int(bit) for bit in "".join(recipe.mask))
            _, down, right, scale = (recipe.moves or (("", 0.0, 0.0, 1.0),))[0]
            self.mover.down, self.mover.right, self.mover.scale = down, right, scale
            if not recipe.moves:
                self.fields["move"].value = NOTHING
            self._links_of = None
            if recipe.links is not None:
                self._links_of = (recipe.source, recipe.target, recipe.method)
                self.grid.links = [list(link) for link in recipe.links]
        self.fill_desk(recipe)

    def stops(self, name: str) -> list[Recipe]:
        """Return the recipes of all stops of a slider or fader, the nearest to its value first.

        Raises:
            ValueError: If the other controls cannot be made to a recipe.
        """
        label = name.removeprefix("fader ")
        slider = self.faders.get(label) if name.startswith("fader ") else None
        if name in SLIDERS:
            slider = self.fields[name]
        if slider is None:
            return []
        recipe = self.wanted()
        count = round((slider.max - slider.min) / slider.step)
        values = [round(slider.min + slider.step * i, 4) for i in range(count + 1)]
        values.sort(key=lambda value: abs(value - slider.value))
        if name in SLIDERS:
            return [recipe.with_(**{name: value}) for value in values]
        word, n = next((w, k) for other, w, k in self.words(recipe.target)
                       if other == label)  # fmt: skip
        order = [(w, k) for _, w, k in self.words(recipe.target)]
        scales = {(w, k): scale for w, k, scale in recipe.scales}
        found = []
        for value in values:
            weights = {**scales, (word, n): value}
            entries = [(*key, weights[key]) for key in order if weights.get(key, 1) != 1]
            found.append(recipe.with_(scales=tuple(entries)))
        return found

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Move controls without telling."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _tidy(self, number: float) -> float:
        """Return a number that was given as it is, a moved slider's without its last bits."""
        return number if number in self._exact else round(number, 4)

    def _changed(self, name: str) -> None:
        if self._quiet:
            return
        if name == "blend" and self.fields["blend"].value:
            with contextlib.suppress(ValueError):  # it is said when the picture is made
                self.fill_blend()
        self._report(name)


def _names(prompt: Prompt) -> list[str]:
    """Return the tokens before the padding, the special ones by what they are."""
    names = list(prompt.pieces[: prompt.end])
    for i in prompt.specials:
        if i < prompt.end:
            names[i] = "‹start›" if i == 0 else "‹end›"
    return names
