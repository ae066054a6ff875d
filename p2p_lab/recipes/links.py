"""Links that hold a whole recipe: a panel's edit opens in the page, and the page's in a panel.

The recipe's JSON stands behind `#recipe=`, which a browser keeps to itself: no server reads it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, unquote

from p2p_lab.recipes.recipe import Recipe

PORT = 8620  # where `python -m p2p_lab web` answers, if nobody else does
VARIABLE = "P2P_LAB_PAGE"  # the page's address, where it is another one
MARK = "#recipe="


def to_link(recipe: Recipe) -> str:
    """Return a link that opens a recipe in the page.

    Raises:
        ValueError: If the page cannot draw it.
    """
    whats = {
        "a measured picture": recipe.seed is None,
        f"the sampler {recipe.sampler}": recipe.sampler != "ddim",
        "Move": bool(recipe.moves),
    }
    wrong = [what for what, found in whats.items() if found]
    if wrong:
        raise ValueError(
            f"This edit has {' and '.join(wrong)}, which the page cannot draw. Save the recipe, or "
            "copy the code."
        )
    text = json.dumps(asdict(recipe), separators=(",", ":"))
    return f"{page_address().split('#')[0]}{MARK}{quote(text, safe='')}"


def page_address() -> str:
    """Return where the page is: what the environment says, or this machine."""
    return os.environ.get(VARIABLE) or f"http://127.0.0.1:{PORT}/"


def read_recipe(text: str) -> Recipe:
    """Read a recipe from JSON, from a link of the page or from a file's name.

    Raises:
        ValueError: If it is no recipe, or a part of the link is missing.
        OSError: If the file cannot be read.
    """
    if MARK in text:
        found = unquote(text.strip().split(MARK, 1)[1].split("&")[0])
        if not found.startswith("{") or not found.endswith("}"):
            raise ValueError("The link was cut: its recipe cannot be read. Copy the whole link.")
        return Recipe.from_json(found)
    return Recipe.from_json(text if "{" in text else Path(text).read_text("utf-8"))
