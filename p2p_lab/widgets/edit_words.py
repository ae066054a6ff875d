"""What the edit panel says of an edit: its numbers, what made it, and why."""

from __future__ import annotations

from p2p_lab.edits import default_edits
from p2p_lab.metrics import psnr
from p2p_lab.models.vocabulary import about_unknown_words
from p2p_lab.recipes import Recipe
from p2p_lab.sampling import Run
from p2p_lab.sampling.editing import model_of
from p2p_lab.tokens import Prompt
from p2p_lab.tokens.words import normal


def numbers(source: Run, edited: Run) -> str:
    """Return how far the edit is from its source; beyond 100 dB not one of 256 levels differs."""
    value = psnr(source.array, edited.array)
    return "identical to the source" if value > 100 else f"{value:.1f} dB to the source"


def why(recipe: Recipe, source: Run, edited: Run) -> str:
    """Return which alignment was used and why, and which words the model does not know."""
    before, after = source.prompt, edited.prompt
    if recipe.method != "auto":
        reason = f"Done with {recipe.method}."
    elif not _same_words(before, after):
        reason = default_edits(before, after)[1]
    elif recipe.scales or recipe.moves or recipe.links:
        reason = ""
    else:
        reason = "The prompts are the same: turn a fader, or write another word."
    model = model_of(source)
    known = model.card.vocabulary
    parts = [about_unknown_words(one, known, model.name) for one in (before, after)]
    return " ".join(filter(None, dict.fromkeys([reason, *parts])))


def _same_words(source: Prompt, target: Prompt) -> bool:
    return [normal(word) for word in source.words] == [normal(word) for word in target.words]


def summary(recipe: Recipe) -> str:
    """Return in one line what a recipe does."""
    parts = [f"τ cross {recipe.cross:g}", f"τ self {recipe.self_attention:g}"]
    parts += [f"{word} × {scale:g}" for word, _, scale in recipe.scales]
    parts += [
        f"{word} moved ({down:+.2f}, {right:+.2f}) × {size:g}"
        for word, down, right, size in recipe.moves
    ]
    if recipe.links is not None:
        parts.append("alignment by hand")
    if recipe.blend is not None:
        parts.append(f"only at {' / '.join(dict.fromkeys(filter(None, recipe.blend)))}")
    if recipe.mask:
        parts.append("only where painted")
    return ", ".join(parts)
