"""An edit as data: what a panel is set to, and the same edit as JSON, as code and as a link.

    >>> recipe = Recipe("a cat on a beach", "a dog on a beach", seed=3)
    >>> recipe.apply(recipe.generate(model))
    >>> print(to_code(recipe, [Replace()]))

A `Recipe` makes the same picture again without a panel. The room knows sampling; it shows nothing.
"""

from p2p_lab.recipes.code import to_code
from p2p_lab.recipes.from_edits import recipe_of
from p2p_lab.recipes.links import page_address, read_recipe, to_link
from p2p_lab.recipes.recipe import Recipe
from p2p_lab.recipes.words import fader_words, listed

__all__ = [
    "Recipe",
    "fader_words",
    "listed",
    "page_address",
    "read_recipe",
    "recipe_of",
    "to_code",
    "to_link",
]
