"""A list of edits as a recipe, where a recipe can say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2p_lab.edits import Edit, LocalBlend, Move, Refine, Replace, Reweight, compile_edits
from p2p_lab.recipes.recipe import Recipe
from p2p_lab.recipes.words import fader_words, written
from p2p_lab.sampling import Run
from p2p_lab.sampling.editing import model_of
from p2p_lab.tokens import Prompt

_MORE = (
    "It sets the ends of windows that start at 0, one weight a word, and a local edit by words; "
    "use `edit` for more."
)


def recipe_of(source: Run, target: str, edits: Sequence[Edit], *, base: Recipe) -> Recipe:
    """Return the recipe of a list of edits: the same plan, or an error.

    Raises:
        AlignmentError: If a word is in neither prompt, or the prompts cannot be aligned.
        ValueError: If the edits use something that the panel has no control for.
    """
    prompt = model_of(source).prompt(target)
    plan = compile_edits(edits, source.prompt, prompt, source.steps)
    recipe = base.with_(source=source.prompt.text, target=target, method="Refine")  # as `edit` adds
    for one in edits:
        recipe = _with_edit(recipe, one)
    scales = [(e.word, e.occurrence, float(e.scale)) for e in edits if isinstance(e, Reweight)]
    recipe = recipe.with_(scales=tuple(word_scales(prompt, scales)))
    again = compile_edits(recipe.edits(source.prompt, prompt), source.prompt, prompt, source.steps)
    if again != plan:
        raise ValueError(f"The panel has no control for all of {list(edits)!r:.300}. {_MORE}")
    return recipe


def _with_edit(recipe: Recipe, one: Edit) -> Recipe:
    if isinstance(one, (Replace, Refine)):
        if (one.cross[0], one.self_attention[0]) == (0, 0):
            return recipe.with_(
                method=type(one).__name__,
                cross=float(one.cross[1]),
                self_attention=float(one.self_attention[1]),
                joint=one.joint,
            )
    elif isinstance(one, LocalBlend) and one.mask is None and not _placed(one):
        before = written(one.source_words)
        after = before if one.target_words is None else written(one.target_words)
        return recipe.with_(
            blend=(before, after), threshold=float(one.threshold), start=float(one.start)
        )
    elif isinstance(one, Move) and (one.window, one.threshold) == ((0.0, 1.0), 0.4):
        if one.mask is None and one.occurrence is None:
            way = (one.word, float(one.by[0]), float(one.by[1]), float(one.scale))
            return recipe.with_(moves=(*recipe.moves, way))
    elif isinstance(one, Reweight):
        return recipe  # all faders together, afterwards
    raise ValueError(f"The panel has no control for {one!r:.100}. {_MORE}")


def _placed(blend: LocalBlend) -> bool:
    """Return whether a local edit picks one of several equal words."""
    words = (blend.source_words, blend.target_words or ())
    return any(not isinstance(one, str) for some in words for one in some)


def word_scales(
    prompt: Prompt, scales: Iterable[tuple[str, int | None, float]]
) -> list[tuple[str, int, float]]:
    """Return weights of words and phrases as weights of single words, those that are not 1.

    Args:
        prompt: The target.
        scales: Word or phrase, occurrence (None for all), weight; weights of one word multiply.

    Raises:
        AlignmentError: If a word is not in the prompt.
        ValueError: If a weight is that of punctuation, which has no fader.
    """
    total: dict[int, float] = {}
    for word, occurrence, scale in scales:
        prompt.tokens_of(word, occurrence)  # says what is wrong
        places = prompt.find(word)
        for first, stop in places if occurrence is None else [places[occurrence]]:
            for i in range(first, stop):
                total[i] = total.get(i, 1.0) * scale
    named = {i: (word, n) for i, word, n in fader_words(prompt)}
    lost = [prompt.words[i] for i, scale in total.items() if scale != 1 and i not in named]
    if lost:
        raise ValueError(f"The panel has no fader for {lost}. {_MORE}")
    return [(*named[i], scale) for i, scale in sorted(total.items()) if scale != 1]
