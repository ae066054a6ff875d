"""The single controls of the edit panel, and what two prompts suggest to fill in."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from p2p_lab.models import Denoiser
from p2p_lab.recipes import Recipe, fader_words
from p2p_lab.tokens import AlignmentError, Prompt, word_blocks
from p2p_lab.tokens.words import normal
from p2p_lab.widgets import style

MOST_SEED = 2**53 - 1  # a browser knows no larger whole number
SLIDERS = ("cross", "self_attention", "threshold")
NOTHING = "nothing"  # of the words that can be moved


def swapped(source: Prompt, target: Prompt) -> tuple[list[str], list[str]]:
    """Return the words of two prompts that differ: what a local edit most likely is about.

    A word that was added or dropped counts with the word after it, for it says something of that:
    "cat" and "wooden cat".
    """
    try:
        blocks = word_blocks(source, target)
    except AlignmentError:
        return [], []
    before: list[str] = []
    after: list[str] = []
    last = (0, 0)  # first words that no block has covered so far
    for old, new in blocks:
        alone = last == (old[0], new[0])
        words = source.words[old[0] : old[-1] + 1], target.words[new[0] : new[-1] + 1]
        if not alone or [*map(normal, words[0])] != [*map(normal, words[1])]:
            before.append(source.phrase(last[0], old[-1] + 1))
            after.append(target.phrase(last[1], new[-1] + 1))
        last = (old[-1] + 1, new[-1] + 1)
    return before, after


def words_of(model: Denoiser, text: str) -> list[tuple[str, str, int]]:
    """Return label, word and occurrence of each word that can have a fader."""
    return words_of_prompt(model.prompt(text))


def words_of_prompt(prompt: Prompt) -> list[tuple[str, str, int]]:
    """Return label, word and occurrence of each word of a tokenized prompt."""
    return [(f"{word} ({n + 1})" if n else word, word, n) for _, word, n in fader_words(prompt)]


def numbers_of(recipe: Recipe) -> set[float]:
    """Return the numbers that a recipe holds for sliders."""
    scales = [scale for _, _, scale in recipe.scales]
    return {recipe.cross, recipe.self_attention, recipe.threshold, *scales}


def set_value(control: Any, value: Any) -> None:
    """Set a control to a value, and widen its range where the value lies outside.

    Raises:
        ValueError: If the control cannot hold the value.
    """
    if hasattr(control, "min") and isinstance(value, (int, float)):
        control.min, control.max = min(control.min, value), max(control.max, value)
    control.value = value
    if control.value != value:
        raise ValueError(
            f"The control {control.description!r} cannot hold {value!r}; it holds "
            f"{control.value!r}. Use `edit` for this one."
        )


def prompt_fields(start: Recipe, *, fixed: bool) -> dict[str, Any]:
    """Return the controls that say what the source and the edit are."""
    fields = {
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
            description="Align by",
            style={"description_width": "5em"},
            layout=widgets.Layout(width="15em"),
        ),
    }
    fields["source"].disabled = fields["seed"].disabled = fixed
    if fixed and start.seed is None:  # a measured picture is of no seed
        fields["seed"].layout.display = "none"
    return fields


def edit_fields(start: Recipe) -> dict[str, Any]:
    """Return the controls that say how the edit is made."""
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
        "move": widgets.Dropdown(
            options=[NOTHING],
            value=NOTHING,
            description="Move",
            style={"description_width": "5em"},
            layout=widgets.Layout(width="15em"),
        ),
    }


def _word_field(label: str, value: str) -> Any:
    return widgets.Text(
        value=value,
        description=label,
        placeholder="word, word",
        continuous_update=False,
        style={"description_width": "5em"},
        layout=widgets.Layout(flex="1 1 12em", width="auto"),
    )
