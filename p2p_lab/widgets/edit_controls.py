"""The edit panel's controls: what they are called, what they start with, what they ask for.

They read and write a `Recipe`, and tell one function when a reader has moved something. No picture
is made here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from p2p_lab.models import Denoiser
from p2p_lab.widgets import style
from p2p_lab.widgets.recipe import Recipe


class EditControls:
    """Hold the controls of an edit panel.

    Args:
        model: The denoiser, which cuts prompts in words.
        start: What the controls start with; what they have no control for stays as it is there.
        fixed: Whether the source is given and cannot be changed.
        changed: Called after a reader has moved a control.

    Attributes:
        fields: the controls by name.
        faders: the words' faders, by label.
        desk: the row of faders.
    """

    def __init__(
        self, model: Denoiser, start: Recipe, *, fixed: bool, changed: Callable[[], None]
    ) -> None:
        self.model, self.start, self.fixed = model, start, fixed
        self._tell, self._quiet = changed, False
        self.fields = {**_prompt_fields(start), **_edit_fields(start)}
        self.faders: dict[str, Any] = {}
        self.desk = style.row(flex_flow="row nowrap", align_items="stretch")
        self.desk.add_class("p2p-faders")
        self.fill_desk(start)
        self.fields["source"].disabled = self.fields["seed"].disabled = fixed
        for field in self.fields.values():
            field.observe(lambda _: self._changed(), "value")

    def fill_desk(self, recipe: Recipe) -> None:
        """Give every word of the target a fader; a word that was there keeps its weight.

        Raises:
            ValueError: the target is no prompt that the model can read.
        """
        weights = {(word.casefold(), n): scale for word, n, scale in recipe.scales}
        words = words_of(self.model, recipe.target)
        if [label for label, _, _ in words] != list(self.faders):
            self.faders = {label: style.fader(label, 1.0) for label, _, _ in words}
            for one in self.faders.values():
                one.observe(lambda _: self._changed(), "value")
            self.desk.children = tuple(self.faders.values())
        with self.quietly():
            for label, word, n in words:
                self.faders[label].value = weights.get((word.casefold(), n), 1.0)

    def wanted(self) -> Recipe:
        """Return what the controls are set to.

        Raises:
            ValueError: the target is no prompt that the model can read, or a local edit is
                asked for without a word.
        """
        value = {name: field.value for name, field in self.fields.items()}
        blend = (value["blend_source"], value["blend_target"] or value["blend_source"])
        if value["blend"] and not any(blend):
            raise ValueError(
                "Name the words whose place may change, in the two fields below the box: "
                "those of the source, and those of the edit where they differ."
            )
        scales = [
            (word, n, round(self.faders[label].value, 4))
            for label, word, n in words_of(self.model, value["target"])
            if label in self.faders
        ]
        return self.start.with_(
            source=value["source"],
            target=value["target"],
            seed=self.start.seed if self.fixed else value["seed"],
            method=value["method"],
            cross=round(value["cross"], 4),
            self_attention=round(value["self_attention"], 4),
            scales=tuple(entry for entry in scales if entry[2] != 1),
            blend=blend if value["blend"] else None,
            threshold=round(value["threshold"], 4),
        )

    def set(self, recipe: Recipe) -> None:
        """Set all controls to a recipe, without telling."""
        blend = recipe.blend or ("", "")
        values = {
            "source": recipe.source,
            "target": recipe.target,
            "seed": recipe.seed or 0,
            "method": recipe.method,
            "cross": recipe.cross,
            "self_attention": recipe.self_attention,
            "blend": recipe.blend is not None,
            "blend_source": blend[0],
            "blend_target": blend[1],
            "threshold": recipe.threshold,
        }
        with self.quietly():
            for name, value in values.items():
                self.fields[name].value = value
        self.fill_desk(recipe)

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Move controls without telling."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def column(self) -> Any:
        """Return the controls that stand beside the pictures."""
        fields = self.fields
        return style.column(
            style.head("Source attention until"),
            fields["cross"],
            fields["self_attention"],
            style.head("Local edit"),
            fields["blend"],
            fields["blend_source"],
            fields["blend_target"],
            fields["threshold"],
            flex="1 1 16em",
            width="auto",
        )

    def _changed(self) -> None:
        if not self._quiet:
            self._tell()


def words_of(model: Denoiser, text: str) -> list[tuple[str, str, int]]:
    """Return label, word and occurrence of each word that can have a fader."""
    prompt = model.prompt(text)
    found: list[tuple[str, str, int]] = []
    seen: dict[str, int] = {}
    for word in prompt.words:
        if not any(character.isalnum() for character in word):
            continue
        n = seen.get(word.casefold(), 0)
        seen[word.casefold()] = n + 1
        found.append((f"{word} ({n + 1})" if n else word, word, n))
    return found


def _prompt_fields(start: Recipe) -> dict[str, Any]:
    return {
        "source": style.text("Source", start.source),
        "seed": widgets.BoundedIntText(
            value=start.seed or 0,
            min=0,
            max=2**31 - 1,
            description="Seed",
            continuous_update=False,
            style={"description_width": "3em"},
            layout=widgets.Layout(width="9.5em"),
        ),
        "target": style.text("Edit", start.target),
        "method": widgets.Dropdown(
            options=[("choose for me", "auto"), ("Replace words", "Replace"), ("Refine", "Refine")],
            value=start.method,
            description="Align",
            style={"description_width": "3em"},
            layout=widgets.Layout(width="13em"),
        ),
    }


def _edit_fields(start: Recipe) -> dict[str, Any]:
    blend = start.blend or ("", "")
    return {
        "cross": style.slider("τ cross", start.cross, 0, 1),
        "self_attention": style.slider("τ self", start.self_attention, 0, 1),
        "blend": widgets.Checkbox(
            value=start.blend is not None,
            description="only where these words look",
            indent=False,
            layout=widgets.Layout(width="auto"),
        ),
        "blend_source": _word_field("source", blend[0]),
        "blend_target": _word_field("edit", blend[1]),
        "threshold": style.slider("threshold", start.threshold, 0, 1),
    }


def _word_field(label: str, value: str) -> Any:
    return widgets.Text(
        value=value,
        description=label,
        placeholder="word, word",
        continuous_update=False,
        style={"description_width": "5em"},
        layout=widgets.Layout(width="100%"),
    )
