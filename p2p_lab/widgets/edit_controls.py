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
from p2p_lab.widgets.recipe import Recipe, fader_words, word_scales

MOST_SEED = 2**53 - 1  # a browser knows no larger whole number


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
        self._exact: set[float] = set()
        if not fixed and (start.seed or 0) > MOST_SEED:
            raise ValueError(
                f"A panel's seed goes up to {MOST_SEED}, got {start.seed}. Make the source with "
                "`generate` and give the panel that."
            )
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
        prompt = self.model.prompt(recipe.target)
        there = [one for one in recipe.scales if len(prompt.find(one[0])) > one[1]]
        weights = {(w, n): scale for w, n, scale in word_scales(prompt, there)}
        words = words_of(self.model, recipe.target)
        if [label for label, _, _ in words] != list(self.faders):
            self.faders = {label: style.fader(label, 1.0) for label, _, _ in words}
            for one in self.faders.values():
                one.observe(lambda _: self._changed(), "value")
            self.desk.children = tuple(self.faders.values())
        self._exact |= _numbers(recipe)
        with self.quietly():
            for label, word, n in words:
                set_value(self.faders[label], weights.get((word, n), 1.0))

    def wanted(self) -> Recipe:
        """Return what the controls are set to.

        Raises:
            ValueError: the target is no prompt that the model can read, or a local edit is
                asked for without a word.
        """
        value = {name: field.value for name, field in self.fields.items()}
        blend = (value["blend_source"], value["blend_target"])
        if value["blend"] and not any(blend):
            raise ValueError(
                "Name the words whose place may change, in the two fields below the box: "
                "those of the source, and those of the edit where they differ."
            )
        scales = [
            (word, n, self._tidy(self.faders[label].value))
            for label, word, n in words_of(self.model, value["target"])
            if label in self.faders
        ]
        return self.start.with_(
            source=value["source"],
            target=value["target"],
            seed=self.start.seed if self.fixed else value["seed"],
            method=value["method"],
            cross=self._tidy(value["cross"]),
            self_attention=self._tidy(value["self_attention"]),
            scales=tuple(entry for entry in scales if entry[2] != 1),
            blend=blend if value["blend"] else None,
            threshold=self._tidy(value["threshold"]),
        )

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
            "blend": recipe.blend is not None,
            "blend_source": blend[0],
            "blend_target": blend[1],
            "threshold": recipe.threshold,
        }
        with self.quietly():
            for name, value in values.items():
                set_value(self.fields[name], value)
        self.fill_desk(recipe)

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
    return [
        (f"{word} ({n + 1})" if n else word, word, n)
        for _, word, n in fader_words(model.prompt(text))
    ]


def _numbers(recipe: Recipe) -> set[float]:
    scales = [scale for _, _, scale in recipe.scales]
    return {recipe.cross, recipe.self_attention, recipe.threshold, *scales}


def set_value(control: Any, value: Any) -> None:
    """Set a control to a value, and widen its range where the value lies outside.

    Raises:
        ValueError: the control cannot hold the value.
    """
    if hasattr(control, "min") and isinstance(value, (int, float)):
        control.min, control.max = min(control.min, value), max(control.max, value)
    control.value = value
    if control.value != value:
        raise ValueError(
            f"The control {control.description!r} cannot hold {value!r}; it holds "
            f"{control.value!r}. Use `edit` for this one."
        )


def _prompt_fields(start: Recipe) -> dict[str, Any]:
    return {
        "source": style.text("Source", start.source),
        "seed": widgets.BoundedIntText(
            value=min(start.seed or 0, MOST_SEED),
            min=0,
            max=MOST_SEED,
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
